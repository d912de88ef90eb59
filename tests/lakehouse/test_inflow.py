# ruff: noqa: N802 - Twisted names its methods so
import asyncio

import pytest

from lakehouse.parent.inflow import Inflow


class Transport:
    """A socket of Twisted's, as far as flow control goes."""

    producer = "the HTTP channel"
    is_reading = True

    def unregisterProducer(self):
        self.producer = None

    def registerProducer(self, producer, streaming):
        assert streaming
        assert self.producer is None
        self.producer = producer

    def pauseProducing(self):
        self.is_reading = False

    def resumeProducing(self):
        self.is_reading = True


class Protocol:
    def __init__(self):
        self.transport = Transport()


class Send:
    def __init__(self, *args):
        self.args = args


@pytest.fixture
def transport():
    return Transport()


@pytest.fixture
def inflow(transport):
    protocol = Protocol()
    protocol.transport = transport
    return Inflow(Send(protocol))


def test_a_child_that_does_not_read_is_not_read_from_until_it_does(inflow, transport):
    assert inflow.hold_back_slow_readers()
    transport.producer.pauseProducing()
    assert not transport.is_reading
    transport.producer.resumeProducing()
    assert transport.is_reading


async def test_another_servers_send_is_left_alone():
    async def send(_):
        pass

    for other in (send, Send()):
        inflow = Inflow(other)
        assert not inflow.hold_back_slow_readers()
        assert await inflow.closed_until(asyncio.sleep(0, "done")) == "done"


async def test_nothing_is_read_while_an_earlier_frame_waits(inflow, transport):
    done = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(inflow.closed_until(done))
    await asyncio.sleep(0)
    assert not transport.is_reading
    done.set_result("done")
    assert await waiting == "done"
    assert transport.is_reading


async def test_a_wait_that_fails_opens_again(inflow, transport):
    async def fails():
        raise ValueError("the database said no")

    with pytest.raises(ValueError, match="said no"):
        await inflow.closed_until(fails())
    assert transport.is_reading


async def test_it_is_read_again_when_neither_the_wait_nor_the_reader_is_in_the_way(inflow, transport):
    inflow.hold_back_slow_readers()
    done = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(inflow.closed_until(done))
    await asyncio.sleep(0)
    inflow.pauseProducing()
    inflow.resumeProducing()
    assert not transport.is_reading
    inflow.pauseProducing()
    done.set_result(None)
    await waiting
    assert not transport.is_reading
    inflow.resumeProducing()
    assert transport.is_reading
