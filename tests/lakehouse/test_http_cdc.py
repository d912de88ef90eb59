import asyncio
import json
import re
from pathlib import Path
from unittest import mock

import pytest
from django.db import OperationalError

from lakehouse.catalog.lakes import chosen
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import answers, cdc, visits
from lakehouse.http.visits import visits_of
from lakehouse.models import AccessKey, Batch, BatchPayload, Child, Parent
from lakehouse.parent import access
from rpc import columns
from tests.builders import NOW_MS, parent
from tests.lakehouse.http_site import DOORS, ask, home, scope_of
from tests.lakehouse.test_flow import lake
from tests.lakehouse.test_intake import impatient, in_thread, locked

pytestmark = pytest.mark.django_db(transaction=True)
DOCS = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
STRANGER = ("198.51.100.7", 40_000)


@pytest.fixture(params=sorted(DOORS))
def door(request):
    return request.param


def event(sequence, **fields):
    return {
        "sequence": sequence,
        "timestamp": NOW_MS,
        "operation": "INSERT",
        "table": "orders",
        "rowId": f"r{sequence}",
        "after": {"id": sequence},
    } | fields


def events(first=1, last=3):
    return [event(sequence) for sequence in range(first, last + 1)]


async def post(body, path="/cdc", *, key=None, **options):
    headers = options.pop("headers", {}) | ({"idempotency-key": key} if key else {})
    return await ask("POST", path, body, headers=headers, **options)


async def new_key(**bindings):
    bindings = {"scopes": ["ingest"]} | bindings
    return (await in_thread(lambda: access.new_key("k", now_ms=NOW_MS, **bindings)))[1]


async def counted():
    return await in_thread(Batch.objects.count)


async def test_events_are_durable_when_the_answer_comes(door):
    async with home():
        heard = await post({"sourceDoId": "shop-1", "sourceShardName": "eu", "events": events()}, door=door)
        assert (heard.status, heard.json) == (200, {"success": True, "eventsReceived": 3, "isDuplicate": False})
        assert heard.headers["content-type"] == "application/json"
        assert heard.headers["x-ratelimit-limit"] == "1000"
    child = await in_thread(Child.objects.get)
    assert (child.name, child.shard, child.state, child.entries) == ("shop-1", "eu", "gone", 3)
    stored = await in_thread(lambda: bytes(BatchPayload.objects.get().payload))
    assert [entry.after for entry in columns.decode(stored).entries()] == [b'{"id": 1}', b'{"id": 2}', b'{"id": 3}']


async def test_half_an_emoji_costs_one_character_and_not_the_request(door):
    body = json.dumps({"events": [event(1, after={"a": "HERE!"}), event(2)]}).replace("HERE", "\\ud83d").encode()
    async with home():
        heard = await post(body, door=door)
        assert (heard.status, heard.json["eventsReceived"]) == (200, 2)
    stored = await in_thread(lambda: bytes(BatchPayload.objects.get().payload))
    assert json.loads(columns.decode(stored).entries()[0].after) == {"a": "\ufffd!"}


async def test_what_came_over_http_becomes_rows(lake_settings):
    async with home():
        await post({"sourceDoId": "shop-1", "events": events()}, key="one")
        await post({"events": [event(9)]})
    flusher = Flusher("worker-1", lake_settings, chosen(lake_settings), lambda: NOW_MS)
    pk = await in_thread(lambda: Parent.objects.get().pk)
    await in_thread(lambda: flusher.run(pk, trigger=FlushTrigger.MANUAL))
    assert sorted(await in_thread(lambda: lake(lake_settings))) == [("r1", 1), ("r2", 2), ("r3", 3), ("r9", 9)]


async def test_no_events_are_a_success_and_stored_nowhere(door):
    async with home():
        heard = await post({"events": []}, door=door)
        assert (heard.status, heard.json["eventsReceived"]) == (200, 0)
        assert await counted() == 0


async def test_events_without_a_name_are_those_of_the_child_http():
    async with home():
        await post({"events": events()})
        await post({"events": events()}, headers={"x-client-id": "till", "x-shard-name": "eu"})
    children = await in_thread(lambda: list(Child.objects.order_by("pk").values_list("name", "shard")))
    assert children == [("http", ""), ("till", "eu")]


async def test_each_parent_has_a_buffer_of_its_own():
    async with home():
        await post({"events": events()}, "/cdc?parent=eu")
        await post({"events": events(1, 2)})
    held = await in_thread(lambda: dict(Parent.objects.values_list("name", "pending_entries")))
    assert held == {"eu": 3, "default": 2}


async def test_without_a_number_or_a_key_every_request_is_new(door):
    async with home():
        answers = [await post({"sourceDoId": "s", "events": events()}, door=door) for _ in range(3)]
        assert [heard.json["isDuplicate"] for heard in answers] == [False] * 3
        assert await counted() == 3


async def test_the_same_number_is_stored_once(door):
    async with home():
        body = {"sourceDoId": "s", "sequenceNumber": 0, "events": events()}
        answers = [await post(body, door=door) for _ in range(3)]
        assert [heard.json["isDuplicate"] for heard in answers] == [False, True, True]
        assert [heard.json["eventsReceived"] for heard in answers] == [3, 3, 3]
        assert not (await post(body | {"sourceDoId": "t"}, door=door)).json["isDuplicate"]
        assert not (await post(body | {"sequenceNumber": 1}, door=door)).json["isDuplicate"]
        assert await counted() == 3


async def test_the_same_key_is_stored_once(door):
    async with home():
        body = {"sourceDoId": "s", "events": events()}
        answers = [await post(body, key="8e03978e-40d5", door=door) for _ in range(2)]
        assert [heard.json["isDuplicate"] for heard in answers] == [False, True]
        assert not (await post(body, key="another", door=door)).json["isDuplicate"]
        assert not (await post(body | {"sourceDoId": "t"}, key="8e03978e-40d5", door=door)).json["isDuplicate"]
        assert await counted() == 3


@pytest.mark.parametrize("other", [events(4, 6), events(1, 2), events(1, 4), [event(1, after={"id": 7})]])
async def test_the_same_key_with_other_events_is_refused_and_nothing_is_stored(other, door):
    async with home():
        await post({"events": events()}, key="k-1", door=door)
        heard = await post({"events": other}, key="k-1", door=door)
        assert (heard.status, heard.json["reason"]) == (409, "invalid_sequence")
        assert heard.json["error"].startswith("Idempotency-Key: was used for other events of 'http'")
        assert "retry-after" not in heard.headers
        assert await counted() == 1


async def test_the_same_number_with_other_events_is_refused_and_nothing_is_stored(door):
    async with home():
        await post({"sequenceNumber": 5, "events": events()}, door=door)
        heard = await post({"sequenceNumber": 5, "events": events(2, 3)}, door=door)
        assert (heard.status, heard.json["error"].split(":")[0]) == (409, "sequenceNumber")
        assert await counted() == 1


async def test_a_number_counts_where_there_is_a_key_as_well():
    async with home():
        await post({"sequenceNumber": 5, "events": events()}, key="a")
        assert (await post({"sequenceNumber": 5, "events": events()}, key="b")).json["isDuplicate"]
        assert not (await post({"events": events()}, key="a")).json["isDuplicate"]


async def test_the_same_request_many_times_at_once_is_stored_once(door):
    async with home():
        answers = await asyncio.gather(*(post({"events": events()}, key="k", door=door) for _ in range(20)))
        assert sorted(heard.json["isDuplicate"] for heard in answers) == [False] + [True] * 19
        assert await counted() == 1


async def test_a_retry_after_the_process_died_between_commit_and_answer_is_a_duplicate():
    body = {"sourceDoId": "s", "events": events()}
    with mock.patch.object(cdc, "_stored", side_effect=SystemError("killed")):
        async with home():
            with pytest.raises(SystemError):
                await post(body, key="k")
    async with home():
        assert (await post(body, key="k")).json["isDuplicate"]
        assert await counted() == 1


async def test_a_retry_after_the_rows_are_in_their_table_is_a_duplicate(lake_settings):
    body = {"sourceDoId": "s", "events": events()}
    async with home():
        await post(body, key="k")
        flusher = Flusher("worker-1", lake_settings, chosen(lake_settings), lambda: NOW_MS)
        pk = await in_thread(lambda: Parent.objects.get().pk)
        await in_thread(lambda: flusher.run(pk, trigger=FlushTrigger.MANUAL))
        assert not await in_thread(BatchPayload.objects.exists)
        assert (await post(body, key="k")).json["isDuplicate"]
    assert len(await in_thread(lambda: lake(lake_settings))) == 3


async def test_a_process_that_stops_answers_what_was_handed_in():
    async with home() as (opened, _):
        await post({"events": []})
        offered, sent = asyncio.Event(), []
        offer = opened.intake.offer
        held = []

        def hold(one):
            held.append(one)
            offered.set()

        async def receive():
            return {"type": "http.request", "body": json.dumps({"events": events()}).encode()}

        async def send(message):
            sent.append(message)

        with mock.patch.object(opened.intake, "offer", hold):
            request = asyncio.create_task(DOORS["front"](scope_of("POST", "/cdc"), receive, send))
            await offered.wait()
        request.cancel()
        offer(held[0])
        with pytest.raises(asyncio.CancelledError):
            await request
        assert sent[0]["status"] == 200
        assert await counted() == 1


async def test_a_client_that_hangs_up_before_its_body_is_here_stores_nothing():
    async with home():
        sent = []

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await DOORS["front"](scope_of("POST", "/cdc"), receive, send)
        assert (sent, await counted()) == ([], 0)


# Bad input: each is answered, names the field, and stores nothing.

BAD = [
    (b"", "message: the body is empty"),
    (b"{", "message: not JSON"),
    (b"\xff", "message: not JSON"),
    (b"[]", "message: expected an object"),
    (b"null", "message: expected an object"),
    ({}, "events: is required"),
    ({"events": None}, "events: expected a list"),
    ({"events": {}}, "events: expected a list"),
    ({"events": [1]}, "events[0]: expected an object"),
    ({"events": [event(1), {}]}, "events[1].sequence: is required; events[1].timestamp: is required"),
    ({"events": [event(1, table="")]}, "events[0].table: expected at least 1 character"),
    ({"events": [event(1, table="../../escape")]}, "events[0].table: table name '../../escape'"),
    ({"events": [event(1, operation="TRUNCATE")]}, "events[0].operation: expected INSERT, UPDATE or DELETE"),
    ({"events": [event(-1)]}, "events[0].sequence"),
    ({"events": [event(1, timestamp=1.5)]}, "events[0].timestamp"),
    ({"events": [event(1, rowId=7)]}, "events[0].rowId"),
    ({"events": [event(1, metadata=[])]}, "events[0].metadata"),
    ({"events": [], "sourceDoId": ""}, "sourceDoId: expected at least 1 character"),
    ({"events": [], "sourceDoId": None}, "sourceDoId: expected text"),
    ({"events": [], "sourceDoId": "a\nb"}, "sourceDoId: is 'a\\nb', wanted 1 to 500 printable"),
    ({"events": [], "sourceDoId": "x" * 501}, "sourceDoId: is"),
    ({"events": [], "sourceShardName": "\x00"}, "sourceShardName: is"),
    ({"events": [], "sequenceNumber": -1}, "sequenceNumber"),
    ({"events": [], "sequenceNumber": 2**53}, "sequenceNumber"),
    ({"events": [], "sequenceNumber": "1"}, "sequenceNumber"),
]


@pytest.mark.once
@pytest.mark.parametrize(("body", "said"), BAD)
async def test_bad_input_is_told_which_field_it_is(body, said, door):
    async with home():
        heard = await post(body, door=door)
        assert (heard.status, heard.json["reason"]) == (400, "invalid_format")
        assert said in heard.json["error"]
        assert "retryDelayMs" not in heard.json
        assert await counted() == 0


@pytest.mark.parametrize("key", ["x" * 256, "é", "\x7f", " "])
async def test_a_key_that_cannot_be_one_is_named(key, door):
    async with home():
        heard = await post({"events": events()}, key=key, door=door)
        assert (heard.status, heard.json["error"].split(":")[0]) == (400, "Idempotency-Key")


async def test_a_parent_that_cannot_be_called_so_is_400(door):
    async with home():
        heard = await post({"events": events()}, "/cdc?parent=../x", door=door)
        assert (heard.status, heard.json) == (
            400,
            {"error": "the name of the parent, the child or the shard cannot be used"},
        )
    assert not await in_thread(Parent.objects.exists)


# Keys.


@pytest.mark.parametrize("token", [None, "wrong", "evodb_wrong"])
async def test_without_a_good_key_it_is_401_and_says_how(token, door):
    async with home(open=False):
        heard = await post({"events": events()}, token=token, door=door)
        assert (heard.status, heard.headers["www-authenticate"]) == (401, "Bearer")
        assert "error" in heard.json
    assert not await in_thread(Parent.objects.exists)


@pytest.mark.parametrize(
    "bindings",
    [{"scopes": ["query"]}, {"scopes": ["admin"]}, {"source_pattern": "till-*"}, {"parents": "eu-*"}],
)
async def test_a_key_for_something_else_is_403(bindings, door):
    token = await new_key(**bindings)
    async with home(open=False):
        heard = await post({"sourceDoId": "shop-1", "events": events()}, token=token, door=door)
        assert heard.status == 403
        assert await counted() == 0


async def test_a_key_opens_as_header_and_in_the_address(door):
    token = await new_key(source_pattern="shop-*", parents="eu")
    body = {"sourceDoId": "shop-1", "events": events()}
    async with home(open=False):
        assert (await post(body, "/cdc?parent=eu", token=token, door=door)).status == 200
        assert (await post(body, f"/cdc?parent=eu&token={token}", door=door)).status == 200


async def test_a_revoked_key_opens_nothing_ten_seconds_later():
    token = await new_key()
    async with home(open=False) as (opened, _):
        opened.now_ms = lambda: NOW_MS
        assert (await post({"events": events()}, token=token)).status == 200
        await in_thread(lambda: AccessKey.objects.update(revoked_ms=NOW_MS))
        opened.now_ms = lambda: NOW_MS + visits.CHECKED_MS - 1
        assert (await post({"events": events()}, token=token)).status == 200
        opened.now_ms = lambda: NOW_MS + visits.CHECKED_MS
        assert (await post({"events": events()}, token=token)).status == 401


async def test_a_request_in_between_asks_the_database_for_nothing_but_the_journal():
    async with home() as (opened, _):
        await post({"events": events()})
        with mock.patch.object(opened.intake, "run", side_effect=AssertionError("a query")):
            assert (await post({"events": events()})).status == 200


async def test_who_tries_keys_has_to_wait_at_last(door):
    async with home(open=False, key_failures_per_minute=3, whitelisted_ips=""):
        statuses = [
            (await post({"events": events()}, token=f"evodb_{number}", door=door, client=STRANGER)).status
            for number in range(5)
        ]
        assert statuses == [401, 401, 401, 429, 429]


async def test_visits_and_children_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(visits, "VISITS_MAX", 2)
    monkeypatch.setattr(visits, "CHILDREN_MAX", 3)
    async with home() as (opened, _):
        for number in range(5):
            for name in ("a", "b"):
                heard = await post({"sourceDoId": name, "events": events()}, f"/cdc?parent=p{number}")
                assert heard.status == 200
        assert (len(visits_of(opened).visits), len(visits_of(opened).children)) == (2, 3)


# Too large, too many, not now.


async def test_a_body_that_is_too_large_is_413_before_it_is_read(door):
    async with home(max_payload_size=2000, max_event_size=1000) as (opened, _):
        heard = await post({"events": events(1, 50)}, door=door)
        assert (heard.status, heard.json["reason"], heard.json["maxSize"]) == (413, "payload_too_large", 2000)
        assert heard.json["receivedSize"] == len(json.dumps({"events": events(1, 50)}))
        assert opened.doorman.tally.payload_rejections == 1


async def test_a_body_of_unknown_size_that_is_too_large_is_413(door):
    async with home(max_payload_size=2000, max_event_size=1000):
        heard = await post({"events": events(1, 50)}, chunks=30, door=door)
        assert (heard.status, heard.json["reason"]) == (413, "payload_too_large")
        heard = await post({"events": events(1, 10)}, chunks=3, door=door)
        assert heard.status == 200


async def test_a_key_may_raise_the_size(door):
    token = await new_key(limits={"max_payload_bytes": 100_000})
    async with home(open=False, max_payload_size=2000, max_event_size=1000):
        assert (await post({"events": events(1, 50)}, token=token, door=door)).status == 200


async def test_an_event_that_is_too_large_is_413_and_the_whole_request_is_refused(door):
    async with home(max_event_size=1000) as (opened, _):
        heard = await post({"events": [event(1), event(2, after="x" * 1000)]}, door=door)
        assert (heard.status, heard.json["reason"], heard.json["maxSize"]) == (413, "event_too_large", 1000)
        assert heard.json["error"].startswith("events[1]: has")
        assert opened.doorman.tally.event_size_rejections == 1
        assert await counted() == 0


async def test_too_many_events_are_413(door):
    async with home(max_events_per_message=2):
        heard = await post({"events": events()}, door=door)
        assert (heard.status, heard.json["reason"], heard.json["maxSize"]) == (413, "too_many_events", 2)


async def test_too_fast_is_429_with_a_time_to_come_back(door):
    async with home(burst_capacity=2, messages_per_second=1) as (opened, _):
        opened.now_ms, opened.chance = (lambda: NOW_MS), (lambda: 0.5)
        answers = [await post({"events": events()}, door=door) for _ in range(4)]
        assert [heard.status for heard in answers] == [200, 200, 429, 429]
        assert answers[2].json["reason"] == "rate_limited"
        assert (answers[2].json["retryDelayMs"], answers[3].json["retryDelayMs"]) == (200, 400)
        assert (answers[2].headers["retry-after"], answers[2].headers["x-ratelimit-remaining"]) == ("1", "0")
        assert opened.doorman.tally.messages_rate_limited == 2
        assert await counted() == 2


async def test_a_full_buffer_is_503_with_a_time_to_come_back(door):
    await in_thread(lambda: parent(max_buffer_entries=4, flush_threshold_entries=2))
    async with home():
        assert (await post({"events": events()}, door=door)).status == 200
        heard = await post({"events": events(4, 6)}, key="k", door=door)
        assert (heard.status, heard.json["reason"]) == (503, "buffer_full")
        assert int(heard.headers["retry-after"]) * 1000 >= heard.json["retryDelayMs"] > 0
        assert await counted() == 1
        await in_thread(lambda: Parent.objects.update(pending_entries=0, pending_bytes=0))
        assert not (await post({"events": events(4, 6)}, key="k", door=door)).json["isDuplicate"]


async def test_a_nearly_full_buffer_suggests_a_pause(door):
    await in_thread(lambda: parent(max_buffer_entries=4, flush_threshold_entries=2))
    async with home():
        heard = await post({"events": events(1, 4)}, door=door)
        assert heard.json["suggestedDelayMs"] == 500


async def test_more_than_the_buffer_ever_takes_is_never_taken(door):
    await in_thread(lambda: parent(max_buffer_entries=2, flush_threshold_entries=1))
    async with home():
        heard = await post({"events": events()}, door=door)
        assert heard.status in (400, 413)
        assert "retry-after" not in heard.headers


async def test_a_journal_that_is_behind_is_503(door):
    async with home() as (opened, _):
        await post({"events": events()}, door=door)
        with mock.patch.object(type(opened.intake), "has_room", return_value=False):
            heard = await post({"events": events()}, door=door)
        assert (heard.status, heard.json["reason"]) == (503, "buffer_full")
        assert int(heard.headers["retry-after"]) * 1000 >= heard.json["retryDelayMs"]


@pytest.mark.parametrize(("chance", "delay_ms"), [(0.0, 1000), (0.9999, 5000)])
async def test_a_journal_that_is_behind_sends_requests_away_for_as_long_as_sockets_and_says_what_it_takes(
    chance, delay_ms, door
):
    """It said 100 ms, so that everybody who was sent away came back at once and together."""
    async with home() as (opened, _):
        await post({"events": events()}, door=door)
        opened.chance = lambda: chance
        with mock.patch.object(type(opened.intake), "has_room", return_value=False):
            heard = await post({"events": events()}, door=door)
        assert (heard.json["retryDelayMs"], heard.json["maxSize"]) == (delay_ms, opened.settings.intake_bytes_max)


async def test_under_critical_load_only_keys_of_high_priority_are_served(door):
    low, high = await new_key(), await new_key(priority="high")
    async with home(open=False) as (opened, _):
        with mock.patch.object(type(opened.lag), "ms", 10_000.0):
            heard = await post({"events": events()}, token=low, door=door)
            assert (heard.status, heard.json["reason"]) == (503, "load_shedding")
            assert 50 <= heard.json["retryDelayMs"] < 150
            assert (await post({"events": events()}, token=high, door=door)).status == 200
        assert opened.doorman.tally.load_shedding_events == 1


async def test_a_locked_database_is_503_and_the_retry_is_stored_once(door):
    rows = await in_thread(parent)
    async with home() as (opened, _):
        await post({"events": events()}, door=door)
        await opened.intake.run(impatient)
        async with locked(rows):
            heard = await post({"events": events(4, 6)}, key="k", door=door)
        assert (heard.status, heard.json["reason"], heard.headers["retry-after"]) == (503, "internal_error", "1")
        assert not (await post({"events": events(4, 6)}, key="k", door=door)).json["isDuplicate"]
        assert await counted() == 2


async def test_a_database_that_is_away_at_the_door_is_503(door):
    async with home():
        with mock.patch("lakehouse.parent.arrivals.judge", side_effect=OperationalError("away")):
            heard = await post({"events": events()}, door=door)
        assert (heard.status, heard.headers["retry-after"]) == (503, "1")
        assert "away" not in heard.json["error"]


async def test_a_house_that_is_closed_answers_503(door, monkeypatch):
    monkeypatch.setattr(cdc, "ANSWER_MS_MAX", 100)
    async with home() as (opened, _):
        await post({"events": events()}, door=door)
        await opened.close()
        heard = await post({"events": events()}, door=door)
        assert (heard.status, heard.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_another_method_is_405_in_json(method, door):
    async with home():
        heard = await ask(method, "/cdc", door=door)
        assert (heard.status, heard.headers["allow"]) == (405, "POST")
        assert heard.json == {"error": f"/cdc answers POST, not {method}"}


async def test_a_host_that_is_not_ours_is_not_served(door):
    async with home():
        heard = await post({"events": events()}, headers={"host": "evil.example"}, door=door)
        assert heard.status == 400
        assert await counted() == 0


# What docs/http-api.md says.


async def test_the_request_in_the_docs_is_answered_as_they_say():
    body, answer = re.search(r"/cdc -d '(.*?)'\n```\n\n```json\n(.*?)\n```", DOCS, re.S).groups()
    async with home():
        assert (await post(body.encode(), key="8e03978e-40d5")).json == json.loads(answer)


def test_every_reason_is_in_the_docs_with_its_status():
    rows = {reason: int(status) for status, reason in re.findall(r"^\| (\d+) \| (\w+) \|", DOCS, re.M)}
    known = {reason.value: status for reason, status in answers.STATUSES.items()}
    assert rows == known
