"""POST /webhooks/<provider>: deliveries of other services become events, when their signature is good.

    secret ─ signature ─ payload ─ schema ─ journal ─ answer

The signature is the key: without the secret that the operator and the provider share nothing is stored.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import msgspec

from lakehouse.events import answers, batch, callers, homes, ingest, namespaces, signatures
from lakehouse.events.batch import BODY_BYTES_MAX
from lakehouse.events.callers import Caller
from lakehouse.events.config import webhook_secrets
from lakehouse.events.event import Event, shown
from lakehouse.events.quota import Quota
from lakehouse.events.refusals import Code, EventsRefused, refuse
from lakehouse.events.signatures import Hook
from lakehouse.http import cdc
from lakehouse.journal.accept import Source
from lakehouse.limits.refusal import Response
from lakehouse.parent.house import House
from rpc.surrogates import mended

log = logging.getLogger(__name__)

PATH = "/webhooks/"
TYPE_CHARS_MAX = 128
UNTOLD = "delivery"
"""The event of a payload that says none."""
NO_LIMIT = Quota("webhooks", requests_max=1, events_max=1, rates=None)
_members = msgspec.json.Decoder(dict[str, Any])


async def answer(scope: dict[str, Any], read_body: ingest.ReadBody, house: House) -> Response:
    """Serve one request, whatever its method."""
    correlation_id = ingest.correlation(scope)
    if scope["method"] == "OPTIONS":
        return answers.preflight("POST", correlation_id)
    if scope["method"] != "POST":
        return answers.not_allowed(scope["path"], scope["method"], "POST", correlation_id)
    try:
        return await _take(house, scope, read_body, correlation_id)
    except EventsRefused as exc:
        return answers.refused(exc, correlation_id)


async def _take(house: House, scope: dict[str, Any], read_body: ingest.ReadBody, correlation_id: str) -> Response:
    """Raises EventsRefused."""
    provider = scope["path"].removeprefix(PATH)
    if provider not in signatures.PROVIDERS:
        known = ", ".join(signatures.PROVIDERS)
        raise refuse(Code.NOT_FOUND, f"no provider is called {provider[:40]!r}, wanted one of {known}")
    namespace = _namespace(scope)
    body = await ingest.read_bounded(scope, read_body, BODY_BYTES_MAX)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    now_ms = house.now_ms()
    secret = _secrets(house.settings.events_webhook_secrets).get(namespace, {}).get(provider, "")
    if not secret:
        log.warning("a webhook of %s for %s: EVODB_EVENTS_WEBHOOK_SECRETS has no secret for it", provider, namespace)
        raise EventsRefused(Code.INVALID_SIGNATURE, signatures.NO)
    hook = signatures.PROVIDERS[provider](headers, body, secret, now_ms // 1000)
    payload = _payload(body, headers.get("content-type", ""))
    if provider == "slack" and payload.get("type") == "url_verification":
        return answers.answer(200, {"challenge": payload.get("challenge")}, correlation_id)
    event = event_of(provider, hook, payload, now_ms=now_ms)

    def judge() -> Source:
        return homes.source(namespace, parents_max=house.settings.parents_max, now_ms=now_ms)

    source = await callers.let_in(house, scope, judge)
    caller = Caller(namespace, False, source, now_ms, NO_LIMIT)
    sequence = batch.sequence_of(None, number=cdc.unused_number())
    frame = batch.frame([event], namespace=namespace, sequence=sequence, now_ms=now_ms)
    is_repeat = await ingest.store(house, caller, [event], frame)
    said: dict[str, Any] = {"ok": True, "received": 1, "namespace": namespace}
    document = {"success": True, **said, "data": said, **({"deduplicated": True} if is_repeat else {})}
    return answers.answer(200, document, correlation_id)


def event_of(provider: str, hook: Hook, payload: dict[str, Any], *, now_ms: int) -> Event:
    """The event of a delivery; one with an id is stored once."""
    inner = payload.get("event")
    told = hook.event_type or payload.get("type") or ""
    if provider == "slack" and isinstance(inner, dict):
        told = inner.get("type") or told
    delivery = hook.delivery_id or payload.get("event_id" if provider == "slack" else "id")
    delivery_id = delivery if isinstance(delivery, str) and delivery.isprintable() and len(delivery) <= 100 else None
    word = re.sub(r"[^A-Za-z0-9._-]", "_", told) if isinstance(told, str) and told else UNTOLD
    kind = f"webhook.{provider}.{word}"[:TYPE_CHARS_MAX]
    about = {"provider": provider, "eventType": told or UNTOLD, "verified": True}
    if delivery_id:
        about["deliveryId"] = delivery_id
    members = {"type": kind, "ts": shown(now_ms), "source": provider, "webhook": about, "payload": payload}
    return Event(kind, now_ms, f"{provider}:{delivery_id}" if delivery_id else None, members)


def _payload(body: bytes, content_type: str) -> dict[str, Any]:
    """Raises EventsRefused."""
    is_form = content_type.lower().startswith("application/x-www-form-urlencoded")
    try:
        # Many clients call whatever they send a form.
        if not is_form or body.lstrip().startswith(b"{"):
            return _members.decode(mended(body))
        pairs = parse_qs(body.decode(), keep_blank_values=True)
        form = {name: values[0] if len(values) == 1 else values for name, values in pairs.items()}
        return _members.decode(pairs["payload"][0]) if set(pairs) == {"payload"} else form
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise refuse(Code.INVALID_JSON, "the payload is no JSON object") from None


def _namespace(scope: dict[str, Any]) -> str:
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return namespaces.checked(query.get("namespace", [namespaces.DEFAULT])[0], is_admin=False)


_secrets = lru_cache(maxsize=4)(webhook_secrets)
