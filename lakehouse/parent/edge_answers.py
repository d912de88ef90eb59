"""What a child hears through a proxy: answers that fit, and no offer that a sleeping parent cannot keep. Pure."""

from __future__ import annotations

from typing import Any

import orjson

ANSWER_BYTES_MAX = 16_384
"""A longer one is stuck in Pushpin 1.36 unless its `client_buffer_size` is raised, and the socket with it."""
STATUS, FLUSHED = '{"type":"status"', '{"type":"flush_response"'


def through_proxy(answer: str | bytes) -> str | bytes:
    """The answer as it can be given: nobody is awake to tell of tables later, and paths end where the room does."""
    if isinstance(answer, bytes) or not answer.startswith((STATUS, FLUSHED)):
        return answer
    said: dict[str, Any] = orjson.loads(answer)
    if said["type"] == "status":
        said.pop("persistedAcks", None)
    else:
        _shorten(said)
    return orjson.dumps(said).decode()


def _shorten(said: dict[str, Any]) -> None:
    """Leave the first paths, so many as fit."""
    paths: list[str] = said["result"].get("paths", [])
    while paths and len(orjson.dumps(said)) > ANSWER_BYTES_MAX:
        del paths[len(paths) // 2 :]
