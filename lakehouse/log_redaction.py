"""No key in any log: every record of the process, whoever logs it, and the access log of daphne.

A filter would hang on loggers and handlers one by one, and those of uvicorn, daphne and websockets are made by others,
before or after us. So records are redacted where they are made. daphne writes its access log past `logging`; there the
line is redacted. Django calls `configure` first of all, by LOGGING_CONFIG.
"""

from __future__ import annotations

import logging
import logging.config
import re
from collections.abc import Mapping
from typing import Any

from daphne.access import AccessLogGenerator

HIDDEN = "***"
MARKS = ("token", "client_secret", "bearer", "basic", "evodb_", "ns_")
"""One of them is in every text that could hold a key; looking for them first, a record costs 4 µs more and not 30."""
CHARS_MAX = 300
"""Of what a stranger may make us write."""
SECRETS = (
    # `?token=...` and every other ...token=, also as `%3Ftoken%3D...` in a path, or as Python shows a keyword.
    re.compile(r"""((?:token|client_secret)(?:=|%3d)["']?)[^\s&;"'<>]+""", re.IGNORECASE),
    re.compile(r"""(\bbearer\s+)[^\s,;"']+""", re.IGNORECASE),
    re.compile(r"""(\bauthorization\W{1,8}basic\s+)[^\s,;"']+""", re.IGNORECASE),
    # A key anywhere else keeps its prefix, by which lists call it.
    re.compile(r"(evodb_[A-Za-z0-9_-]{4})[A-Za-z0-9_-]{16,}"),
    re.compile(r"(\bns_[A-Za-z0-9_-]{1,64}_)[A-Za-z0-9]{16,128}\b"),
)


SERVICE_UNAVAILABLE = 503


class Strangers(logging.Filter):
    """What anybody can cause is a warning of one line, and not an error with a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        record.msg, record.args = record.getMessage().splitlines()[0][:CHARS_MAX], ()
        record.exc_info = record.exc_text = None
        return True


class Foreseen(logging.Filter):
    """A 503 is an answer of ours, whose reason is logged once; each probe and each child that comes back hears it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "status_code", None) != SERVICE_UNAVAILABLE


def configure(config: dict[str, Any]) -> None:
    """Logging as the settings say it, without keys. Harmless when it is done twice."""
    logging.config.dictConfig(config)
    logging.setLogRecordFactory(_record)
    AccessLogGenerator.write_entry = _write_entry


def redacted(text: str) -> str:
    """The text without the keys in it."""
    small = text.lower()
    if not any(mark in small for mark in MARKS):
        return text
    for secret in SECRETS:
        text = secret.sub(rf"\1{HIDDEN}", text)
    return text


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make(*args, **kwargs)
    if record.args:
        record.args = _redacted_args(record.args)
    _redact_message(record)
    if record.exc_info:
        text = logging.Formatter().formatException(record.exc_info)
        hidden = redacted(text)
        if hidden != text:
            record.exc_text = hidden  # a formatter takes it as it is
    return record


def _redact_message(record: logging.LogRecord) -> None:
    """A key may stand in the text, or in an argument that is no text until it is shown."""
    try:
        message = record.getMessage()
    except Exception:
        record.msg = redacted(str(record.msg))  # the handler says that message and arguments do not fit, and shows both
        return
    hidden = redacted(message)
    if hidden != message:
        record.msg, record.args = hidden, ()


def _redacted_args(args: Any) -> Any:
    """Texts only, in their places: uvicorn's formatter counts on them."""
    if isinstance(args, Mapping):
        return {name: _redacted_text(value) for name, value in args.items()}
    return tuple(_redacted_text(value) for value in args)


def _redacted_text(value: Any) -> Any:
    return redacted(value) if isinstance(value, str) else value


def _write_entry(log: Any, host: Any, date: Any, request: str, *args: Any, **kwargs: Any) -> None:
    _write(log, host, date, redacted(request), *args, **kwargs)


_make, _write = logging.getLogRecordFactory(), AccessLogGenerator.write_entry
