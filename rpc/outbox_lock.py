"""The lock of the one process that drains an outbox: a file beside it, locked as long as that process lives."""

from __future__ import annotations

import fcntl
import os

from rpc.errors import CaptureError, LakehouseRpcError


class OutboxBusyError(CaptureError):
    """The database is in use by somebody else; the same call may work a little later."""

    code = "OUTBOX_BUSY"
    retryable = True


class DrainLock:
    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self) -> None:
        """Raises OutboxBusyError when somebody else has it; taking it twice is fine."""
        if self._fd is not None:
            return
        path = f"{self._path}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise LakehouseRpcError(f"{path} cannot be opened: {exc.strerror}; make its folder writable") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise OutboxBusyError(
                f"{self._path} is being drained by somebody else (lock file {path}); stop that one first, "
                "or give this child an outbox of its own"
            ) from None
        self._fd = descriptor

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
