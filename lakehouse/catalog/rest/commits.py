"""Commits of clients: one table, or several together or not at all.

    read the pointers ─ check the requirements ─ write metadata files ─ one transaction: compare and swap all pointers

Whoever finds a pointer moved starts again from the metadata it names now, where the requirements may not hold any more;
so two that touch different things of a table both get through. A commit that was made and not heard of may come again:
it is answered as made.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.table import CommitTableRequest, CommitTableResponse, StagedTable, Table
from pyiceberg.table.update import AssertCreate, TableUpdate

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.rest import soundness
from lakehouse.catalog.rest import updates as rules
from lakehouse.catalog.rest.calls import Call
from lakehouse.catalog.rest.models import commit_table, commit_transaction, identifier_of
from lakehouse.catalog.rest.places import Places, paths_of_updates
from lakehouse.catalog.rest.problems import JSON, NOTHING, Answer, Problem, bad_request
from lakehouse.catalog.rest.swaps import Moved, Prepared, publish
from lakehouse.catalog.rest.tables import check_new, default_location

ATTEMPTS_MAX = 5
"""How often a commit begins again because somebody else was faster, while its requirements go on to hold."""
TABLES_MAX = 100
"""Of one transaction."""


def one(call: Call) -> Answer:
    """`POST /v1/namespaces/{namespace}/tables/{table}`"""
    (done,) = commit(call, [commit_table(call)])
    response = CommitTableResponse(metadata=done.metadata, metadata_location=done.metadata_location)  # type: ignore[call-arg]
    return Answer(200, response.model_dump_json().encode(), {"content-type": JSON})


def several(call: Call) -> Answer:
    """`POST /v1/transactions/commit`"""
    changes = commit_transaction(call).table_changes
    names = [identifier_of(change.identifier) for change in changes]
    if len(set(names)) < len(names):
        raise bad_request("found a table twice in one transaction, wanted all its updates in one change")
    if len(names) > TABLES_MAX:
        raise bad_request(f"found {len(names)} tables in one transaction, wanted at most {TABLES_MAX}")
    for name in names:
        call.check(name[:-1])
    commit(call, changes)
    return NOTHING


def commit(call: Call, changes: Sequence[CommitTableRequest]) -> list[Table]:
    """The tables as they are afterwards."""
    for _ in range(ATTEMPTS_MAX):
        prepared = _prepare(call, changes)
        try:
            publish(call.catalog, prepared)
        except Moved:
            continue
        return [each.new for each in prepared]
    raise CommitFailedException(f"other writers were faster {ATTEMPTS_MAX} times; load the table and try again")


def _prepare(call: Call, changes: Sequence[CommitTableRequest]) -> list[Prepared]:
    """Nothing is written before all requirements hold. What was applied already counts for all of them or for none."""
    found = [(change, call.catalog.find(identifier_of(change.identifier))) for change in changes]
    marked = [pair for pair in found if _is_marked(pair[0])]
    if marked and all(table is not None and _is_applied(change, table) for change, table in marked):
        return [Prepared(identifier_of(change.identifier), table, table) for change, table in found if table]
    places = Places(call)
    return [_changed(call, places, change, table) for change, table in found]


def _is_marked(change: CommitTableRequest) -> bool:
    """Whether it can be told from another one like it."""
    kinds = {update.action for update in change.updates}
    return bool(kinds & {"add-snapshot", "assign-uuid"})


def _is_applied(change: CommitTableRequest, table: Table) -> bool:
    return rules.is_applied(change.requirements, change.updates, table.metadata)


def _changed(call: Call, places: Places, change: CommitTableRequest, table: Table | None) -> Prepared:
    identifier = identifier_of(change.identifier)
    metadata = table.metadata if table else None
    is_creation = any(isinstance(requirement, AssertCreate) for requirement in change.requirements)
    if table is None and not is_creation:
        raise NoSuchTableError(f"Table does not exist: {'.'.join(identifier)}")
    rules.check(change.requirements, metadata)
    soundness.check(change.updates, metadata)
    own = table.metadata.location if table else ""
    places.check_all(paths_of_updates(change.updates), namespace=identifier[:-1], own=own)
    if table is None:
        check_new(call, identifier)
        wanted = rules.of_creation(change.updates, location=default_location(places, identifier))
        staged = _staged(call.catalog, None, identifier, wanted)
        return Prepared(identifier, None, staged)
    rules.check_order(change.updates, table.metadata)
    staged = _staged(call.catalog, table, identifier, change.updates)
    soundness.check_left(staged.metadata, table.metadata)
    return Prepared(identifier, table, table if staged.metadata == table.metadata else staged)


def _staged(
    catalog: DjangoCatalog, table: Table | None, identifier: tuple[str, ...], updates: Sequence[TableUpdate]
) -> StagedTable:
    """Raises Problem where pyiceberg cannot apply them."""
    base = table.metadata if table else catalog._empty_table_metadata()
    try:
        return catalog._update_and_stage_table(table, identifier, (), rules.settled(updates, base))
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise Problem(400, "ValidationException", f"the updates cannot be applied: {exc}"[:500]) from None
