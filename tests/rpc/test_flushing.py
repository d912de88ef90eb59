import asyncio
import gc

import pytest
from websockets.exceptions import ConnectionClosedError

from rpc.awaited import Awaited
from rpc.errors import ConnectionError, FlushError
from rpc.flushing import flush
from rpc.messages import FlushResult


class Link:
    """A parent that is asked, and answers when the test says so."""

    def __init__(self, awaited, error=None):
        self._awaited, self._error = awaited, error
        self.asked = []

    async def request_flush(self, correlation_id):
        self.asked.append(correlation_id)
        if self._error is not None:
            raise self._error

    def answer(self, **result):
        self._awaited.flushed(self.asked[-1], FlushResult(**result))

    async def connected(self):
        return self


async def some_time():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_second_flush_is_asked_for_when_the_first_is_answered():
    awaited = Awaited()
    link = Link(awaited)
    both = [asyncio.create_task(flush(awaited, link.connected)) for _ in range(2)]
    await some_time()
    assert len(link.asked) == 1
    link.answer(success=True, entries_flushed=7)
    await some_time()
    assert len(link.asked) == 2
    link.answer(success=False, error="no room", used_fallback=True)
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert first.entries_flushed == 7
    assert (type(second), str(second), second.used_fallback) == (FlushError, "no room", True)


async def test_a_flush_that_finds_the_connection_closed_leaves_no_error_that_nobody_hears():
    unheard = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context["message"]))
    awaited = Awaited()
    with pytest.raises(ConnectionError, match="the connection closed"):
        await flush(awaited, Link(awaited, ConnectionClosedError(None, None)).connected)
    awaited.fail_flushes(ConnectionError("the connection was lost"))
    gc.collect()
    assert unheard == []


async def test_a_flush_that_is_given_up_leaves_nothing_behind_and_lets_the_next_one_ask():
    awaited = Awaited()
    link = Link(awaited)
    given_up = asyncio.create_task(flush(awaited, link.connected))
    await some_time()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    await some_time()
    assert awaited._flushes == {}
    again = asyncio.create_task(flush(awaited, link.connected))
    await some_time()
    link.answer(success=True)
    assert (await again).success
