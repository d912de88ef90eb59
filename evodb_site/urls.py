from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

admin.autodiscover()
admin.site.site_header = admin.site.site_title = "EvoDB"
handler404 = "lakehouse.http.missing.not_found"
urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("", include("lakehouse.urls")),
]
