"""The schemas that a process knows, by parent: read once for each version, parsed and asked beside the event loop.

The journal says whether they are still those (`Source.schema_version`), in the transaction that stores the events. So
a schema holds for every batch after the answer to its PUT, at every process, and a namespace without one pays nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from django.db import Error as DatabaseError

from lakehouse.events import event as events
from lakehouse.events import schema_rows
from lakehouse.events.event import Event
from lakehouse.events.refusals import INDICES_MAX, Code, EventsRefused, of_events
from lakehouse.events.schema_rows import Stored
from lakehouse.journal.intake import Intake
from lakehouse.parent.house import House

log = logging.getLogger(__name__)

TEXT_BYTES_MAX = 32 * 1024 * 1024
"""Of the schemas of all namespaces; one has at most 1.6 MB of them."""
PARENTS_KEPT_MAX = 5000
PARSED_BYTES_MAX = 4 * 1024 * 1024
"""Of those that events were asked by last, as texts; in memory they take some ten times as much."""


class Parsed:
    """Schemas as they are asked, by their texts. May be called in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows: OrderedDict[str, Any] = OrderedDict()
        self.bytes = 0

    def of(self, text: str) -> Any:
        with self._lock:
            if text in self.rows:
                self.rows.move_to_end(text)
                return self.rows[text]
        from lakehouse.events import json_schema  # 4 MiB that a process without schemas does not need

        found = json_schema.loads(text)
        with self._lock:
            if text not in self.rows:
                self.rows[text] = found
                self.bytes += _size(text)
            while self.bytes > PARSED_BYTES_MAX and len(self.rows) > 1:
                self.bytes -= _size(self.rows.popitem(last=False)[0])
        return found


@dataclass(frozen=True, slots=True)
class Known:
    version: int
    texts: Mapping[str, str]
    bytes: int
    parsed: Parsed = field(repr=False)


@dataclass(slots=True)
class Book:
    """That of one process."""

    known: OrderedDict[int, Known] = field(default_factory=OrderedDict)
    bytes: int = 0
    parsed: Parsed = field(default_factory=Parsed)

    async def of(self, house: House, parent_id: int) -> Known:
        """Raises EventsRefused when the database is away."""
        found = self.known.get(parent_id)
        if found is None:
            stored: Stored = await _read(house, partial(schema_rows.stored, parent_id))
            size = sum(map(_size, stored.texts.values()))
            found = self._keep(parent_id, Known(stored.version, stored.texts, size, self.parsed))
        self.known.move_to_end(parent_id)
        return found

    async def has_changed(self, house: House, parent_id: int, known: Known) -> bool:
        """Whether somebody changed them, here or elsewhere; then they are read anew. Raises EventsRefused."""
        if await _read(house, partial(schema_rows.version, parent_id)) == known.version:
            return False
        self.forget(parent_id)
        return True

    def forget(self, parent_id: int) -> None:
        if (found := self.known.pop(parent_id, None)) is not None:
            self.bytes -= found.bytes

    def _keep(self, parent_id: int, found: Known) -> Known:
        self.forget(parent_id)
        self.known[parent_id] = found
        self.bytes += found.bytes
        while len(self.known) > 1 and (self.bytes > TEXT_BYTES_MAX or len(self.known) > PARENTS_KEPT_MAX):
            self.forget(next(iter(self.known)))
        return found


async def check(found: Sequence[Event], known: Known) -> None:
    """Raises EventsRefused when an event is not as the schema of its type says."""
    if known.texts and any(one.type in known.texts for one in found):
        wrong = await asyncio.to_thread(_wrong, found, known)
        if wrong:
            said = {index: f"{one.path}: {one.message}" for index, one in wrong.items()}
            shown = [
                {"index": index, "path": one.path, "message": one.message}
                for index, one in list(wrong.items())[:INDICES_MAX]
            ]
            raise of_events(Code.SCHEMA_VALIDATION_ERROR, said, errors=shown)


async def _read(house: House, work: Callable[[], Any]) -> Any:
    """Raises EventsRefused when the database is away."""
    try:
        return await house.intake.run(work)
    except DatabaseError as exc:
        log.error("the schemas of events cannot be read: %s", exc)
        text = "the database is not available; come back"
        raise EventsRefused(Code.SERVICE_UNAVAILABLE, text, retry_after_s=1) from None


def book_of(house: House) -> Book:
    found = _books.get(house.intake)
    if found is None:
        found = _books[house.intake] = Book()
    return found


def _wrong(found: Sequence[Event], known: Known) -> dict[int, Any]:
    from lakehouse.events import json_schema

    schemas = {kind: known.parsed.of(known.texts[kind]) for kind in {one.type for one in found} & known.texts.keys()}
    checker = json_schema.Checker(schemas, events=len(found))
    asked = ((index, one) for index, one in enumerate(found) if one.type in schemas)
    said = {index: checker.wrong(one.type, events.document(one)) for index, one in asked}
    return {index: wrong for index, wrong in said.items() if wrong is not None}


def _size(text: str) -> int:
    return len(text.encode())


_books: WeakKeyDictionary[Intake, Book] = WeakKeyDictionary()
