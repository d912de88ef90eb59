"""Opening a socket to a parent."""

from __future__ import annotations

from websockets.asyncio.client import ClientConnection, connect

from rpc.address import Address
from rpc.batch import MESSAGE_BYTES_MAX
from rpc.config import ChildConfig
from rpc.errors import AccessDeniedError, ConnectionError

CLOSE_S = 1


class _Straight(connect):
    """Goes nowhere else, with whatever key it has, because somebody on the way says so."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def dial(address: Address, config: ChildConfig) -> ClientConnection:
    """Raises LakehouseRpcError for an address that is none, else what websockets and the network raise."""
    headers = address.headers()
    try:
        # No compression: it costs some 20 KiB a socket at the parent; no pings: the session has heartbeats of its own.
        return await _Straight(
            address.url,
            additional_headers=headers,
            compression=None,
            max_size=MESSAGE_BYTES_MAX,
            open_timeout=config.handshake_timeout_ms / 1000,
            close_timeout=CLOSE_S,
            ping_interval=None,
        )
    except ValueError as exc:  # of urllib for the port, of the idna codec for the host
        if isinstance(exc, OSError):
            raise
        text = f"{address.shown} is no address of a parent ({exc}), wanted ws://host:port/ws"
        raise AccessDeniedError(text) from None
    except ImportError as exc:
        text = f"cannot reach {address.shown}: {exc}; pip install 'python-socks[asyncio]', or name its host in NO_PROXY"
        raise ConnectionError(text) from None
