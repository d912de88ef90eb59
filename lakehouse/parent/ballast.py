"""What daphne keeps of a handshake as long as its socket lives, thrown off: 6 KiB of a connection.

autobahn writes 99 attributes into every connection; 30 are the factory's options and 30 more are None, False or 0 until
something happens. Those stand on a class made for the factory from then on. The handshake itself (its bytes, and its
headers in three forms) is read by nobody once it was answered.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from autobahn.websocket import protocol as autobahn_protocol

SPENT = {
    "_raw_query_string",
    "_transport_details",
    "_wskey",
    "application_deferred",
    "clean_headers",
    "http_headers",
    "http_request_data",
    "http_request_host",
    "http_request_params",
    "http_request_path",
    "http_request_uri",
    "http_response_data",
    "http_status_line",
    "perMessageCompressionAccept",
    "protocol_to_accept",
    "root_path",
    "server_addr",
    "websocket_extensions",
    "websocket_extensions_in_use",
    "websocket_origin",
    "websocket_protocols",
}
"""Read during the handshake, and only then."""
SHARED = {"_results", "_valid_events", "is_open", "send_queue", "trafficStats"}
"""The same for every open connection: nobody listens for the first two, the third has come to pass, daphne never writes
in pieces, and the counts are shown to nobody."""
FRESH = (None, False, True, 0, b"")


def throw_off(protocol: Any) -> None:
    """Of a connection of daphne's that is open: keep what is its own."""
    light = _light_class(protocol)
    known = vars(light)
    own = {name: value for name, value in vars(protocol).items() if name not in SPENT and name not in SHARED}
    own = {name: value for name, value in own.items() if name not in known or known[name] is not value}
    own["request"] = _request(protocol.request.path)
    protocol.__class__, protocol.__dict__ = light, own


@lru_cache(maxsize=1000)
def _request(path: str) -> SimpleNamespace:
    """All that daphne's access log asks of a request."""
    return SimpleNamespace(path=path)


def _light_class(protocol: Any) -> type:
    """daphne's class with the attributes that connections of this factory have in common."""
    light = _light.get(protocol.factory)
    if light is None:
        common = {name: value for name, value in vars(protocol).items() if name in SHARED or _is_common(protocol, name)}
        spent = dict.fromkeys(SPENT)
        own = {"check_timeouts": _check_timeouts}
        light = _light[protocol.factory] = type("LightWebSocketProtocol", (type(protocol),), spent | common | own)
    return light


def _is_common(protocol: Any, name: str) -> bool:
    value = vars(protocol)[name]
    is_option = name in protocol.CONFIG_ATTRS and getattr(protocol.factory, name, None) is value
    return name != "state" and (is_option or any(value is fresh for fresh in FRESH))


def _check_timeouts(protocol: Any) -> None:
    """daphne asks every connection every other second."""
    if 0 <= protocol.server.websocket_timeout < protocol.duration():
        protocol.serverClose()
    protocol.application_queue.look()


_light: WeakKeyDictionary[Any, type] = WeakKeyDictionary()


def mend() -> None:
    """autobahn writes every connection's options in pretty lines for a debug log that nobody reads: 0.1 ms of CPU."""
    setattr(autobahn_protocol, "pformat", _as_it_is)  # noqa: B010 - a name of theirs, which they only imported


def _as_it_is(value: object) -> object:
    return value
