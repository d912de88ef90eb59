"""Which events are asked for, as SQL and as a question to one event; and the pages they come in. Pure.

A page ends at an event, not at a number of them: its cursor is the time and the id of its last one, so what comes in
meanwhile neither shifts a page nor falls between two, however many events have the same time.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import msgspec

from lakehouse.events import event as events
from lakehouse.events.refusals import Code, refuse

LIMIT, LIMIT_MAX = 100, 1000
WORD_CHARS_MAX = 500
MOMENT_MS_MAX = 253_402_300_799_999
"""The end of the year 9999."""
PAGE = ("cursor", "limit")
OF_STREAMS = ("type", "provider", "source")
FILTERS = (*OF_STREAMS, "before", "after", "from", "to")
OF_THE_CALLER = ("namespace", "token")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Cursor:
    moment_ms: int
    id: str
    is_backward: bool = False
    """Towards newer events."""

    def shown(self) -> str:
        text = f"{'p' if self.is_backward else 'n'}{self.moment_ms}.{self.id}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises EventsRefused."""
        try:
            found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
            moment, _, event_id = found[1:].partition(".")
            if found[0] not in "np" or not event_id or not moment.isdecimal() or len(moment) > 15:
                raise ValueError(text)
            return cls(min(int(moment), MOMENT_MS_MAX), event_id, found[0] == "p")
        except (binascii.Error, ValueError, IndexError):
            raise refuse(Code.INVALID_REQUEST, f"cursor: is {text[:40]!r}, wanted one of a link of an answer") from None


@dataclass(frozen=True, slots=True)
class Found:
    moment_ms: int
    id: str
    body: bytes

    @property
    def place(self) -> tuple[int, str]:
        return self.moment_ms, self.id


class Question(Protocol):
    """What is asked of one event after the other."""

    def is_near(self, moment_ms: int) -> bool: ...

    def fits(self, moment_ms: int, event_id: str, body: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    type: str = ""
    """All of it, or the beginning of one before a `*`."""
    provider: str = ""
    source: str = ""
    first_ms: int | None = None
    last_ms: int | None = None
    """Both inclusive."""
    cursor: Cursor | None = None
    limit: int = LIMIT

    @property
    def is_backward(self) -> bool:
        return self.cursor is not None and self.cursor.is_backward

    @property
    def prefix(self) -> str | None:
        return self.type[:-1] if self.type.endswith("*") else None

    @property
    def of_provider(self) -> str | None:
        return f"webhook.{self.provider}." if self.provider else None

    def sql(self, namespace: str) -> tuple[str, dict[str, Any]]:
        """One event more than the page has, to know whether there is another page."""
        conditions, values = ["ns = $ns", "_after IS NOT NULL"], {"ns": namespace}
        for condition, name, value in (
            ("type = $type", "type", None if self.type.endswith("*") else self.type or None),
            ("starts_with(type, $prefix)", "prefix", self.prefix),
            ("starts_with(type, $of_provider)", "of_provider", self.of_provider),
            ("(json_extract_string(\"do\", '$.id') = $source OR source = $source)", "source", self.source or None),
            ("_ts >= CAST($first AS TIMESTAMPTZ)", "first", _moment_text(self.first_ms)),
            ("_ts <= CAST($last AS TIMESTAMPTZ)", "last", _moment_text(self.last_ms)),
        ):
            if value is not None:
                conditions.append(condition)
                values[name] = value
        if self.cursor is not None:
            sign = ">" if self.is_backward else "<"
            conditions.append(f"(_ts, _row_id) {sign} (CAST($at AS TIMESTAMPTZ), $at_id)")
            values |= {"at": events.shown(self.cursor.moment_ms), "at_id": self.cursor.id}
        order = "ASC" if self.is_backward else "DESC"
        text = (
            f"SELECT epoch_ms(_ts), _row_id, _after FROM events WHERE {' AND '.join(conditions)} "  # noqa: S608 - bound
            f"ORDER BY _ts {order}, _row_id {order} LIMIT {self.limit + 1:d}"
        )
        return text, values

    def is_near(self, moment_ms: int) -> bool:
        """What can be said without looking into the event."""
        if self.first_ms is not None and moment_ms < self.first_ms:
            return False
        return self.last_ms is None or moment_ms <= self.last_ms

    def fits(self, moment_ms: int, event_id: str, body: bytes) -> bool:
        if self.cursor is not None:
            here, there = (moment_ms, event_id), (self.cursor.moment_ms, self.cursor.id)
            if here <= there if self.is_backward else here >= there:
                return False
        if not (self.type or self.provider or self.source):
            return True
        members = _members.decode(body)
        kind = _text.decode(members["type"])
        if self.type and not self.type.endswith("*") and kind != self.type:
            return False
        if not all(kind.startswith(begins) for begins in (self.prefix, self.of_provider) if begins is not None):
            return False
        return not self.source or self.source in (id_of(members.get("do")), word(members.get("source")))


def read(query: Mapping[str, list[str]], *, limit: int = LIMIT) -> Wanted:
    """Raises EventsRefused."""
    words = words_of(query, *FILTERS, *PAGE)
    for name in ("type", "provider", "source"):
        if len(words.get(name, "")) > WORD_CHARS_MAX:
            raise refuse(Code.INVALID_REQUEST, f"{name}: has more than {WORD_CHARS_MAX} characters")
    moments = {name: moment(name, words[name]) for name in ("before", "after", "from", "to") if name in words}
    firsts = [moments["from"]] if "from" in moments else []
    firsts += [moments["after"] + 1] if "after" in moments else []
    lasts = [moments["to"]] if "to" in moments else []
    lasts += [moments["before"] - 1] if "before" in moments else []
    return Wanted(
        type=words.get("type", ""),
        provider=words.get("provider", ""),
        source=words.get("source", ""),
        first_ms=max(firsts, default=None),
        last_ms=min(lasts, default=None),
        cursor=Cursor.read(words["cursor"]) if "cursor" in words else None,
        limit=limit_of(words, otherwise=limit),
    )


def words_of(query: Mapping[str, list[str]], *names: str) -> dict[str, str]:
    """Raises EventsRefused for a word that means nothing here: an `asof` would be answered as if nobody had said it."""
    strange = next((name for name in query if name not in (*names, *OF_THE_CALLER)), None)
    if strange is not None:
        known = ", ".join(dict.fromkeys((*names, "namespace")))
        raise refuse(Code.INVALID_REQUEST, f"{strange[:40]}: is not known here, wanted some of {known}")
    return {name: query[name][0] for name in names if name in query}


def limit_of(words: Mapping[str, str], *, otherwise: int) -> int:
    """Raises EventsRefused."""
    said = words.get("limit", str(otherwise))
    if not said.isdecimal() or len(said) > 9 or not 1 <= int(said) <= LIMIT_MAX:
        raise refuse(Code.INVALID_REQUEST, f"limit: is {said[:40]!r}, wanted 1 to {LIMIT_MAX}")
    return int(said)


def page(wanted: Wanted, found: list[Found], link: Callable[[Cursor | None], str]) -> dict[str, Any]:
    """The page, newest first, with its links; `found` has one event more when there are more."""
    once = sorted({one.place: one for one in found}.values(), key=lambda one: one.place, reverse=not wanted.is_backward)
    shown, more = once[: wanted.limit], len(once) > wanted.limit
    if wanted.is_backward:
        shown.reverse()
    links = {"self": link(wanted.cursor), "first": link(None)}
    if shown and (more or wanted.is_backward):
        links["next"] = link(Cursor(*shown[-1].place))
    if shown and wanted.cursor is not None and (more or not wanted.is_backward):
        links["prev"] = link(Cursor(*shown[0].place, is_backward=True))
    return {"events": [msgspec.Raw(one.body) for one in shown], "count": len(shown), "links": links}


def moment(name: str, text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 15:
        return min(int(text), MOMENT_MS_MAX)
    try:
        return max(0, events.parsed_ms(text))
    except (ValueError, OverflowError):
        wanted = "a time such as 2026-01-31T12:00:00Z, or milliseconds since 1970"
        raise refuse(Code.INVALID_REQUEST, f"{name}: is {text[:40]!r}, wanted {wanted}") from None


def _moment_text(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else events.shown(moment_ms)


def id_of(raw: Any) -> str | None:
    """The `id` of an object, if it is one and has one."""
    if raw is None:
        return None
    try:
        return word(_members.decode(raw).get("id"))
    except events.UNREADABLE:
        return None


def word(raw: Any) -> str | None:
    """The text, if it is one."""
    try:
        return None if raw is None else _text.decode(raw)
    except events.UNREADABLE:
        return None
