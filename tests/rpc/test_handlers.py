import asyncio
import logging

from rpc.handlers import Announcer, Handlers


def failing(*_):
    raise RuntimeError("no")


async def test_a_handler_is_told_the_facts():
    told = []
    Announcer(Handlers(on_dead_letter=lambda *facts: told.append(facts)), None).tell("on_dead_letter", 7, "why")
    assert told == [(7, "why")]


async def test_a_handler_nobody_gave_is_not_missed():
    Announcer(Handlers(), None).tell("on_pause")


async def test_what_a_handler_raises_is_reported_with_its_name():
    reported = []
    announcer = Announcer(Handlers(on_pause=failing), lambda *facts: reported.append(facts))
    announcer.tell("on_pause")
    assert [(str(error), name) for error, name in reported] == [("no", "on_pause")]


async def test_without_anybody_to_report_to_it_is_logged(caplog):
    with caplog.at_level(logging.ERROR):
        Announcer(Handlers(on_pause=failing), None).tell("on_pause")
    assert "the handler on_pause failed" in caplog.text


async def test_a_handler_that_asks_for_something_cancelled_cancels_nothing_of_ours():
    heard = []

    def asks():
        raise asyncio.CancelledError

    Announcer(Handlers(on_pause=asks), lambda error, name: heard.append((str(error), name))).tell("on_pause")
    assert heard == [("the handler on_pause raised CancelledError()", "on_pause")]


async def test_a_report_that_fails_itself_ends_nothing(caplog):
    Announcer(Handlers(on_pause=failing), failing).tell("on_pause")
    assert "on_handler_error failed while it was told of on_pause" in caplog.text


async def test_a_coroutine_function_runs_and_its_error_is_reported_too():
    reported, told = asyncio.Event(), []

    async def slow(level):
        told.append(level)
        raise RuntimeError("later")

    announcer = Announcer(Handlers(on_high_water=slow), lambda *_: reported.set())
    announcer.tell("on_high_water", 0.9)
    await reported.wait()
    assert told == [0.9]


async def test_stop_cancels_handlers_that_still_run():
    begun, ended = asyncio.Event(), asyncio.Event()

    async def for_ever():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    announcer = Announcer(Handlers(on_resume=for_ever), None)
    announcer.tell("on_resume")
    await begun.wait()
    await announcer.stop()
    assert ended.is_set()
