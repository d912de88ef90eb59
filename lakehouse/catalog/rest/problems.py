"""What a client of the catalog hears when something is wrong: the specification's error model. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Problem(Exception):
    """A request that is answered with this error and nothing else."""

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers or {}

    @property
    def answer(self) -> Answer:
        return answer({"error": {"message": self.message, "type": self.kind, "code": self.status}}, self.status, self)


def answer(document: Any, status: int = 200, problem: Problem | None = None) -> Answer:
    """A document as JSON."""
    headers = {"content-type": JSON, **(problem.headers if problem else {})}
    return Answer(status, orjson.dumps(document), headers)


NOTHING = Answer(204)
"""Done, and there is nothing to say about it."""


def bad_request(message: str) -> Problem:
    return Problem(400, "BadRequestException", message)


def forbidden(message: str) -> Problem:
    return Problem(403, "ForbiddenException", message)


def unavailable(message: str, *, retry_after_s: int = 1) -> Problem:
    """Nothing was done; the same request may come again."""
    return Problem(503, "ServiceUnavailableException", message, {"retry-after": str(retry_after_s)})
