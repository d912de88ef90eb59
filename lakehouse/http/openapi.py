"""What OpenAPI cannot see in a function: the body of POST /cdc, headers, and answers that are text."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from ninja import NinjaAPI
from ninja.openapi.docs import Swagger
from ninja.openapi.schema import OpenAPISchema

from lakehouse.http.cdc_request import KEY_CHARS_MAX, CdcBody
from lakehouse.http.documents import NOW_MS, Error, QueryRefused, Refused
from lakehouse.http.queries import QueryBody


class Page(Swagger):
    """Nothing of it comes from another host: the page and its scripts are django-ninja's templates and static files,
    which it would take from a CDN, since it is no app of ours."""

    def render_page(self, request: HttpRequest, api: NinjaAPI, **kwargs: Any) -> HttpResponse:
        shown = self.settings | {"url": self.get_openapi_url(api, kwargs)}
        return render(request, self.template, {"swagger_settings": json.dumps(shown), "api": api, "add_csrf": False})


class Described(NinjaAPI):
    """Its document takes 0.2 s of CPU, is the same for everybody, and nobody needs a key to ask for it: it is kept."""

    _known: tuple[str, OpenAPISchema] | None = None
    """Of the last prefix only, for whoever asks may name one (Daphne-Root-Path)."""

    def get_openapi_schema(
        self, *, path_prefix: str | None = None, path_params: dict[str, Any] | None = None
    ) -> OpenAPISchema:
        prefix = self.get_root_path(path_params or {}) if path_prefix is None else path_prefix
        known = self._known
        if known is None or known[0] != prefix:
            known = self._known = (prefix, super().get_openapi_schema(path_prefix=prefix))
        return known[1]


DOCS = Page(settings={"validatorUrl": None, "tryItOutEnabled": True})
ERRORS = {401: Error, 403: Error, 405: Error, 429: Error, 503: Error}
"""What every request that needs a key may hear."""
OF_PARENT = ERRORS | {400: Error, 404: Error}
OF_CDC = {400: Refused, 401: Error, 403: Error, 405: Error, 409: Refused, 413: Refused, 429: Refused, 503: Refused}
OF_QUERY = {400: QueryRefused, 401: Error, 403: QueryRefused, 405: Error, 413: QueryRefused, 422: QueryRefused}
OF_QUERY |= dict.fromkeys((409, 429, 500, 503), QueryRefused)
EVENT = {
    "sequence": 1,
    "timestamp": NOW_MS,
    "operation": "INSERT",
    "table": "orders",
    "rowId": "1",
    "after": {"id": 1, "item": "tea", "total": 4.5},
}
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds until it makes sense to come back.", "schema": {"type": "integer"}}
}
RATE_LIMIT = {
    f"X-RateLimit-{name}": {"description": said, "schema": {"type": "integer"}}
    for name, said in {
        "Limit": "Requests per second with this key from this address.",
        "Remaining": "How many more may come at once.",
        "Reset": "Unix time in seconds at which all may.",
    }.items()
}


def text_answer(example: str) -> dict[str, Any]:
    return {"responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": example}}}}}


def retry_after(*statuses: int) -> dict[str, Any]:
    return {"responses": {status: {"headers": RETRY_AFTER} for status in statuses}}


def cdc_extra() -> dict[str, Any]:
    """The schema of the body is that of the type it is read into."""
    schema, parts = msgspec.json.schema_components([CdcBody], ref_template="{name}")
    example = {"sourceDoId": "shop-1", "sequenceNumber": 17, "events": [EVENT]}
    answers = {200: RATE_LIMIT, 400: RATE_LIMIT, 409: RATE_LIMIT, 413: RATE_LIMIT}
    answers |= dict.fromkeys((429, 503), RATE_LIMIT | RETRY_AFTER)
    return {
        "security": [{"AccessKeyAuth": []}],
        "parameters": [
            _parameter("query", "parent", "The parent; it begins to exist when it is named.", "default"),
            _parameter(
                "header",
                "Idempotency-Key",
                "Makes a retry without `sequenceNumber` safe.",
                "8e03978e-40d5",
                KEY_CHARS_MAX,
            ),
            _parameter("header", "X-Client-ID", "The child, before `sourceDoId`.", "shop-1"),
            _parameter("header", "X-Shard-Name", "Its shard, after `sourceShardName`.", "eu-1"),
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(schema[0], parts), "example": example}},
        },
        "responses": {status: {"headers": headers} for status, headers in answers.items()},
    }


def query_extra() -> dict[str, Any]:
    schema, parts = msgspec.json.schema_components([QueryBody], ref_template="{name}")
    example = {"sql": "SELECT count(*) FROM orders WHERE _ts >= $1", "parameters": ["2026-01-31"], "limit": 100}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(schema[0], parts), "example": example}},
        },
    } | retry_after(429, 503)


def _parameter(where: str, name: str, said: str, example: str, chars_max: int = 500) -> dict[str, Any]:
    schema = {"type": "string", "maxLength": chars_max}
    return {"in": where, "name": name, "description": said, "example": example, "required": False, "schema": schema}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """The schema with everything it refers to in its place."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(parts[schema["$ref"]], parts)
        return {name: _inlined(value, parts) for name, value in schema.items()}
    return [_inlined(value, parts) for value in schema] if isinstance(schema, list) else schema
