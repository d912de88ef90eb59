"""A site that lets one handshake in and sends the rest away; over HTTP it says bodies back, and tells without end.
A real server runs it in test_limits_handshake.
"""

from __future__ import annotations

from typing import Any

from lakehouse.limits import handshake
from lakehouse.limits.allowance import Headroom
from lakehouse.limits.gate import Reason, Refusal
from lakehouse.limits.refusal import EXTENSION, rate_limit_headers, response

handshake.mend()
LEFT = Headroom(100, 7, 1_700_000_001)
REFUSAL = Refusal(Reason.IP_LIMIT, Headroom(100, 0, 1_700_000_001), client_ip="203.0.113.xxx")
FLOOD_CHUNK, FLOOD_CHUNKS = b"x" * 65_536, 1024
told = 0
"""How many chunks of the flood were sent."""


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await over_http(scope, receive, send)
        return
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


async def over_http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    global told
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/flood":
        for _ in range(FLOOD_CHUNKS):
            await send({"type": "http.response.body", "body": FLOOD_CHUNK, "more_body": True})
            told += 1
        await send({"type": "http.response.body"})
    elif scope["path"] == "/told":
        await send({"type": "http.response.body", "body": b"%d" % told})
    else:
        await send({"type": "http.response.body", "body": await body_of(receive)})


async def body_of(receive: Any) -> bytes:
    body, is_more = b"", True
    while is_more:
        message = await receive()
        body, is_more = body + message.get("body", b""), message.get("more_body", False)
    return body
