"""The todos, and the events that tell of them: one SQLite file, and one transaction for a change and its event.

That is all it takes to have every change in the lake. A thread of the emitter sends what is committed, and what could
not be sent waits in the file, whatever dies.
"""

from __future__ import annotations

from django.conf import settings

from rpc import CDCCollection, EventEmitter, SqliteCollection

SOURCE, COLLECTION = "todo-app", "todos"

events = EventEmitter(
    {"id": SOURCE, "class": "TodoApp"},
    endpoint=f"{settings.TODO_LAKE_URL}/ingest",
    api_key=settings.TODO_LAKE_KEY,
    storage=settings.TODO_DATABASE,
    cdc=True,
    track_previous=True,
    flush_interval_ms=200,
)
todos = CDCCollection(SqliteCollection(events.outbox, COLLECTION), events, COLLECTION)
