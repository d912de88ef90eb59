"""POST /query: one SELECT over the tables of a key's namespaces, as JSON, CSV or an Arrow stream."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import msgspec
import orjson
from asgiref.sync import sync_to_async
from msgspec import UNSET, UnsetType

from lakehouse.errors import InvalidQuery, QueryError, QueryUnavailable
from lakehouse.events import namespaces
from lakehouse.http import answers, structured
from lakehouse.http.named_queries import NamedQueries
from lakehouse.journal.intake import Intake
from lakehouse.limits.refusal import Headers, Response
from lakehouse.parent.grants import Grant
from lakehouse.parent.house import House
from lakehouse.query import json_lines, lake_tables
from lakehouse.query.engine import DEFAULT_NAMESPACE, Engine, Query
from lakehouse.query.messages import Answer, Name, Place

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 512 * 1024
ARROW_TYPE = "application/vnd.apache.arrow.stream"
TYPES = {"arrow": ARROW_TYPE, "csv": "text/csv; charset=utf-8"}
RETRY_S = b"1"

QueryId = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._-]{1,100}$")]
"""Chosen by who asks, for who asks: two keys may choose the same."""
Scalar = bool | int | float | str | None


class QueryBody(msgspec.Struct, rename="camel", frozen=True, kw_only=True, forbid_unknown_fields=True):
    sql: str
    parameters: list[Scalar] | dict[str, Scalar] = []
    namespace: str | UnsetType = UNSET
    as_of: str | int = ""
    limit: int | UnsetType = UNSET
    timeout_ms: int | None = None
    format: str | UnsetType = UNSET
    query_id: QueryId | UnsetType = UNSET


_json = msgspec.json.Decoder(QueryBody)


async def answer(data: bytes, accept: str, *, grant: Grant, caller: str, house: House) -> Response:
    """`caller` is whose queries are counted together. Cancelling this ends the query."""
    try:
        if len(data) > BODY_BYTES_MAX:
            return _refused(413, "PAYLOAD_TOO_LARGE", f"the body has more than {BODY_BYTES_MAX} bytes")
        query, query_id = _query(data, accept, grant, rows_max=house.settings.query_rows_max)
        told = _of_caller(caller, query_id) if query_id else ""
        async with named_of(house).known(told) if told else nullcontext():
            found = await engine_of(house).run(query, find=partial(_find, grant), caller=caller, query_id=told)
    except QueryError as exc:
        log.info("a query of %s was not answered (%s): %s", caller, exc.code, exc)
        headers: Headers = [(b"retry-after", RETRY_S)] if exc.retryable else []
        return _refused(exc.http_status, exc.code, str(exc), *headers)
    log.info("a query of %s: %d rows, %d bytes, %d ms", caller, found.rows, len(found.body), found.elapsed_ms)
    return _answered(found, query.format)


async def cancel(query_id: str, *, caller: str, house: House) -> Response:
    """Of a query that the same caller asked any process; it is answered with 409, and its process is gone."""
    try:
        if not await named_of(house).cancel(_of_caller(caller, query_id)):
            return _refused(404, "NO_SUCH_QUERY", f"no query {query_id[:100]!r} of this key runs or waits")
    except QueryUnavailable as exc:
        return _refused(exc.http_status, exc.code, str(exc), (b"retry-after", RETRY_S))
    log.info("%s cancelled its query %s", caller, query_id)
    return answers.answer(200, {"cancelled": True})


def _of_caller(caller: str, query_id: str) -> str:
    return f"{query_id} of {caller}"


def engine_of(house: House) -> Engine:
    found = _engines.get(house.intake)
    if found is None:
        found = _engines[house.intake] = Engine(house.settings)
        house.goodbyes.append(found.close)
    return found


def named_of(house: House) -> NamedQueries:
    engine = engine_of(house)
    found = _named.get(engine)
    if found is None:
        found = _named[engine] = NamedQueries(engine, timeout_ms=house.settings.query_timeout_ms)
    return found


def _query(data: bytes, accept: str, grant: Grant, *, rows_max: int) -> tuple[Query, str]:
    """The query and its id, if it has one. Raises InvalidQuery."""
    if structured.is_structured(data):
        return _structured_query(data, grant, rows_max=rows_max), ""
    try:
        body = _json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidQuery(f"the body cannot be used: {exc}"[:1000]) from None
    limit = _limit(body.limit, rows_max, otherwise=rows_max)
    if body.timeout_ms is not None and body.timeout_ms < 1:
        raise InvalidQuery(f"timeoutMs: is {body.timeout_ms}, wanted at least 1")
    wanted = "arrow" if ARROW_TYPE in accept else "csv" if "text/csv" in accept else "json"
    otherwise = namespaces.DEFAULT if json_lines.names_paths(body.sql) else DEFAULT_NAMESPACE
    query = Query(
        sql=body.sql,
        parameters=body.parameters,
        namespace=_namespace(grant, otherwise) if body.namespace is UNSET else body.namespace,
        as_of=str(body.as_of),
        rows_max=limit,
        timeout_ms=body.timeout_ms,
        format=wanted if body.format is UNSET else body.format,
    )
    return query, "" if body.query_id is UNSET else body.query_id


def _structured_query(data: bytes, grant: Grant, *, rows_max: int) -> Query:
    """Raises InvalidQuery."""
    body, sql, parameters = structured.read(data)
    namespace = _namespace(grant, namespaces.DEFAULT) if body.namespace is UNSET else body.namespace
    limit = _limit(body.limit, rows_max, otherwise=min(structured.LIMIT, rows_max))
    return Query(sql=sql, parameters=parameters, namespace=namespace, rows_max=limit)


def _limit(limit: int | UnsetType, rows_max: int, *, otherwise: int) -> int:
    found = otherwise if limit is UNSET else limit
    if not 1 <= found <= rows_max:
        raise InvalidQuery(f"limit: is {found}, wanted 1 to {rows_max} (EVODB_QUERY_ROWS_MAX)")
    return found


def _namespace(grant: Grant, otherwise: str) -> str:
    """Of tables without one: a key for one namespace means that one."""
    if len(grant.namespaces) == 1 and not set(grant.namespaces[0]) & set("*?["):
        return grant.namespaces[0]
    return otherwise


async def _find(grant: Grant, names: Sequence[Name]) -> list[Place]:
    places = partial(lake_tables.places, names, allows=lambda namespace: grant.reaches(namespace=namespace))
    return await sync_to_async(places)()


def _answered(found: Answer, form: str) -> Response:
    if form != "json":
        headers = [
            (b"content-type", TYPES[form].encode()),
            (b"content-length", b"%d" % len(found.body)),
            (b"x-content-type-options", b"nosniff"),
            (b"x-row-count", b"%d" % found.rows),
            (b"x-execution-time-ms", b"%d" % found.elapsed_ms),
        ]
        if found.cut_at:
            headers.append((b"x-truncated", found.cut_at.encode()))
        return Response(200, headers, found.body)
    said: dict[str, Any] = {
        "columns": [{"name": one.name, "type": one.type} for one in found.columns],
        "rows": orjson.Fragment(found.body),
        "rowCount": found.rows,
        "truncated": bool(found.cut_at),
        **({"truncatedBy": found.cut_at} if found.cut_at else {}),
        "executionTimeMs": found.elapsed_ms,
    }
    return answers.answer(200, said)


def _refused(status: int, code: str, text: str, *headers: tuple[bytes, bytes]) -> Response:
    return answers.answer(status, {"error": text, "code": code}, *headers)


_engines: WeakKeyDictionary[Intake, Engine] = WeakKeyDictionary()
_named: WeakKeyDictionary[Engine, NamedQueries] = WeakKeyDictionary()
