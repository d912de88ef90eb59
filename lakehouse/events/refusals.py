"""What a request about events hears when the answer is no: one shape, a code for each reason. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

INDICES_MAX = 10
"""So many events are named at most."""


class Code(StrEnum):
    INVALID_JSON = "INVALID_JSON"
    INVALID_BATCH = "INVALID_BATCH"
    INVALID_EVENT = "INVALID_EVENT"
    EVENT_TOO_LARGE = "EVENT_TOO_LARGE"
    SCHEMA_VALIDATION_ERROR = "SCHEMA_VALIDATION_ERROR"
    INVALID_NAMESPACE = "INVALID_NAMESPACE"
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_SCHEMA = "INVALID_SCHEMA"
    AUTH_REQUIRED = "AUTH_REQUIRED"
    INVALID_AUTH_FORMAT = "INVALID_AUTH_FORMAT"
    INVALID_API_KEY = "INVALID_API_KEY"
    INVALID_NAMESPACE_KEY = "INVALID_NAMESPACE_KEY"
    INVALID_SIGNATURE = "INVALID_SIGNATURE"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"

    @property
    def http_status(self) -> int:
        return STATUSES.get(self, 400)


STATUSES = {
    Code.AUTH_REQUIRED: 401,
    Code.INVALID_AUTH_FORMAT: 401,
    Code.INVALID_API_KEY: 401,
    Code.INVALID_NAMESPACE_KEY: 401,
    Code.INVALID_SIGNATURE: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.RATE_LIMIT_EXCEEDED: 429,
    Code.SERVICE_UNAVAILABLE: 503,
}


class EventsRefused(Exception):
    """Nothing of the request was stored. With `retry_after_s` the same may come again."""

    def __init__(
        self, code: Code, text: str, details: dict[str, Any] | None = None, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(text)
        self.code, self.text, self.details, self.retry_after_s = code, text, details, retry_after_s

    @property
    def document(self) -> dict[str, Any]:
        details = {} if self.details is None else {"details": self.details}
        return {"error": self.text, "code": self.code.value, **details}


def refuse(code: Code, text: str, **details: Any) -> EventsRefused:
    return EventsRefused(code, text, details or None)


def of_events(code: Code, complaints: dict[int, str], **details: Any) -> EventsRefused:
    """About some of the events of a batch, by their place in it."""
    indices = list(complaints)[:INDICES_MAX]
    text = "; ".join(f"events[{index}]{complaints[index]}" for index in indices)
    if len(complaints) > INDICES_MAX:
        text += f"; and {len(complaints) - INDICES_MAX} more"
    return EventsRefused(code, text, {"indices": indices, **details})
