"""A site that lets the first handshake in and sends the rest away; run by a real server in test_limits_handshake."""

from __future__ import annotations

from typing import Any

from lakehouse.limits import handshake
from lakehouse.limits.allowance import Headroom
from lakehouse.limits.gate import Reason, Refusal
from lakehouse.limits.refusal import EXTENSION, rate_limit_headers, response

handshake.mend()
LEFT = Headroom(100, 7, 1_700_000_001)
REFUSAL = Refusal(Reason.IP_LIMIT, Headroom(100, 0, 1_700_000_001), client_ip="203.0.113.xxx")


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert EXTENSION in scope["extensions"]
    await receive()
    if scope["path"] == "/no":
        for message in response(REFUSAL).messages():
            await send(message)
    elif scope["path"] == "/forbidden":
        await send({"type": "websocket.close"})
    else:
        await send({"type": "websocket.accept", "headers": rate_limit_headers(LEFT)})
        await send({"type": "websocket.send", "text": "hello"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
