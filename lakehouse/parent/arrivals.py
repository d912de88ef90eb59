"""The rows behind a connection: the parent it reached, the child it is, and how much of that child is durable."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings as django_settings
from django.db.models import Max, Min

from lakehouse import clock
from lakehouse.events import namespaces
from lakehouse.journal.accept import Source
from lakehouse.key_limits import HOUSE_LIMITS, KeyLimits
from lakehouse.models import AccessKey, Batch, BatchState, Child, ConnectionState, Parent
from lakehouse.models.parents import PARENT_NAME
from lakehouse.parent import access, leases
from lakehouse.parent.attachment import Attachment
from lakehouse.parent.grants import EVERYBODY, INGEST, Grant, Refusal, Refused, shown
from rpc.names import is_name

log = logging.getLogger(__name__)

PARENT = re.compile(rf"{PARENT_NAME}\Z")


@dataclass(frozen=True, slots=True)
class Knock:
    """What a handshake says: which parent, as whom, with which key."""

    parent: str
    token: str = field(repr=False)
    child: str | None
    shard: str | None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A handshake that was let in. `key_id` None means that the house is open.

    What the key gives was read at the handshake; a change of priority or limits counts from the next connection on.
    """

    parent_id: int
    key_id: int | None
    parent: str | None = None
    namespace: str | None = None
    priority: str = "normal"
    limits: KeyLimits = HOUSE_LIMITS


@dataclass(frozen=True, slots=True)
class Arrival:
    """A child that is known now. The sequences are None for a child that keeps no epoch."""

    source: Source
    resume_sequence: int | None = None
    """Every batch up to it is durable."""
    highest_sequence: int | None = None
    highest_epoch: int | None = None
    """The highest batch known to be durable; forgotten islands may lie above it."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A connection that slept and goes on."""

    admitted: Admitted
    child: str | None
    shard: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """What a parent holds that is in no table yet; the moments are None when nothing waits."""

    batches: int
    entries: int
    size_bytes: int
    oldest_ms: int | None
    newest_ms: int | None
    utilization: float
    last_flush_ms: int
    connected: int = 0
    """Children that are here, at whichever process."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A child nobody knew and for which its parent has no room."""

    children_max: int

    @property
    def text(self) -> str:
        """What the child hears."""
        return f"this parent takes no more than {self.children_max} children"


def judge(knock: Knock, *, is_open: bool, now_ms: int, parents_max: int | None = None) -> Admitted | Refused:
    """Let a handshake in, or refuse it. A parent nobody named before begins to exist here, if there is room for it.

    `parents_max` None is the setting of this process.
    """
    verdict = _judge(knock, is_open, now_ms, django_settings.EVODB.parents_max if parents_max is None else parents_max)
    if isinstance(verdict, Refused):
        who = "" if knock.child is None else f" of child {shown(knock.child)}"
        why = (verdict.reason.value, verdict.why)
        log.warning("a handshake%s at parent %s was refused (%s): %s", who, shown(knock.parent), *why)
    return verdict


def arrive(
    admitted: Admitted,
    name: str,
    *,
    shard: str | None,
    epoch: int | None,
    now_ms: int,
    holder: str | None = None,
) -> Arrival | NoRoom | None:
    """The child behind a connection of `holder`, by default this process. None when its key may not write as it."""
    if not may_write(admitted, name, now_ms=now_ms):
        return None
    child = child_of(admitted, name)
    if isinstance(child, NoRoom):
        return child
    holder = holder or leases.this_process()
    leases.take(holder, interval_ms=django_settings.EVODB.presence_interval_ms, now_ms=now_ms)
    changes = {"state": ConnectionState.AWAKE, "holder": holder, "last_seen_ms": now_ms}
    Child.objects.filter(pk=child.pk).update(**changes | ({"shard": shard} if shard else {}))
    source = Source(admitted.parent_id, child.pk, epoch, own_epoch=epoch is not None)
    return Arrival(source) if epoch is None else Arrival(source, *_sequences(child, epoch))


def child_of(admitted: Admitted, name: str, **defaults: Any) -> Child | NoRoom:
    """The child of this name. One nobody knew begins to exist, if its parent has room for it.

    Processes that count in the same moment may exceed the bound, by one each.
    """
    child = Child.objects.filter(parent_id=admitted.parent_id, name=name).first()
    if child is not None:
        return child
    children_max = Parent.objects.get(pk=admitted.parent_id).settings.children_max
    if Child.objects.filter(parent_id=admitted.parent_id).count() >= children_max:
        log.warning(
            "child %s was refused: parent %s has its %d children; forget some, or raise children_max in its settings",
            *(shown(name), shown(admitted.parent or ""), children_max),
        )
        return NoRoom(children_max)
    return Child.objects.get_or_create(parent_id=admitted.parent_id, name=name, defaults=defaults)[0]


def may_write(admitted: Admitted, name: str | None, *, now_ms: int) -> bool:
    """Whether the key of this handshake is still good, and good for this child if it said which one it is."""
    if admitted.key_id is None:
        return True
    key = access.by_id(admitted.key_id, now_ms=now_ms)
    if key is None:
        return False
    access.note_used(key, now_ms=now_ms)
    return access.allows(key, scope=INGEST, source=name, parent=admitted.parent, namespace=admitted.namespace)


def come_back(kept: Attachment, *, now_ms: int) -> Returned | None:
    """What a connection that slept needs to go on; None when its key, its parent or its child is not what it was."""
    parent = Parent.objects.filter(pk=kept.parent_id).first()
    child = None if kept.child_id is None else Child.objects.filter(pk=kept.child_id, parent=kept.parent_id).first()
    key = None if kept.key_id is None else access.by_id(kept.key_id, now_ms=now_ms)
    grant = EVERYBODY if key is None else access.grant_of(key)
    is_gone = parent is None or (child is None) != (kept.child_id is None) or (key is None) != (kept.key_id is None)
    if parent is None or is_gone or isinstance(grant, Refused):
        return None
    name = kept.source if child is None else child.name
    if not grant.allows(scope=INGEST, source=name, parent=parent.name, namespace=parent.namespace):
        return None
    admitted = Admitted(parent.pk, grant.key_id, parent.name, parent.namespace, grant.priority, grant.limits)
    return Returned(admitted, name, kept.shard if child is None else child.shard or None)


def held(parent_id: int, *, now_ms: int | None = None) -> Held:
    """What a parent holds at a moment, which is now unless it is said."""
    now_ms = clock.now_ms() if now_ms is None else now_ms
    parent = Parent.objects.get(pk=parent_id)
    waiting = Batch.objects.filter(parent=parent_id, state__in=[BatchState.PENDING, BatchState.FLUSHING])
    moments = waiting.aggregate(oldest=Min("received_ms"), newest=Max("received_ms"))
    config = parent.settings
    return Held(
        parent.pending_batches,
        parent.pending_entries,
        parent.pending_bytes,
        moments["oldest"],
        moments["newest"],
        max(parent.pending_entries / config.max_buffer_entries, parent.pending_bytes / config.max_buffer_bytes),
        parent.last_flush_ms,
        Child.objects.filter(leases.here(now_ms=now_ms), parent=parent_id).count(),
    )


def _judge(knock: Knock, is_open: bool, now_ms: int, parents_max: int) -> Admitted | Refused:
    if PARENT.match(knock.parent) is None or not all(is_name(name) for name in (knock.child, knock.shard) if name):
        return Refused(Refusal.BAD_NAME, "a parent, child or shard cannot be stored under the name it was given")
    key = None if is_open else access.recognize(knock.token, now_ms=now_ms)
    grant = EVERYBODY if key is None else key if isinstance(key, Refused) else access.grant_of(key)
    if isinstance(grant, Refused):
        return grant
    # The name is asked about first: whoever may not reach a parent shall not hear whether there is one.
    if refused := grant.refusal(scope=INGEST, source=knock.child, parent=knock.parent):
        return refused
    parent = _parent(knock.parent, grant, now_ms, parents_max)
    if isinstance(parent, Refused):
        return parent
    if isinstance(key, AccessKey):
        access.note_used(key, now_ms=now_ms)
    return Admitted(parent.pk, grant.key_id, parent.name, parent.namespace, grant.priority, grant.limits)


def _parent(name: str, grant: Grant, now_ms: int, parents_max: int) -> Parent | Refused:
    """The parent of this name, in a namespace of the grant.

    Processes that count in the same moment may exceed the bound, by one each.
    """
    found = next(iter(Parent.objects.filter(name=name)), None)
    parent = found or Parent(name=name, namespace=namespaces.home_of(name) or Parent().namespace)
    if refused := grant.refusal(scope=INGEST, namespace=parent.namespace):
        return refused
    if found is None:
        if (there_are := Parent.objects.count()) >= parents_max:
            return Refused(
                Refusal.TOO_MANY_PARENTS,
                f"it does not exist, there are {there_are} parents, and only up to EVODB_PARENTS_MAX ({parents_max}) "
                "begin by being named; make it in the admin, or raise the setting",
            )
        parent, _ = Parent.objects.get_or_create(
            name=name, defaults={"namespace": parent.namespace, "created_ms": now_ms}
        )
    return parent


def _sequences(child: Child, epoch: int) -> tuple[int, int, int]:
    """The highest sequence of this epoch below which nothing is missing, and the highest of all."""
    sequence, islands = child.past_epochs.get(str(epoch), (0, []))
    if child.epoch_is_own and child.epoch == epoch:
        sequence, islands = child.sequence, child.islands
    highest = max([epoch, *map(int, child.past_epochs), child.epoch if child.epoch_is_own else 0])
    return sequence, islands[-1][1] if islands else sequence, highest
