"""Collections whose changes become events: CDCCollection over any mapping, and one in SQLite that ships.

A change and its event are one transaction of the outbox; with SqliteCollection, which lives in the same file, the
document too. So there is no change without its event, no event without its change, and bookmarks rise in their order.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import orjson

from rpc.emitter import EventEmitter
from rpc.event_outbox import EventBufferFullError, EventOutbox

__all__ = ["CDCCollection", "SqliteCollection"]

log = logging.getLogger(__name__)

Where = Callable[[Any], bool] | Mapping[str, Any] | None


class SqliteCollection(MutableMapping[str, Any]):
    """JSON documents by id, in the file of an outbox; iterated by id."""

    def __init__(self, outbox: EventOutbox, name: str) -> None:
        self._outbox, self._name = outbox, name

    def __getitem__(self, doc_id: str) -> Any:
        with self._outbox.transaction() as connection:
            row = connection.execute(
                "SELECT doc FROM _evodb_document WHERE collection = ? AND id = ?", (self._name, doc_id)
            ).fetchone()
        if row is None:
            raise KeyError(doc_id)
        return orjson.loads(row[0])

    def __setitem__(self, doc_id: str, doc: Any) -> None:
        with self._outbox.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO _evodb_document VALUES (?, ?, ?)",
                (self._name, doc_id, orjson.dumps(doc).decode()),
            )

    def __delitem__(self, doc_id: str) -> None:
        with self._outbox.transaction() as connection:
            deleted = connection.execute(
                "DELETE FROM _evodb_document WHERE collection = ? AND id = ?", (self._name, doc_id)
            ).rowcount
        if not deleted:
            raise KeyError(doc_id)

    def __iter__(self) -> Iterator[str]:
        with self._outbox.transaction() as connection:
            rows = connection.execute(
                "SELECT id FROM _evodb_document WHERE collection = ? ORDER BY id", (self._name,)
            ).fetchall()
        return iter([doc_id for (doc_id,) in rows])

    def __len__(self) -> int:
        with self._outbox.transaction() as connection:
            count = connection.execute("SELECT count(*) FROM _evodb_document WHERE collection = ?", (self._name,))
            return int(count.fetchone()[0])


class CDCCollection:
    """Reads emit nothing; a put is an insert or an update, and a delete tells what was there if that is tracked.

    What is put and what is read are copies, so that who changes one in place changes nothing that nobody hears of.
    """

    def __init__(self, collection: MutableMapping[str, Any], emitter: EventEmitter, name: str) -> None:
        self._collection, self._emitter, self.name = collection, emitter, name
        self._own = _itself if isinstance(collection, SqliteCollection) else copy.deepcopy

    def get(self, doc_id: str, default: Any = None) -> Any:
        found = self._collection.get(doc_id, _MISSING)
        return default if found is _MISSING else self._own(found)

    def has(self, doc_id: str) -> bool:
        return doc_id in self._collection

    def keys(self) -> list[str]:
        return list(self._collection)

    def list(self, *, limit: int | None = None, offset: int = 0) -> list[Any]:
        end = None if limit is None else offset + limit
        return [self._own(self._collection[doc_id]) for doc_id in self.keys()[offset:end]]

    def find(self, where: Where = None) -> Iterable[Any]:
        """The documents a predicate holds for, or whose members are these."""
        return [self._own(doc) for doc in self._collection.values() if _fits(doc, where)]

    def count(self, where: Where = None) -> int:
        return len(self._collection) if where is None else sum(_fits(doc, where) for doc in self._collection.values())

    def put(self, doc_id: str, doc: Any) -> None:
        self.put_many({doc_id: doc})

    def delete(self, doc_id: str) -> bool:
        """Whether there was one."""
        return self.delete_many([doc_id]) == 1

    def clear(self) -> int:
        return self.delete_many(self.keys())

    def put_many(self, docs: Mapping[str, Any]) -> None:
        """All of them or none."""
        outbox = self._emitter.outbox
        with outbox.turn(), _undone(self._collection, docs), outbox.transaction():
            for doc_id, doc in docs.items():
                is_new = doc_id not in self._collection
                prev = None if is_new else self._collection[doc_id]
                self._collection[doc_id] = self._own(doc)
                self._emitter.emit_change("insert" if is_new else "update", self.name, doc_id, doc, prev)

    def delete_many(self, doc_ids: Iterable[str]) -> int:
        """How many there were; all of them or none."""
        wanted, deleted = list(dict.fromkeys(doc_ids)), 0
        outbox = self._emitter.outbox
        with outbox.turn(), _undone(self._collection, wanted), outbox.transaction():
            for doc_id in wanted:
                if doc_id in self._collection:
                    prev = self._collection[doc_id]
                    del self._collection[doc_id]
                    self._emitter.emit_change("delete", self.name, doc_id, prev=prev)
                    deleted += 1
        return deleted


class _undone:  # noqa: N801 - read as a word of the `with` it stands in
    """Puts documents back into a mapping that knows no transactions, when the rest of one fails."""

    def __init__(self, collection: MutableMapping[str, Any], doc_ids: Iterable[str]) -> None:
        self._collection = collection
        is_ours = isinstance(collection, SqliteCollection)
        self._before = {} if is_ours else {one: collection.get(one, _MISSING) for one in doc_ids}

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, EventBufferFullError):  # which is said behind the commit
            return
        for doc_id, doc in self._before.items():
            try:
                if doc is _MISSING:
                    self._collection.pop(doc_id, None)
                else:
                    self._collection[doc_id] = doc
            except Exception:  # who called hears of the first error, and the others are put back
                log.exception("document %r could not be put back, and no event tells of it", doc_id)


_MISSING = object()


def _itself(doc: Any) -> Any:
    """Read from a file, or written to one: nobody else has it."""
    return doc


def _fits(doc: Any, where: Where) -> bool:
    if where is None:
        return True
    if callable(where):
        return bool(where(doc))
    return isinstance(doc, Mapping) and all(name in doc and doc[name] == value for name, value in where.items())
