"""The sums of what flushes committed, by child, epoch and table: written with each commit, read to be compared.

Written in the transaction that moves the table pointers, under the lock on the parent's row, so they are true of
the tables at every moment. Measured (one core, SQLite): 10 us a row; a flush has one for each child and table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Coalesce

from lakehouse.models import Batch, BatchState, Child, ChildTable, DeadLetter
from rpc import columns, entry_digest
from rpc.batch import Encoding
from rpc.entries import walk
from rpc.entry_digest import MODULUS, Sum, Sums
from rpc.errors import ProtocolError

TABLE = ChildTable._meta.db_table
COUNTED_EPOCH = 0
"""In place of the epochs that a child does not keep itself."""
I64_MAX = 2**63 - 1
"""What the database holds; an unreadable entry may have claimed more."""
AT_ONCE = 500
"""Parameters of one query; old builds of SQLite take a thousand."""

_UPSERT = f"""INSERT INTO {TABLE} (child_id, epoch, "table", entries, digest, entry_sequence_first,
    entry_sequence_last, unreadable, unreadable_digest) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (child_id, epoch, "table") DO UPDATE SET entries = excluded.entries, digest = excluded.digest,
    entry_sequence_first = excluded.entry_sequence_first, entry_sequence_last = excluded.entry_sequence_last,
    unreadable = excluded.unreadable, unreadable_digest = excluded.unreadable_digest"""  # noqa: S608 - a name of ours


class Brought(Protocol):
    """What a flush brings of one child into one table."""

    @property
    def source(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def table(self) -> str: ...
    @property
    def sum(self) -> Sum: ...


class Letter(Protocol):
    """An entry that is no row, or a whole batch of them."""

    @property
    def batch_id(self) -> int: ...
    @property
    def encoding(self) -> Encoding: ...
    @property
    def plain(self) -> bytes:
        """Its payload but for a typed document, of which no sum tells."""


@dataclass(slots=True)
class Row:
    """A row of ChildTable as it is changed."""

    entries: int = 0
    digest: int = 0
    first: int = I64_MAX
    last: int = -1
    unreadable: int = 0
    unreadable_digest: int = 0

    def add(self, one: Sum, *, is_readable: bool) -> None:
        self.first, self.last = min(self.first, one.first), min(max(self.last, one.last), I64_MAX)
        if is_readable:
            self.entries, self.digest = self.entries + one.entries, (self.digest + one.digest) % MODULUS
        else:
            self.unreadable += one.entries
            self.unreadable_digest = (self.unreadable_digest + one.digest) % MODULUS

    def no_letter(self, one: Sum) -> None:
        """These are tried again and are counted by what they become."""
        self.unreadable = max(0, self.unreadable - one.entries)
        self.unreadable_digest = (self.unreadable_digest - one.digest) % MODULUS


class _Counted:
    """The rows that a commit changes, read when they are first asked for."""

    def __init__(self, children: dict[str, Child]) -> None:
        self.children = children
        self.rows: dict[tuple[int, int, str], Row] = {}
        self._asked = {child.pk for child in children.values()}
        self._known = _known(self._asked)

    def row(self, child: Child, epoch: int, table: str) -> Row:
        key = (child.pk, epoch_of(child, epoch), table.replace("\0", "\ufffd")[:500])
        if key not in self.rows:
            if child.pk not in self._asked:
                self._asked.add(child.pk)
                self._known |= _known([child.pk])
            self.rows[key] = self._known.get(key) or Row()
        return self.rows[key]


def _known(child_ids: Iterable[int]) -> dict[tuple[int, int, str], Row]:
    found = {}
    for part in _parts(sorted(child_ids)):
        for one in ChildTable.objects.filter(child_id__in=part):
            sums = (one.entries, int(one.digest, 16), one.entry_sequence_first, one.entry_sequence_last)
            found[one.child_id, one.epoch, one.table] = Row(*sums, one.unreadable, int(one.unreadable_digest, 16))
    return found


def add(parent_id: int, flush_id: int, brought: Sequence[Brought], unreadable: Sequence[Letter] = ()) -> None:
    """Count rows that get into tables and dead letters, both of this flush. Within the transaction of the commit.

    A dead letter that was tried again is counted by what it became, and no more by what it was.
    """
    counted = _Counted(_children(parent_id, {one.source for one in brought}))
    for one in brought:
        counted.row(counted.children[one.source], one.epoch, one.table).add(one.sum, is_readable=True)
    for child, epoch, sums in _letters(unreadable):
        for table, sum_ in sums.items():
            counted.row(child, epoch, table).add(sum_, is_readable=False)
    tables = {table for _, _, table in counted.rows}
    for child, epoch, sums in _replayed(flush_id, None if brought else {letter.batch_id for letter in unreadable}):
        for table in sums.keys() & tables:
            counted.row(child, epoch, table).no_letter(sums[table])
    _write(counted.rows)


def take_out(namespace: str, erased: Iterable[Brought]) -> None:
    """Count these rows of a namespace no more, for they were erased. Within the transaction that takes them away."""
    for one in erased:
        for child in Child.objects.filter(parent__namespace=namespace, name=one.source):
            known = ChildTable.objects.select_for_update().filter(
                child=child, epoch=epoch_of(child, one.epoch), table=one.table, entries__gte=one.sum.entries
            )
            if (row := known.first()) is not None:
                row.entries -= one.sum.entries
                row.digest = _hex((int(row.digest, 16) - one.sum.digest) % MODULUS)
                row.save(update_fields=["entries", "digest"])
                break


def epoch_of(child: Child, epoch: int) -> int:
    """The epoch a sum belongs to: one the child keeps, or the one in place of all others."""
    own = (child.epoch_is_own and child.epoch == epoch) or str(epoch) in child.past_epochs
    return epoch if own else COUNTED_EPOCH


@contextmanager
def one_moment() -> Iterator[None]:
    """What is read within was so at one moment."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def waiting(child_id: int, *, entries_max: int) -> tuple[int, dict[int, Sums] | None]:
    """How many entries of a child no flush has taken, and their sums by epoch if they are at most so many.

    A replay is none of them: its entry is counted as the dead letter it was.
    """
    states = (BatchState.PENDING, BatchState.FLUSHING)
    rows = Batch.objects.filter(child_id=child_id, state__in=states, replayed_letter=None)
    count = sum(rows.values_list("entries", flat=True))
    if count > entries_max:
        return count, None
    child = Child.objects.get(pk=child_id)
    found: dict[int, Sums] = {}
    for epoch, encoding, payload in rows.values_list("epoch", "encoding", "stored__payload").iterator(100):
        kept = epoch_of(child, epoch)
        found[kept] = entry_digest.merged(found.get(kept, {}), sums_of(Encoding(encoding), bytes(payload), epoch))
    return count, found


def sums_of(encoding: Encoding, payload: bytes, epoch: int) -> Sums:
    """Of a payload as the journal keeps it; of one that cannot be cut nothing is known but that it is there."""
    try:
        if encoding is Encoding.COLUMNS:
            return entry_digest.of_entries(columns.decode(payload).fields(), epoch=epoch)
        return entry_digest.of_entries(walk(payload, with_metadata=encoding is Encoding.BINARY_METADATA), epoch=epoch)
    except ProtocolError:
        return {"": Sum(1, 0, 0, 0)}


def _children(parent_id: int, names: Iterable[str]) -> dict[str, Child]:
    fields = ("name", "epoch", "epoch_is_own", "past_epochs")
    found = {}
    for part in _parts(sorted(names)):
        rows = Child.objects.filter(parent_id=parent_id, name__in=part).only(*fields)
        found.update({child.name: child for child in rows})
    return found


def _letters(unreadable: Sequence[Letter]) -> Iterator[tuple[Child, int, Sums]]:
    """The entries of new dead letters; a replay tells of the batch its letter came from."""
    batches = Batch.objects.select_related("child").annotate(own=Coalesce("replayed_letter__batch__epoch", "epoch"))
    found = batches.in_bulk({letter.batch_id for letter in unreadable})
    for letter in unreadable:
        batch = found[letter.batch_id]
        yield batch.child, batch.own, sums_of(letter.encoding, letter.plain, batch.own)


def _replayed(flush_id: int, batch_ids: set[int] | None) -> Iterator[tuple[Child, int, Sums]]:
    """The dead letters that came into this flush again, each with its child and epoch."""
    letters = DeadLetter.objects.filter(replay__flush_id=flush_id).select_related("child")
    if batch_ids is not None:
        letters = letters.filter(replay_id__in=list(batch_ids)[:AT_ONCE])
    for letter in letters.annotate(epoch=F("batch__epoch")).iterator(100):
        yield letter.child, letter.epoch, sums_of(Encoding(letter.encoding), bytes(letter.payload), letter.epoch)


def _write(changed: dict[tuple[int, int, str], Row]) -> None:
    rows = [
        (*key, row.entries, _hex(row.digest), row.first, row.last, row.unreadable, _hex(row.unreadable_digest))
        for key, row in changed.items()
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_UPSERT, rows)


def _hex(digest: int) -> str:
    return f"{digest:016x}"


def _parts(values: Sequence[int] | Sequence[str]) -> Iterator[Sequence[int] | Sequence[str]]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
