"""What is new for a table of now, as the journal tells it at one moment: which flushes, and where both tables are."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.catalog.identifiers import namespace_key
from lakehouse.current.names import current_of
from lakehouse.journal.child_tables import one_moment
from lakehouse.models import CurrentTable, Flush, FlushState, IcebergTable, Parent
from lakehouse.models.parents import PastFlushes

RESTS_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Moment:
    namespace: str
    table: str
    current_id: int
    turn: int
    positions: dict[str, int]
    """When all of this is in the table."""
    mark: int
    """Of the table of changes: which one it is, and how often it was changed."""
    flushes: tuple[int, ...] | None
    """Those that brought rows since; None: everything is to be read."""
    changes_location: str
    current_location: str | None

    @property
    def namespace_of_now(self) -> str:
        return current_of(self.namespace)


def wanted(now_ms: int) -> list[tuple[str, str]]:
    """The tables of namespaces in which a parent wants tables of now and that changed; who waits longest first.

    A table that rests is looked at now and then all the same, or its place would be forgotten by the journal.
    """
    parents = Parent.objects.order_by("namespace").only("namespace", "config")
    namespaces = sorted({parent.namespace for parent in parents if parent.settings.current_state})
    rows = CurrentTable.objects.filter(namespace__in=namespaces)
    seen = {
        (namespace, table): (version, refreshed_ms)
        for namespace, table, version, refreshed_ms in rows.values_list("namespace", "table", "version", "refreshed_ms")
    }
    found = []
    for namespace in namespaces:
        for table in IcebergTable.objects.filter(namespace__name=_key(namespace)):
            known, refreshed_ms = seen.get((namespace, table.name), (None, 0))
            if known != table.mark or refreshed_ms < now_ms - RESTS_MS:
                found.append((refreshed_ms, namespace, table.name))
    return [(namespace, name) for _, namespace, name in sorted(found)]


def look(namespace: str, table: str) -> Moment | None:
    """None when there is no such table, or nothing happened since."""
    CurrentTable.objects.get_or_create(namespace=namespace, table=table)
    with one_moment():
        row = CurrentTable.objects.get(namespace=namespace, table=table)
        changes, now = _pointer(namespace, table), _pointer(current_of(namespace), table)
        newest = {
            str(pk): number
            for pk, number in Parent.objects.filter(namespace=namespace).values_list("pk", "commit_number")
        }
        if changes is None or (now is not None and (row.positions, row.version) == (newest, changes.mark)):
            return None
        is_whole = now is None or _has_forgotten(row.positions, newest) or changes.is_another_than(row.version or 0)
        flushes = None if is_whole else _since(namespace, table, row.positions)
    return Moment(
        namespace,
        table,
        row.pk,
        row.turn,
        newest,
        changes.mark,
        flushes,
        changes.metadata_location,
        None if now is None else now.metadata_location,
    )


def _since(namespace: str, table: str, positions: dict[str, int]) -> tuple[int, ...]:
    found: list[int] = []
    for parent_id, number in positions.items():
        rows = Flush.objects.filter(
            parent=int(parent_id),
            state=FlushState.COMMITTED,
            commit_number__gt=number,
            tables__namespace=namespace,
            tables__table=table,
        )
        found += rows.values_list("pk", flat=True)
    return tuple(sorted(found))


def _has_forgotten(positions: dict[str, int], newest: dict[str, int]) -> bool:
    """Whether commits that are not in the table are known no more, or a parent came or went."""
    if positions.keys() != newest.keys():
        return True
    past = PastFlushes.objects.filter(parent__in=[int(pk) for pk in positions])
    return any(number > positions[str(pk)] for pk, number in past.values_list("parent_id", "commit_number"))


def _pointer(namespace: str, table: str) -> IcebergTable | None:
    return IcebergTable.objects.filter(namespace__name=_key(namespace), name=table).first()


def _key(namespace: str) -> str:
    return namespace_key(tuple(namespace.split(".")))
