"""Whether a webhook is who it says: the signatures of GitHub, Stripe, Slack and Standard Webhooks (Svix). Pure.

Compared in constant time, over the bytes that came. What carries a time is refused when it is more than 300 s away from
now; a delivery of GitHub has none, and is stored once by its id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from lakehouse.events.refusals import Code, EventsRefused

TOLERANCE_S = 300
SIGNATURES_MAX = 10
NO = "the signature is missing, wrong or too old, or EVODB_EVENTS_WEBHOOK_SECRETS has no secret for it"
"""All that a stranger hears: the same, whether there is a secret or not."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A request whose signature is good. The names may be empty; then the payload says them."""

    event_type: str = ""
    delivery_id: str = ""


def github(headers: Mapping[str, str], body: bytes, secret: str, now_s: int) -> Hook:
    """Raises EventsRefused, as do the others."""
    _check(headers.get("x-hub-signature-256", ""), ["sha256=" + _hex(secret, body)])
    return Hook(headers.get("x-github-event", ""), headers.get("x-github-delivery", ""))


def stripe(headers: Mapping[str, str], body: bytes, secret: str, now_s: int) -> Hook:
    pairs = [
        part.strip().partition("=") for part in headers.get("stripe-signature", "").split(",")[: SIGNATURES_MAX + 1]
    ]
    time = next((value for name, _, value in pairs if name == "t"), "")
    _check_time(time, now_s)
    wanted = _hex(secret, time.encode() + b"." + body)
    _check_any([value for name, _, value in pairs if name == "v1"], wanted)
    return Hook()


def slack(headers: Mapping[str, str], body: bytes, secret: str, now_s: int) -> Hook:
    time = headers.get("x-slack-request-timestamp", "")
    _check_time(time, now_s)
    _check(headers.get("x-slack-signature", ""), ["v0=" + _hex(secret, b"v0:" + time.encode() + b":" + body)])
    return Hook()


def standard(headers: Mapping[str, str], body: bytes, secret: str, now_s: int) -> Hook:
    prefix = "webhook" if "webhook-signature" in headers else "svix"
    delivery_id, time = (headers.get(f"{prefix}-{name}", "") for name in ("id", "timestamp"))
    _check_time(time, now_s)
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise EventsRefused(Code.INVALID_SIGNATURE, NO) from None
    signed = b".".join((delivery_id.encode(), time.encode(), body))
    wanted = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    versions = [part.partition(",") for part in headers.get(f"{prefix}-signature", "").split()[:SIGNATURES_MAX]]
    _check_any([value for version, _, value in versions if version == "v1"], wanted)
    return Hook(delivery_id=delivery_id)


PROVIDERS = {"github": github, "stripe": stripe, "slack": slack, "svix": standard, "standard-webhooks": standard}


def _hex(secret: str, signed: bytes) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _check(found: str, wanted: list[str]) -> None:
    if not any(hmac.compare_digest(found.encode(), one.encode()) for one in wanted):
        raise EventsRefused(Code.INVALID_SIGNATURE, NO)


def _check_any(found: list[str], wanted: str) -> None:
    if not any(hmac.compare_digest(one.encode(), wanted.encode()) for one in found):
        raise EventsRefused(Code.INVALID_SIGNATURE, NO)


def _check_time(text: str, now_s: int) -> None:
    if not text.isascii() or not text.isdecimal() or len(text) > 12 or abs(now_s - int(text)) > TOLERANCE_S:
        raise EventsRefused(Code.INVALID_SIGNATURE, NO)
