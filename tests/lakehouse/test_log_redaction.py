"""No key in a log line: in its text, its arguments, its traceback, or the access log of daphne."""

from __future__ import annotations

import datetime as dt
import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from daphne.access import AccessLogGenerator
from django.conf import settings
from django.http import HttpResponse
from django.test import Client
from django.utils.log import log_response
from uvicorn.logging import AccessFormatter

from lakehouse import log_redaction
from lakehouse.log_redaction import redacted
from lakehouse.parent import access

KEY = "evodb_ab12" + "Zx-_9" * 7 + "qqqq"


@pytest.fixture
def written() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger as somebody else makes it, with a handler of its own."""
    stream = io.StringIO()
    logger = logging.Logger("somebody.else")
    logger.addHandler(logging.StreamHandler(stream))
    yield logger, stream
    logger.handlers[0].close()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET /ws?token={KEY} HTTP/1.1", "GET /ws?token=*** HTTP/1.1"),
        ("GET /ws?a=1&token=secret&b=2", "GET /ws?a=1&token=***&b=2"),
        ("GET /ws?TOKEN=secret", "GET /ws?TOKEN=***"),
        ("/ws%3Ftoken%3Dsecret", "/ws%3Ftoken%3D***"),
        ("/ws?token=%65vodb%5Fsecret#x", "/ws?token=***"),
        ("access_token=secret;id_token=other", "access_token=***;id_token=***"),
        (
            "grant_type=client_credentials&client_id=1&client_secret=secret",
            "grant_type=client_credentials&client_id=1&client_secret=***",
        ),
        ("Knock(parent='p', token='secret')", "Knock(parent='p', token='***')"),
        ("< authorization: Bearer secret", "< authorization: Bearer ***"),
        ("(b'authorization', b'bearer secret')", "(b'authorization', b'bearer ***')"),
        ("Authorization: Basic c2VjcmV0", "Authorization: Basic ***"),
        ("{'authorization': 'Basic c2VjcmV0'}", "{'authorization': 'Basic ***'}"),
        (f"key {KEY}, twice {KEY}.", "key evodb_ab12***, twice evodb_ab12***."),
        (f"key {KEY[:30]} cut off", "key evodb_ab12*** cut off"),
        ("token=***", "token=***"),
    ],
)
def test_a_key_is_hidden_and_the_rest_is_left(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "laptop (evodb_ab12) was revoked",
        "evodb_site.settings, evodb_site.asgi",
        "a token was refused",
        "tokens: 5, token bucket",
        "basic tests",
        "?token=&a=1",
        "é\0\udced",
    ],
)
def test_what_is_no_key_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_a_made_key_is_hidden_wherever_it_stands() -> None:
    token = access.new_token()
    assert redacted(f"x{token}x") == f"x{access.prefix_of(token)}***"


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (f"GET /ws?token={KEY}", ()),
        ("GET %s", (f"/ws?token={KEY}",)),
        ("GET /ws?token=%s", (KEY,)),
        ("%(path)s", ({"path": f"/ws?token={KEY}"},)),
        ("%s and %d", (f"Bearer {KEY}", 5)),
        ("%r", ([(b"authorization", b"Bearer " + KEY.encode())],)),
        (ValueError(f"token={KEY}"), ()),
        ("failed: %s", (ValueError(f"token={KEY}"),)),
        ("%s", (KEY.encode(),)),
    ],
)
def test_a_record_of_any_logger_is_written_without_the_key(
    written: tuple[logging.Logger, io.StringIO], message: Any, arguments: tuple[Any, ...]
) -> None:
    logger, stream = written
    logger.warning(message, *arguments)
    assert "***" in stream.getvalue()
    assert KEY[10:] not in stream.getvalue()


def test_a_record_without_a_key_is_left_alone(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    logger.warning("%d batches of %r", 5, "shop-1")
    logger.warning("%(a)s", {"a": 1})
    logger.warning("100 %")
    assert stream.getvalue() == "5 batches of 'shop-1'\n1\n100 %\n"


def test_a_traceback_is_written_without_the_key(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    try:
        raise ValueError(f"cannot read /ws?token={KEY}")
    except ValueError:
        logger.exception("it failed")
    logger.error("nothing", exc_info=(None, None, None))
    assert "ValueError: cannot read /ws?token=***" in stream.getvalue()
    assert "Traceback (most recent call last)" in stream.getvalue()
    assert KEY[10:] not in stream.getvalue()


def test_arguments_that_do_not_fit_are_complained_about_without_the_key(
    written: tuple[logging.Logger, io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    logger, _ = written
    logger.warning(f"token={KEY} %d %d", f"token={KEY}")
    said = capsys.readouterr().err
    assert "--- Logging error ---" in said
    assert "Arguments: ('token=***',)" in said


def test_an_argument_that_cannot_be_shown_ends_nothing(
    written: tuple[logging.Logger, io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    written[0].warning("%s", Broken())
    assert "--- Logging error ---" in capsys.readouterr().err


def test_the_access_log_of_uvicorn_keeps_its_shape() -> None:
    record = logging.getLogRecordFactory()(
        "uvicorn.access",
        logging.INFO,
        "x.py",
        1,
        '%s - "%s %s HTTP/%s" %d',
        ("c:1", "GET", f"/?token={KEY}", "1.1", 200),
        None,
    )
    text = AccessFormatter("%(client_addr)s %(request_line)s %(status_code)s", use_colors=False).format(record)
    assert text == "c:1 GET /?token=*** HTTP/1.1 200 OK"


def test_the_access_log_of_daphne_has_no_key() -> None:
    stream = io.StringIO()
    AccessLogGenerator(stream).write_entry(
        host="c:1",
        date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        request=f"GET /?token={KEY}",
        status=200,
        length=5,
    )
    assert stream.getvalue() == 'c:1 - - [01/Jan/2026:00:00:00] "GET /?token=***" 200 5\n'


def test_doing_it_twice_changes_nothing(written: tuple[logging.Logger, io.StringIO]) -> None:
    before = (logging.getLogRecordFactory(), AccessLogGenerator.write_entry)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_redaction.configure({"version": 1, "disable_existing_loggers": False, "incremental": True})
    finally:
        root.handlers[:], root.level = handlers, level
    assert (logging.getLogRecordFactory(), AccessLogGenerator.write_entry) == before
    written[0].warning("token=secret")
    assert written[1].getvalue() == "token=***\n"


def test_the_site_logs_by_it() -> None:
    assert settings.LOGGING_CONFIG == "lakehouse.log_redaction.configure"
    assert logging.getLogRecordFactory() is log_redaction._record


def test_a_wrong_host_is_one_line_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "django.security.DisallowedHost"):
        answer = Client(headers={"host": "evil.example"}).get("/health")
    assert answer.status_code == 400
    [record] = [one for one in caplog.records if one.name == "django.security.DisallowedHost"]
    assert (record.levelno, record.exc_info, record.exc_text) == (logging.WARNING, None, None)
    assert "'evil.example'" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_long_host_is_cut() -> None:
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "%s\n2", ("x" * 10_000,), None)
    assert log_redaction.Strangers().filter(record)
    assert record.getMessage() == "x" * log_redaction.CHARS_MAX


@pytest.mark.parametrize(("status", "is_logged"), [(503, False), (500, True), (404, True)])
def test_a_probe_that_hears_that_the_process_is_not_ready_is_no_line_of_the_log_each_time(
    caplog: pytest.LogCaptureFixture, status: int, is_logged: bool
) -> None:
    """It was an error every few seconds, beside the one that says why."""
    log_response("%s: %s", "Said", "/ready", response=HttpResponse(status=status), request=None)
    assert [record.name for record in caplog.records] == ["django.request"] * is_logged


def test_the_key_of_a_namespace_keeps_its_namespace_and_nothing_more() -> None:
    assert redacted("key ns_acme_eu_" + "0f" * 32 + " was shown") == "key ns_acme_eu_*** was shown"
    assert redacted("columns_per_table and ns_acme") == "columns_per_table and ns_acme"
