"""A load of children in a process of its own: frames made beforehand, a window of unanswered batches per connection.

It speaks bytes, 4 us of CPU a batch, where a WebSocket library takes 60 and would be what is measured. Prints one JSON
line: batches, entries, seconds from the first frame to the last ack, how many were refused and sent again.

    python -m benchmarks.load ws://127.0.0.1:PORT/ws NAME CONNECTIONS BATCHES ENTRIES WINDOW [echo]

With `echo` any answer counts, of a server that stores nothing.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from urllib.parse import urlsplit

from benchmarks import sockets
from rpc import batch, columns
from rpc.batch import Encoding
from rpc.entries import RawEntry
from rpc.messages import ConnectMessage
from rpc.protocol import encode_message

NOW_MS = time.time_ns() // 1_000_000


def document(number: int, chance: random.Random) -> bytes:
    """180 bytes of an order, as an app would write it."""
    return json.dumps(
        {
            "id": number,
            "customer": f"c-{chance.randrange(10_000)}",
            "status": chance.choice(["new", "paid", "sent", "closed"]),
            "items": chance.randrange(1, 20),
            "total": round(chance.random() * 500, 2),
            "paid": chance.random() < 0.5,
            "created_at": f"2026-11-{chance.randrange(1, 29):02}T10:{chance.randrange(60):02}:00Z",
            "note": "x" * chance.randrange(40),
        }
    ).encode()


def frames(name: str, *, batches: int, entries: int) -> list[bytes]:
    """The frames of one child. Documents repeat; sequences do not."""
    chance = random.Random(name)
    documents = [document(number, chance) for number in range(2000)]
    made = []
    for sequence in range(1, batches + 1):
        first = (sequence - 1) * entries
        content = [
            RawEntry(first + n, NOW_MS, 0, b"orders", b"%d" % (first + n), b"", documents[(first + n) % len(documents)])
            for n in range(entries)
        ]
        made.append(
            batch.encode(
                columns.encode(content),
                encoding=Encoding.COLUMNS,
                entry_count=entries,
                source=name,
                sequence=sequence,
                timestamp_ms=NOW_MS,
                strict_crc=True,
            )
        )
    return made


class Child:
    """One connection: sends its frames within the window, again when the parent has no room."""

    def __init__(self, url: str, name: str, made: list[bytes], window: int, *, is_echo: bool) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname or "", address.port or 80))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(sockets.handshake(address.path, {"X-Client-ID": name}))
        sockets.accepted(self.socket)
        self._made, self._window, self._is_echo = [sockets.frame(frame) for frame in made], window, is_echo
        self._incoming, self._outgoing = sockets.Frames(), b""
        self._sent = self.acked = self.refused = 0
        if not is_echo:
            self._say_hello(name)
        self.socket.setblocking(False)

    @property
    def is_done(self) -> bool:
        return self.acked == len(self._made)

    def read(self) -> None:
        for kind, content in self._incoming.take(self.socket.recv(2**18)):
            if kind == sockets.CLOSE:
                raise ConnectionError(f"the server closed a socket: {content!r}")
            if kind == sockets.PING:
                self._outgoing += sockets.frame(content, sockets.PONG)
            elif self._is_echo or content.startswith(b'{"type":"ack"'):
                self.acked += 1
            else:
                self._again(json.loads(content))

    def write(self) -> bool:
        """Send what the window allows; whether the socket took all of it."""
        if not self._outgoing:
            first = self._sent
            self._sent = min(len(self._made), self.acked + self._window)
            self._outgoing = b"".join(self._made[first : self._sent])
        if self._outgoing:
            try:
                taken = self.socket.send(self._outgoing)
            except BlockingIOError:
                taken = 0
            self._outgoing = self._outgoing[taken:]
        return not self._outgoing

    def _say_hello(self, name: str) -> None:
        hello = encode_message(ConnectMessage(timestamp=NOW_MS, source_do_id=name, epoch=NOW_MS))
        self.socket.sendall(sockets.frame(hello.encode() if isinstance(hello, str) else hello, sockets.TEXT))
        while not self._incoming.take(self.socket.recv(2**16)):
            pass

    def _again(self, nack: dict[str, int]) -> None:
        assert nack.get("shouldRetry"), nack
        self.refused += 1
        time.sleep(nack["retryDelayMs"] / 1000)
        self._outgoing += self._made[nack["sequenceNumber"] - 1]


def run(children: list[Child]) -> None:
    """Until everything is acked."""
    poll, by_fd = select.epoll(), {child.socket.fileno(): child for child in children}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN | select.EPOLLOUT)
    left = len(children)
    while left:
        for fd, event in poll.poll():
            child = by_fd[fd]
            if event & ~select.EPOLLOUT:
                child.read()
                left -= child.is_done
            is_written = child.write()
            poll.modify(fd, select.EPOLLIN if is_written else select.EPOLLIN | select.EPOLLOUT)


def main(url: str, name: str, *numbers: int, is_echo: bool) -> None:
    connections, batches, entries, window = numbers
    share = batches // connections
    names = [f"{name}-{number}" for number in range(connections)]
    made = {each: frames(each, batches=share, entries=entries) for each in names}
    children = [Child(url, each, made[each], window, is_echo=is_echo) for each in names]
    begun = time.perf_counter()
    run(children)
    seconds = time.perf_counter() - begun
    sent = share * connections
    result = {
        "batches": sent,
        "entries": sent * entries,
        "seconds": seconds,
        "begun_ms": time.time() * 1000 - seconds * 1000,
        "refused": sum(child.refused for child in children),
        "bytes": sum(len(frame) for frames_of in made.values() for frame in frames_of),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:7]), is_echo="echo" in sys.argv[7:])
