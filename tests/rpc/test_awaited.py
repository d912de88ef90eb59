import asyncio

import pytest

from rpc.awaited import Awaited
from rpc.errors import ConnectionError
from rpc.messages import AckStatus, FlushResult, NackReason
from rpc.session import Persisted, Refusal, Resolved

LOST = ConnectionError("lost")


def ok(sequence):
    return Resolved(sequence, AckStatus.OK, None)


def flush_result(success=True):
    return FlushResult(success=success, batches_flushed=0, entries_flushed=0, paths=[], duration_ms=0)


@pytest.fixture
def awaited():
    return Awaited()


async def test_each_batch_gets_its_own_answer(awaited):
    first, second = awaited.batches([1, 2])
    refusal = Refusal(2, NackReason.INVALID_FORMAT, "no", final=True)
    awaited.answered(refusal)
    assert (first.done(), second.result()) == (False, refusal)
    awaited.answered(ok(1))
    assert first.result() == ok(1)


async def test_an_answer_that_is_faster_than_the_cut_is_kept_for_who_is_about_to_wait(awaited):
    with awaited.early_answers():
        awaited.answered(ok(7))
        [future] = awaited.batches([7])
        assert future.result() == ok(7)


async def test_an_early_answer_to_another_batch_answers_nobody(awaited):
    with awaited.early_answers():
        awaited.answered(ok(6))
        [future] = awaited.batches([7])
    assert not future.done()
    awaited.answered(ok(7))
    assert future.result() == ok(7)


async def test_an_answer_nobody_waited_for_is_not_remembered(awaited):
    with awaited.early_answers():
        awaited.answered(ok(6))
    awaited.answered(ok(7))
    assert [future.done() for future in awaited.batches([6, 7])] == [False, False]


async def test_a_welcome_answers_every_batch_up_to_its_sequence_as_what_it_is(awaited):
    futures = awaited.batches([3, 4, 5])
    awaited.answered_through(4, ok(0))
    assert [future.done() for future in futures] == [True, True, False]
    assert [future.result().sequence for future in futures[:2]] == [3, 4]


async def test_who_waits_for_progress_hears_the_next_thing_and_not_the_last_one(awaited):
    before = awaited.progress
    awaited.answered(ok(1))
    assert (before.is_set(), awaited.progress.is_set()) == (True, False)
    second = awaited.progress
    awaited.tick()
    assert (second.is_set(), awaited.progress.is_set()) == (True, False)


async def test_a_table_that_is_waited_for_is_watched_until_it_is_told_or_given_up(awaited):
    told, given_up, waiting = awaited.tables([1, 2, 3])
    assert awaited.watched() == {1, 2, 3}
    awaited.persisted(Persisted(1, "lake/t/1.json"))
    given_up.cancel()
    assert told.result().path == "lake/t/1.json"
    assert awaited.watched() == {3}
    assert not waiting.done()


async def test_a_flush_is_answered_by_its_own_response(awaited):
    first, second = awaited.flush("a"), awaited.flush("b")
    awaited.flushed("nobody's", flush_result())
    awaited.flushed("b", flush_result(success=False))
    assert (first.done(), second.result().success) == (False, False)


@pytest.mark.parametrize(
    ("fail", "ended"),
    [
        ("fail_batches", {"batch", "table"}),
        ("fail_tables", {"table"}),
        ("fail_flushes", {"flush"}),
    ],
)
async def test_what_ends_is_told_why_and_nothing_else_ends(awaited, fail, ended):
    futures = {"batch": awaited.batches([1])[0], "table": awaited.tables([2])[0], "flush": awaited.flush("a")}
    getattr(awaited, fail)(LOST)
    assert {name for name, future in futures.items() if future.done()} == ended
    assert {futures[name].exception() for name in ended} == {LOST}


async def test_an_answer_to_who_has_gone_away_ends_nothing(awaited):
    gone = [awaited.batches([1])[0], awaited.tables([1])[0], awaited.flush("a")]
    for future in gone:
        future.cancel()
    awaited.answered(ok(1))
    awaited.persisted(Persisted(1, None))
    awaited.flushed("a", flush_result())
    awaited.batches([2])[0].cancel()
    awaited.fail_batches(LOST)
    assert all(future.cancelled() for future in gone)


async def test_a_batch_number_that_comes_again_after_a_failure_is_a_new_wait(awaited):
    [failed] = awaited.batches([1])
    awaited.fail_batches(LOST)
    [again] = awaited.batches([1])
    awaited.answered(ok(1))
    assert await asyncio.gather(failed, again, return_exceptions=True) == [LOST, ok(1)]


async def test_a_batch_acknowledged_by_a_welcome_while_it_was_being_cut_is_answered():
    awaited = Awaited()
    with awaited.early_answers():
        awaited.answered_through(7, Resolved(0, AckStatus.OK, None))
        seven, eight = awaited.batches([7, 8])
    assert seven.result().sequence == 7
    assert not eight.done()


async def test_an_early_answer_of_an_epoch_that_ended_answers_nobody():
    awaited = Awaited()
    with awaited.early_answers():
        awaited.answered(Resolved(7, AckStatus.OK, None))
        awaited.fail_batches(ConnectionError("a new epoch"))
        [seven] = awaited.batches([7])
    assert not seven.done()
