"""A house that moved is closed: its database takes no change any more, whoever comes with one.

What was acknowledged there afterwards would be in no lake, and what was expired there would be missing in the new one.
So triggers refuse every change, with a sentence; a worker that nobody thought of, and one that is started in a year,
read it in their log. They are all there is of it: taken away, the house is as it was.
"""

from __future__ import annotations

import re

from django.apps import apps
from django.db import connections

NAME = "evodb_moved"
APPS = ("lakehouse", "subscriptions")
EVENTS = ("INSERT", "UPDATE", "DELETE")
SENTENCE = re.compile(r"this house is closed, it move[sd] to [^']*")
MOVES, MOVED = "moves", "moved"
"""While rows and files are on their way, and when all of them are there."""


def close(alias: str, destination: str, verb: str) -> None:
    """In a transaction. Raises DatabaseError."""
    said = f"{_of(destination, verb)}; manage.py move --undo, with its settings, opens it again"
    open_again(alias)
    postgres = connections[alias].vendor == "postgresql"
    with connections[alias].cursor() as cursor:
        for statement in _postgres(said) if postgres else _sqlite(said):
            cursor.execute(statement)


def open_again(alias: str) -> None:
    """As if it had never been closed."""
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "postgresql":
            cursor.execute(f"DROP FUNCTION IF EXISTS {NAME}() CASCADE")
            return
        for table in _tables():
            for event in EVENTS:
                cursor.execute(f"DROP TRIGGER IF EXISTS {NAME}_{table}_{event}")


def found(alias: str) -> str:
    """What is said of it; nothing of a house that is open."""
    if connections[alias].vendor == "postgresql":
        ask = "SELECT prosrc FROM pg_proc WHERE proname = %s AND pronamespace = current_schema()::regnamespace"
    else:
        ask = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s || '%%' LIMIT 1"
    with connections[alias].cursor() as cursor:
        cursor.execute(ask, [NAME])
        row = cursor.fetchone()
    return said_in(row[0]) if row else ""


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


def _postgres(said: str) -> list[str]:
    function = f"BEGIN RAISE EXCEPTION USING MESSAGE = '{said}'; END"
    return [
        f"CREATE FUNCTION {NAME}() RETURNS trigger LANGUAGE plpgsql AS $said${function}$said$",
        *(
            f'CREATE TRIGGER {NAME} BEFORE {" OR ".join(EVENTS)} OR TRUNCATE ON "{table}" EXECUTE FUNCTION {NAME}()'
            for table in _tables()
        ),
    ]


def _sqlite(said: str) -> list[str]:
    return [
        f"CREATE TRIGGER {NAME}_{table}_{event} BEFORE {event} ON \"{table}\" BEGIN SELECT RAISE(ABORT, '{said}'); END"
        for table in _tables()
        for event in EVENTS
    ]
