"""What an operator does to keys: find the one that is meant, revoke it, rotate it.

A rotated key has one successor with the same bindings; both are good until the overlap is over, so that holders can
change at their own pace. Nothing is ever deleted: who could come in stays on record.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import BigIntegerField, Q, QuerySet, Value
from django.db.models.functions import Coalesce, Least

from lakehouse.models import AccessKey
from lakehouse.parent import access

SHOWN_MAX = 20
ID_MAX = 2**63 - 1
HOUR_MS = 3_600_000
OVERLAP_MS = 24 * HOUR_MS
"""How long a rotated key stays good when nothing else is said."""
OVERLAP_MS_MAX = 366 * 24 * HOUR_MS


class KeyNotChanged(ValueError):
    """Nothing was changed; the message says why and what to type."""


def meant(text: str, *, now_ms: int) -> AccessKey:
    """The key with this name, prefix or id, or the key itself; among several the one that is still good."""
    found = list(_called(text))
    if not found:
        raise KeyNotChanged(f"there is no key {_without_key(text)!r}; {_known()}")
    good = [key for key in found if access.end_of(key, now_ms=now_ms) is None] or found
    if len(good) > 1:
        listed = ", ".join(f"{key.prefix or key.name} (id {key.pk})" for key in good[:SHOWN_MAX])
        raise KeyNotChanged(f"{len(good)} keys are called {_without_key(text)!r}: {listed}; say the prefix or the id")
    return good[0]


def revoke(key: AccessKey, *, now_ms: int) -> bool:
    """The key opens nothing from now on, and ends its connections. False when it was revoked already."""
    return bool(AccessKey.objects.filter(pk=key.pk, revoked_ms=None).update(revoked_ms=now_ms))


def rotate(key: AccessKey, *, now_ms: int, overlap_ms: int = OVERLAP_MS) -> tuple[AccessKey, str]:
    """A successor with the bindings of this key, which ends when the overlap is over. Raises KeyNotChanged.

    The successor of a key that expires lives as long as that was meant to.
    """
    if not 0 <= overlap_ms <= OVERLAP_MS_MAX:
        raise KeyNotChanged(f"the overlap is {overlap_ms} ms, wanted 0 to {OVERLAP_MS_MAX} ms")
    with transaction.atomic():
        return _rotate(AccessKey.objects.select_for_update().get(pk=key.pk), now_ms, overlap_ms)


def _rotate(key: AccessKey, now_ms: int, overlap_ms: int) -> tuple[AccessKey, str]:
    if ended := access.end_of(key, now_ms=now_ms):
        raise KeyNotChanged(f"{ended.why}; rotating gives nobody time to change, make a new one")
    if successor := AccessKey.objects.filter(rotated_from=key).first():
        raise KeyNotChanged(f"{key} was rotated already; rotate its successor {successor.prefix} (id {successor.pk})")
    lives_ms = None if key.expires_ms is None else key.expires_ms - (key.created_ms or now_ms)
    made = access.new_key(
        key.name,
        scopes=key.scopes,
        source_pattern=key.source_pattern,
        parents=key.parents,
        namespaces=key.namespaces,
        priority=key.priority,
        limits=key.limits,
        now_ms=now_ms,
        expires_ms=None if lives_ms is None else now_ms + lives_ms,
        rotated_from=key,
    )
    until = Value(now_ms + overlap_ms, output_field=BigIntegerField())
    ended_later = (
        access.alive(now_ms=now_ms).filter(pk=key.pk).update(expires_ms=Least(Coalesce("expires_ms", until), until))
    )
    assert ended_later == 1, f"{key} changed while its row was locked"
    return made


def _called(text: str) -> QuerySet[AccessKey]:
    if access.is_key(text):
        return AccessKey.objects.filter(digest=access.digest_of(text))
    if not text or not text.isprintable():
        return AccessKey.objects.none()
    names = Q(name=text) | Q(prefix=text)
    if text.isascii() and text.isdigit() and int(text) <= ID_MAX:
        names |= Q(pk=int(text))
    return AccessKey.objects.filter(names).order_by("pk")


def _known() -> str:
    newest = AccessKey.objects.order_by("-pk").values_list("name", "prefix")[:SHOWN_MAX]
    return f"known are: {', '.join(f'{name} ({prefix})' for name, prefix in newest)}" if newest else "there is none yet"


def _without_key(text: str) -> str:
    return text if len(text) < len(access.KEY_PREFIX) + 20 else f"{text[: access.PREFIX_CHARS]}..."
