"""Where HTTP knocks: the endpoints of `lakehouse.http`, the Iceberg catalog, and at the root a way to the admin."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, URLResolver, path, re_path, reverse

from lakehouse.catalog.rest.entrance import entrance
from lakehouse.http.api import api


async def home(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(reverse("admin:index"))


urlpatterns: list[URLPattern | URLResolver] = [
    path("", home),
    re_path(r"\A(?:iceberg/)?v1/", entrance),
    path("", api.urls),
]
