"""What one connection may send and leave unread. How a real server behaves is in test_limits_handshake and
tests/acceptance/test_strangers.
"""

from __future__ import annotations

import asyncio

from twisted.internet.testing import StringTransport

from lakehouse.conf import Settings
from lakehouse.limits import channel
from lakehouse.limits.channel import Channel, Desk


def connected() -> tuple[Channel, StringTransport]:
    found, transport = Channel(Desk(Settings())), StringTransport()
    found.makeConnection(transport)
    return found, transport


async def test_an_answer_goes_on_when_its_reader_has_read():
    found, transport = connected()
    await found.read()
    found.pauseProducing()
    waiting = asyncio.create_task(found.read())
    await asyncio.sleep(0)
    assert not waiting.done()
    found.resumeProducing()
    await waiting
    assert not transport.disconnected


async def test_a_reader_that_reads_nothing_any_more_loses_its_connection(monkeypatch):
    monkeypatch.setattr(channel, "UNREAD_S", 0.001)
    found, transport = connected()
    found.pauseProducing()
    await found.read()
    assert transport.disconnected


async def test_nobody_waits_for_a_reader_who_is_gone():
    found, _ = connected()
    found.pauseProducing()
    waiting = asyncio.create_task(found.read())
    await asyncio.sleep(0)
    found.connectionLost(None)
    await waiting
