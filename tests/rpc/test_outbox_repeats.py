from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc.capture.sqlite import SqliteCapture
from rpc.deduplication import DedupConfig
from rpc.entries import RawEntry
from rpc.errors import BufferOverflowError, ProtocolError
from rpc.outbox import Outbox, OutboxFull
from tests.rpc.test_outbox import NOW_MS, cut, entries, entry, row_ids

WINDOW_MS = 300_000


class Clock:
    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(path: Path, clock: Clock) -> Iterator[Outbox]:
    with Outbox(path, now_ms=clock) as opened:
        yield opened


def test_the_same_entries_sent_twice_are_there_once(outbox: Outbox) -> None:
    assert outbox.append(entries(5), lsns=range(100, 105)) == 5
    assert outbox.append(entries(5), lsns=range(100, 105)) == 0
    assert outbox.append(entries(7), lsns=range(100, 107)) == 2
    assert row_ids(cut(outbox)) == list(range(7))


def test_a_repeat_is_found_where_it_waits(outbox: Outbox) -> None:
    for number in range(3):
        outbox.append([entry(number)], lsns=[number])
        cut(outbox)
    outbox.append([entry(3)], lsns=[3])
    assert outbox.whereabouts([entry(0), entry(2)], [0, 2]).batches == [1, 3]
    assert outbox.whereabouts([entry(1)], [1]).batches == [2]
    assert outbox.whereabouts([entry(3), entry(9)], [3, 9]) == ([], [])
    outbox.ack(3)
    assert outbox.whereabouts([entry(0), entry(2)], [0, 2]) == ([1], [])


def test_a_repeat_of_what_was_refused_is_found_among_the_dead_letters(outbox: Outbox) -> None:
    for number in range(2):
        outbox.append([entry(number)], lsns=[number])
        outbox.reject(cut(outbox).sequence, f"reason {number}")
    found = outbox.whereabouts([entry(1)], [1])
    assert [(letter.sequence, letter.reason) for letter in found.letters] == [(2, "reason 1")]


def test_a_dead_letter_that_was_revived_is_found_in_its_new_batch_and_not_stored_twice(outbox: Outbox) -> None:
    outbox.append(entries(3), lsns=range(3))
    outbox.reject(cut(outbox).sequence, "no")
    outbox.revive(1)
    assert outbox.append(entries(3), lsns=range(3)) == 0
    again = cut(outbox).sequence
    assert outbox.whereabouts(entries(3), range(3)) == ([again], [])


def test_what_was_in_a_dead_letter_that_was_dropped_may_come_again(outbox: Outbox) -> None:
    outbox.append(entries(3), lsns=range(3))
    outbox.reject(cut(outbox).sequence, "no")
    outbox.append([entry(9)], lsns=[9])
    outbox.drop_dead_letter(1)
    assert outbox.append([*entries(3), entry(9)], lsns=[0, 1, 2, 9]) == 3


def test_nothing_is_anywhere_in_a_file_that_never_saw_an_lsn(outbox: Outbox) -> None:
    outbox.append(entries(1))
    assert outbox.whereabouts(entries(1), [1]) == ([], [])


def test_a_repeat_within_one_call_is_stored_once(outbox: Outbox) -> None:
    assert outbox.append([entry(1), entry(1), entry(2), entry(1)], lsns=[7, 7, 8, 7]) == 2
    assert row_ids(cut(outbox)) == [1, 2]


def test_a_restart_does_not_forget_what_was_appended(path: Path, clock: Clock) -> None:
    with Outbox(path, now_ms=clock) as outbox:
        outbox.append(entries(2), lsns=[1, 2])
        outbox.ack(cut(outbox).sequence)
    with Outbox(path, now_ms=clock) as outbox:
        assert outbox.append(entries(3), lsns=[1, 2, 3]) == 1


def test_another_process_knows_them_too(outbox: Outbox, path: Path, clock: Clock) -> None:
    outbox.append(entries(1), lsns=[1])
    with Outbox(path, now_ms=clock) as other:
        assert other.append(entries(1), lsns=[1]) == 0


def test_an_entry_exactly_as_old_as_the_window_is_a_repeat_and_a_ms_later_it_is_none(
    outbox: Outbox, clock: Clock
) -> None:
    outbox.append([entry(1)], lsns=[1])
    clock.now_ms += WINDOW_MS
    assert outbox.append([entry(1)], lsns=[1]) == 0
    clock.now_ms += 1
    assert outbox.append([entry(1)], lsns=[1]) == 1


def test_a_repeat_does_not_make_the_entry_younger(outbox: Outbox, clock: Clock) -> None:
    outbox.append([entry(1)], lsns=[1])
    clock.now_ms += WINDOW_MS - 1
    assert outbox.append([entry(1)], lsns=[1]) == 0
    clock.now_ms += 2
    assert outbox.append([entry(1)], lsns=[1]) == 1
    assert outbox.append([entry(1)], lsns=[1]) == 0


def test_a_clock_that_was_set_back_forgets_nothing(outbox: Outbox, clock: Clock) -> None:
    outbox.append([entry(1)], lsns=[1])
    clock.now_ms -= 10 * WINDOW_MS
    outbox.append([entry(2)], lsns=[2])
    assert outbox.append(entries(2, start=1), lsns=[1, 2]) == 0
    clock.now_ms += WINDOW_MS + 1
    assert outbox.append(entries(2, start=1), lsns=[1, 2]) == 1


def test_the_moment_of_an_entry_and_its_metadata_make_it_no_other(outbox: Outbox) -> None:
    outbox.append([entry(1)], lsns=[1])
    later = entry(1)._replace(sequence=9, timestamp_ms=NOW_MS + 5, metadata=b'{"try":2}')
    assert outbox.append([later], lsns=[1]) == 0


@pytest.mark.parametrize(
    ("other", "lsn"),
    [
        (entry(1), 2),
        (entry(1)._replace(operation=1), 1),
        (entry(1)._replace(table=b"flight", row_id=b"s1"), 1),
        (entry(1)._replace(row_id=b"2"), 1),
        (entry(1)._replace(before=b'{"a":1}', after=b""), 1),
        (entry(1)._replace(before=b'{"a"', after=b":1}"), 1),
        (entry(1)._replace(after=b'{"a":2}'), 1),
        (entry(1)._replace(after=b""), 1),
    ],
)
def test_an_entry_of_other_content_or_lsn_is_another(outbox: Outbox, other: RawEntry, lsn: int) -> None:
    outbox.append([entry(1)], lsns=[1])
    assert outbox.append([other], lsns=[lsn]) == 1


def test_entries_without_lsn_are_never_compared(outbox: Outbox) -> None:
    for _ in range(2):
        assert outbox.append(entries(2)) == 2
        assert outbox.append(entries(2), lsns=[None, None]) == 2
    assert outbox.append(entries(3), lsns=[None, 1, None]) == 3
    assert outbox.append(entries(3), lsns=[None, 1, None]) == 2


def test_of_too_many_the_oldest_are_forgotten_first(outbox: Outbox) -> None:
    dedup = DedupConfig(max_entries_per_source=3)
    for number in range(5):
        outbox.append([entry(number)], lsns=[number], dedup=dedup)
    known = [outbox.append([entry(number)], lsns=[number], dedup=dedup) == 0 for number in (4, 3, 2)]
    assert known == [True] * 3
    assert outbox.append([entry(1)], lsns=[1], dedup=dedup) == 1
    assert outbox.append([entry(2)], lsns=[2], dedup=dedup) == 1
    count = outbox._file.connection.execute("SELECT count(*) FROM _evodb_digest").fetchone()[0]
    assert count == 3


def test_what_is_too_old_is_forgotten_from_the_file(outbox: Outbox, clock: Clock) -> None:
    outbox.append(entries(50), lsns=range(50))
    clock.now_ms += WINDOW_MS + 1
    outbox.append(entries(1), lsns=[99])
    assert outbox._file.connection.execute("SELECT count(*) FROM _evodb_digest").fetchone()[0] == 1


def test_who_wants_nothing_compared_gets_everything(outbox: Outbox) -> None:
    for _ in range(2):
        assert outbox.append(entries(2), lsns=[1, 2], dedup=None) == 2
    outbox.ack(cut(outbox).sequence)
    assert outbox.last_ack_lsn == 2


def test_a_call_that_did_not_fit_is_no_repeat_when_it_is_tried_again(path: Path) -> None:
    with Outbox(path, bytes_max=1000) as outbox:
        outbox.append(entries(15), lsns=range(15))
        with pytest.raises(BufferOverflowError):
            outbox.append(entries(10, start=15), lsns=range(15, 25))
        outbox.ack(cut(outbox).sequence)
        assert outbox.append(entries(10, start=15), lsns=range(15, 25)) == 10


def test_repeats_need_no_room(path: Path) -> None:
    with Outbox(path, bytes_max=1000) as outbox:
        outbox.append(entries(20), lsns=range(20))
        assert outbox.append(entries(20), lsns=range(20)) == 0
        with pytest.raises(BufferOverflowError):
            outbox.append(entries(5))


def test_an_entry_that_gave_way_may_come_again(path: Path) -> None:
    with Outbox(path, bytes_max=1000, when_full=OutboxFull.DROP_OLDEST) as outbox:
        outbox.append(entries(20), lsns=range(20))
        outbox.append(entries(5, start=20), lsns=range(20, 25))
        dropped = outbox.dropped_entries
        assert outbox.append(entries(20), lsns=range(20)) == dropped
        assert outbox.append([entry(24)], lsns=[24]) == 0


@pytest.mark.parametrize(
    ("lsns", "found"),
    [
        ([1], "1 lsns were given for 2 entries"),
        ([1, 2, 3], "3 lsns were given for 2 entries"),
        ([1, -1], "lsn is -1"),
        ([1, 2**63], "lsn is 9223372036854775808, wanted a whole number of 0 to 2"),
        ([1, True], "lsn is True"),
        ([1, "0/16B3748"], "lsn is '0/16B3748'"),
    ],
)
def test_what_is_no_lsn_is_refused_with_its_whole_call(outbox: Outbox, lsns: list[int | None], found: str) -> None:
    with pytest.raises(ProtocolError, match=found):
        outbox.append(entries(2), lsns=lsns)
    assert outbox.uncut_entries() == 0


# The highest lsn acknowledged


def test_the_highest_acknowledged_lsn_is_told_whatever_the_order_of_acks(path: Path) -> None:
    with Outbox(path) as outbox:
        assert outbox.last_ack_lsn == 0
        outbox.append(entries(4), lsns=[10, 40, 20, 30])
        outbox.append(entries(2, start=4), lsns=[2**63 - 1, None])
        batches = [cut(outbox, entries_max=1) for _ in range(6)]
        told = []
        for batch in (batches[2], batches[0], batches[5], batches[1], batches[3]):
            outbox.ack(batch.sequence)
            told.append(outbox.last_ack_lsn)
        assert told == [20, 20, 20, 40, 40]
    with Outbox(path) as outbox:
        assert outbox.last_ack_lsn == 40
        outbox.ack_through(99)
        assert outbox.last_ack_lsn == 2**63 - 1


def test_a_batch_of_several_calls_and_half_of_one_tells_the_highest_of_its_own(outbox: Outbox) -> None:
    outbox.append(entries(3), lsns=[1, 9, 3])
    outbox.append([entry(3)])
    outbox.append(entries(4, start=4), lsns=[4, 5, 60, 70])
    first, second = cut(outbox, entries_max=6), cut(outbox)
    outbox.ack(first.sequence)
    assert outbox.last_ack_lsn == 9
    outbox.ack(second.sequence)
    assert outbox.last_ack_lsn == 70


def test_a_rejected_batch_counts_as_not_acknowledged(outbox: Outbox) -> None:
    outbox.append(entries(2), lsns=[1, 2])
    outbox.ack(cut(outbox, entries_max=1).sequence)
    outbox.reject(cut(outbox).sequence, "no")
    outbox.append(entries(1, start=2))
    outbox.ack(cut(outbox).sequence)
    assert outbox.last_ack_lsn == 1


def test_lsns_are_kept_no_longer_than_their_entries(outbox: Outbox) -> None:
    for number in range(10):
        outbox.append(entries(3, start=3 * number), lsns=range(3 * number, 3 * number + 3))
    outbox.ack(cut(outbox, entries_max=10).sequence)
    count = "SELECT count(*) FROM _evodb_mark"
    assert outbox._file.connection.execute(count).fetchone()[0] == 7
    outbox.ack(cut(outbox).sequence)
    assert outbox._file.connection.execute(count).fetchone()[0] == 0


def test_a_file_that_never_saw_an_lsn_has_no_tables_for_them_and_acks_ask_for_none(outbox: Outbox) -> None:
    outbox.append(entries(2))
    batch = cut(outbox)
    said: list[str] = []
    outbox._file.connection.set_trace_callback(said.append)
    outbox.ack(batch.sequence)
    assert not any("_evodb_mark" in sql or "_evodb_digest" in sql for sql in said)
    found = outbox._file.connection.execute("SELECT count(*) FROM sqlite_schema WHERE name GLOB '*digest*'").fetchone()
    assert found == (0,)


def test_an_outbox_with_lsns_is_still_known_as_an_outbox(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(1), lsns=[1])
    with Outbox(path) as outbox:
        assert row_ids(cut(outbox)) == [0]


def test_what_is_appended_to_a_captured_database_is_compared_as_well(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    app = sqlite3.connect(path)
    app.execute("CREATE TABLE flights (id INTEGER PRIMARY KEY)")
    with SqliteCapture(path) as capture:
        capture.attach()
        assert capture.append([entry(1)], lsns=[5]) == 1
        assert capture.append([entry(1)], lsns=[5]) == 0
        with app:
            app.execute("INSERT INTO flights VALUES (7)")
        assert capture.uncut_entries() == 2
        capture.ack(cut(capture).sequence)
        assert capture.last_ack_lsn == 5
    app.close()
