import asyncio

import pytest

from rpc.one_loop import OneLoop


async def entered(loop):
    return loop.enter()


def test_one_loop_after_the_other_is_fine_and_the_second_is_told_that_the_first_has_ended():
    loop = OneLoop("shop-1")
    assert [asyncio.run(entered(loop)) for _ in range(3)] == [False, True, True]


def test_two_loops_at_once_are_refused():
    loop = OneLoop("shop-1")

    async def first():
        loop.enter()
        with pytest.raises(RuntimeError, match="child 'shop-1' is at work in another event loop; make one in each"):
            await asyncio.to_thread(lambda: asyncio.run(entered(loop)))
        return loop.enter()

    assert asyncio.run(first()) is False
