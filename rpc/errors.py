"""Every error of the child's half, as one tree.

The docstring of a class is its message when none is given; the class knows its code and whether trying again helps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "AccessDeniedError",
    "BufferOverflowError",
    "CaptureError",
    "ConnectionError",
    "FlushError",
    "LakehouseRpcError",
    "OutboxClosedError",
    "OutboxCorruptError",
    "ProtocolError",
]


class LakehouseRpcError(Exception):
    """Something between this child and its parent went wrong."""

    code: ClassVar[str] = "RPC_ERROR"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").partition("\n\n")[0].strip())
        self.details: dict[str, Any] = dict(details or {})

    @property
    def message(self) -> str:
        return str(self.args[0])


class ConnectionError(LakehouseRpcError):  # noqa: A001 - the name the TypeScript package promised
    """The parent cannot be reached."""

    code = "CONNECTION_ERROR"
    retryable = True


class AccessDeniedError(ConnectionError):
    """The parent refused the handshake: the token is missing, wrong, revoked, or not meant for this child."""

    code = "ACCESS_DENIED"
    retryable = False


class BufferOverflowError(LakehouseRpcError):
    """The outbox is full or its disk is; nothing of this call was kept, everything before it was."""

    code = "BUFFER_OVERFLOW"
    retryable = True


class OutboxClosedError(LakehouseRpcError):
    """The outbox was closed, by this call's own client or by who opened it."""

    code = "OUTBOX_CLOSED"


class OutboxCorruptError(LakehouseRpcError):
    """The outbox file is not a readable EvoDB outbox."""

    code = "OUTBOX_CORRUPT"


class FlushError(LakehouseRpcError):
    """The parent could not flush its buffer into the table."""

    code = "FLUSH_ERROR"
    retryable = True

    def __init__(
        self, message: str = "", *, used_fallback: bool = False, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, details=details)
        self.used_fallback = used_fallback


class ProtocolError(LakehouseRpcError):
    """These bytes are not an EvoDB message.

    `sequence_number` and `correlation_id` are what could still be read of the message, so that the nack reaches
    whoever waits for it.
    """

    code = "PROTOCOL_ERROR"

    def __init__(
        self,
        message: str = "",
        *,
        sequence_number: int = 0,
        correlation_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.sequence_number = sequence_number
        self.correlation_id = correlation_id


class CaptureError(LakehouseRpcError):
    """This database or table cannot be captured."""

    code = "CAPTURE_ERROR"


def as_ours(exc: Exception) -> LakehouseRpcError:
    """What ended a client, as an error that whoever waits for a batch expects."""
    if isinstance(exc, LakehouseRpcError):
        return exc
    ours = LakehouseRpcError(f"the client stopped: {type(exc).__name__}: {exc}")
    ours.__cause__ = exc
    return ours
