"""POST /cdc: events from those who have no socket, through the same journal.

    visit ─ allowance ─ body ─ load ─ child ─ journal ─ answer

The answer is a success when the events are durable. Whoever hears none, or a 5xx, sends the same again: under the same
`sequenceNumber` or `Idempotency-Key` it is stored once, whatever died in between, for the number is stored in the
transaction that stores the events.

810 requests/s of 100 events (22 KB), durable, where the same through Django's middleware are 190 (uvicorn, SQLite, 32
connections, client on the same 2 shared cores): no thread but the journal's, no query but the journal's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from lakehouse.flush import fuse
from lakehouse.http import answers, cdc_request
from lakehouse.http.visits import Visit, visits_of
from lakehouse.journal import accept
from lakehouse.journal.accept import Accepted, Source, Verdict
from lakehouse.journal.dedup import BY_KEY, NUMBER_BITS
from lakehouse.journal.intake import Offer
from lakehouse.limits.allowance import suggested_delay_ms
from lakehouse.limits.load import shed_delay_ms
from lakehouse.limits.refusal import Headers, Response, rate_limit_headers
from lakehouse.parent import greeting
from lakehouse.parent.arrivals import Knock
from lakehouse.parent.house import House
from rpc.batch import BatchFrame
from rpc.dolake.refusals import NotTaken, Reason, Refusal, retry_delay_ms
from rpc.echo import Echo
from rpc.failpoints import Failpoint, reach
from rpc.messages import AckStatus, NackReason

log = logging.getLogger(__name__)

DEFAULT_CHILD = "http"
"""The child of events that nobody put his name to."""
ANSWER_MS_MAX = 10_000
"""The journal has so long; twice what SQLite waits for a lock."""

ReadBody = Callable[[int], Awaitable[bytes]]
"""The body, or as much of it as shows that it has more than so many bytes."""


async def answer(scope: dict[str, Any], read_body: ReadBody, house: House) -> Response:
    """Serve one request. Whatever it holds, this answers."""
    if house.is_closing:
        return answers.closing()
    house.lag.probe()
    knock = knock_of(scope)
    visit = await visits_of(house).enter(house, scope, knock)
    if isinstance(visit, Response):
        return visit
    try:
        await _check_welcome(house, visit)
        data = await _read(scope, read_body, visit)
        return await _take(house, visit, knock, data, key=_header(scope, b"idempotency-key"))
    except NotTaken as exc:
        _count(house, exc.refusal.reason)
        return answers.refused(exc.refusal, *_rate_limit(house, visit))


def unused_number() -> int:
    """Nobody can ask for such a number, so it need not be a secret, which costs 140 µs beside a busy thread."""
    return random.getrandbits(NUMBER_BITS)


def knock_of(scope: dict[str, Any]) -> Knock:
    """As the handshake of a socket, with the parent as `?parent=`."""
    knock = greeting.knock_of(scope)
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return Knock(query.get("parent", [knock.parent])[0], knock.token, knock.child, knock.shard)


async def _take(house: House, visit: Visit, knock: Knock, data: bytes, *, key: str | None) -> Response:
    """Raises NotTaken."""
    body, data = cdc_request.read(data)
    sequence = cdc_request.sequence_of(body, key, number=unused_number())
    child = knock.child or body.source_do_id or DEFAULT_CHILD
    shard = body.source_shard_name or knock.shard or None
    frame = cdc_request.frame(
        body, data, child=child, shard=shard, sequence=sequence, limits=visit.limits, now_ms=house.now_ms()
    )
    source = await visits_of(house).child(house, visit, child, shard)
    if isinstance(source, Response):
        return source
    if not house.intake.has_room(len(frame.payload)):
        waiting = house.intake.waiting_bytes
        text = f"{waiting} bytes wait for the journal; {len(frame.payload)} more do not fit"
        bytes_max, delay_ms = house.settings.intake_bytes_max, _delay_ms(house, Reason.BUFFER_FULL)
        raise NotTaken(Refusal(Reason.BUFFER_FULL, text, delay_ms, max_size=bytes_max), Echo())
    verdict = await durable(house, source, frame)
    if not isinstance(verdict, Accepted):
        raise _not_stored(house, verdict, frame)
    return _stored(house, visit, verdict)


async def _check_welcome(house: House, visit: Visit) -> None:
    """A malformed request costs as much as any other. Raises NotTaken."""
    if not await _may_come(house, visit):
        text = f"more than {visit.allowance.messages.per_second} requests/s with this key from this address"
        raise _refuse(Reason.RATE_LIMITED, text, visit.allowance.retry_delay_ms(chance=house.chance()))
    load, is_prior = house.load(visit.admitted.parent_id), visit.admitted.priority == "high"
    if (delay_ms := shed_delay_ms(load, high_priority=is_prior, chance=house.chance())) is not None:
        raise _refuse(Reason.LOAD_SHEDDING, fuse.why_shed(house.alarms.blown(visit.admitted.parent_id)), delay_ms)


async def _may_come(house: House, visit: Visit) -> bool:
    """Whether there is a token for this request; with Redis, of the bucket that all processes share."""
    messages, ip = visit.allowance.messages, visit.key[0]
    if house.rates is not None:
        whose = f"{ip}|{visit.admitted.key_id}|{visit.admitted.parent_id}"
        found = await house.rates.take_token(whose, per_second=messages.per_second, capacity=messages.capacity)
        if found is not None:
            return visit.allowance.agree(is_taken=found.is_taken, units=found.units, now_ms=house.now_ms())
    return visit.allowance.take(house.now_ms())


async def _read(scope: dict[str, Any], read_body: ReadBody, visit: Visit) -> bytes:
    """Raises NotTaken, before anything is read if the request says how large it is."""
    bytes_max, announced = visit.limits.max_payload_size, _header(scope, b"content-length") or ""
    if announced.isdecimal() and int(announced[:20]) > bytes_max:
        raise cdc_request.too_large(int(announced[:20]), visit.limits)
    data = await read_body(bytes_max)
    if len(data) > bytes_max:
        raise cdc_request.too_large(len(data), visit.limits)
    return data


async def durable(house: House, source: Source, frame: BatchFrame) -> Verdict:
    """What the journal says, when the events are durable or surely not stored."""
    verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

    def tell(_: BatchFrame, said: Verdict) -> None:
        if not verdict.done():  # the caller may have gone
            verdict.set_result(said)

    reach(Failpoint.RECEIVED)
    house.intake.offer(Offer(source, frame, tell))
    try:
        async with asyncio.timeout(ANSWER_MS_MAX / 1000):
            return await verdict
    except TimeoutError:
        log.error("the journal said nothing about a request of %r within %d ms", frame.source, ANSWER_MS_MAX)
        text = "the journal gave no answer; the events may be stored or not"
        delay_ms = _delay_ms(house, Reason.INTERNAL_ERROR)
        return accept.Refused(NackReason.INTERNAL_ERROR, text, delay_ms)


def _stored(house: House, visit: Visit, verdict: Accepted) -> Response:
    document: dict[str, Any] = {
        "success": True,
        "eventsReceived": verdict.entries,
        "isDuplicate": verdict.status is AckStatus.DUPLICATE,
    }
    if (delay_ms := suggested_delay_ms(verdict.utilization, house.settings)) is not None:
        document["suggestedDelayMs"] = delay_ms
    return answers.answer(200, document, *_rate_limit(house, visit))


def _not_stored(house: House, verdict: accept.Refused, frame: BatchFrame) -> NotTaken:
    reason, text = Reason(verdict.reason), verdict.message
    if reason is Reason.INVALID_SEQUENCE:
        field = "Idempotency-Key" if frame.sequence >= BY_KEY else "sequenceNumber"
        text = f"{field}: was used for other events of {frame.source!r} before; send these under another one"
    return NotTaken(Refusal(reason, text, _delay_ms(house, reason), max_size=verdict.max_size), Echo())


def _refuse(reason: Reason, text: str, delay_ms: int) -> NotTaken:
    return NotTaken(Refusal(reason, text, delay_ms), Echo())


def _delay_ms(house: House, reason: Reason) -> int | None:
    """As a socket hears it; of the reasons that do not grow with every refusal."""
    return retry_delay_ms(reason, refusals=0, chance=house.chance())


def _count(house: House, reason: Reason) -> None:
    tally = house.doorman.tally
    if reason is Reason.RATE_LIMITED:
        tally.messages_rate_limited += 1
    elif reason is Reason.LOAD_SHEDDING:
        tally.load_shedding_events += 1
    elif reason is Reason.EVENT_TOO_LARGE:
        tally.event_size_rejections += 1
    elif reason.is_size_violation:
        tally.payload_rejections += 1


def _rate_limit(house: House, visit: Visit) -> Headers:
    return rate_limit_headers(visit.allowance.headroom(house.now_ms()))


def _header(scope: dict[str, Any], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), None)
