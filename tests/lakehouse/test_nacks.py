"""The table of nacks, row by row, as a child hears them: in the words of DoSQL's guide and in those of @evodb/rpc."""

import contextlib
import json
import logging

import pytest

from lakehouse.journal import intake
from lakehouse.models import Batch, Parent
from lakehouse.parent import access
from rpc.dolake.refusals import Reason
from tests.builders import NOW_MS
from tests.lakehouse.test_consumer import Socket, home
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

WORDS = {
    "dolake": ("events", "firstEventSequence", "lastEventSequence"),
    "rpc": ("entries", "firstEntrySequence", "lastEntrySequence"),
}
NEAREST = {"load_shedding": "rate_limited"}
"""What @evodb/rpc calls a reason that it does not know."""
MIB = 1024 * 1024


@pytest.fixture(params=WORDS)
def dialect(request):
    return request.param


class Child(Socket):
    """Hears what was said, not what our own client would make of it."""

    async def hear(self):
        output = await self.receive_output(5)
        if output["type"] == "websocket.close":
            return output["code"], output.get("reason", "")
        return json.loads(output["text"])


@contextlib.asynccontextmanager
async def child(**options):
    opened = Child(**options)
    assert await opened.open()
    yield opened
    await opened.leave()


def event(sequence, **fields):
    row = {"sequence": sequence, "timestamp": NOW_MS, "operation": "INSERT", "table": "orders", "rowId": f"r{sequence}"}
    return row | {"after": {"id": sequence}} | fields


def batch(dialect, number, first=None, last=None, /, **fields):
    """Batch `number` with the events first to last; with the one of its own number when nothing else is said."""
    first, last = number if first is None else first, number if last is None else last
    rows = [event(sequence) for sequence in range(first, last + 1)]
    content = dict(zip(WORDS[dialect], (rows, first, last), strict=True))
    head = {"type": "cdc_batch", "timestamp": NOW_MS, "correlationId": f"c-{number}", "sourceDoId": "do-1"}
    tail = {"sequenceNumber": number, "sizeBytes": 0, "isRetry": False, "retryCount": 0}
    return json.dumps(head | tail | content | fields)


def assert_nack(found, dialect, number, reason, *, retry_ms=None, **extras):
    """Exactly this and nothing else; whoever speaks of entries hears no extras."""
    wanted = {"type": "nack", "sequenceNumber": number, "shouldRetry": retry_ms is not None}
    wanted["reason"] = NEAREST.get(reason, reason) if dialect == "rpc" else reason
    wanted |= {} if number is None else {"correlationId": f"c-{number}"}
    wanted |= {} if retry_ms is None else {"retryDelayMs": retry_ms}
    wanted |= extras if dialect == "dolake" else {}
    told = dict(found)
    assert told.pop("timestamp") > NOW_MS
    assert told.pop("errorMessage")
    assert told == wanted


def luck(opened, chance):
    """Delays are spread by chance."""
    opened.chance = lambda: chance


async def parent_with(**config):
    await in_thread(lambda: Parent.objects.create(name="default", config=config))


async def stored():
    return await in_thread(Batch.objects.count)


BROKEN = {
    "not JSON": lambda text: text[:-1],
    "no sequence number within the bounds of JSON": lambda text: text.replace('"sizeBytes": 0', '"timestamp": 0.5'),
    "an operation nobody knows": lambda text: text.replace("INSERT", "UPSERT"),
    "null for an optional text": lambda text: text.replace('"sizeBytes": 0', '"sourceShardName": null'),
    "a table outside": lambda text: text.replace("orders", "../../escape"),
    "a fraction": lambda text: text.replace('"sequence": 7', '"sequence": 7.5'),
    "a shard whose name cannot be kept": lambda text: text.replace(
        '"sizeBytes": 0', f'"sourceShardName": "{"x" * 501}"'
    ),
}


async def test_invalid_format_tells_which_batch_it_was_whatever_is_wrong_with_it(dialect):
    async with home(), child() as shop:
        assert (await shop.ask(batch(dialect, 1)))["type"] == "ack"
        for broken in BROKEN.values():
            text = broken(batch(dialect, 7))
            for frame in (text, text.encode()):
                assert_nack(await shop.ask(frame), dialect, 7, "invalid_format")
        assert (await shop.ask(batch(dialect, 7)))["status"] == "ok"


NO_MESSAGES = ["", b"", "null", "[]", "{}", "7", '"ping"', b"ping", b"\xff\xfe", b"\x00" * 40, "{" * 5000, "[" * 50_000]


async def test_invalid_format_of_what_is_no_message_at_all_names_none(dialect):
    async with home(), child() as shop:
        await shop.ask(batch(dialect, 1))
        for frame in NO_MESSAGES:
            found = await shop.ask(frame)
            assert (found["reason"], found["sequenceNumber"], "correlationId" in found) == ("invalid_format", 0, False)
        assert (await shop.ask(batch(dialect, 2)))["status"] == "ok"


async def test_invalid_format_lists_every_mistake_with_its_place():
    wrong = batch("dolake", 3, events=[event(3) | {"rowId": 1}, event(4, table="a b"), {"sequence": -1}])
    async with home(), child() as shop:
        text = (await shop.ask(wrong))["errorMessage"]
        assert text.startswith("events[0].rowId: expected text, got a whole number; events[2].sequence: ")
        assert "; events[2].table: is required" in text


async def test_payload_too_large_says_how_large_it_was_and_may_be():
    async with home(max_payload_size=2048), child() as shop:
        head = batch("dolake", 5)
        await shop.ask(head + " " * (2048 - len(head)))
        too_large = head + " " * (2049 - len(head))
        sizes = {"maxSize": 2048, "actualSize": 2049, "receivedSize": 2049}
        assert_nack(await shop.ask(too_large), "dolake", 5, "payload_too_large", **sizes)
        junk = await shop.ask("x" * 2049)
        assert (junk["reason"], junk["sequenceNumber"], junk["actualSize"]) == ("payload_too_large", 0, 2049)
        assert await stored() == 1


async def test_a_batch_of_the_package_has_the_bound_of_its_protocol():
    async with home(), child() as shop:
        text = batch("rpc", 1)
        fits = text + " " * (16 * MIB - len(text))
        assert (await shop.ask(fits))["status"] == "ok"
        nack = await shop.ask(fits + " ")
        assert (nack["reason"], nack["shouldRetry"]) == ("invalid_format", False)
        assert "16777217" in nack["errorMessage"]


async def test_an_access_key_may_allow_batches_of_16_mib():
    limits = {"max_payload_bytes": 16 * MIB}
    _, large = await in_thread(lambda: access.new_key("l", scopes=["ingest"], limits=limits, now_ms=NOW_MS))
    _, usual = await in_thread(lambda: access.new_key("u", scopes=["ingest"], now_ms=NOW_MS))
    text = batch("dolake", 1)
    async with home(open=False):
        async with child(token=large) as shop:
            assert (await shop.ask(text + " " * (16 * MIB - len(text))))["status"] == "ok"
        async with child(token=usual) as shop:
            nack = await shop.ask(text + " " * (4 * MIB + 1 - len(text)))
            assert (nack["reason"], nack["maxSize"], nack["actualSize"]) == ("payload_too_large", 4 * MIB, 4 * MIB + 1)


async def test_an_access_key_may_allow_smaller_batches_only(dialect):
    _, small = await in_thread(
        lambda: access.new_key("s", scopes=["ingest"], limits={"max_payload_bytes": 1024}, now_ms=NOW_MS)
    )
    async with home(open=False), child(token=small) as shop:
        assert (await shop.ask(batch(dialect, 1)))["type"] == "ack"
        large = batch(dialect, 2, 2, 40)
        nack = await shop.ask(large)
        assert (nack["sequenceNumber"], nack["shouldRetry"], "1024" in nack["errorMessage"]) == (2, False, True)
        assert nack["reason"] == ("payload_too_large" if dialect == "dolake" else "invalid_format")
        assert await stored() == 1


async def test_one_event_too_large_refuses_its_whole_batch():
    large = event(8, after={"text": "x" * 3000})
    async with home(max_event_size=2048), child() as shop:
        nack = await shop.ask(batch("dolake", 7, events=[event(7), large]))
        assert_nack(nack, "dolake", 7, "event_too_large", maxSize=2048)
        assert await stored() == 0
        assert (await shop.ask(batch("rpc", 7, entries=[event(7), large])))["status"] == "ok"


async def test_more_events_than_a_batch_may_have_are_refused_together():
    async with home(max_events_per_message=3), child() as shop:
        assert (await shop.ask(batch("dolake", 1, 1, 3)))["status"] == "ok"
        assert_nack(await shop.ask(batch("dolake", 2, 4, 7)), "dolake", 2, "too_many_events", maxSize=3)
        assert await stored() == 1
        assert (await shop.ask(batch("rpc", 3, 4, 7)))["status"] == "ok"


async def test_rate_limited_doubles_the_wait_until_a_message_is_accepted(dialect):
    delays = {0.0: [100, 200, 400], 0.999: [299, 599, 1199]}
    settings = {"messages_per_second": 1, "burst_capacity": 2, "window_batches_max": 2}
    async with home(**settings) as (opened, _), child() as shop:
        now_ms = opened.now_ms()
        opened.now_ms = lambda: now_ms
        for number in (1, 2):
            assert (await shop.ask(batch(dialect, number)))["type"] == "ack"
        headroom = {"rateLimit": {"limit": 1, "remaining": 0, "resetAt": -(-(now_ms + 2000) // 1000)}}
        for chance, row in delays.items():
            luck(opened, chance)
            for delay_ms in row:
                nack = await shop.ask(batch(dialect, 3))
                assert_nack(nack, dialect, 3, "rate_limited", retry_ms=delay_ms, **headroom)
            now_ms += 1000
            assert (await shop.ask(batch(dialect, 3)))["type"] == "ack"
            headroom["rateLimit"]["resetAt"] += 1


async def test_rate_limited_never_waits_longer_than_the_maximum(dialect):
    settings = {"messages_per_second": 1, "burst_capacity": 1, "window_batches_max": 1, "max_retry_delay_ms": 300}
    async with home(**settings) as (opened, _), child() as shop:
        luck(opened, 0.5)
        now_ms = opened.now_ms()
        opened.now_ms = lambda: now_ms
        await shop.ask(batch(dialect, 1))
        assert [(await shop.ask(batch(dialect, 2)))["retryDelayMs"] for _ in range(14)] == [200] + [300] * 13


async def test_malformed_and_oversized_frames_cost_what_good_ones_do():
    settings = {"messages_per_second": 1, "burst_capacity": 4, "max_payload_size": 2048}
    async with home(**settings) as (opened, _), child() as shop:
        now_ms = opened.now_ms()
        opened.now_ms = lambda: now_ms
        for frame in ("{", "", "x" * 2049, '{"type":"cdc_batch","events":[]}'):
            assert (await shop.ask(frame))["reason"] in {"invalid_format", "payload_too_large"}
        assert (await shop.ask(batch("dolake", 1)))["reason"] == "rate_limited"


async def test_heartbeats_are_answered_when_no_batch_is(dialect):
    settings = {"messages_per_second": 1, "burst_capacity": 1, "window_batches_max": 1}
    async with home(**settings) as (opened, _), child() as shop:
        now_ms = opened.now_ms()
        opened.now_ms = lambda: now_ms
        await shop.ask(batch(dialect, 1))
        assert (await shop.ask(batch(dialect, 2)))["reason"] == "rate_limited"
        heartbeat = {"type": "heartbeat", "timestamp": 7, "sourceDoId": "do-1", "lastAckSequence": -1}
        assert (await shop.ask(json.dumps(heartbeat)))["type"] == "pong"


@pytest.mark.parametrize(("chance", "delay_ms"), [(0.0, 50), (0.999, 149)])
async def test_load_shedding_sends_away_for_a_moment_what_is_of_no_high_priority(dialect, chance, delay_ms):
    await parent_with(max_buffer_entries=20, flush_threshold_entries=10)
    _, urgent = await in_thread(
        lambda: access.new_key("u", scopes=["ingest"], priority="high", source_pattern="do-1", now_ms=NOW_MS)
    )
    _, usual = await in_thread(lambda: access.new_key("n", scopes=["ingest"], now_ms=NOW_MS))
    async with home(open=False) as (opened, _), child(token=usual) as shop:
        luck(opened, chance)
        now_ms = opened.now_ms()
        opened.now_ms = opened.alarms._now_ms = lambda: now_ms
        assert (await shop.ask(batch(dialect, 1, 1, 19)))["type"] == "ack"
        claims_to_be_urgent = batch(dialect, 2, 20, 20, priority="high")
        nack = await shop.ask(claims_to_be_urgent)
        headroom = nack.get("rateLimit")
        assert_nack(nack, dialect, 2, "load_shedding", retry_ms=delay_ms, rateLimit=headroom)
        async with child(token=urgent) as other:
            assert (await other.ask(batch(dialect, 2, 20, 20)))["type"] == "ack"


@pytest.mark.parametrize(("chance", "delay_ms"), [(0.0, 1000), (0.9999, 5000)])
async def test_buffer_full_says_when_to_come_back(dialect, chance, delay_ms):
    await parent_with(max_buffer_entries=20, flush_threshold_entries=10)
    async with home() as (opened, _), child() as shop:
        luck(opened, chance)
        assert (await shop.ask(batch(dialect, 1, 1, 15)))["status"] == "ok"
        nack = await shop.ask(batch(dialect, 2, 16, 25))
        bound = {"maxSize": 100 * MIB, "rateLimit": nack.get("rateLimit")}
        assert_nack(nack, dialect, 2, "buffer_full", retry_ms=delay_ms, **bound)
        assert (await shop.ask(batch(dialect, 2, 16, 18)))["type"] == "ack"


async def test_buffer_full_of_a_process_that_cannot_write_as_fast_is_the_same(dialect):
    async with home(intake_bytes_max=MIB) as (opened, _), child() as shop:
        luck(opened, 0.0)
        text = batch(dialect, 1, **{WORDS[dialect][0]: [event(n, after={"t": "x" * 500_000}) for n in (1, 2, 3)]})
        nack = await shop.ask(text)
        bound = {"maxSize": MIB, "rateLimit": nack.get("rateLimit")}
        assert_nack(nack, dialect, 1, "buffer_full", retry_ms=1000, **bound)
        assert await stored() == 0


async def test_invalid_sequence_is_the_same_number_with_other_content(dialect):
    async with home(), child() as shop:
        await shop.ask(batch(dialect, 4))
        assert (await shop.ask(batch(dialect, 4)))["status"] == "duplicate"
        nack = await shop.ask(batch(dialect, 4, 4, 6))
        assert_nack(nack, dialect, 4, "invalid_sequence", rateLimit=nack.get("rateLimit"))
        assert await stored() == 1


async def test_shutting_down_is_said_to_what_was_sent_and_not_looked_at(dialect):
    async with home():
        shop = Child()
        assert await shop.open()
        await shop.ask(batch(dialect, 1))
        shop.future.cancel()
        await shop.say(batch(dialect, 2))
        nack = await shop.hear()
        assert_nack(nack, dialect, 2, "shutting_down", retry_ms=1000, rateLimit=nack.get("rateLimit"))
        assert await shop.hear() == (1001, "")
    assert await stored() == 1


async def test_internal_error_is_logged_with_the_correlation_id_and_the_connection_lives(dialect, monkeypatch, caplog):
    async with home(), child() as shop:
        await shop.ask(batch(dialect, 1))
        monkeypatch.setattr(intake, "accept", lambda *_, **__: 1 / 0)
        with caplog.at_level(logging.ERROR):
            nack = await shop.ask(batch(dialect, 2))
        assert_nack(nack, dialect, 2, "internal_error", retry_ms=1000, rateLimit=nack.get("rateLimit"))
        assert "c-2" in caplog.text
        monkeypatch.undo()
        assert (await shop.ask(batch(dialect, 2)))["status"] == "ok"


@pytest.mark.parametrize(
    ("settings", "frame"),
    [
        ({"max_payload_size": 2048}, "x" * 2049),
        ({"max_event_size": 20}, batch("dolake", 1)),
        ({"max_events_per_message": 1}, batch("dolake", 1, 1, 2)),
    ],
)
async def test_the_third_thing_too_large_is_answered_and_ends_the_connection(settings, frame):
    async with home(**settings) as (opened, _):
        shop = Child()
        assert await shop.open()
        for _ in range(2):
            assert (await shop.ask(frame))["type"] == "nack"
        assert (await shop.ask('{"type":"cdc_batch"}'))["reason"] == "invalid_format"
        assert (await shop.ask(frame))["type"] == "nack"
        assert await shop.hear() == (1008, "Too many size violations")
        await shop.wait(5)
        assert opened.doorman.tally.connections_closed == 1


def test_every_reason_has_a_row_here():
    rows = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    said = {reason.value for reason in Reason if any(row.startswith(reason.value) for row in rows)}
    otherwise = {"event_too_large", "too_many_events"}
    assert said | otherwise == {reason.value for reason in Reason}


async def test_a_first_batch_of_a_child_whose_name_cannot_be_kept_is_refused_by_its_number(dialect):
    async with home(), child() as shop:
        wrong = batch(dialect, 9).replace('"do-1"', json.dumps("x" * 501))
        assert_nack(await shop.ask(wrong), dialect, 9, "invalid_format")


async def test_who_asks_for_a_flush_too_often_hears_which_one_was_refused():
    async with home(messages_per_second=1, burst_capacity=2) as (opened, _), child() as shop:
        now_ms = opened.now_ms()
        opened.now_ms = lambda: now_ms
        for number in (1, 2):
            assert (await shop.ask(batch("dolake", number)))["type"] == "ack"
        nack = await shop.ask('{"type":"flush_request","timestamp":1,"sourceDoId":"do-1","correlationId":"f1"}')
        assert (nack["reason"], nack["correlationId"], nack["rateLimit"]["remaining"]) == ("rate_limited", "f1", 0)
        assert opened.doorman.tally.messages_rate_limited == 1


async def test_the_pause_an_ack_proposes_begins_where_the_setting_says():
    await parent_with(max_buffer_entries=20, flush_threshold_entries=10)
    async with home(backpressure_threshold=0.5), child() as shop:
        assert "suggestedDelayMs" not in (await shop.ask(batch("dolake", 1, 1, 10)))["details"]
        assert (await shop.ask(batch("dolake", 2, 11, 12)))["details"]["suggestedDelayMs"] == 300


async def test_frames_that_are_nothing_do_not_shorten_the_delay_of_a_child_that_is_too_fast(dialect):
    async with home(messages_per_second=1, burst_capacity=1, window_batches_max=1) as (opened, _), child() as shop:
        luck(opened, 0.5)
        now_ms = opened.now_ms()
        opened.now_ms = lambda: now_ms
        assert (await shop.ask(batch(dialect, 1)))["type"] == "ack"
        delays = []
        for number in (2, 3):
            delays.append((await shop.ask(batch(dialect, number)))["retryDelayMs"])
            now_ms += 1000
            assert (await shop.ask("{"))["reason"] == "invalid_format"
        assert delays[1] > delays[0]
