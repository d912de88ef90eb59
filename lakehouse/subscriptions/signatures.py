"""How a receiver knows that a message is ours: the three headers of Standard Webhooks. Pure.

The id is the same at every attempt, so that a receiver knows a repeat; the moment is that of the attempt, so that an
old message cannot be played to him again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from functools import lru_cache

PREFIX = "whsec_"
TOLERANCE_S = 300
KEYS_MAX = 1000


@lru_cache(KEYS_MAX)
def key_of(secret: str) -> bytes:
    """The bytes of a secret. Raises ValueError."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as exc:
        raise ValueError(f"a secret is {PREFIX} and base64: {exc}") from None


def sign(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp_s, body)
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()


def headers(secret: str, message_id: str, timestamp_s: int, body: bytes) -> list[tuple[str, str]]:
    return [
        ("webhook-id", message_id),
        ("webhook-timestamp", str(timestamp_s)),
        ("webhook-signature", sign(secret, message_id, timestamp_s, body)),
    ]


def is_ours(secret: str, found: dict[str, str], body: bytes, *, now_s: int) -> bool:
    """What a receiver does. `found` has the three headers in small letters."""
    message_id, timestamp = found.get("webhook-id", ""), found.get("webhook-timestamp", "")
    if not message_id or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        return False
    wanted = sign(secret, message_id, int(timestamp), body).encode()
    return any(hmac.compare_digest(wanted, one.encode()) for one in found.get("webhook-signature", "").split(" "))
