"""Who may ask: an access key with one of several scopes, at the door that also counts handshakes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from django.http import HttpRequest

from lakehouse.events import namespaces
from lakehouse.http import answers
from lakehouse.http.visits import at_the_door
from lakehouse.limits.refusal import Response
from lakehouse.models import AccessKey, Parent
from lakehouse.parent import access
from lakehouse.parent.grants import ADMIN, ANY, EVERYBODY, Grant, Refused, token_of
from lakehouse.parent.greeting import DEFAULT_PARENT
from lakehouse.parent.house import house

log = logging.getLogger(__name__)

READING = ("GET", "HEAD")


class SentAway(Exception):
    """A request that is answered with this and nothing else."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class AccessKeyAuth:
    """A key with one of these scopes, good for the parent that is asked about, unless it is asked about all."""

    openapi_security_schema = {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "evodb_...",
        "description": "An access key (docs/access-keys.md); as `?token=` where headers cannot be set.",
    }

    def __init__(self, *scopes: str, of_all_parents: bool = False) -> None:
        self._scopes = scopes
        self._of_all_parents = of_all_parents

    async def __call__(self, request: HttpRequest) -> Grant:
        opened = house()
        if opened.is_closing and request.method not in READING:
            raise SentAway(answers.closing())
        token = token_of(request.headers, request.GET.dict())
        parent = None if self._of_all_parents else request.GET.get("parent", DEFAULT_PARENT)
        granted = await at_the_door(
            opened,
            request.scope,  # type: ignore[attr-defined]  # an ASGI request
            lambda: permit(token, self._scopes, parent=parent, is_open=opened.settings.open, now_ms=opened.now_ms()),
        )
        if isinstance(granted, Response):
            raise SentAway(granted)
        return granted


def permit(token: str, scopes: Sequence[str], *, parent: str | None, is_open: bool, now_ms: int) -> Grant | Refused:
    """What the holder may do, if one of the scopes is his, or the refusal; the log has the reason.

    An open house asks nobody for a key, unless only the scope `admin` would do. Who shows one with that scope has it.
    """
    if is_open and any(scope != ADMIN for scope in scopes):
        shown = access.recognize(token, now_ms=now_ms) if token else None
        if not isinstance(shown, AccessKey) or ADMIN not in shown.scopes:
            return EVERYBODY
        return weigh(shown, scopes, parent=parent, now_ms=now_ms)
    return weigh(access.recognize(token, now_ms=now_ms), scopes, parent=parent, now_ms=now_ms)


def weigh(key: AccessKey | Refused, scopes: Sequence[str], *, parent: str | None, now_ms: int) -> Grant | Refused:
    """The same for a key that was looked up."""
    verdict = access.grant_of(key) if isinstance(key, AccessKey) else key
    if isinstance(verdict, Grant):
        scope = next((scope for scope in scopes if scope in verdict.scopes), scopes[0])
        namespace = None if parent is None or verdict.namespaces == ANY else _namespace_of(parent)
        verdict = verdict.refusal(scope=scope, parent=parent, namespace=namespace) or verdict
    if isinstance(verdict, Refused) and verdict.scopes:
        verdict = replace(verdict, scopes=tuple(scopes))
    if isinstance(verdict, Refused):
        log.warning("a request was refused (%s): %s", verdict.reason, verdict.why)
    elif isinstance(key, AccessKey):
        access.note_used(key, now_ms=now_ms)
    return verdict


def _namespace_of(parent: str) -> str:
    """Where its tables live; of one that does not exist, where they would."""
    rows = Parent.objects.filter(name=parent.replace("\0", ""))
    found: str | None = rows.values_list("namespace", flat=True).first()
    return found or namespaces.home_of(parent) or Parent().namespace
