"""POST /ingest and /e: events of applications, through the journal of the sockets.

    key ─ window ─ body ─ every event ─ schemas ─ journal ─ answer

All of a batch or nothing, and durable before the answer. Who hears none, or a 5xx, sends the same again: under the same
`batchId` it is stored once, for the number made of it is stored in the transaction that stores the events.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from lakehouse.events import answers, batch, schema_book
from lakehouse.events.batch import BODY_BYTES_MAX, BatchId
from lakehouse.events.callers import Caller, asked_of, callers_of
from lakehouse.events.event import Event
from lakehouse.events.refusals import Code, EventsRefused, refuse
from lakehouse.http import cdc
from lakehouse.journal.accept import SCHEMAS_CHANGED, Accepted, Refused, Source, Verdict
from lakehouse.limits.load import shed_delay_ms
from lakehouse.limits.refusal import Response
from lakehouse.parent.house import House
from rpc.batch import BatchFrame
from rpc.dolake.refusals import Reason, retry_delay_ms
from rpc.messages import AckStatus, NackReason

PATHS = ("/ingest", "/e")
ASKED_MAX = 5
"""So often a batch is asked anew while somebody changes schemas."""
ReadBody = Callable[[int], Awaitable[bytes]]


async def answer(scope: dict[str, Any], read_body: ReadBody, house: House) -> Response:
    """Serve one request, whatever its method. Whatever it holds, this answers."""
    correlation_id = correlation(scope)
    if scope["method"] == "OPTIONS":
        return answers.preflight("POST", correlation_id)
    if scope["method"] != "POST":
        return answers.not_allowed(scope["path"], scope["method"], "POST", correlation_id)
    caller: Caller | None = None
    try:
        if house.is_closing:
            raise EventsRefused(Code.SERVICE_UNAVAILABLE, "this process stops; another one takes over", retry_after_s=1)
        house.lag.probe()
        caller = await callers_of(house).enter(house, scope, asked_of(scope, is_open=house.settings.open))
        return await _take(house, caller, scope, read_body, correlation_id)
    except EventsRefused as exc:
        left = answers.rate_limit(caller.quota.left(house.now_ms())) if caller else []
        return answers.refused(exc, correlation_id, *left)


async def _take(
    house: House, caller: Caller, scope: dict[str, Any], read_body: ReadBody, correlation_id: str
) -> Response:
    """Raises EventsRefused."""
    quota, now_ms = caller.quota, house.now_ms()
    if not await quota.take_request(now_ms):
        text = f"more than {house.settings.events_requests_per_minute} requests within a minute with this key"
        raise EventsRefused(Code.RATE_LIMIT_EXCEEDED, text, retry_after_s=quota.wait_s(now_ms))
    _check_load(house, caller)
    body = batch.read(await read_bounded(scope, read_body, BODY_BYTES_MAX))
    found = batch.checked(body.events, now_ms=now_ms, any_age=caller.is_admin)
    is_repeat = await _keep(house, caller, found, body.batch_id, now_ms) if found else False
    said: dict[str, Any] = {"ok": True, "received": len(found), "namespace": caller.namespace}
    document = {"success": True, **said, "data": said, **({"deduplicated": True} if is_repeat else {})}
    return answers.answer(200, document, correlation_id, *answers.rate_limit(quota.left(now_ms)))


async def _keep(house: House, caller: Caller, found: list[Event], batch_id: BatchId, now_ms: int) -> bool:
    """Make events durable; whether they were before. Raises EventsRefused."""
    source = await _as_its_schemas_say(house, caller, found)
    sequence = batch.sequence_of(batch_id, number=cdc.unused_number())
    frame = batch.frame(found, namespace=caller.namespace, sequence=sequence, now_ms=now_ms)
    if not await caller.quota.take_events(len(found), now_ms):
        text = f"more than {house.settings.events_per_minute} events within a minute with this key"
        raise EventsRefused(Code.RATE_LIMIT_EXCEEDED, text, retry_after_s=caller.quota.wait_s(now_ms))
    return await _store_as_asked(house, caller, source, found, frame)


async def store(house: House, caller: Caller, found: list[Event], frame: BatchFrame) -> bool:
    """Make the batch of these events durable, if they are as their schemas say; whether it was before. Raises
    EventsRefused.
    """
    return await _store_as_asked(house, caller, await _as_its_schemas_say(house, caller, found), found, frame)


async def _store_as_asked(house: House, caller: Caller, source: Source, found: list[Event], frame: BatchFrame) -> bool:
    """Under the schemas that were asked, or those that are there by then. Raises EventsRefused."""
    verdict, asked = await _stored(house, source, frame), 1
    while verdict is SCHEMAS_CHANGED and asked < ASKED_MAX:
        schema_book.book_of(house).forget(source.parent_id)
        source = await _as_its_schemas_say(house, caller, found)
        verdict, asked = await _stored(house, source, frame), asked + 1
    if isinstance(verdict, Accepted):
        return verdict.status is AckStatus.DUPLICATE
    raise _not_stored(house, verdict)


async def _as_its_schemas_say(house: House, caller: Caller, found: list[Event]) -> Source:
    """Whose batch it is, and by which schemas it was asked. Raises EventsRefused."""
    book, parent_id = schema_book.book_of(house), caller.source.parent_id
    known = await book.of(house, parent_id)
    try:
        await schema_book.check(found, known)
    except EventsRefused:
        if not await book.has_changed(house, parent_id, known):
            raise
        known = await book.of(house, parent_id)
        await schema_book.check(found, known)
    return replace(caller.source, schema_version=known.version)


async def _stored(house: House, source: Source, frame: BatchFrame) -> Verdict:
    if not house.intake.has_room(len(frame.payload)):
        raise away(house, Reason.BUFFER_FULL, f"{house.intake.waiting_bytes} bytes wait for the journal; come back")
    return await cdc.durable(house, source, frame)


async def read_bounded(scope: dict[str, Any], read_body: ReadBody, bytes_max: int) -> bytes:
    """Raises EventsRefused, before anything is read if the request says how large it is."""
    announced = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"")
    size = int(announced[:18]) if announced.isdigit() else 0
    data = b"" if size > bytes_max else await read_body(bytes_max)
    if (size := max(size, len(data))) > bytes_max:
        text = f"the body has {size} bytes, wanted at most {bytes_max}"
        raise refuse(Code.PAYLOAD_TOO_LARGE, text, maxSize=bytes_max, contentLength=size)
    return data


def correlation(scope: dict[str, Any]) -> str:
    """The id of a request: its own, or one made here."""
    asked = next((value for name, value in scope["headers"] if name.lower() == answers.CORRELATION), b"")
    return answers.correlation_of(asked.decode("latin-1"), otherwise=secrets.token_hex(16))


def away(house: House, reason: Reason, text: str) -> EventsRefused:
    delay_ms = retry_delay_ms(reason, refusals=0, chance=house.chance()) or 0
    return EventsRefused(Code.SERVICE_UNAVAILABLE, text, retry_after_s=max(1, -(-delay_ms // 1000)))


def _check_load(house: House, caller: Caller) -> None:
    load = house.load(caller.source.parent_id)
    if shed_delay_ms(load, high_priority=False, chance=house.chance()) is not None:
        raise away(house, Reason.LOAD_SHEDDING, "this process or the buffer of the namespace has too much; come back")


def _not_stored(house: House, verdict: Refused) -> EventsRefused:
    if verdict.reason is NackReason.INVALID_SEQUENCE:
        text = "batchId: was used for other events before; send these under another one"
        return refuse(Code.INVALID_BATCH, text)
    if verdict.reason is NackReason.INVALID_FORMAT:
        return refuse(Code.INVALID_BATCH, verdict.message)
    return away(house, Reason(verdict.reason), verdict.message)
