"""Who may come in: keys are made here, shown once, and found again by their digest.

A key names what its holder may do (scopes) and as which children it may write (a pattern). Refusing a handshake is the
shell's business; this room only knows keys.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from fnmatch import fnmatchcase
from hashlib import sha256

from django.db.models import Q, QuerySet

from lakehouse.models import AccessKey

SCOPES = ("ingest", "query", "subscribe", "admin")
KEY_PREFIX = "evodb_"
"""Lets a secret scanner recognise a key that was committed by mistake."""
KEY_BYTES = 32


def digest_of(key: str) -> str:
    """What is stored of a key. Any text has one, also text no key was ever made of."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(
    name: str, *, scopes: Iterable[str], source_pattern: str = "*", now_ms: int, expires_ms: int | None = None
) -> tuple[AccessKey, str]:
    """Make and store a key. The second value is the key itself, which nobody can show again."""
    wanted = list(scopes)
    if not wanted or (unknown := sorted(set(wanted) - set(SCOPES))):
        raise ValueError(f"scopes are {unknown if wanted else wanted}, wanted some of {', '.join(SCOPES)}")
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    row = AccessKey.objects.create(
        name=name,
        digest=digest_of(key),
        scopes=wanted,
        source_pattern=source_pattern,
        created_ms=now_ms,
        expires_ms=expires_ms,
    )
    return row, key


def find(token: str, *, now_ms: int) -> AccessKey | None:
    """The key behind a token, unless it is unknown, revoked or expired. The moment it expires it is expired."""
    return _alive(now_ms).filter(digest=digest_of(token)).first()


def by_id(key_id: int, *, now_ms: int) -> AccessKey | None:
    """A key that was found before, if it is still good."""
    return _alive(now_ms).filter(pk=key_id).first()


def allows(key: AccessKey, *, scope: str, source: str) -> bool:
    """Whether the holder may do this as that child. In the pattern * matches any text, slashes included."""
    return scope in key.scopes and fnmatchcase(source, key.source_pattern)


def _alive(now_ms: int) -> QuerySet[AccessKey]:
    return AccessKey.objects.filter(Q(expires_ms=None) | Q(expires_ms__gt=now_ms), revoked_ms=None)
