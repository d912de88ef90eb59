"""EventEmitter: nothing appended is lost, nothing is deleted that was not sent, and a bad event blocks nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import socket
import sqlite3
import threading

import pytest

from rpc import CDCCollection, EventBufferFullError, EventEmitter, EventOutbox, SqliteCollection, traced
from rpc.http import Answer

NOW_MS = 1_700_000_000_000
ENDPOINT = "https://lake.example/ingest"


class Ingest:
    """The other side: takes batches, or answers what it is told to."""

    def __init__(self):
        self.answers = []
        self.batches = {}
        self.headers = []
        self.tries = 0

    def post(self, url, body, headers, timeout_s):
        self.tries += 1
        self.headers.append(headers)
        answer = self.answers.pop(0) if self.answers else 200
        if callable(answer):
            answer = answer(json.loads(body))
        if isinstance(answer, OSError):
            raise answer
        found = answer if isinstance(answer, Answer) else Answer(answer)
        if found.is_success:
            said = json.loads(body)
            self.batches.setdefault(said["batchId"], said["events"])
        return found

    @property
    def events(self):
        return [event for batch in self.batches.values() for event in batch]

    @property
    def names(self):
        return [event["type"] for event in self.events]


class Unspeakable:
    def __str__(self):
        raise TypeError("no words")


class Clock:
    now = NOW_MS

    def __call__(self):
        return self.now


@pytest.fixture
def ingest():
    return Ingest()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def emitter(tmp_path, ingest, clock):
    with made(tmp_path, ingest, clock) as found:
        yield found


def made(tmp_path, ingest, clock, **options):
    options = {"storage": tmp_path / "events.db", "api_key": "ns_acme_k", "cdc": True, "background": False} | options
    return EventEmitter("shop-1", endpoint=ENDPOINT, now_ms=clock, chance=lambda: 0.5, post=ingest.post, **options)


def refused(*indices, status=400):
    return Answer(
        status, {}, json.dumps({"code": "INVALID_EVENT", "error": "bad", "details": {"indices": indices}}).encode()
    )


def test_an_event_has_an_id_a_time_and_its_source_and_goes_with_the_key(emitter, ingest):
    event_id = emitter.emit("custom.paid", data={"total": 4.5})
    assert (emitter.pending_count, emitter.flush(), emitter.pending_count) == (1, 1, 0)
    (event,) = ingest.events
    assert event == {
        "id": event_id,
        "ts": "2023-11-14T22:13:20.000Z",
        "do": {"id": "shop-1"},
        "type": "custom.paid",
        "data": {"total": 4.5},
    }
    assert ingest.headers[0]["Authorization"] == "Bearer ns_acme_k"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_a_success(emitter, ingest, status):
    ingest.answers = [status]
    emitter.emit("a")
    assert emitter.flush() == 1


def test_batches_have_at_most_batch_size_events_in_their_order(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock, batch_size=3)
    emitter.persist_batch([{"type": f"e{number}"} for number in range(8)])
    assert emitter.flush() == 8
    assert [len(batch) for batch in ingest.batches.values()] == [3, 3, 2]
    assert ingest.names == [f"e{number}" for number in range(8)]


def test_what_was_not_sent_is_there_after_a_restart_under_the_same_name(tmp_path, ingest, clock):
    sent = []
    ingest.answers = [lambda body: sent.append(body) or OSError("lost")] * 2
    emitter = made(tmp_path, ingest, clock)
    emitter.emit("a")
    emitter.flush()
    emitter.close(flush=False)
    clock.now += 2000
    again = made(tmp_path, ingest, clock)
    again.handle_alarm()
    assert sent[0] == sent[1]
    again.emit("b")
    assert again.flush() == 2
    assert (next(iter(ingest.batches)), ingest.names) == (sent[0]["batchId"], ["a", "b"])


def test_the_next_try_waits_twice_as_long_up_to_a_minute(emitter, ingest, clock):
    emitter.emit("a")
    waits = []
    for _ in range(9):
        ingest.answers = [503]
        emitter.flush()
        waits.append(emitter.get_retry_queue_stats().next_alarm_ms - clock.now)
    assert waits == [1500, 2500, 4500, 8500, 16_500, 32_500, 60_500, 60_500, 60_500]
    assert emitter.handle_alarm() == 0
    assert ingest.tries == 9
    clock.now += 60_500
    assert emitter.handle_alarm() == 1


def test_who_says_when_to_come_back_is_left_alone_until_then(emitter, ingest, clock):
    ingest.answers = [Answer(429, {"retry-after": "30"})]
    emitter.emit("a")
    emitter.flush()
    assert emitter.get_retry_queue_stats().next_alarm_ms == clock.now + 30_500


def test_enough_failures_in_a_row_open_the_circuit_until_its_time_or_a_hand_closes_it(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock, max_consecutive_failures=2, circuit_breaker_reset_ms=5000)
    emitter.emit("a")
    ingest.answers = [500, OSError("away")]
    emitter.flush()
    emitter.flush()
    assert emitter.get_circuit_breaker_info() == {
        "state": "open",
        "consecutiveFailures": 2,
        "maxConsecutiveFailures": 2,
        "openUntilMs": clock.now + 5000,
    }
    assert (emitter.flush(), ingest.tries) == (0, 2)
    emitter.reset_circuit_breaker()
    assert emitter.get_circuit_breaker_info()["state"] == "closed"
    assert emitter.flush() == 1
    ingest.answers = [500, 500]
    emitter.emit("b")
    emitter.flush()
    emitter.flush()
    clock.now += 5000
    assert emitter.get_circuit_breaker_info()["state"] == "half_open"
    assert emitter.flush() == 1
    assert emitter.get_circuit_breaker_info()["state"] == "closed"


def test_a_flush_deletes_only_what_it_sent(emitter, ingest):
    def meanwhile(_):
        emitter.emit("late")
        return 200

    ingest.answers = [meanwhile, 500]
    emitter.emit("early")
    assert emitter.flush() == 1
    assert (ingest.names, emitter.pending_count) == (["early"], 1)


def test_threads_that_emit_and_flush_at_once_lose_and_double_nothing(emitter, ingest):
    def work(name):
        for number in range(40):
            emitter.emit(f"{name}.{number}")
            if number % 10 == 0:
                emitter.flush()

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    emitter.flush()
    assert sorted(ingest.names) == sorted(f"t{n}.{number}" for n in range(4) for number in range(40))


def test_when_full_the_newest_are_kept_and_it_is_said_how_many_were_dropped(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock, max_retry_queue_size=3)
    emitter.persist_batch([{"type": f"e{number}"} for number in range(3)])
    ingest.answers = [503]
    emitter.flush()
    with pytest.raises(EventBufferFullError, match="2 of the oldest events were dropped") as raised:
        emitter.persist_batch([{"type": "e3"}, {"type": "e4"}])
    assert raised.value.dropped == 2
    assert emitter.get_retry_queue_stats().dropped == 2
    assert emitter.flush() == 3
    assert ingest.names == ["e2", "e3", "e4"]


def test_a_refused_event_is_set_aside_with_its_reason_and_blocks_nobody(emitter, ingest):
    emitter.persist_batch([{"type": name} for name in ("a", "b", "c", "d")])
    ingest.answers = [refused(1, 3)]
    assert emitter.flush() == 2
    assert ingest.names == ["a", "c"]
    assert [(json.loads(one.body)["type"], one.reason) for one in emitter.set_aside()] == [
        ("b", "INVALID_EVENT: bad"),
        ("d", "INVALID_EVENT: bad"),
    ]
    assert emitter.get_retry_queue_stats().set_aside == 2


def test_a_batch_that_is_refused_without_saying_why_is_halved_until_the_bad_one_is_alone(emitter, ingest):
    def picky(body):
        return Answer(413) if any(event["type"] == "bad" for event in body["events"]) else 200

    emitter.persist_batch([{"type": name} for name in ("a", "b", "bad", "c", "d")])
    ingest.answers = [picky] * 20
    assert emitter.flush() == 4
    assert sorted(ingest.names) == ["a", "b", "c", "d"]
    assert [one.reason for one in emitter.set_aside()] == ["HTTP 413"]


@pytest.mark.parametrize("bound", [{"max_set_aside": 2}, {"max_set_aside_bytes": 300}])
def test_refused_events_fill_no_disk_and_it_is_said_which_are_kept_no_longer(tmp_path, ingest, clock, bound, caplog):
    heard = []
    emitter = made(tmp_path, ingest, clock, on_set_aside_dropped=heard.extend, **bound)
    ids = [emitter.emit(f"e{number}") for number in range(3)]
    ingest.answers = [refused(0), refused(0), refused(0)]
    emitter.flush()
    assert [json.loads(one.body)["type"] for one in emitter.set_aside()] == ["e1", "e2"]
    assert [json.loads(one.body)["type"] for one in heard] == ["e0"]
    assert "1 events that were set aside before are kept no longer" in caplog.text
    assert f"{ids[0]} (INVALID_EVENT: bad)" in caplog.text
    assert (emitter.get_retry_queue_stats().set_aside, emitter.get_retry_queue_stats().set_aside_dropped) == (2, 1)
    emitter._on_set_aside_dropped = lambda gone: gone[4711]
    large = emitter.emit("large", data="x" * 1000)
    emitter.emit("good")
    ingest.answers = [refused(0)]
    assert emitter.flush() == 1
    assert "on_set_aside_dropped failed" in caplog.text
    assert json.loads(emitter.set_aside()[-1].body)["id"] == large


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"[" * 200_000, "HTTP 400"),
        (b'{"code":"C","error":"half a pair \\ud83d"}', "C: half a pair ?"),
        (b'{"code":"C","error":"' + b"x" * 900_000 + b'"}', f"C: {'x' * 497}"),
    ],
)
def test_whatever_a_server_says_of_a_refused_event_it_blocks_nobody_and_fills_no_disk(emitter, ingest, said, reason):
    emitter.emit("bad")
    emitter.emit("good")
    ingest.answers = [refused(0), Answer(400, {}, said)]
    emitter.flush()
    assert [one.reason for one in emitter.set_aside()] == ["INVALID_EVENT: bad", reason]
    assert emitter.pending_count == 0


def test_a_server_that_names_the_same_event_a_hundred_thousand_times_has_one_set_aside(emitter, ingest):
    for name in ("bad", "good"):
        emitter.emit(name)
    ingest.answers = [refused(*[0] * 100_000, True)]
    assert emitter.flush() == 1
    assert [json.loads(one.body)["type"] for one in emitter.set_aside()] == ["bad"]


@pytest.mark.parametrize("status", [301, 401, 403, 404, 500])
def test_a_wrong_address_or_key_keeps_everything(emitter, ingest, status):
    ingest.answers = [status]
    emitter.emit("a")
    assert (emitter.flush(), emitter.pending_count, emitter.set_aside()) == (0, 1, [])


def test_a_fork_sends_what_it_emits_itself(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock)
    emitter.emit("parent")
    forked = multiprocessing.get_context("fork").Process(target=emitter.emit, args=("child",))
    forked.start()
    forked.join(20)
    assert forked.exitcode == 0
    assert emitter.flush() == 2
    assert sorted(ingest.names) == ["child", "parent"]


def test_the_thread_sends_what_is_full_and_what_is_old_enough(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock, background=True, flush_interval_ms=5)
    sent = threading.Event()
    ingest.answers = [lambda _: sent.set() or 200]
    emitter.emit("a")
    assert sent.wait(20)
    emitter.close()
    assert ingest.names == ["a"]


async def test_a_coroutine_emits_and_flushes(emitter, ingest):
    await asyncio.gather(*(asyncio.to_thread(emitter.emit, f"e{n}") for n in range(5)))
    emitter.emit("here")
    assert await emitter.flush_async() == 6


def test_a_source_needs_an_id_and_an_endpoint_a_scheme(tmp_path):
    with pytest.raises(ValueError, match="wanted an id"):
        EventEmitter({"name": "x"}, endpoint=ENDPOINT, storage=tmp_path / "a.db")
    with pytest.raises(ValueError, match="https://"):
        EventEmitter("x", endpoint="lake.example", storage=tmp_path / "a.db")


def test_a_fork_made_while_the_thread_sends_sends_and_closes(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock)
    emitter.emit("parent")

    def work():
        assert emitter.flush() == 1
        emitter.close()

    with emitter._sending, emitter._wake:
        forked = multiprocessing.get_context("fork").Process(target=work)
        forked.start()
        forked.join(20)
        forked.kill()
    assert forked.exitcode == 0


@pytest.mark.parametrize(
    "said",
    [
        *(b"what?\r\n\r\n", b""),
        *(b"HTTP/1.1 %s\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab" % status for status in (b"200 OK", b"500 No")),
    ],
)
def test_an_answer_that_is_no_http_is_no_answer_and_keeps_the_events(tmp_path, clock, said):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        options = {"storage": tmp_path / "events.db", "background": False, "now_ms": clock}
        emitter = EventEmitter("shop-1", endpoint=f"http://127.0.0.1:{server.getsockname()[1]}/ingest", **options)
        emitter.emit("a")
        assert emitter.flush() == 0
        assert (emitter.pending_count, emitter.get_retry_queue_stats().consecutive_failures) == (1, 1)
        emitter.close(flush=False)
        thread.join()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: "])
def test_who_dribbles_an_answer_has_the_time_of_one_answer_for_all_of_it(tmp_path, clock, head):
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(head)
                for _ in range(100):
                    connection.sendall(b"x")
                    done.wait(0.1)

        thread = threading.Thread(target=answer)
        thread.start()
        options = {"storage": tmp_path / "events.db", "background": False, "now_ms": clock, "fetch_timeout_ms": 300}
        emitter = EventEmitter("shop-1", endpoint=f"http://127.0.0.1:{server.getsockname()[1]}/ingest", **options)
        emitter.emit("a")
        assert emitter.flush() == 0
        assert thread.is_alive(), "it was waited for, until all of it was there"
        done.set()
        emitter.close(flush=False)
        thread.join()


@pytest.mark.parametrize(
    ("said", "wait_ms"),
    [
        ("30", 30_000),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30_000),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0),
        ("999999999999", 3_600_000),
        *(("soon", 0), ("-1", 0), ("", 0), ("\u0663", 0)),
    ],
)
def test_a_time_to_come_back_is_seconds_or_a_moment_and_an_hour_at_most(said, wait_ms):
    assert Answer(503, {"retry-after": said}).retry_after_ms(now_ms=NOW_MS) == wait_ms


def test_nobody_waits_for_a_clock_that_was_a_year_ahead(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock, max_consecutive_failures=1)
    clock.now += 365 * 86_400_000
    ingest.answers = [503]
    emitter.emit("a")
    assert (emitter.flush(), emitter.is_circuit_open) == (0, True)
    clock.now = NOW_MS
    assert (emitter.is_circuit_open, emitter.handle_alarm()) == (False, 1)


def test_an_event_that_brings_its_own_id_is_known_by_it(emitter, ingest):
    assert emitter.emit("a", id="mine") == "mine"
    emitter.flush()
    assert ingest.events[0]["id"] == "mine"


def test_a_number_of_any_length_and_half_an_emoji_are_told_as_far_as_json_has_them(emitter, ingest):
    emitter.emit(
        "a", data={"n": 2**80, "text": "x\ud83d", "whole": "\ud83d\ude00", "at": (-(2**70), 1.5, True), "\udc00": 1}
    )
    emitter.flush()
    wanted = {"n": 2**80, "text": "x\ufffd", "whole": "\U0001f600", "at": [-(2**70), 1.5, True], "\ufffd": 1}
    assert ingest.events[0]["data"] == wanted


def test_what_no_json_is_raises_and_leaves_nothing(emitter):
    endless = {}
    endless["itself"] = endless
    for data in (endless, {(1, 2): "a pair is no key"}):
        with pytest.raises(TypeError):
            emitter.emit("a", data=data)
    assert emitter.pending_count == 0


class FullDisk:
    """Of an outbox, at the moment of a commit; SQLite undoes the transaction by itself, or leaves that to us."""

    def __init__(self, connection, *, undoes):
        self._connection, self._undoes = connection, undoes

    def execute(self, sql, *values):
        if sql != "COMMIT":
            return self._connection.execute(sql, *values)
        if self._undoes:
            self._connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    def __getattr__(self, name):
        return getattr(self._connection, name)


# Collections.


@pytest.fixture(params=["dict", "sqlite"])
def users(request, emitter):
    emitter.config = type(emitter.config)(endpoint=ENDPOINT, cdc=True, track_previous=True)
    return CDCCollection({} if request.param == "dict" else SqliteCollection(emitter.outbox, "users"), emitter, "users")


def changes(emitter, ingest):
    emitter.flush()
    names = ("collection", "docId", "doc", "prev")
    return [(e["type"].removeprefix("collection."), *(e.get(n) for n in names[1:])) for e in ingest.events]


def test_every_change_is_an_event_with_what_was_there_before(users, emitter, ingest):
    users.put("1", {"name": "Ada"})
    users.put("1", {"name": "Bea"})
    users.put_many({"2": {}, "3": {"name": "Cy"}})
    assert users.delete("1")
    assert not users.delete("1")
    assert users.delete_many(["2", "nobody"]) == 1
    assert users.clear() == 1
    assert changes(emitter, ingest) == [
        ("insert", "1", {"name": "Ada"}, None),
        ("update", "1", {"name": "Bea"}, {"name": "Ada"}),
        ("insert", "2", {}, None),
        ("insert", "3", {"name": "Cy"}, None),
        ("delete", "1", None, {"name": "Bea"}),
        ("delete", "2", None, {}),
        ("delete", "3", None, {"name": "Cy"}),
    ]
    bookmarks = [event["bookmark"] for event in ingest.events]
    assert bookmarks == [f"{number:020}" for number in range(1, 8)]


def test_a_document_that_was_read_and_changed_in_place_is_told_as_it_was_before(users, emitter, ingest):
    given = {"name": "Ada", "tags": ["a"]}
    users.put("1", given)
    given["name"] = "nobody was told"
    for doc in (users.get("1"), *users.list(), *users.find()):
        doc["tags"].append("b")
    doc = users.get("1")
    doc["tags"].append("c")
    users.put("1", doc)
    first, last = {"name": "Ada", "tags": ["a"]}, {"name": "Ada", "tags": ["a", "c"]}
    assert changes(emitter, ingest) == [("insert", "1", first, None), ("update", "1", last, first)]
    assert users.get("x", given) is given


def test_reads_emit_nothing(users, emitter):
    users.put_many({"1": {"name": "Ada", "age": 36}, "2": {"name": "Bea", "age": 7}})
    waiting = emitter.pending_count
    assert (users.get("1"), users.get("x"), users.has("2"), users.has("x")) == (
        {"name": "Ada", "age": 36},
        None,
        True,
        False,
    )
    assert users.find({"name": "Bea"}) == [{"name": "Bea", "age": 7}]
    assert users.find(lambda doc: doc["age"] > 30) == [{"name": "Ada", "age": 36}]
    assert (users.count(), users.count({"age": 7}), users.keys()) == (2, 1, ["1", "2"])
    assert users.list(limit=1, offset=1) == [{"name": "Bea", "age": 7}]
    assert emitter.pending_count == waiting


def test_a_change_that_fails_leaves_neither_a_document_nor_an_event_nor_a_gap(users, emitter, ingest):
    users.put("1", {"name": "Ada"})
    with pytest.raises(TypeError):
        users.put_many({"1": {"name": "Bea"}, "2": {"name": Unspeakable()}})
    assert (users.keys(), users.get("1")) == (["1"], {"name": "Ada"})
    users.put("2", {})
    assert [event[:2] for event in changes(emitter, ingest)] == [("insert", "1"), ("insert", "2")]
    assert [event["bookmark"][-1] for event in ingest.events] == ["1", "2"]


def test_a_collection_that_fails_at_one_document_puts_the_others_back_and_says_which_it_could_not(emitter, caplog):
    class Moody(dict):
        def __setitem__(self, doc_id, doc):
            if doc == "bad" or (doc_id == "1" and self.get("1") == "new"):
                raise RuntimeError(f"no {doc_id}")
            super().__setitem__(doc_id, doc)

    users = CDCCollection(Moody({"1": "old", "2": "old"}), emitter, "users")
    with pytest.raises(RuntimeError, match="no 4"):
        users.put_many({"1": "new", "2": "new", "3": "new", "4": "bad"})
    assert (users.get("1"), users.get("2"), users.has("3"), users.has("4")) == ("new", "old", False, False)
    assert "document '1' could not be put back" in caplog.text
    assert emitter.pending_count == 0


@pytest.mark.parametrize("undoes", [True, False])
def test_a_commit_that_fails_leaves_no_change_without_its_event_and_the_next_one_goes_on(
    users, emitter, ingest, undoes
):
    users.put("1", {"name": "Ada"})
    outbox = emitter.outbox
    connection, outbox._connection = outbox._connection, FullDisk(outbox._connection, undoes=undoes)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        users.put_many({"1": {"name": "Bea"}, "2": {}})
    with pytest.raises(sqlite3.OperationalError, match="full"):
        users.delete("1")
    outbox._connection = connection
    assert (users.keys(), users.get("1")) == (["1"], {"name": "Ada"})
    users.put("2", {})
    assert [event[:2] for event in changes(emitter, ingest)] == [("insert", "1"), ("insert", "2")]


def test_a_change_that_had_older_events_dropped_is_made_nevertheless(tmp_path, ingest, clock):
    with made(tmp_path, ingest, clock, max_retry_queue_size=1) as emitter:
        users = CDCCollection({}, emitter, "users")
        users.put("1", {})
        with pytest.raises(EventBufferFullError):
            users.put("2", {})
        assert (users.keys(), emitter.flush(), ingest.events[0]["docId"]) == (["1", "2"], 1, "2")


def test_without_tracking_or_cdc_nothing_more_is_told(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock)
    users = CDCCollection({}, emitter, "users")
    users.put("1", {"name": "Ada"})
    users.put("1", {"name": "Bea"})
    assert [event[3] for event in changes(emitter, ingest)] == [None, None]
    silent = made(tmp_path, ingest, clock, cdc=False)
    CDCCollection({}, silent, "users").put("1", {})
    assert silent.pending_count == 0


def test_bookmarks_rise_over_restarts_and_threads(tmp_path, clock):
    with_outbox = EventOutbox(tmp_path / "e.db", now_ms=clock)
    first = [with_outbox.next_bookmark() for _ in range(3)]
    with_outbox.close()
    again = EventOutbox(tmp_path / "e.db", now_ms=clock)
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(again.next_bookmark() for _ in range(20))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(first + found) == [f"{number:020}" for number in range(1, 64)]


# Calls.


def test_a_call_is_told_with_its_duration_whether_it_ends_well_or_not(emitter, ingest):
    times = iter([1.0, 1.25, 2.0, 2.5])

    @traced(emitter, "orders.pay", namespace="shop", clock_s=lambda: next(times))
    def pay(total):
        if total < 0:
            raise ValueError("below 0")
        return total

    assert pay(3) == 3
    with pytest.raises(ValueError, match="below 0"):
        pay(-1)
    emitter.flush()
    found = [
        {name: event.get(name) for name in ("method", "namespace", "durationMs", "success", "error")}
        for event in ingest.events
    ]
    assert found == [
        {"method": "orders.pay", "namespace": "shop", "durationMs": 250.0, "success": True, "error": None},
        {
            "method": "orders.pay",
            "namespace": "shop",
            "durationMs": 500.0,
            "success": False,
            "error": "ValueError: below 0",
        },
    ]


async def test_a_coroutine_and_a_block_are_traced_too(emitter, ingest):
    @traced(emitter)
    async def pay():
        await asyncio.sleep(0)
        return 7

    assert await pay() == 7
    with traced(emitter, "block"):
        pass
    with pytest.raises(ValueError, match="name it"), traced(emitter):
        pass
    emitter.flush()
    assert [event["method"].rpartition(".")[2] for event in ingest.events] == ["pay", "block"]


def test_a_call_goes_on_when_its_event_cannot_be_kept(tmp_path, ingest, clock):
    emitter = made(tmp_path, ingest, clock, max_retry_queue_size=1)
    call = traced(emitter, "x")(lambda: 7)
    assert [call(), call()] == [7, 7]


def test_an_error_without_words_stays_the_error_it_was(emitter, ingest):
    class Wordless(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    with pytest.raises(Wordless), traced(emitter, "x"):
        raise Wordless
    emitter.flush()
    assert ingest.events[0]["error"] == "Wordless"
