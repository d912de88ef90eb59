from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

handler404 = "lakehouse.http.missing.not_found"
urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("", include("lakehouse.urls")),
]
