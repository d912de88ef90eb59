"""ask a parent whether it is there, and how long an answer takes

    evodb ping --parent ws://127.0.0.1:8800/ws

Twice per round: the text `ping`, which the socket's process answers, and a heartbeat, which the parent does.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

from websockets.asyncio.client import ClientConnection

from rpc.address import Address
from rpc.commands import endings, parents, screen
from rpc.commands import options as given
from rpc.commands.parents import NoParentError
from rpc.commands.screen import Screen
from rpc.errors import ProtocolError
from rpc.messages import HeartbeatMessage, PongMessage
from rpc.protocol import decode_message, encode_message

ANSWER_S = 10


def command(argv: list[str]) -> int:
    return endings.ended(_parser(), run, argv)


def _parser() -> argparse.ArgumentParser:
    made = given.parser("ping", __doc__)
    given.with_parent(made)
    made.add_argument("--child", metavar="NAME", default="ping", help="who asks; a key may be for certain names only")
    made.add_argument("--count", metavar="N", type=int, default=4, help="rounds (4)")
    return made


def run(options: argparse.Namespace) -> int:
    if options.count < 1:
        raise endings.UsageError(f"--count is {options.count}, wanted at least 1; type --count 1")
    address = Address(given.parent_of(options), given.child_of(options.child), given.token_of(options))
    shown = screen.of(as_json=options.json)
    try:
        asyncio.run(_ping(address, shown, options.count))
    finally:
        shown.close()
    return endings.OK


async def _ping(address: Address, shown: Screen, count: int) -> None:
    rounds = []
    async with parents.opened(address, within_s=ANSWER_S) as socket:
        for number in range(1, count + 1):
            text_ms = await _timed(lambda: _text_ping(socket))
            heartbeat_ms = await _timed(lambda: _heartbeat(socket, address.child_id))
            rounds.append((text_ms, heartbeat_ms))
            shown.event(
                "pong", f"{number}: ping {text_ms:.2f} ms, heartbeat {heartbeat_ms:.2f} ms",
                number=number, ping_ms=round(text_ms, 3), heartbeat_ms=round(heartbeat_ms, 3),
            )  # fmt: skip
    text_ms, heartbeat_ms = (median(column) for column in zip(*rounds, strict=True))
    shown.event(
        "summary", f"{address.shown} answers; median ping {text_ms:.2f} ms, heartbeat {heartbeat_ms:.2f} ms",
        ping_ms=round(text_ms, 3), heartbeat_ms=round(heartbeat_ms, 3),
    )  # fmt: skip


async def _timed(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    began = time.perf_counter()
    async with asyncio.timeout(ANSWER_S):
        await work()
    return (time.perf_counter() - began) * 1000


async def _text_ping(socket: ClientConnection) -> None:
    await socket.send("ping")
    while await socket.recv() != "pong":
        pass


async def _heartbeat(socket: ClientConnection, child: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    await socket.send(encode_message(HeartbeatMessage(timestamp=now_ms, source_do_id=child), binary=False))
    while True:
        try:
            message = decode_message(await socket.recv())
        except ProtocolError as exc:
            raise NoParentError(f"the other side does not speak this protocol: {exc}") from None
        if isinstance(message, PongMessage):
            return
