"""Light connections: what of daphne's own still works on them."""

from types import SimpleNamespace

import pytest
from daphne.ws_protocol import WebSocketFactory
from twisted.internet.testing import StringTransport

from lakehouse.parent import ballast

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Client-ID: shop-1\r\n\r\n"
)


class Server(SimpleNamespace):
    """As much of daphne as a connection asks for."""

    root_path, proxy_forwarded_address_header, websocket_timeout = "", None, -1

    def protocol_connected(self, protocol):
        pass

    def protocol_disconnected(self, protocol):
        self.gone.append(protocol)

    def log_action(self, _kind, action, details):
        self.log.append((action, details["path"]))

    def create_application(self, protocol, scope):
        return SimpleNamespace(put_nowait=self.received.append, look=lambda: self.looks.append(protocol))


@pytest.fixture
def server():
    return Server(gone=[], log=[], received=[], looks=[])


@pytest.fixture
def factory(server):
    made = WebSocketFactory(server, server="daphne")
    made.setProtocolOptions(maxFramePayloadSize=1000, openHandshakeTimeout=0)
    return made


def opened(factory):
    protocol = factory.buildProtocol(None)
    protocol._raw_query_string = b""
    protocol.makeConnection(StringTransport())
    protocol.dataReceived(HANDSHAKE)
    protocol.serverAccept()
    protocol.transport.clear()
    return protocol


def masked(start, content):
    return bytes([start, 0x80 | len(content)]) + bytes(4) + content


def test_a_connection_keeps_what_is_its_own_and_no_word_of_its_handshake(factory):
    protocol = opened(factory)
    before = vars(protocol).copy()
    ballast.throw_off(protocol)
    assert len(before) > 90
    assert len(vars(protocol)) < 25
    assert "shop-1" not in repr(vars(protocol))
    lost = [
        name
        for name, value in before.items()
        if name not in ballast.SPENT and name not in ballast.SHARED and getattr(protocol, name) is not value
    ]
    assert lost == ["request"]


def test_two_connections_of_a_factory_share_a_class_and_nothing_that_changes(factory):
    one, other = opened(factory), opened(factory)
    for protocol in (one, other):
        ballast.throw_off(protocol)
    assert type(one) is type(other)
    one.dataReceived(masked(0x01, b"half a "))
    assert (one.inside_message, other.inside_message) == (True, False)
    other.dataReceived(masked(0x81, b"whole"))
    one.dataReceived(masked(0x80, b"message"))
    assert [message["text"] for message in factory.server_class.received[2:]] == ["whole", "half a message"]


def test_another_factory_has_options_of_its_own(factory, server):
    generous = WebSocketFactory(server)
    generous.setProtocolOptions(maxFramePayloadSize=2000, openHandshakeTimeout=0)
    small, large = opened(factory), opened(generous)
    for protocol in (small, large):
        ballast.throw_off(protocol)
    assert (small.maxFramePayloadSize, large.maxFramePayloadSize) == (1000, 2000)


def test_a_light_connection_answers_pings_and_says_goodbye(factory, server):
    protocol = opened(factory)
    ballast.throw_off(protocol)
    protocol.dataReceived(masked(0x89, b"hi"))
    assert protocol.transport.value() == b"\x8a\x02hi"
    protocol.transport.clear()
    protocol.transport.registerProducer(server, True)
    protocol.dataReceived(masked(0x88, b"\x03\xe8"))
    assert protocol.transport.value() == b"\x88\x02\x03\xe8"
    protocol.connectionLost(SimpleNamespace(value=None))
    assert server.received[-1] == {"type": "websocket.disconnect", "code": 1000}
    assert server.log[-1] == ("disconnected", "/ws")


def test_daphnes_look_at_every_connection_is_left_to_the_shortcut(factory, server):
    protocol = opened(factory)
    ballast.throw_off(protocol)
    protocol.check_timeouts()
    assert server.looks == [protocol]
    server.websocket_timeout = 0
    protocol.check_timeouts()
    assert protocol.closedByMe


def test_mending_twice_is_harmless(factory):
    ballast.mend()
    ballast.mend()
    assert opened(factory).state == 3
