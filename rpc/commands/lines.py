"""The lines of a file or a pipe as they come, none longer than a message could carry."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from rpc.outbox_rows import ENTRY_BYTES_MAX

BLOCK_BYTES = 256 * 1024
LINE_BYTES_MAX = ENTRY_BYTES_MAX
BOM = b"\xef\xbb\xbf"


class Stream(Protocol):
    """An unbuffered file or pipe: `read` returns what is there, and nothing at the end."""

    def read(self, size: int, /) -> bytes | None: ...


class BadLineError(Exception):
    """A line that is no row. The message begins with its number; `hint` is what to type if mending is not enough."""

    def __init__(self, number: int, complaint: str, *, hint: str = "") -> None:
        super().__init__(f"line {number} {complaint}")
        self.number = number
        self.hint = hint


class Lines(Iterator[bytes]):
    """`number` is that of the line given last, `done_bytes` how much was read for it.

    `is_waiting` tells that the next line is not here yet: what was read so far need not wait for it. Lines before
    `first` may be of any length.
    """

    def __init__(self, stream: Stream, *, first: int = 1) -> None:
        self.number = 0
        self._first = first
        self.done_bytes = 0
        self._stream = stream
        self._ready: deque[bytes] = deque()
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._is_at_end = False

    @property
    def is_waiting(self) -> bool:
        return not self._ready

    def __next__(self) -> bytes:
        while not self._ready:
            if self._is_at_end:
                raise StopIteration
            self._read_on()
        self.number += 1
        line = self._ready.popleft()
        return line.removeprefix(BOM) if self.number == 1 else line

    def _read_on(self) -> None:
        block = self._stream.read(BLOCK_BYTES) or b""
        self.done_bytes += len(block)
        self._is_at_end = not block
        *whole, rest = block.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._rest, whole[0]])
            self._rest, self._rest_bytes = [], 0
            self._ready.extend(line + b"\n" for line in whole)
        self._rest.append(rest)
        self._rest_bytes += len(rest)
        if self._rest_bytes > LINE_BYTES_MAX:
            self._refuse(self.number + 1)
        if self._is_at_end and self._rest_bytes:
            self._ready.append(b"".join(self._rest))

    def _refuse(self, number: int) -> None:
        """Of a line that is too long but passed over, only its number counts."""
        if number >= self._first:
            raise BadLineError(
                number, f"has more than {LINE_BYTES_MAX} bytes, which fit no message",
                hint=f"shorten it, or pass it over with --from-line {number + 1}",
            )  # fmt: skip
        self._rest, self._rest_bytes = [], 0
