"""Why there is no connection (any more): what the network and websockets raise, in words that say what to do. Pure."""

from __future__ import annotations

from ssl import SSLCertVerificationError

from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI
from websockets.http11 import Response

from rpc.address import Address, shown
from rpc.config import ChildConfig
from rpc.errors import AccessDeniedError, ConnectionError, LakehouseRpcError, ProtocolError

POLICY_VIOLATION, TOO_BIG = 1008, 1009


def reason(exc: Exception, address: Address, config: ChildConfig) -> LakehouseRpcError:
    url = address.shown
    if isinstance(exc, InvalidStatus):
        return _refused(exc.response, address)
    if isinstance(exc, InvalidURI):
        return AccessDeniedError(f"{url} is no address of a parent, wanted ws://host:port/ws or wss://...")
    if isinstance(exc, ConnectionClosed):
        return _closed(exc, address, config)
    if hasattr(exc, "proxy"):  # its text may have a password
        text = (
            "the proxy that HTTPS_PROXY or its kin names is no http://host:port; mend it, or name the host in NO_PROXY"
        )
        return ConnectionError(f"cannot reach {url}: {text}")
    if isinstance(exc, SSLCertVerificationError):
        return ConnectionError(f"cannot reach {url}: {exc}; SSL_CERT_FILE may name a file of certificates to trust")
    if isinstance(exc, TimeoutError) and not str(exc):
        waited = f"did not answer `connect` within {config.handshake_timeout_ms} ms"
        return ConnectionError(f"{url} takes connections and {waited}; is it a parent?")
    return ConnectionError(f"cannot reach {url}: {str(exc) or type(exc).__name__}")


def _closed(exc: ConnectionClosed, address: Address, config: ChildConfig) -> LakehouseRpcError:
    url, told = address.shown, exc.rcvd
    if told is not None and told.code == POLICY_VIOLATION:
        if told.reason:
            return AccessDeniedError(f"{url} ended the connection: {told.reason}")
        return AccessDeniedError(f"{url} does not let this key write as child {address.child_id!r}")
    if told is not None and told.code == TOO_BIG:
        return ProtocolError(
            f"{url} takes no frames of {config.max_batch_bytes} bytes; lower max_batch_bytes of the child "
            "or raise EVODB_FRAME_BYTES_MAX of the parent"
        )
    return ConnectionError(f"the connection to {url} closed: {exc}")


def _refused(response: Response, address: Address) -> LakehouseRpcError:
    """A handshake answered with HTTP."""
    url, child, status = address.shown, address.child_id, response.status_code
    if status in (401, 403):
        return AccessDeniedError(
            f"{url} refused the handshake with HTTP {status}: the access key is missing, wrong "
            f"or not meant for child {child!r}, or the path is not /ws; `evodb up` prints both"
        )
    if status == 400:
        return AccessDeniedError(
            f"{url} refused the handshake with HTTP 400: it cannot store the name of child {child!r}, of its shard "
            "or of the parent; give them names of 1 to 500 printable characters"
        )
    if status == 429:
        return ConnectionError(f"{url} takes no more connections at the moment (HTTP 429)")
    if 300 <= status < 400 and "Location" in response.headers:
        elsewhere = shown(response.headers.get_all("Location")[0])
        elsewhere = f"ws{elsewhere[4:]}" if elsewhere.startswith("http") else elsewhere
        return ConnectionError(f"{url} sends on to {elsewhere!r} (HTTP {status}), and no child follows; give that one")
    return ConnectionError(f"{url} refused the handshake with HTTP {status}; is it a parent, and its path /ws?")
