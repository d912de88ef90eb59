"""What /docs shows of the endpoints of events."""

from __future__ import annotations

from typing import Any

from ninja import Schema
from pydantic import ConfigDict, Field

MOMENT = "2026-01-31T12:00:00.000Z"
EVENT = {
    "type": "collection.update",
    "ts": MOMENT,
    "do": {"id": "shop-1", "class": "Shop"},
    "collection": "users",
    "docId": "user-123",
    "doc": {"name": "Ada"},
    "prev": {"name": "A."},
    "bookmark": "00000000000000000017",
}
KEY: list[dict[str, list[str]]] = [{"AccessKeyAuth": []}]


def _config(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class EventsError(Schema):
    """What was found, and what was wanted; `code` for programs, `details` where several things may be wrong."""

    model_config = _config(
        {"error": "events[3].ts: is required", "code": "INVALID_EVENT", "details": {"indices": [3]}},
    )
    error: str
    code: str
    details: dict[str, Any] | None = None


class Ingested(Schema):
    """The events are durable."""

    _said = {"ok": True, "received": 1, "namespace": "acme"}
    model_config = _config({"success": True, **_said, "data": _said})
    success: bool
    ok: bool
    received: int
    namespace: str
    data: dict[str, Any] = Field(description="The same again, for clients of either generation.")
    deduplicated: bool | None = Field(None, description="This batchId was stored before, and not again.")


class Challenge(Schema):
    """What Slack asks an address with before it delivers anything."""

    model_config = _config({"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"})
    challenge: str


class EventsListed(Schema):
    """A page of events. `links` has `self`, `first`, and `next` and `prev` where there is such a page."""

    _shown = {"id": "20000f3c-000", "ns": "acme", **EVENT}
    _links = {"self": "/events?limit=1", "first": "/events?limit=1", "next": "/events?limit=1&cursor=bjE3NjE"}
    model_config = _config({"namespace": "acme", "events": [_shown], "count": 1, "links": _links})
    namespace: str
    events: list[dict[str, Any]]
    count: int
    links: dict[str, str]


class Document(Schema):
    """A document, or that it was deleted, and the change that made it so."""

    _about = {"namespace": "acme", "collection": "users", "docId": "user-123", "source": "shop-1"}
    _change = {"type": EVENT["type"], "ts": MOMENT, "bookmark": EVENT["bookmark"], "eventId": "20000f3c-000"}
    model_config = _config({**_about, "document": EVENT["doc"], "deleted": False, **_change})
    namespace: str
    collection: str
    doc_id: str = Field(alias="docId")
    source: str = Field(description="The id of `do`.")
    document: Any = Field(description="Null when it was deleted.")
    deleted: bool
    type: str
    ts: str
    bookmark: str | None
    event_id: str = Field(alias="eventId")


class History(Schema):
    """Changes of a document, as they were told."""

    _about = {"namespace": "acme", "collection": "users", "docId": "user-123"}
    _links = {"self": "/documents/users/user-123/history", "first": "/documents/users/user-123/history"}
    _shown = {"id": "20000f3c-000", "ns": "acme", **EVENT}
    model_config = _config({**_about, "changes": [_shown], "count": 1, "links": _links})
    namespace: str
    collection: str
    doc_id: str = Field(alias="docId")
    changes: list[dict[str, Any]]
    count: int
    links: dict[str, str]


PAID = {"type": "object", "required": ["data"], "properties": {"data": {"required": ["total"]}}}


class OneSchema(Schema):
    """A type and its schema, as it was sent."""

    model_config = _config({"namespace": "acme", "type": "custom.paid", "changedAt": MOMENT, "schema": PAID})
    namespace: str
    type: str
    changed_at: str = Field(alias="changedAt")
    schema_: dict[str, Any] = Field(alias="schema")


class SchemasListed(Schema):
    """The types that have one, by name."""

    model_config = _config({"namespace": "acme", "schemas": [{"type": "custom.paid", "changedAt": MOMENT}]})
    namespace: str
    schemas: list[dict[str, str]]


ERRORS = dict.fromkeys((400, 401, 403, 405, 413, 429, 503), EventsError)
OF_READING = dict.fromkeys((400, 401, 403, 405, 429, 503), EventsError)
OF_SCHEMA = dict.fromkeys((400, 401, 403, 404, 405, 429, 503), EventsError)
OF_DOCUMENT = OF_SCHEMA
NAMESPACE = "The namespace, for a key that may name several; a key of one means that one."


def parameter(name: str, said: str, example: Any, *, where: str = "query", required: bool = False) -> dict[str, Any]:
    kind = "integer" if isinstance(example, int) else "string"
    schema = {"type": kind}
    return {
        "in": where,
        "name": name,
        "description": said,
        "example": example,
        "required": required,
        "schema": schema,
    }


def body(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def ingest() -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["events"],
        "properties": {
            "events": {"type": "array", "maxItems": 1000, "items": {"type": "object", "required": ["type", "ts"]}},
            "batchId": {"type": "string", "maxLength": 255},
        },
    }
    return body(schema, {"events": [EVENT], "batchId": "shop-1-000017"}) | {
        "security": KEY,
        "parameters": [
            parameter("namespace", NAMESPACE, "acme"),
            parameter("X-Correlation-ID", "Comes back with the answer.", "8e03978e-40d5", where="header"),
        ],
    }


FILTERS = [
    parameter("namespace", NAMESPACE, "acme"),
    parameter("type", "All of it, or how it begins and a `*`.", "collection.*"),
    parameter("provider", "Webhooks of this provider.", "github"),
    parameter("source", "The id of `do`, or `source`.", "shop-1"),
    parameter("after", "Later than this; a time, or ms since 1970. `from` includes it.", MOMENT),
    parameter("before", "Earlier than this. `to` includes it.", MOMENT),
]


def listing() -> dict[str, Any]:
    page = [parameter("limit", "1 to 1000.", 100), parameter("cursor", "Of a link of an answer.", "bjE3NjE")]
    return {"security": KEY, "parameters": [*FILTERS, *page]}


def document(*, is_history: bool = False) -> dict[str, Any]:
    bounds = [
        parameter("source", "The id of `do`, where several have such a document.", "shop-1"),
        parameter("asOf", "Nothing later than this; a time, or ms since 1970.", MOMENT),
        parameter("bookmark", "Nothing behind this bookmark.", EVENT["bookmark"]),
    ]
    page = [parameter("limit", "1 to 1000.", 100), parameter("cursor", "Of a link of an answer.", "WyIiLDE3")]
    return {"security": KEY, "parameters": [FILTERS[0], *bounds, *(page if is_history else [])]}


def stream() -> dict[str, Any]:
    text = {
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": "event: event\nid: 7\ndata: {}\n"}}
    }
    return {"security": KEY, "parameters": FILTERS[:4], "responses": {200: text}}


def webhook() -> dict[str, Any]:
    return body({"type": "object"}, {"type": "invoice.paid", "id": "evt_1"}) | {
        "parameters": [parameter("namespace", "Whose event it becomes.", "acme")]
    }


def schema(*, with_body: bool = False) -> dict[str, Any]:
    said = {"security": KEY, "parameters": [FILTERS[0]]}
    return said | (body({"type": "object"}, PAID) if with_body else {})
