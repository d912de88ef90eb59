"""One document, by the changes that were told of it: which are asked for, and what state they make. Pure.

Changes of one source come in the order of their bookmarks, those of several in the order of their times. A delete ends
a document; an empty document is one.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from lakehouse.events import event as events
from lakehouse.events import wanted as wanting
from lakehouse.events.refusals import Code, refuse
from lakehouse.events.wanted import Found

KINDS = ("collection.insert", "collection.update", "collection.delete")
DELETE = KINDS[2]
SOURCE = "coalesce(json_extract_string(\"do\", '$.id'), '')"
BOOKMARK = "coalesce(bookmark, '')"
SOURCES_SAID_MAX = 10
PAGE = ("asOf", "bookmark", "source", "limit", "namespace")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_cursor = msgspec.json.Decoder(tuple[str, int, str])
Place = tuple[str, int, str]
"""Bookmark, time and id of a change."""


class Change(NamedTuple):
    found: Found
    kind: str
    source: str
    bookmark: str
    doc: Any

    @property
    def place(self) -> Place:
        return self.bookmark, self.found.moment_ms, self.found.id


@dataclass(frozen=True, slots=True)
class Asked:
    """The changes of a document: of one source if that is named, and none behind a moment or a bookmark."""

    collection: str
    doc_id: str
    source: str | None = None
    last_ms: int | None = None
    bookmark: str | None = None
    cursor: Place | None = None
    limit: int = wanting.LIMIT

    def order(self, change: Change) -> tuple[Any, ...]:
        return self._ordered(change.place)

    def is_near(self, moment_ms: int) -> bool:
        return self.last_ms is None or moment_ms <= self.last_ms

    def fits(self, moment_ms: int, event_id: str, body: bytes) -> bool:
        try:
            members = _members.decode(body)
            if wanting.word(members.get("collection")) != self.collection:
                return False
            change = _change(Found(moment_ms, event_id, body), members)
        except events.UNREADABLE:  # a child may have written anything
            return False
        return (
            wanting.word(members.get("docId")) == self.doc_id
            and change.kind in KINDS
            and self.source in (None, change.source)
            and (self.bookmark is None or change.bookmark <= self.bookmark)
            and (self.cursor is None or self.order(change) < self._ordered(self.cursor))
        )

    def newest_sql(self, namespace: str) -> tuple[str, dict[str, Any]]:
        """The newest change of each source."""
        conditions, values = self._conditions(namespace)
        newest = f"row_number() OVER (PARTITION BY {SOURCE} ORDER BY {BOOKMARK} DESC, _ts DESC, _row_id DESC) = 1"
        text = f"SELECT epoch_ms(_ts), _row_id, _after FROM events WHERE {conditions} QUALIFY {newest} "  # noqa: S608 - bound
        return f"{text} ORDER BY {SOURCE} LIMIT {SOURCES_SAID_MAX + 1:d}", values

    def page_sql(self, namespace: str) -> tuple[str, dict[str, Any]]:
        """One change more than the page has, to know whether there is another page."""
        conditions, values = self._conditions(namespace)
        columns = [BOOKMARK, "_ts", "_row_id"] if self.source is not None else ["_ts", BOOKMARK, "_row_id"]
        if self.cursor is not None:
            bookmark, moment_ms, event_id = self.cursor
            place = ["$at_bookmark", "CAST($at AS TIMESTAMPTZ)", "$at_id"]
            values |= {"at_bookmark": bookmark, "at": events.shown(moment_ms), "at_id": event_id}
            place = place if self.source is not None else [place[1], place[0], place[2]]
            conditions += f" AND ({', '.join(columns)}) < ({', '.join(place)})"
        order = ", ".join(f"{column} DESC" for column in columns)
        text = f"SELECT epoch_ms(_ts), _row_id, _after FROM events WHERE {conditions} "  # noqa: S608 - bound
        return f"{text} ORDER BY {order} LIMIT {self.limit + 1:d}", values

    def _conditions(self, namespace: str) -> tuple[str, dict[str, Any]]:
        conditions = ["ns = $ns", "_after IS NOT NULL", "collection = $collection", "docId = $doc_id"]
        conditions.append(f"type IN {KINDS}")
        values: dict[str, Any] = {"ns": namespace, "collection": self.collection, "doc_id": self.doc_id}
        for condition, name, value in (
            (f"{SOURCE} = $source", "source", self.source),
            ("_ts <= CAST($last AS TIMESTAMPTZ)", "last", None if self.last_ms is None else events.shown(self.last_ms)),
            (f"{BOOKMARK} <= $bookmark", "bookmark", self.bookmark),
        ):
            if value is not None:
                conditions.append(condition)
                values[name] = value
        return " AND ".join(conditions), values

    def _ordered(self, place: Place) -> tuple[Any, ...]:
        bookmark, moment_ms, event_id = place
        return (*((bookmark, moment_ms) if self.source is not None else (moment_ms, bookmark)), event_id)


def asked_of(query: Mapping[str, list[str]], collection: str, doc_id: str, *, is_history: bool) -> Asked:
    """Only a history has pages. Raises EventsRefused."""
    words = wanting.words_of(query, *PAGE, "cursor")
    for name in ("bookmark", "source"):
        if len(words.get(name, "")) > wanting.WORD_CHARS_MAX:
            raise refuse(Code.INVALID_REQUEST, f"{name}: has more than {wanting.WORD_CHARS_MAX} characters")
    return Asked(
        collection,
        doc_id,
        source=words.get("source"),
        last_ms=wanting.moment("asOf", words["asOf"]) if "asOf" in words else None,
        bookmark=words.get("bookmark"),
        cursor=_place(words["cursor"]) if "cursor" in words and is_history else None,
        limit=wanting.limit_of(words, otherwise=wanting.LIMIT),
    )


def read(found: Found) -> Change:
    """Raises EventsRefused."""
    try:
        members = _members.decode(found.body)
    except events.UNREADABLE:  # deeper than this stack, which is not that of the flush
        text = f"change {found.id[:100]} of this document is nested too deep to be read here; SQL shows it as a text"
        raise refuse(Code.INVALID_EVENT, text) from None
    return _change(found, members)


def _change(found: Found, members: Mapping[str, Any]) -> Change:
    kind, bookmark = wanting.word(members.get("type")), wanting.word(members.get("bookmark"))
    return Change(found, kind or "", wanting.id_of(members.get("do")) or "", bookmark or "", members.get("doc"))


def last_ones(found: Iterable[Found]) -> dict[str, Change]:
    """The last change of each source, of a few of them where they are many."""
    by_source: dict[str, Change] = {}
    for change in map(read, found):
        known = by_source.get(change.source)
        if (len(by_source) <= SOURCES_SAID_MAX) if known is None else known.place < change.place:
            by_source[change.source] = change
    return by_source


def newest(asked: Asked, found: Iterable[Found]) -> Change | None:
    """The last change of the one source that the document has. Raises EventsRefused where there are several."""
    by_source = last_ones(found)
    if len(by_source) > 1:
        names = ", ".join(sorted(by_source)[:SOURCES_SAID_MAX])
        text = f"source: several have such a document, among them {names[:200]}; wanted one of them as ?source="
        raise refuse(Code.INVALID_REQUEST, text, sources=sorted(by_source)[:SOURCES_SAID_MAX])
    return next(iter(by_source.values()), None)


def foremost(asked: Asked, found: Iterable[Found]) -> list[Found]:
    """As many of the newest as a page needs, and not many more of them in memory at once."""
    most, kept = asked.limit + 1, dict[str, Found]()
    for one in found:
        kept[one.id] = one
        if len(kept) >= 2 * most:
            kept = {best.id: best for best in heapq.nlargest(most, kept.values(), key=lambda it: asked.order(read(it)))}
    return list(kept.values())


def page(asked: Asked, found: Iterable[Found]) -> tuple[list[Change], str | None]:
    """The newest first, and the cursor of the next page if there is one."""
    once = {one.id: one for one in found}
    changes = sorted(map(read, once.values()), key=asked.order, reverse=True)
    shown = changes[: asked.limit]
    return shown, _shown(shown[-1].place) if len(changes) > asked.limit else None


def state(change: Change) -> dict[str, Any]:
    is_deleted = change.kind == DELETE
    return {
        "source": change.source,
        "document": None if is_deleted else change.doc,
        "deleted": is_deleted,
        "type": change.kind,
        "ts": events.shown(change.found.moment_ms),
        "bookmark": change.bookmark or None,
        "eventId": change.found.id,
    }


def _shown(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _place(text: str) -> Place:
    """Raises EventsRefused."""
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        bookmark, moment_ms, event_id = _cursor.decode(found)
        return bookmark, max(0, min(moment_ms, wanting.MOMENT_MS_MAX)), event_id
    except (ValueError, msgspec.DecodeError):
        raise refuse(Code.INVALID_REQUEST, f"cursor: is {text[:40]!r}, wanted one of a link of an answer") from None
