import ssl

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from rpc.address import Address
from rpc.config import ChildConfig
from rpc.errors import AccessDeniedError, ConnectionError
from rpc.unreached import reason

ADDRESS = Address("ws://host:1/ws", "shop-1", None)


def told(exc):
    return reason(exc, ADDRESS, ChildConfig(handshake_timeout_ms=7))


def redirected(status, where):
    return told(InvalidStatus(Response(status, "Moved", Headers({"Location": where} if where is not None else {}))))


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("https://host/ws", "'wss://host/ws'"),
        ("http://other:2/ws?token=secret", "'ws://other:2/ws'"),
        ("wss://ann:secret@host/ws", "'wss://host/ws'"),
        ("/elsewhere", "'/elsewhere'"),
    ],
)
def test_an_address_that_sends_on_names_the_one_to_give(where, text):
    error = redirected(301, where)
    assert type(error) is ConnectionError
    assert f"ws://host:1/ws sends on to {text} (HTTP 301), and no child follows; give that one" in str(error)
    assert "secret" not in str(error)


def test_a_redirect_to_nowhere_is_a_handshake_that_was_refused():
    assert "refused the handshake with HTTP 304; is it a parent" in str(redirected(304, None))


def test_a_certificate_nobody_trusts_says_where_to_name_one():
    error = told(ssl.SSLCertVerificationError(1, "self-signed certificate"))
    assert "self-signed certificate" in str(error)
    assert "SSL_CERT_FILE may name a file of certificates to trust" in str(error)


def test_who_takes_connections_and_says_nothing_is_told_from_who_is_not_there():
    assert "takes connections and did not answer `connect` within 7 ms" in str(told(TimeoutError()))
    assert str(told(TimeoutError("timed out"))) == "cannot reach ws://host:1/ws: timed out"


def test_a_proxy_that_is_none_is_said_without_its_password():
    class InvalidProxy(Exception):
        proxy = "ftp://ann:secret@proxy"

    error = told(InvalidProxy("ftp://ann:secret@proxy isn't a valid proxy"))
    assert not isinstance(error, AccessDeniedError)
    assert "HTTPS_PROXY or its kin" in str(error)
    assert "NO_PROXY" in str(error)
    assert "secret" not in str(error)
