"""`manage.py erase`: take the rows of a row id or of a child out of the lake for good, and tell which files went."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.conf import settings as site
from django.core.management.base import CommandError
from django.db.models import F
from pyiceberg.exceptions import NoSuchNamespaceError

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.identifiers import namespace_key
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.upkeep import erasing, lease, rounds
from lakehouse.catalog.upkeep.erasing import Erased, Notes, NotOfChildren
from lakehouse.catalog_choice import elsewhere
from lakehouse.clock import now_ms
from lakehouse.current.names import changes_of, current_of
from lakehouse.errors import LakehouseError, LeaseLost
from lakehouse.flush import claim, digests, letters
from lakehouse.flush.digests import ChildSum
from lakehouse.journal import child_tables
from lakehouse.management import asking
from lakehouse.management.operation import Operation
from lakehouse.models import Batch, BatchState, Child, CurrentTable, DeadLetter, DriftField, IcebergTable, Parent
from lakehouse.query.engine import DEFAULT_NAMESPACE
from lakehouse.subscriptions.models import Delivery


class Command(Operation):
    help = "Take rows out of the lake for good: files, history and sums (docs/erase.md). This cannot be undone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--table", type=asking.name, help="only this table; --row-id needs it")
        parser.add_argument("--row-id", help="every change of this row, of all children unless --child says which")
        parser.add_argument("--child", type=asking.name, help="every change of this child")
        parser.add_argument(
            "--namespace", type=asking.name, default=DEFAULT_NAMESPACE, help="where the tables are; default lake"
        )

    def handle(
        self, *, table: str | None, row_id: str | None, child: str | None, namespace: str, **options: Any
    ) -> None:
        where = {"_row_id": row_id, "_source": child}
        values = {name: value for name, value in where.items() if value is not None}
        self._check(table, row_id, child, namespace)
        catalog = from_settings(site.EVODB)
        done, failed = self._erase_each(catalog, namespace, table, values)
        self._clear_examples(namespace, table)
        self._look_at_letters(namespace, table, row_id, child)
        self._tell_of_messages(namespace)
        self.stdout.write(f"{done.rows} rows erased, {len(done.removed)} files removed")
        if failed:
            raise CommandError(f"{failed} tables are not done, see above; when that is mended type the same again")

    def _erase_each(
        self, catalog: DjangoCatalog, namespace: str, table: str | None, values: dict[str, str]
    ) -> tuple[Erased, int]:
        """In this table, or in every one; and how many of those did not let go of it, which keep no other waiting."""
        done, failed = Erased(), 0
        for name in [table] if table else _tables(namespace):
            try:
                done += self._erase_both(catalog, namespace, name, values)
            except LakehouseError as exc:
                said = f"{exc}" + ("; type the same again" if exc.retryable else "")
                if table:
                    raise CommandError(said) from None
                self.stderr.write(said)
                failed += not isinstance(exc, NotOfChildren)
        return done, failed

    def _erase_both(self, catalog: DjangoCatalog, namespace: str, table: str, values: dict[str, str]) -> Erased:
        """The changes, and the rows of now."""
        done = self._erase(catalog, namespace, table, values, _Sums(namespace, table))
        return done + self._erase_from_now(catalog, namespace, table, values)

    def _check(self, table: str | None, row_id: str | None, child: str | None, namespace: str) -> None:
        """Raises CommandError, before anything was touched."""
        if site.EVODB.catalog:
            raise CommandError(f"{elsewhere(site.EVODB.catalog)}; rows are erased there")
        if row_id is None and child is None:
            raise CommandError("nothing says which rows; type --row-id ID with --table NAME, or --child NAME")
        if row_id is not None and table is None:
            raise CommandError("a row id means a row of one table; type --table NAME")
        if origin := _origin_of(namespace):
            raise CommandError(f"{namespace} has the tables of now of {origin}; type --namespace {origin}, they follow")
        known = _tables(namespace) if _can_be(namespace) else []
        if not known:
            raise CommandError(f"there are no tables in {namespace}; there are some in {_namespaces() or 'none'}")
        if table is not None and table not in known:
            raise CommandError(f"there is no table {namespace}.{table}; there are {', '.join(known[:10]) or 'none'}")
        if table is None and not Child.objects.filter(name=child).exists():
            raise CommandError(
                f"no child {child!r} ever came here; is its name spelled so? Rows of that name which came another way "
                "are erased with --table NAME as well"
            )
        left = Batch.objects.filter(parent__namespace=namespace).exclude(state=BatchState.PERSISTED)
        left = left if child is None else left.filter(child__name=child)
        if waiting := left.count():
            raise CommandError(
                f"{waiting} batches wait in the journal or the fallback and may bring such rows; "
                "type manage.py flush_buffers --wait, and then the same again"
            )
        for parent_id in Parent.objects.filter(namespace=namespace).values_list("pk", flat=True):
            claim.forget_payloads(parent_id)

    def _clear_examples(self, namespace: str, table: str | None) -> None:
        """Of the inbox of drift, which come anew with the next values."""
        found = DriftField.objects.filter(parent__namespace=namespace)
        (found if table is None else found.filter(table=table)).update(example="")

    def _look_at_letters(self, namespace: str, table: str | None, row_id: str | None, child: str | None) -> None:
        """Those of a child go; of a row id nobody looks into them."""
        found = DeadLetter.objects.filter(child__parent__namespace=namespace)
        found = found if child is None else found.filter(child__name=child)
        found = found if table is None else found.filter(table=table)
        if row_id is None:
            self.stdout.write(f"{letters.purge(found)} dead letters purged")
        elif left := found.count():
            self.stderr.write(f"{left} dead letters of {table} may have the row and stay; look at manage.py replay")

    def _tell_of_messages(self, namespace: str) -> None:
        """What was put together for subscribers is on its way to them, and not in the lake."""
        found = Delivery.objects.filter(subscription__parent__namespace=namespace).exclude(events=b"")
        if left := found.count():
            self.stderr.write(f"{left} messages to subscribers may have such rows and stay until they are delivered")

    def _erase_from_now(self, catalog: DjangoCatalog, namespace: str, table: str, values: dict[str, str]) -> Erased:
        """After the changes. A refresh that has read them before finds its turn over."""
        CurrentTable.objects.filter(namespace=namespace, table=table).update(turn=F("turn") + 1)
        return self._erase(catalog, current_of(namespace), table, values, _Nothing())

    def _erase(
        self, catalog: DjangoCatalog, namespace: str, table: str, values: dict[str, str], notes: Notes
    ) -> Erased:
        key = namespace_key(namespace)
        row = IcebergTable.objects.select_related("namespace").filter(namespace__name=key, name=table).first()
        if row is None:
            return Erased()
        terms = rounds.terms_of(site.EVODB)
        with lease.kept(row, catalog, lease_ms=site.EVODB.lease_ms, now_ms=now_ms) as keeper:
            if keeper is None:
                raise LeaseLost(f"{row} is kept in order by somebody else; type the same again in a minute")
            found = erasing.erase(
                keeper, values, notes, target_bytes=terms.target_bytes, attempts_max=terms.attempts_max
            )
            swept = rounds.sweep(keeper, site.EVODB, is_dry_run=False)
        if swept.stranger:
            self.stderr.write(f"{row}: {swept.found} files nobody names may have the rows and stay: {swept.stranger}")
        else:
            found.removed += swept.named
        self._tell(row, found)
        return found

    def _tell(self, row: IcebergTable, found: Erased) -> None:
        for path in erasing.told(found.removed):
            self.stdout.write(f"removed {path}")
        self.stdout.write(f"{row}: {found.rows} rows, {found.rewritten} files written anew")
        for name in found.kept_by:
            self.stderr.write(f"{row}: the snapshot of {name} is kept, and what it has; drop it and erase again")


def _can_be(namespace: str) -> bool:
    try:
        return bool(namespace_key(namespace))
    except NoSuchNamespaceError:
        return False


def _tables(namespace: str) -> Sequence[str]:
    """Of changes, and of now: of a table that was dropped there may still be that."""
    names = (namespace_key(namespace), namespace_key(current_of(namespace)))
    rows = IcebergTable.objects.filter(namespace__name__in=names).order_by("name")
    return list(rows.values_list("name", flat=True).distinct())


def _origin_of(namespace: str) -> str | None:
    """Whose tables of now are here; None where somebody writes."""
    is_written = Parent.objects.filter(namespace=namespace).exists()
    return None if is_written else changes_of(namespace)


def _namespaces() -> str:
    rows = IcebergTable.objects.order_by("namespace__name").values_list("namespace__name", flat=True).distinct()
    return ", ".join(name.replace(SEPARATOR, ".") for name in rows[:10] if changes_of(name) is None)


class _Nothing:
    """A table of now is in no sums."""

    def begin(self) -> None: ...

    def see(self, rows: Any) -> None: ...

    def write(self) -> None: ...


class _Sums(_Nothing):
    """What is erased is counted no more, so that `verify` compares with what is left."""

    def __init__(self, namespace: str, table: str) -> None:
        self._namespace, self._table = namespace, table
        self._sums: list[ChildSum] = []

    def begin(self) -> None:
        self._sums = []

    def see(self, rows: Any) -> None:
        self._sums += digests.of_rows(rows, table=self._table) if len(rows) else []

    def write(self) -> None:
        child_tables.take_out(self._namespace, self._sums)
