"""Where HTTP knocks: the endpoints of `lakehouse.http`, and at the root a way to the admin."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, URLResolver, path, reverse

from lakehouse.http.api import api


async def home(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(reverse("admin:index"))


urlpatterns: list[URLPattern | URLResolver] = [
    path("", home),
    path("", api.urls),
]
