"""Who holds the socket of a child, and how long its word counts: a process for as long as it renews its lease.

A process that was killed tells nobody; its children are gone as soon as its lease has run out. A socket in the hands of
a proxy outlives every process, so its holder has no lease and the proxy is believed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from functools import cache
from itertools import islice

from django.db import transaction
from django.db.models import Case, F, Q, QuerySet, Value, When

from lakehouse.models import Child, ConnectionState
from lakehouse.models.parents import Holder

INTERVALS = 3
"""So many renewals may fail."""
GRACE_MS = 5000
"""For clocks of machines that differ, and for a database that is slow."""
PROXY = "proxy/"
AT_ONCE = 500
"""Rows of one statement; SQLite takes 999 parameters everywhere."""


def this_process() -> str:
    """The name of this process, of no other one before or after it."""
    return _named(os.getpid())


def of_proxy(connection_id: str) -> str:
    """The name of one socket that a proxy holds."""
    return PROXY + hashlib.sha256(connection_id.encode()).hexdigest()[:32]


def lease_ms(interval_ms: int) -> int:
    return INTERVALS * interval_ms + GRACE_MS


def take(holder: str, *, interval_ms: int, now_ms: int) -> None:
    """Begin the lease of a process, unless it runs already."""
    if not _running(now_ms).filter(pk=holder).exists():
        renew(holder, interval_ms=interval_ms, now_ms=now_ms)


def renew(holder: str, *, interval_ms: int, now_ms: int) -> bool:
    """Returns whether the lease had not run out."""
    until_ms = now_ms + lease_ms(interval_ms)
    if _running(now_ms).filter(pk=holder).update(lease_until_ms=until_ms):
        return True
    Holder.objects.update_or_create(pk=holder, defaults={"lease_until_ms": until_ms})
    return False


def end(holder: str) -> None:
    """The process stops: all its children are gone, with one row."""
    Holder.objects.filter(pk=holder).update(lease_until_ms=0)


def here(*, now_ms: int) -> Q:
    """The children that are here."""
    return ~Q(state=ConnectionState.GONE) & ~_orphaned(now_ms)


def state(*, now_ms: int) -> Case:
    """The state of a child as it may be shown."""
    return Case(When(_orphaned(now_ms), then=Value(ConnectionState.GONE)), default=F("state"))


def bury(*, now_ms: int) -> int:
    """Write down as gone whom processes without a lease left behind; returns how many children those were."""
    if not Holder.objects.filter(lease_until_ms__lte=now_ms).exists():
        return 0
    left = Child.objects.exclude(state=ConnectionState.GONE).filter(_orphaned(now_ms))
    buried, ids = 0, iter(list(left.values_list("pk", flat=True)))
    while some := list(islice(ids, AT_ONCE)):
        # Asked again, for who came back meanwhile is here.
        buried += left.filter(pk__in=some).update(state=ConnectionState.GONE)
    Holder.objects.filter(lease_until_ms__lte=now_ms).delete()
    return buried


def settle_at_proxy(child_id: int, holder: str, *, now_ms: int) -> None:
    """A child that came through a proxy's socket: from now on the proxy holds it, not the process that answered."""
    mine = Child.objects.filter(pk=child_id, holder__in=[this_process(), holder])
    mine.update(state=ConnectionState.HIBERNATING, holder=holder, last_seen_ms=now_ms)


def leave_proxy(child_id: int, holders: list[str], *, now_ms: int) -> int | None:
    """The proxy's socket of a child ended. Returns its parent if that was its last child, and something waits there."""
    with transaction.atomic():
        mine = Child.objects.filter(pk=child_id, holder__in=holders).exclude(state=ConnectionState.GONE)
        if not mine.update(state=ConnectionState.GONE, last_seen_ms=now_ms):
            return None
        parent_id, waiting = Child.objects.values_list("parent", "parent__pending_batches").get(pk=child_id)
    is_last = not Child.objects.filter(here(now_ms=now_ms), parent=parent_id).exists()
    return parent_id if waiting and is_last else None


def _running(now_ms: int) -> QuerySet[Holder]:
    return Holder.objects.filter(lease_until_ms__gt=now_ms)


def _orphaned(now_ms: int) -> Q:
    """Held by a process that has no lease. Rows of before there were holders name none."""
    has_no_lease = ~Q(holder="") & ~Q(holder__startswith=PROXY)
    return has_no_lease & ~Q(holder__in=_running(now_ms).values("pk"))


@cache
def _named(pid: int) -> str:
    return f"{socket.gethostname()[:30]}:{pid}:{secrets.token_hex(8)}"
