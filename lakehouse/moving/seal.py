"""A house that moved is closed: its database takes no change any more, whoever comes with one.

What was acknowledged there afterwards would be in no lake, and what was expired there would be missing in the new one.
So triggers refuse every change, with a sentence; a worker that nobody thought of, and one that is started in a year,
read it in their log. They are all there is of it: taken away, the house is as it was.

Every program takes the refusal for a database that is away, and comes again later, in any version: it is an
OperationalError. RAISE of SQLite would be one of integrity, by which a parent tells its children that it was deleted,
and they never come again; so a path that is none says the sentence.

A seal has a number, which the new house notes in the transaction that brings the rows (`arrival`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from django.apps import apps
from django.db import OperationalError, connections, transaction

NAME = "evodb_moved"
APPS = ("lakehouse", "subscriptions")
EVENTS = ("INSERT", "UPDATE", "DELETE")
SENTENCE = re.compile(r"this house is closed, it move[sd] to [^']*")
NUMBER = re.compile(r"/\* ([0-9a-f]{32}) \*/")
OPERATIONAL = "55000"
PATIENCE_S = 10
"""For transactions of others. Who waits longer holds up all who come after."""
MOVES, MOVED = "moves", "moved"
"""While rows and files are on their way, and when all of them are there."""
DEADLOCK, DEADLOCKS_MAX = "40P01", 10


def firmly(alias: str, change: Callable[[], None]) -> None:
    """In a transaction. Who is at work holds tables in another order, each time another one. Raises DatabaseError."""
    for left in reversed(range(DEADLOCKS_MAX)):
        try:
            with transaction.atomic(alias):
                change()
            break
        except OperationalError as exc:
            if not left or getattr(exc.__cause__, "sqlstate", None) != DEADLOCK:
                raise


def close(alias: str, destination: str, verb: str, number: str) -> None:
    """In a transaction. Raises DatabaseError."""
    said = f"{_of(destination, verb)}; manage.py move --undo, with its settings, opens it again"
    open_again(alias)
    postgres = connections[alias].vendor == "postgresql"
    with connections[alias].cursor() as cursor:
        for statement in _postgres(said, number) if postgres else _sqlite(said, number):
            cursor.execute(statement)


def open_again(alias: str) -> None:
    """As if it had never been closed. In a transaction. Raises DatabaseError."""
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "postgresql":
            cursor.execute(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'")
            cursor.execute(f"DROP FUNCTION IF EXISTS {NAME}() CASCADE")
            return
        # By their own names, for tables of another version may have others.
        cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s || '%%'", [NAME])
        for (name,) in cursor.fetchall():
            cursor.execute(f'DROP TRIGGER "{name}"')


def found(alias: str) -> str:
    """What is said of it; nothing of a house that is open."""
    return said_in(_text(alias))


def number_of(alias: str) -> str:
    """Nothing of a house that is open."""
    number = NUMBER.search(_text(alias))
    return number[1] if number else ""


def _text(alias: str) -> str:
    if connections[alias].vendor == "postgresql":
        ask = "SELECT prosrc FROM pg_proc WHERE proname = %s AND pronamespace = current_schema()::regnamespace"
    else:
        ask = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s || '%%' LIMIT 1"
    with connections[alias].cursor() as cursor:
        cursor.execute(ask, [NAME])
        row = cursor.fetchone()
    return str(row[0]) if row else ""


def is_on_its_way(found: str) -> bool:
    """Whether a move was begun, and nobody noted its end."""
    return found.startswith(_of("", MOVES))


def is_said(found: str, destination: str, verb: str) -> bool:
    return found.startswith(f"{_of(destination, verb)};")


def said_in(text: str) -> str:
    """The sentence, out of an error or a trigger that has it."""
    sentence = SENTENCE.search(text)
    return sentence[0].splitlines()[0] if sentence else ""


def _of(destination: str, verb: str) -> str:
    readable = re.sub(r"[^\w@.:/ -]", "_", destination)
    return f"this house is closed, it {verb} to {readable}"


def _tables() -> list[str]:
    return [model._meta.db_table for app in APPS for model in apps.get_app_config(app).get_models()]


def _postgres(said: str, number: str) -> list[str]:
    function = f"BEGIN RAISE EXCEPTION USING MESSAGE = '{said}', ERRCODE = '{OPERATIONAL}'; END /* {number} */"
    return [
        f"CREATE FUNCTION {NAME}() RETURNS trigger LANGUAGE plpgsql AS $said${function}$said$",
        *(
            f'CREATE TRIGGER {NAME} BEFORE {" OR ".join(EVENTS)} OR TRUNCATE ON "{table}" EXECUTE FUNCTION {NAME}()'
            for table in _tables()
        ),
    ]


def _sqlite(said: str, number: str) -> list[str]:
    refuse = f"BEGIN SELECT json_extract('{{}}', '{said}') /* {number} */; END"
    return [
        f'CREATE TRIGGER {NAME}_{table}_{event} BEFORE {event} ON "{table}" {refuse}'
        for table in _tables()
        for event in EVENTS
    ]
