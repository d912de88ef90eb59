"""/schemas: what the events of a namespace have to be like, by their type. JSON Schema, kept as it was sent.

Who may only bring events, as any page that shows its key, changes none of it: with a schema one shuts the door.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError

from lakehouse.events import answers, callers, homes, schema_rows
from lakehouse.events.event import TYPE, shown
from lakehouse.events.ingest import ReadBody, correlation, read_bounded
from lakehouse.events.refusals import Code, EventsRefused, refuse
from lakehouse.limits.refusal import Response
from lakehouse.models import EventSchema
from lakehouse.parent.grants import ADMIN, QUERY
from lakehouse.parent.house import House

PATH = "/schemas"
SCHEMA_BYTES_MAX = 16 * 1024


async def answer_all(scope: dict[str, Any], read_body: ReadBody, house: House) -> Response:
    """GET /schemas."""
    return await _answer(scope, ("GET",), partial(_listed, scope, house))


async def answer_one(scope: dict[str, Any], read_body: ReadBody, house: House) -> Response:
    """GET, PUT and DELETE /schemas/<type>."""
    kind = scope["path"].removeprefix(f"{PATH}/")
    acts = {
        "GET": partial(_shown, scope, house, kind),
        "PUT": partial(_put, scope, house, kind, read_body),
        "DELETE": partial(_deleted, scope, house, kind),
    }
    return await _answer(scope, tuple(acts), acts.get(scope["method"]))


async def _answer(scope: dict[str, Any], methods: tuple[str, ...], act: Callable[[], Any] | None) -> Response:
    correlation_id, allowed = correlation(scope), ", ".join(methods)
    if scope["method"] == "OPTIONS":
        return answers.preflight(allowed, correlation_id)
    if act is None or scope["method"] not in methods:
        return answers.not_allowed(scope["path"], scope["method"], allowed, correlation_id)
    try:
        status, document = await act()
    except EventsRefused as exc:
        return answers.refused(exc, correlation_id)
    return answers.written(status, msgspec.json.encode(document), b"application/json", correlation_id)


async def _listed(scope: dict[str, Any], house: House) -> tuple[int, dict[str, Any]]:
    namespace, parent_id = await _permitted(scope, house, QUERY, ADMIN)
    types = [{"type": row.type, "changedAt": shown(row.changed_ms)} for row in await _rows(parent_id)]
    return 200, {"namespace": namespace, "schemas": types}


async def _shown(scope: dict[str, Any], house: House, kind: str) -> tuple[int, dict[str, Any]]:
    namespace, parent_id = await _permitted(scope, house, QUERY, ADMIN)
    row = next((row for row in await _rows(parent_id) if row.type == kind), None)
    return 200, _document(namespace, _there(row, namespace, kind))


async def _put(scope: dict[str, Any], house: House, kind: str, read_body: ReadBody) -> tuple[int, dict[str, Any]]:
    namespace, _ = await _permitted(scope, house, ADMIN)
    if TYPE.match(kind) is None:
        raise refuse(Code.INVALID_REQUEST, f"type: is {kind[:40]!r}, wanted 1 to 128 letters, digits, '.', '_' or '-'")
    data = await read_bounded(scope, read_body, SCHEMA_BYTES_MAX)
    await asyncio.to_thread(_check, data)
    now_ms = house.now_ms()

    def work() -> tuple[EventSchema, bool] | None:
        source = homes.source(namespace, parents_max=house.settings.parents_max, now_ms=now_ms)
        return schema_rows.put(source.parent_id, kind, data.decode(), now_ms=now_ms)

    made = await _run(house, work)
    if made is None:
        text = f"the namespace {namespace} has {schema_rows.SCHEMAS_MAX} schemas; delete one before"
        raise refuse(Code.INVALID_REQUEST, text)
    row, is_new = made
    return 201 if is_new else 200, _document(namespace, row)


async def _deleted(scope: dict[str, Any], house: House, kind: str) -> tuple[int, dict[str, Any]]:
    namespace, parent_id = await _permitted(scope, house, ADMIN)
    row = None if parent_id is None else await _run(house, lambda: schema_rows.delete(parent_id, kind))
    return 200, _document(namespace, _there(row, namespace, kind))


async def _permitted(scope: dict[str, Any], house: House, *scopes: str) -> tuple[str, int | None]:
    """The namespace that is meant, and its parent. Raises EventsRefused."""
    if house.is_closing:
        raise EventsRefused(Code.SERVICE_UNAVAILABLE, "this process stops; another one takes over", retry_after_s=1)
    asked = callers.asked_of(scope, is_open=house.settings.open and scopes != (ADMIN,))
    _, namespace = await callers.permit(house, scope, asked, *scopes)
    return namespace, await sync_to_async(homes.find)(namespace)


async def _rows(parent_id: int | None) -> list[EventSchema]:
    return [] if parent_id is None else await sync_to_async(lambda: list(schema_rows.rows(parent_id)))()


async def _run(house: House, work: Callable[[], Any]) -> Any:
    """Raises EventsRefused."""
    try:
        return await house.intake.run(work)
    except DatabaseError as exc:
        text = "the database is not available; come back"
        raise EventsRefused(Code.SERVICE_UNAVAILABLE, text, retry_after_s=1) from exc


def _check(data: bytes) -> None:
    """Raises EventsRefused."""
    from lakehouse.events import json_schema  # 4 MiB that a process without schemas does not need

    try:
        json_schema.read(data)
    except json_schema.BadSchema as exc:
        raise refuse(Code.INVALID_SCHEMA, f"schema{exc}") from None
    except (ValueError, RecursionError) as exc:
        raise refuse(Code.INVALID_JSON, f"not JSON: {exc}"[:200] if data else "the body is empty") from None


def _there(row: EventSchema | None, namespace: str, kind: str) -> EventSchema:
    """Raises EventsRefused."""
    if row is None:
        raise refuse(Code.NOT_FOUND, f"the namespace {namespace} has no schema for events of the type {kind[:128]!r}")
    return row


def _document(namespace: str, row: EventSchema) -> dict[str, Any]:
    schema = msgspec.Raw(row.schema.encode())
    return {"namespace": namespace, "type": row.type, "changedAt": shown(row.changed_ms), "schema": schema}
