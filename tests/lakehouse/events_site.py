"""Events as an application sends them, and the keys of two tenants that must not meet."""

from __future__ import annotations

from typing import Any

from lakehouse.clock import now_ms
from lakehouse.events.event import shown
from lakehouse.parent import access
from tests.lakehouse.http_site import Heard, ask
from tests.lakehouse.test_intake import in_thread


def event(number: int = 1, *, age_ms: int = 0, **members: Any) -> dict[str, Any]:
    return {
        "type": "collection.insert",
        "ts": shown(now_ms() - age_ms),
        "do": {"id": "shop-1", "class": "Shop", "colo": "AMS"},
        "collection": "users",
        "docId": f"user-{number}",
        "doc": {"name": "Ada", "number": number},
    } | members


def events(count: int) -> list[dict[str, Any]]:
    return [event(number) for number in range(1, count + 1)]


async def ingest(body: Any, path: str = "/ingest", **options: Any) -> Heard:
    return await ask("POST", path, body, **options)


async def key_of(namespace: str, *scopes: str, **bindings: Any) -> str:
    """A key ns_<namespace>_<token>."""

    def make() -> str:
        token = access.new_token(namespace)
        wanted: dict[str, Any] = {"scopes": scopes or ("ingest", "query"), "namespaces": namespace, **bindings}
        return access.new_key(namespace, now_ms=now_ms(), token=token, **wanted)[1]

    return await in_thread(make)


async def admin_key() -> str:
    return await in_thread(lambda: access.new_key("admin", scopes=["admin"], now_ms=now_ms())[1])
