"""One query in a process of its own, from its text to its rows.

    check ─ ask where its tables are ─ views ─ lock ─ read ─ answer

Until the lock nothing of the query has been executed but the constants in AT (...); after it no file can be opened but
those of its tables. Whatever goes wrong is one Failure, and the process ends.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any, TypeVar

import duckdb
import msgspec

from lakehouse.errors import ForbiddenQuery, InvalidQuery, QueryError, QueryTooLarge, QueryUnavailable
from lakehouse.query import answers, fence, messages, statement, views
from lakehouse.query.as_of import Token, in_duckdbs_words
from lakehouse.query.json_lines import in_words_of_the_lake
from lakehouse.query.messages import Answer, Failure, Hello, Job, Name, Place, Wanted
from lakehouse.query.statement import Reference

T = TypeVar("T")
TEXT_CHARS_MAX = 2000
EXPLAIN = ("EXPLAIN ANALYZE", "EXPLAIN")


class Channel:
    """The parent, at the other end of a socket."""

    def __init__(self, to: socket.socket) -> None:
        self._file = to.makefile("rwb")

    def say(self, message: Any) -> None:
        self._file.write(messages.framed(message))
        self._file.flush()

    def hear(self, kind: type[T]) -> T:
        (length,) = messages.LENGTH.unpack(self._exactly(messages.LENGTH.size))
        return messages.read(self._exactly(length), kind)

    def _exactly(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise EOFError("the parent is gone")
        return data


def serve(channel: Channel, connection: duckdb.DuckDBPyConnection) -> None:
    """Raises EOFError when nobody wants the answer any more."""
    channel.say(Hello(os.getpid()))
    job = channel.hear(Job)
    try:
        fence.around_process(job.limits)
        channel.say(_answer(channel, connection, job))
    except (EOFError, BrokenPipeError):
        raise
    except Exception as exc:
        channel.say(failure(exc))


def warm(connection: duckdb.DuckDBPyConnection) -> None:
    """What DuckDB's Python loads when it is first used; every query would pay for it."""
    _parsed(connection, _worded("SELECT 1"))
    connection.execute("SELECT ?::VARCHAR, now(), 1.5, [1], {'a': DATE '2000-01-01'}", ["1"]).fetchall()


def failure(exc: BaseException) -> Failure:
    """What the caller hears, and what the log hears beside it."""
    detail = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, QueryError):
        return Failure(exc.code, str(exc)[:TEXT_CHARS_MAX])
    if isinstance(exc, RecursionError):
        return Failure(InvalidQuery.code, "the query is nested too deeply")
    if isinstance(exc, duckdb.PermissionException):
        text = "the query wants a file that is not one of its tables', or a setting that is locked"
        return Failure(ForbiddenQuery.code, text, detail)
    if isinstance(exc, MemoryError | duckdb.OutOfMemoryException):
        text = "the query needs more memory than it may have (EVODB_QUERY_MEMORY_BYTES_MAX, EVODB_QUERY_TEMP_BYTES_MAX)"
        return Failure(QueryTooLarge.code, text, detail)
    if isinstance(exc, duckdb.IOException | duckdb.HTTPException | OSError):
        text = "the files of the table could not be read; the store is away, or a snapshot expired meanwhile"
        return Failure(QueryUnavailable.code, text, detail)
    if isinstance(exc, duckdb.InternalException | duckdb.FatalException) or not isinstance(exc, duckdb.Error):
        return Failure(QueryError.code, "the query failed; the log has more", detail)
    return Failure(InvalidQuery.code, str(exc)[:TEXT_CHARS_MAX])


def _answer(channel: Channel, connection: duckdb.DuckDBPyConnection, job: Job) -> Answer:
    began = time.perf_counter()
    fence.around_memory(connection, job.limits)
    prefix, sql = _explained(_worded(job.sql))
    tree, sql = _parsed(connection, sql)
    named = statement.references(tree)
    channel.say(Wanted(_names(named, job.namespace)))
    places = channel.hear(list[Place])
    opened = views.open_tables(connection, named, places, namespace=job.namespace, as_of=job.as_of)
    if opened.is_renamed:
        sql = _rewritten(connection, tree)
    fence.around_files(connection, opened.folders)
    limits = job.limits
    rows = answers.read(
        connection,
        prefix + sql,
        job.parameters,
        form=job.format,
        rows_max=limits.rows_max,
        bytes_max=limits.bytes_max,
    )
    elapsed_ms = round((time.perf_counter() - began) * 1000)
    return Answer(columns=rows.columns, rows=rows.rows, cut_at=rows.cut_at, elapsed_ms=elapsed_ms, body=rows.body)


def _worded(sql: str) -> str:
    sql = in_words_of_the_lake(sql, [start for start, _ in duckdb.tokenize(sql)])
    tokens = [Token(start, kind == duckdb.token_type.keyword) for start, kind in duckdb.tokenize(sql)]
    return in_duckdbs_words(sql, tokens)


def _explained(sql: str) -> tuple[str, str]:
    """EXPLAIN apart from the query it is about, which is checked like any other."""
    for start, _ in duckdb.tokenize(sql)[:1]:
        sql = sql.encode()[start:].decode()  # behind a comment
    words = sql.split(None, 2)
    for prefix in EXPLAIN:
        count = len(prefix.split())
        if " ".join(words[:count]).upper() == prefix:
            return prefix + " ", sql.split(None, count)[count] if len(words) > count else ""
    return "", sql


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[dict[str, Any], str]:
    """The tree, and the text of the one statement it is of."""
    try:
        found = connection.extract_statements(sql)
    except duckdb.Error as exc:
        raise InvalidQuery(str(exc)[:TEXT_CHARS_MAX]) from None
    if len(found) != 1:
        raise InvalidQuery(f"found {len(found)} statements, wanted one SELECT")
    if found[0].type != duckdb.StatementType.SELECT:
        raise ForbiddenQuery(f"found {found[0].type.name}, wanted one SELECT; a query only reads")
    text = _unended(found[0].query)
    return _tree(connection, text), text


def _unended(sql: str) -> str:
    """Without the semicolon at its end, for the text is put into another one."""
    data = sql.encode()
    for start, _ in reversed(duckdb.tokenize(sql)):
        if data[start : start + 1] != b";":
            break
        data = data[:start]
    return data.decode()


def _tree(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    rows = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    tree: dict[str, Any] = json.loads(rows[0][0])
    return tree


def _rewritten(connection: duckdb.DuckDBPyConnection, tree: dict[str, Any]) -> str:
    """The text of a changed tree; it has to be that very query, or it is not executed."""
    rows = connection.execute("SELECT json_deserialize_sql(?::JSON)", [msgspec.json.encode(tree).decode()]).fetchall()
    sql: str = rows[0][0]
    if statement.without_places(_tree(connection, sql)) != statement.without_places(tree):
        raise InvalidQuery("AT (...) cannot be used in this query; put the time into asOf, or write the query simpler")
    return sql


def _names(named: list[Reference], namespace: str) -> list[Name]:
    return [Name(*key) for key in sorted({(one.namespace or namespace, one.table) for one in named})]
