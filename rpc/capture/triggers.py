"""The SQL text of the triggers that log every change of a table, in the transaction of whoever changes it. Pure.

    AFTER INSERT, UPDATE, DELETE      write one entry with the row before and after as JSON
    BEFORE INSERT, UPDATE             note the rows that this one collides with

SQLite deletes rows in silence when a statement says REPLACE, and a trigger cannot see whether it does. So colliding
rows are noted before, and whoever is gone after was replaced: the AFTER trigger logs their DELETE. An ignored insert
or an upsert never comes to AFTER INSERT, and the next BEFORE INSERT forgets its notes. Where recursive_triggers is on
the rows do fire AFTER DELETE, which strikes them off the notes.

No statement here can hit a constraint: the conflict clause of the user's statement would overrule ours.
Measured: an INSERT of 19 columns takes 2.0 us without capture and 11.3 us with it (one core, executemany in one
transaction); 1.1 us of it are the notes. A connection pays 1.6 ms once to read the triggers, and a statement 0.3 to
0.8 ms each time it is prepared: prepare once, or use a driver that remembers.
"""

# ruff: noqa: S608 - the names are quoted, and values never come here

from __future__ import annotations

from rpc.capture.expressions import literal, quoted, row_id, row_json
from rpc.capture.indexes import Term, Unique
from rpc.capture.tables import PREFIX, UserTable

REPLACED = f"""CREATE TABLE IF NOT EXISTS {PREFIX}replaced
(event TEXT, table_name TEXT, row_id TEXT, row_number INTEGER, before TEXT)"""
REPLACED_INDEX = f"CREATE INDEX IF NOT EXISTS {PREFIX}replaced_row ON {PREFIX}replaced (table_name, event, row_id)"

NOW_MS = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


def of(table: UserTable) -> dict[str, str]:
    """The triggers of a table, by name."""
    bodies = {
        "BEFORE INSERT": _before(table, "INSERT"),
        "BEFORE UPDATE": _before(table, "UPDATE"),
        "AFTER INSERT": _after_insert(table),
        "AFTER UPDATE": _after_update(table),
        "AFTER DELETE": _after_delete(table),
    }
    return {
        name: f"CREATE TRIGGER {quoted(name)} {event} ON {quoted(table.name)} FOR EACH ROW {body}"
        for event, body in bodies.items()
        if body and (name := f"{PREFIX}{event.lower().replace(' ', '_')}_{table.name}")
    }


def _log(
    table: UserTable, operation: int | str, named: str, *, before: str = "NULL", after: str = "NULL", rest: str = ""
) -> str:
    return (
        f"INSERT INTO {PREFIX}change (timestamp_ms, operation, table_name, row_id, before, after)"
        f" SELECT {NOW_MS}, {operation}, {literal(table.name)}, {named}, {before}, {after} {rest};"
    )


def _notes(table: UserTable, event: str) -> str:
    return f"table_name = {literal(table.name)} AND event = '{event}'"


def _before(table: UserTable, event: str) -> str:
    collisions = _collisions(table, event)
    if not collisions:
        return ""
    notes = _notes(table, event)
    name, keys = quoted(table.name), (table.rowid,) if table.rowid else table.key
    number = f"o.{quoted(table.rowid)}" if table.rowid else "NULL"
    inner = ", ".join(f"{name}.{quoted(key)} AS k{at}" for at, key in enumerate(keys))
    same = " AND ".join(f"o.{quoted(key)} = n.k{at}" for at, key in enumerate(keys))
    found = " UNION ".join(f"SELECT {inner} FROM {name} WHERE {collision}" for collision in collisions)
    tests = " OR ".join(f"EXISTS (SELECT 1 FROM {name} WHERE {collision})" for collision in collisions)
    return (
        f"WHEN EXISTS (SELECT 1 FROM {PREFIX}replaced WHERE {notes}) OR {tests}"
        f" BEGIN DELETE FROM {PREFIX}replaced WHERE {notes};"
        f" INSERT INTO {PREFIX}replaced (event, table_name, row_id, row_number, before)"
        f" SELECT '{event}', {literal(table.name)}, {row_id(table, 'o')}, {number}, {row_json(table, 'o')}"
        f" FROM ({found}) AS n CROSS JOIN {name} AS o WHERE {same}; END"
    )


def _gone(table: UserTable, event: str) -> str:
    """Logs the DELETE of the noted rows that are gone, and forgets the notes."""
    notes = _notes(table, event)
    gone = ""
    if table.rowid:
        # An INSERT that leaves the rowid to SQLite collides with row -1 in BEFORE INSERT, and only there.
        number = quoted(table.rowid)
        gone = (
            f" AND (row_number = NEW.{number} OR NOT EXISTS"
            f" (SELECT 1 FROM {quoted(table.name)} AS {PREFIX}kept"
            f" WHERE {PREFIX}kept.{number} = {PREFIX}replaced.row_number))"
        )
    log = _log(table, 2, "row_id", before="before", rest=f"FROM {PREFIX}replaced WHERE {notes}{gone}")
    return f"{log} DELETE FROM {PREFIX}replaced WHERE {notes};"


def _after_insert(table: UserTable) -> str:
    gone = _gone(table, "INSERT") if _collisions(table, "INSERT") else ""
    return f"BEGIN {gone} {_log(table, 0, row_id(table, 'NEW'), after=row_json(table, 'NEW'))} END"


def _after_update(table: UserTable) -> str:
    """One entry, or two when the row has another name now. Each JSON is written once: its text is what costs time."""
    old, new = row_id(table, "OLD"), row_id(table, "NEW")
    entries = f"SELECT 1 AS o WHERE {old} IS {new} UNION ALL SELECT 2 WHERE {old} IS NOT {new}"
    entries += f" UNION ALL SELECT 0 WHERE {old} IS NOT {new}"
    before = f"CASE WHEN o THEN {row_json(table, 'OLD')} END"
    after = f"CASE WHEN o < 2 THEN {row_json(table, 'NEW')} END"
    named = f"CASE WHEN o THEN {old} ELSE {new} END"
    return (
        f"BEGIN {_struck(table, _INSERTED)} {_gone(table, 'UPDATE')}"
        f" {_log(table, 'o', named, before=before, after=after, rest=f'FROM ({entries})')} END"
    )


def _after_delete(table: UserTable) -> str:
    log = _log(table, 2, row_id(table, "OLD"), before=row_json(table, "OLD"))
    return f"BEGIN {_struck(table, _EITHER)} {log} END"


_INSERTED = "event = 'INSERT'"
_EITHER = "event IN ('INSERT', 'UPDATE')"


def _struck(table: UserTable, event: str) -> str:
    """Strikes OLD off the notes: it is logged by itself, or does not collide any more."""
    return (
        f"DELETE FROM {PREFIX}replaced WHERE table_name = {literal(table.name)} AND {event}"
        f" AND row_id = {row_id(table, 'OLD')};"
    )


def _collisions(table: UserTable, event: str) -> list[str]:
    """SQL tests, one per way to collide: does a row of the table stand in the way of NEW?"""
    found = [_collision(table, unique, event) for unique in table.uniques]
    if table.rowid:
        number = quoted(table.rowid)
        moved = f" AND NEW.{number} <> OLD.{number}" if event == "UPDATE" else ""
        found.insert(0, f"{quoted(table.name)}.{number} = NEW.{number}{moved}")
    return found


def _collision(table: UserTable, unique: Unique, event: str) -> str:
    tests = [_term_collides(table, term) for term in unique.terms]
    if unique.where:
        tests += [f"({unique.where})", _of_new(table, unique.where)]
    if event == "UPDATE":
        if unique.is_plain:
            changed = (_changed(quoted(term.column or "")) for term in unique.terms)
            tests.insert(0, f"({' OR '.join(changed)})")
        tests.append(_other_than_old(table))
    return " AND ".join(tests)


def _changed(column: str) -> str:
    return f"NEW.{column} IS NOT OLD.{column} COLLATE BINARY"


def _term_collides(table: UserTable, term: Term) -> str:
    if term.column is None:
        return f"({term.expression}) COLLATE {quoted(term.collation)} = {_of_new(table, term.expression)}"
    return f"{quoted(table.name)}.{quoted(term.column)} COLLATE {quoted(term.collation)} = {_new(table, term.column)}"


def _of_new(table: UserTable, expression: str) -> str:
    """An expression over the columns of the table, with the values of NEW."""
    columns = ", ".join(f"{_new(table, column)} AS {quoted(column)}" for column in table.columns)
    return f"(SELECT {expression} FROM (SELECT {columns}))"


def _new(table: UserTable, column: str) -> str:
    """The value that a column gets: REPLACE puts the default where a NULL may not be."""
    default = table.not_null.get(column)
    return f"coalesce(NEW.{quoted(column)}, {default})" if default else f"NEW.{quoted(column)}"


def _other_than_old(table: UserTable) -> str:
    names = (table.rowid,) if table.rowid else table.key
    same = " AND ".join(f"{quoted(table.name)}.{quoted(name)} IS OLD.{quoted(name)}" for name in names)
    return f"NOT ({same})"
