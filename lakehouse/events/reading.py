"""GET /events, /recent and /events/stream: what waits in the journal, then what is in the table, as one.

The journal is asked first: what a flush moves meanwhile is then seen twice, and shown once. So whatever was
acknowledged is seen.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

import msgspec
import orjson
from asgiref.sync import sync_to_async

from lakehouse.errors import QueryError
from lakehouse.events import answers, callers, event, homes, waiting
from lakehouse.events import wanted as wanting
from lakehouse.events.ingest import ReadBody, correlation
from lakehouse.events.namespaces import TABLE
from lakehouse.events.refusals import Code, EventsRefused
from lakehouse.events.wanted import Cursor, Found, Wanted
from lakehouse.http.queries import engine_of
from lakehouse.journal.intake import Intake
from lakehouse.limits.refusal import Response
from lakehouse.models import IcebergTable
from lakehouse.parent.grants import ADMIN, QUERY, Grant
from lakehouse.parent.house import House
from lakehouse.query import lake_tables
from lakehouse.query.engine import Query
from lakehouse.query.messages import Name, Place

POLL_S = 0.5
SILENCE_POLLS_MAX = 30
"""Then a comment is sent, for proxies that close what is silent."""
STREAM = b"text/event-stream; charset=utf-8"
GAP = b'event: gap\nid: %d\ndata: {"text":"%b"}\n\n'


async def listing(scope: dict[str, Any], read_body: ReadBody, house: House) -> Response:
    """GET /events and /recent."""
    correlation_id, path = correlation(scope), scope["path"]
    if scope["method"] == "OPTIONS":
        return answers.preflight("GET", correlation_id)
    if scope["method"] != "GET":
        return answers.not_allowed(path, scope["method"], "GET", correlation_id)
    try:
        asked = callers.asked_of(scope, is_open=house.settings.open)
        grant, namespace = await callers.permit(house, scope, asked, QUERY, ADMIN)
        wanted = wanting.read(asked.query)
        found = await events_of(house, grant, namespace, wanted)
        document = {"namespace": namespace, **wanting.page(wanted, found, partial(_link, path, asked.query))}
    except EventsRefused as exc:
        return answers.refused(exc, correlation_id)
    return answers.written(200, msgspec.json.encode(document), b"application/json", correlation_id)


def _link(path: str, query: Mapping[str, list[str]], cursor: Cursor | None) -> str:
    words = {name: query[name][0] for name in (*wanting.FILTERS, "limit", "namespace") if name in query}
    words |= {"cursor": cursor.shown()} if cursor else {}
    return f"{path}?{urlencode(words)}" if words else path


async def events_of(
    house: House, grant: Grant, namespace: str, wanted: Wanted, *, caller: str | None = None
) -> list[Found]:
    """`caller` is whose queries are counted together, if not the key's. Raises EventsRefused."""
    parent_id = await sync_to_async(homes.find)(namespace)
    if parent_id is None:
        return []
    found = await sync_to_async(waiting.newest)(parent_id, wanted)
    sql, parameters = wanted.sql(namespace)
    rows_max = wanted.limit + 1
    return found + await in_table(house, grant, namespace, sql, parameters, rows_max=rows_max, caller=caller)


async def in_table(
    house: House,
    grant: Grant,
    namespace: str,
    sql: str,
    parameters: dict[str, Any],
    *,
    rows_max: int,
    caller: str | None = None,
) -> list[Found]:
    """What a query finds for time, id and text of events; nothing before their first flush. Raises EventsRefused."""
    if not await sync_to_async(_has_table)(namespace):
        return []
    query = Query(sql=sql, parameters=parameters, namespace=namespace, rows_max=rows_max)
    whose = f"events {grant.key_id}" if caller is None else caller
    try:
        answer = await engine_of(house).run(query, find=partial(_find, grant), caller=whose)
    except QueryError as exc:
        code = Code.SERVICE_UNAVAILABLE if exc.retryable else Code.INVALID_REQUEST
        raise EventsRefused(code, str(exc), retry_after_s=1 if exc.retryable else None) from None
    return [Found(moment_ms, event_id, body.encode()) for moment_ms, event_id, body in orjson.loads(answer.body)]


class Streams:
    """How many live tails a process has."""

    def __init__(self) -> None:
        self.count = 0

    def enter(self, streams_max: int) -> Seat:
        """Raises EventsRefused."""
        if self.count >= streams_max:
            text = f"{self.count} streams are open already (EVODB_EVENTS_STREAMS_MAX)"
            raise EventsRefused(Code.SERVICE_UNAVAILABLE, text, retry_after_s=10)
        return Seat(self)


class Seat:
    """Of one of them; it is given back once."""

    def __init__(self, streams: Streams) -> None:
        self._streams, self._is_left = streams, False
        streams.count += 1

    def leave(self) -> None:
        if not self._is_left:
            self._is_left = True
            self._streams.count -= 1


class Start(NamedTuple):
    """Behind which batch a tail begins, and whether nothing behind it can be forgotten."""

    after: int
    is_known: bool = True


def _start(parent_id: int | None, last: int | None) -> Start:
    """Now, or where somebody was who comes back."""
    newest = 0 if parent_id is None else waiting.last_batch(parent_id)
    if last is None or last >= newest:
        return Start(newest)
    return Start(last, last == 0 or waiting.is_known(parent_id, last))


async def open_stream(scope: dict[str, Any], house: House) -> Response | AsyncIterator[bytes]:
    """GET /events/stream: the live tail, or the answer that there is none."""
    correlation_id = correlation(scope)
    try:
        asked = callers.asked_of(scope, is_open=house.settings.open)
        _, namespace = await callers.permit(house, scope, asked, QUERY, ADMIN)
        is_welcome = partial(callers.is_welcome, house, asked, namespace, QUERY, ADMIN)
        wanting.words_of(asked.query, *wanting.OF_STREAMS)
        wanted = wanting.read(asked.query)
        parent_id = await sync_to_async(homes.find)(namespace)
        start = await sync_to_async(_start)(parent_id, _last_event(scope))
        seat = streams_of(house).enter(house.settings.events_streams_max)
    except EventsRefused as exc:
        return answers.refused(exc, correlation_id)
    stream = _counted(seat, _tail(house, namespace, wanted, start, is_welcome))
    weakref.finalize(stream, seat.leave).atexit = False  # who hung up at once never reads it
    return stream


async def _counted(seat: Seat, tail: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    try:
        async with aclosing(tail):
            async for text in tail:
                yield text
    finally:
        seat.leave()


async def _tail(
    house: House, namespace: str, wanted: Wanted, start: Start, is_welcome: Callable[[], bool]
) -> AsyncGenerator[bytes]:
    """Until the process stops, or the key that opened it is good no more."""
    yield b"retry: 1000\n\n"
    after, is_known = start
    if not is_known:
        yield GAP % (after, b"what came behind this may be forgotten here; GET /events has it")
    silent, checked_ms = 0, house.now_ms()
    while not house.is_closing:
        if abs(house.now_ms() - checked_ms) >= callers.CHECKED_MS:
            if not await sync_to_async(is_welcome)():
                return
            checked_ms = house.now_ms()
        parent_id = await sync_to_async(homes.find)(namespace)
        found = [] if parent_id is None else await sync_to_async(waiting.steps)(parent_id, wanted, after=after)
        for step in found:
            after = step.batch_id
            if text := _told(step):
                silent = 0
                yield text
        silent += 1
        if silent > SILENCE_POLLS_MAX:
            silent = 0
            yield b": still here\n\n"
        if not found:
            await asyncio.sleep(POLL_S)


def _told(step: waiting.Step) -> bytes:
    """As server-sent events; their id is the batch, from which a client that comes back goes on."""
    if step.is_gone:
        return GAP % (step.batch_id, b"events of a batch went into the table; GET /events has them")
    lines = [b"event: event\ndata: %b\n" % event.line(one.body) for one in step.events]
    if not lines:
        return b""
    return b"\n".join([*lines[:-1], b"id: %d\n%b" % (step.batch_id, lines[-1])]) + b"\n"


def streams_of(house: House) -> Streams:
    found = _streams.get(house.intake)
    if found is None:
        found = _streams[house.intake] = Streams()
    return found


def _last_event(scope: dict[str, Any]) -> int | None:
    said = next((value for name, value in scope["headers"] if name.lower() == b"last-event-id"), b"")
    return int(said) if said.isdigit() and len(said) < 19 else None


def _has_table(namespace: str) -> bool:
    return IcebergTable.objects.filter(namespace__name=namespace, name=TABLE).exists()


async def _find(grant: Grant, names: list[Name]) -> list[Place]:
    places = partial(lake_tables.places, names, allows=lambda namespace: grant.reaches(namespace=namespace))
    return await sync_to_async(places)()


_streams: WeakKeyDictionary[Intake, Streams] = WeakKeyDictionary()
