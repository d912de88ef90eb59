"""What is believed of a request that says what happened on a socket: our own seal, and the proxy's signature.

A connection asleep is in the hands of a proxy, and anybody who reaches this process may POST what looks like one. So
it carries a seal made with Django's secret, for this connection and no other.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import jwt
from django.core.signing import BadSignature, Signer

from lakehouse.parent.attachment import BYTES_MAX, Attachment

SEALED_CHARS_MAX = 4096
BINARY_KEY = "base64:"


class NotOurs(ValueError):
    """Nobody of this house sealed that for this connection."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What travels: the connection, and how many heartbeats in a row were answered without waking it."""

    attachment: Attachment
    beats: int = 0


def seal(kept: Kept, connection_id: str) -> str:
    """Kept, as the value of a header."""
    packed = kept.attachment.pack()
    assert packed is not None, "what is too large never gets here"
    return _signer(connection_id).sign(base64.urlsafe_b64encode(bytes([kept.beats]) + packed).decode())


def unseal(text: str, connection_id: str) -> Kept:
    """What `seal` made for this connection. Raises NotOurs."""
    if len(text) > SEALED_CHARS_MAX:
        raise NotOurs(f"{len(text)} characters, wanted at most {SEALED_CHARS_MAX}")
    try:
        packed = base64.b64decode(_signer(connection_id).unsign(text), altchars=b"-_", validate=True)
        return Kept(Attachment.unpack(packed[1:]), packed[0])
    except (BadSignature, binascii.Error, ValueError, IndexError) as exc:
        raise NotOurs(f"not sealed by this house for this connection: {type(exc).__name__}") from None


def is_signed(token: str, key: str) -> bool:
    """Whether a proxy with this key sent it just now (Grip-Sig). The key is written as in pushpin.conf."""
    try:
        jwt.decode(token, _bytes_of(key), algorithms=["HS256"], options={"require": ["exp"]})
    except jwt.InvalidTokenError:
        return False
    return True


def _bytes_of(key: str) -> bytes:
    if key.startswith(BINARY_KEY):
        return base64.b64decode(key.removeprefix(BINARY_KEY), validate=True)
    return key.encode()


def _signer(connection_id: str) -> Signer:
    return Signer(salt=f"lakehouse.parent.edge/{connection_id}")


assert 4 * (BYTES_MAX + 1) // 3 + 100 < SEALED_CHARS_MAX
