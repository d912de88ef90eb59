"""Many children that say little, in a process of their own. It takes orders on its stdin, one a line, and says `done`:

    dial N            open N more sockets, WAVE at a time; answers with the seconds it took
    hello             every one that has not yet says `connect`, as a child with an epoch does
    beat N            the first N say `heartbeat` one after the other, each when the one before was answered
    rest S            do nothing for so many seconds but answer pings

Pings of the server are answered all the time, or daphne hangs up.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable

from benchmarks import sockets
from rpc.messages import ConnectMessage, HeartbeatMessage
from rpc.protocol import encode_message

WAVE = 32
"""Handshakes at once; fewer than the backlog of any server."""
TRIES = 10


class Crowd:
    def __init__(self, port: int, *, path: str = "/ws") -> None:
        self._address, self._path = ("127.0.0.1", port), path
        self._poll = select.epoll()
        self._sockets: list[socket.socket] = []
        self._by_fd: dict[int, sockets.Frames] = {}
        self._greeted = 0
        self._answers = 0
        self._now_ms = time.time_ns() // 1_000_000

    def obey(self, order: str, argument: float) -> float:
        """Returns the seconds it took."""
        begun = time.perf_counter()
        if order == "hello":
            self.hello()
        elif order == "rest":
            self.rest(argument)
        else:
            {"dial": self.dial, "beat": self.beat}[order](int(argument))
        return time.perf_counter() - begun

    def dial(self, count: int) -> None:
        while count:
            wave = min(WAVE, count)
            count -= wave
            known = len(self._sockets)
            knocks = [(number, self._knock(number)) for number in range(known, known + wave)]
            for number, knock in knocks:
                connection = self._admitted(number, knock)
                connection.setblocking(False)
                self._sockets.append(connection)
                self._by_fd[connection.fileno()] = sockets.Frames()
                self._poll.register(connection, select.EPOLLIN)
            self._pump(lambda: True)

    def hello(self) -> None:
        while self._greeted < len(self._sockets):
            wave = range(self._greeted, min(self._greeted + WAVE, len(self._sockets)))
            before = self._answers
            for number in wave:
                message = ConnectMessage(timestamp=self._now_ms, source_do_id=name(number), epoch=self._now_ms)
                self._say(number, encode_message(message))
            self._greeted = wave.stop
            self._pump(lambda: self._answers >= before + len(wave))  # noqa: B023 - asked at once

    def beat(self, count: int) -> None:
        for number in (turn % len(self._sockets) for turn in range(count)):
            before = self._answers
            self._say(number, encode_message(HeartbeatMessage(timestamp=self._now_ms, source_do_id=name(number))))
            self._pump(lambda: self._answers > before)  # noqa: B023 - asked at once

    def rest(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self._turn(left)

    def _knock(self, number: int) -> socket.socket:
        connection = socket.create_connection(self._address)
        connection.sendall(sockets.handshake(self._path, {"X-Client-ID": name(number)}))
        return connection

    def _admitted(self, number: int, knock: socket.socket) -> socket.socket:
        """A stock server that has 15 000 sockets to ping cuts some handshakes; they are begun again."""
        for _ in range(TRIES):
            try:
                sockets.accepted(knock)
            except ConnectionError:
                knock.close()
                knock = self._knock(number)
            else:
                return knock
        raise ConnectionError(f"the server cut {TRIES} handshakes of {name(number)}")

    def _say(self, number: int, text: str | bytes) -> None:
        self._sockets[number].send(sockets.frame(text.encode() if isinstance(text, str) else text, sockets.TEXT))

    def _pump(self, is_done: Callable[[], bool]) -> None:
        self._turn(0)
        while not is_done():
            self._turn(10)

    def _turn(self, seconds: float) -> None:
        for fd, _ in self._poll.poll(seconds, 1000):
            frames = self._by_fd[fd]
            connection = socket.socket(fileno=fd)
            try:
                for kind, content in frames.take(connection.recv(65536)):
                    if kind == sockets.PING:
                        connection.send(sockets.frame(content, sockets.PONG))
                    elif kind == sockets.CLOSE:
                        raise ConnectionError(f"the server closed a socket: {content!r}")
                    else:
                        self._answers += 1
            finally:
                connection.detach()


def name(number: int) -> str:
    return f"shop-{number}"


def main(port: int) -> None:
    crowd = Crowd(port)
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        print("done", crowd.obey(order, float(argument or 0)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
