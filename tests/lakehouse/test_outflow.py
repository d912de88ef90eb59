# ruff: noqa: N802 - Twisted names its methods so
from lakehouse.parent.outflow import Outflow, hold_back_slow_readers


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


def test_a_child_that_does_not_read_is_not_read_from_until_it_does():
    protocol = Protocol()
    assert hold_back_slow_readers(Send(protocol))
    protocol.transport.producer.pauseProducing()
    assert not protocol.transport.is_reading
    protocol.transport.producer.resumeProducing()
    assert protocol.transport.is_reading


def test_another_servers_send_is_left_alone():
    async def send(_):
        pass

    assert not hold_back_slow_readers(send)
    assert not hold_back_slow_readers(Send())


async def test_frames_leave_in_their_order_and_are_counted_until_they_left():
    sent = []

    async def send(message):
        sent.append(message.get("text", message.get("bytes")))

    outflow = Outflow(send)
    for frame in ("a", b"b", "c"):
        outflow.put(frame)
    assert not outflow.is_overfull
    await outflow.drained()
    assert sent == ["a", b"b", "c"]
