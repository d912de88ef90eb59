"""Whether the lake has what the journal says was committed, child by child and table by table.

The journal is read at one moment, and the lake as it was then: a snapshot does not change. A sum that agrees says it
all; only where one does not is it asked which entries are wrong. A catalog that is not ours is read after the journal,
so it may have more by what is just on its way, and never less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import duckdb

from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable
from lakehouse.journal import child_tables
from lakehouse.models import (
    Batch,
    BatchState,
    Child,
    ChildTable,
    DeadLetter,
    DeadLetterState,
    ForeignCommit,
    IcebergTable,
    Parent,
)
from lakehouse.query import duck, lake_sums, ranges
from lakehouse.query.lake_sums import Accounted, ChildRows
from lakehouse.query.ranges import JournalBatch, Kind, Range
from rpc import columns
from rpc.entry_digest import NOTHING, Sum
from rpc.errors import ProtocolError

LOOKS_MAX = 5
WAITING = (BatchState.PENDING, BatchState.FLUSHING)


WHY_COUNTED = (
    "of those no digest is made (Arrow). They are the same entries, by sequence, time, operation and row id; what "
    "their columns hold was not compared"
)


class Verdict(StrEnum):
    GREEN = "green"
    COUNTED = "counted"
    """The same entries; what is in some of them was not looked at."""
    EXPLAINED = "explained"
    """The sums cannot agree, and it is known why; nothing is missing or double as far as can be told."""
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """None is all of them."""

    parent: str | None = None
    child: str | None = None
    table: str | None = None


@dataclass(slots=True)
class Finding:
    """One child in one table of a namespace."""

    namespace: str
    table: str
    child: str
    journal: Sum
    lake: Sum
    unreadable: int
    typed: int = 0
    """Rows in the lake whose document came as typed columns, of which no digest is made."""
    verdict: Verdict = Verdict.GREEN
    why: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return self.journal.is_as(self.lake)


@dataclass(slots=True)
class ChildReport:
    """A child by its name in a namespace, where its rows lie, whichever parents it has there."""

    namespace: str
    child: str
    tables: list[Finding]
    ranges: list[Range]
    waiting: int
    """Entries that no flush has taken yet."""
    fallback: int
    """Entries of batches that wait for the object store, at most."""
    older: int
    """Entries that were committed before there were sums."""

    @property
    def is_red(self) -> bool:
        return self.verdict is Verdict.RED

    @property
    def verdict(self) -> Verdict:
        """The worst of its tables."""
        found = {one.verdict for one in self.tables}
        return next((one for one in (Verdict.RED, Verdict.EXPLAINED, Verdict.COUNTED) if one in found), Verdict.GREEN)


@dataclass(slots=True)
class _Known:
    """A child as the journal knows it."""

    ids: list[int] = field(default_factory=list)
    entries: int = 0
    tables: dict[str, tuple[Sum, int]] = field(default_factory=dict)
    """The sum of the rows, and how many entries are unreadable."""
    counted: int = 0
    waiting: int = 0
    fallback: int = 0


@dataclass(slots=True)
class _Moment:
    """The journal at one moment, by namespace."""

    children: dict[str, dict[str, _Known]]
    locations: dict[str, dict[str, str]]
    is_moving: bool = False
    """Flushes were under way while a foreign catalog was read."""


def verify(settings: Settings, wanted: Wanted) -> Iterator[ChildReport]:
    """A report for each child, by namespace and name. Raises StoreUnavailable."""
    moment = _foreign_moment(settings, wanted) if settings.catalog else _own_moment(wanted)
    try:
        with duck.connect(settings) as connection:
            connection.execute("SET preserve_insertion_order = false")
            for namespace, children in sorted(moment.children.items()):
                yield from _namespace(connection, namespace, children, moment, wanted)
    except duckdb.IOException as exc:
        raise StoreUnavailable(str(exc).strip().partition("\n")[0]) from exc


def _namespace(
    connection: duckdb.DuckDBPyConnection,
    namespace: str,
    children: dict[str, _Known],
    moment: _Moment,
    wanted: Wanted,
) -> Iterator[ChildReport]:
    locations = moment.locations.get(namespace, {})
    complaints = {table: lake_sums.complaint(connection, place) for table, place in locations.items()}
    ours = {table: place for table, place in locations.items() if not complaints[table]}
    named = {table for known in children.values() for table in known.tables}
    found: dict[str, dict[str, Sum]] = {}
    for table in sorted(named | ours.keys()):
        if wanted.table in (None, table):
            found[table], why = lake_sums.sums(connection, ours.get(table), table=table, source=wanted.child)
            if why:
                complaints[table] = why
                del ours[table]
    typed = {table: lake_sums.typed(connection, ours[table], source=wanted.child) for table in found if table in ours}
    sources = {source for sums in found.values() for source in sums}
    names = children.keys() if wanted.parent is not None else children.keys() | sources
    for name in sorted(names):
        known = children.get(name, _Known())
        findings = list(_findings(namespace, name, known, found, typed))
        for one in findings:
            one.why += [complaints[one.table]] if complaints.get(one.table) else []
        older = max(0, known.entries - known.counted - known.waiting - known.fallback)
        report = ChildReport(namespace, name, findings, [], known.waiting, known.fallback, older)
        if not all(one.is_equal for one in findings):
            rows = ChildRows(connection, [*ours.values()], source=name, accounted=_letters(known.ids))
            _explain(report, known, rows, is_moving=moment.is_moving)
        yield report


def _findings(
    namespace: str, name: str, known: _Known, found: dict[str, dict[str, Sum]], typed: dict[str, dict[str, int]]
) -> Iterator[Finding]:
    for table, sums in found.items():
        journal, unreadable = known.tables.get(table, (NOTHING, 0))
        lake = sums.get(name, NOTHING)
        if journal.entries or lake.entries or unreadable:
            one = Finding(namespace, table, name, journal, lake, unreadable, typed.get(table, {}).get(name, 0))
            if one.is_equal and one.typed:
                one.verdict = Verdict.COUNTED
                one.why.append(f"{one.typed} of its rows came as typed columns: {WHY_COUNTED}")
            yield one


def _explain(report: ChildReport, known: _Known, rows: ChildRows, *, is_moving: bool) -> None:
    """Say what is wrong where sums differ, or why they may."""
    found = ranges.compare(_batches(known.ids), rows.batches(), rows.sequences)
    report.ranges = ranges.joined(one for one in found)
    is_wrong = any(one.kind is not Kind.GAP for one in report.ranges)
    for one in report.tables:
        if one.is_equal:
            continue
        if report.older and not is_wrong and one.lake.entries >= one.journal.entries:
            one.verdict = Verdict.EXPLAINED
            one.why.append(
                f"{report.older} entries of this child were committed before there were sums; by its batches nothing "
                "is missing or double, what is in the rows cannot be told"
            )
            continue
        if is_moving and not is_wrong and one.lake.entries >= one.journal.entries:
            one.verdict = Verdict.EXPLAINED
            one.why.append("flushes were on their way into the catalog while this was read; look again")
            continue
        one.verdict = Verdict.RED
        if one.lake.entries == one.journal.entries and not is_wrong:
            one.why.append("the rows have the sequences they should have, and something else in them was changed")


def _own_moment(wanted: Wanted) -> _Moment:
    with child_tables.one_moment():
        moment = _moment(wanted)
        for table in IcebergTable.objects.select_related("namespace"):
            moment.locations.setdefault(str(table.namespace), {})[table.name] = table.metadata_location
    return moment


def _foreign_moment(settings: Settings, wanted: Wanted) -> _Moment:
    """A moment at which no flush was under way, if there is one soon."""
    from lakehouse.catalog import lakes  # a process that serves our own catalog never needs its libraries

    lake = lakes.chosen(settings)
    for _ in range(LOOKS_MAX):
        with child_tables.one_moment():
            moment, before = _moment(wanted), _commits()
        moment.locations = lake.locations(moment.children)
        moment.is_moving = _commits() != before or ForeignCommit.objects.exists()
        if not moment.is_moving:
            break
    return moment


def _commits() -> list[int]:
    return list(Parent.objects.order_by("pk").values_list("commit_number", flat=True))


def _moment(wanted: Wanted) -> _Moment:
    """Children by name and namespace; a name that several parents have there is one source in its tables."""
    moment = _Moment({}, {})
    by_id: dict[int, _Known] = {}
    namespaces = Parent.objects.all() if wanted.parent is None else Parent.objects.filter(name=wanted.parent)
    children = Child.objects.filter(parent__namespace__in=namespaces.values("namespace"))
    if wanted.parent is not None:
        children = children.filter(name__in=Child.objects.filter(parent__name=wanted.parent).values("name"))
    if wanted.child is not None:
        children = children.filter(name=wanted.child)
    for pk, name, entries, namespace in children.values_list("pk", "name", "entries", "parent__namespace"):
        known = moment.children.setdefault(namespace, {}).setdefault(name, _Known())
        known.ids.append(pk)
        known.entries += entries
        by_id[pk] = known
    for namespace in namespaces.values_list("namespace", flat=True):
        moment.children.setdefault(namespace, {})
    _count(by_id)
    return moment


def _count(by_id: dict[int, _Known]) -> None:
    for one in ChildTable.objects.all().iterator(1000):
        if (known := by_id.get(one.child_id)) is None:
            continue
        rows = Sum(one.entries, int(one.digest, 16), one.entry_sequence_first, one.entry_sequence_last)
        before, unreadable = known.tables.get(one.table, (NOTHING, 0))
        known.tables[one.table] = (before + rows, unreadable + one.unreadable)
        known.counted += one.entries + one.unreadable
    left = Batch.objects.exclude(state=BatchState.PERSISTED).filter(replayed_letter=None)
    for child_id, state, entries in left.values_list("child_id", "state", "entries").iterator(1000):
        if (known := by_id.get(child_id)) is not None:
            known.waiting += entries if state in WAITING else 0
            known.fallback += entries if state not in WAITING else 0


def _batches(child_ids: list[int]) -> Iterator[JournalBatch]:
    """What has to be in tables, in order; not what is one dead letter whole, nor a replay, whose epoch is below 0."""
    rows = Batch.objects.filter(child_id__in=child_ids, state=BatchState.PERSISTED, epoch__gte=0)
    whole = DeadLetter.objects.filter(child_id__in=child_ids, entry_index=None).values("batch_id")
    fields = ("epoch", "sequence", "entries", "entry_sequence_first", "entry_sequence_last")
    return map(
        JournalBatch._make, rows.exclude(pk__in=whole).order_by("epoch", "sequence").values_list(*fields).iterator(1000)
    )


def _letters(child_ids: list[int]) -> Iterable[Accounted]:
    """The entries that are dead letters."""
    letters = DeadLetter.objects.filter(child_id__in=child_ids).exclude(state=DeadLetterState.COMMITTED)
    fields = ("batch__epoch", "batch__sequence", "payload")
    for epoch, sequence, payload in letters.exclude(entry_index=None).values_list(*fields):
        try:
            for entry in columns.decode(bytes(payload)).sequences:
                yield Accounted(epoch, sequence, min(entry, 2**63 - 1))
        except ProtocolError:
            continue
