"""Which namespace a page is about. It stands in the address, so that a page can be shared and nothing is remembered."""

from __future__ import annotations

from urllib.parse import urlencode

from django.http import HttpRequest

from lakehouse.current.names import changes_of
from lakehouse.models import Namespace, Parent

PARAMETER = "namespace"
OFFERED_MAX = 1000
CHARS_MAX = 200
OTHERWISE = "lake"


def namespace(request: HttpRequest) -> str:
    """The one that was asked for, else the one that a flush brought something into last."""
    asked = (request.GET.get(PARAMETER) or request.POST.get(PARAMETER) or "")[:CHARS_MAX]
    return asked.replace("\0", "") or _busiest() or OTHERWISE


def query(request: HttpRequest) -> str:
    """As a part of an address that leads back to it."""
    return urlencode({PARAMETER: namespace(request)})


def offered(also: str) -> list[str]:
    """Those there are. What tables of now are in is reached through the namespace of their changes."""
    of_parents = Parent.objects.order_by().values_list("namespace", flat=True).distinct()[:OFFERED_MAX]
    of_tables = [str(one) for one in Namespace.objects.all()[:OFFERED_MAX]]
    return sorted({also, *of_parents, *(one for one in of_tables if changes_of(one) is None)})


def _busiest() -> str | None:
    return Parent.objects.order_by("-last_flush_ms", "-pk").values_list("namespace", flat=True).first()
