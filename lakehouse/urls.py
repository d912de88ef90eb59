"""Where HTTP knocks: the endpoints of `lakehouse.http`, the Iceberg catalog, the dashboard, and a way to the admin."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, URLResolver, include, path, re_path, reverse

from lakehouse.catalog.rest.entrance import entrance
from lakehouse.http.api import api


async def home(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(reverse("admin:index"))


urlpatterns: list[URLPattern | URLResolver] = [
    path("", home),
    path("dashboard/", include("lakehouse.dashboard.urls")),
    re_path(r"\A(?:iceberg/)?v1/", entrance),
    path("", api.urls),
]
