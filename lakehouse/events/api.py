"""The endpoints of events, as django-ninja knows them and /docs shows them; what they do stands beside this.

POST /ingest is answered before Django sees it (`http.front`); here is the same, slower, and what OpenAPI tells of it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from inspect import Parameter, Signature, signature
from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja import Router

from lakehouse.events import answers, documents, ingest, openapi, reading, schemas, signatures, webhooks
from lakehouse.limits.refusal import Response
from lakehouse.parent.house import House, house

IN_PATH = re.compile(r"{(?:\w+:)?(\w+)}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
Said = TypeVar("Said", bound=HttpResponseBase)
Serve = Callable[[dict[str, Any], ingest.ReadBody, House], Awaitable[Response]]

router = Router(tags=["events"])


def endpoint(method: str, path: str, name: str, serve: Serve, **said: Any) -> None:
    """An operation, which hears every other method too: a preflight is answered, all else is 405."""
    endpoints(path, serve, {method: {"operation_id": name, **said}})


def endpoints(path: str, serve: Serve, operations: dict[str, dict[str, Any]]) -> None:
    """The same with several methods."""

    async def view(request: HttpRequest, **_: str) -> HttpResponse:
        async def read_body(bytes_max: int) -> bytes:
            return request.read(bytes_max + 1)

        said = _http(await serve(request.scope, read_body, house()))  # type: ignore[attr-defined]  # an ASGI request
        return said if is_for_anybody else _kept_from_pages(said)

    is_for_anybody = path in ingest.PATHS or path.startswith(webhooks.PATH)
    # What stands in the path has to be a parameter of each of its operations.
    own = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=str) for name in IN_PATH.findall(path)]
    view.__signature__ = Signature([*signature(view).parameters.values()][:1] + own)  # type: ignore[attr-defined]
    for method, said in operations.items():
        router.api_operation([method], path, by_alias=True, **said)(view)
    others = [one for one in METHODS if one not in operations]
    router.api_operation(others, path, include_in_schema=False)(view)


async def _stream(request: HttpRequest) -> HttpResponseBase:
    found = await reading.open_stream(request.scope, house())  # type: ignore[attr-defined]  # an ASGI request
    if isinstance(found, Response):
        return _kept_from_pages(_http(found))
    headers = {name.decode(): value.decode() for name, value in answers.ANYBODY}
    headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    headers["X-Correlation-ID"] = ingest.correlation(request.scope)  # type: ignore[attr-defined]  # an ASGI request
    return _kept_from_pages(StreamingHttpResponse(found, content_type=reading.STREAM.decode(), headers=headers))


async def _no_stream(request: HttpRequest) -> HttpResponse:
    """Another method: a page asks before it shows a key in a header."""
    correlation_id = ingest.correlation(request.scope)  # type: ignore[attr-defined]  # an ASGI request
    if request.method == "OPTIONS":
        return _kept_from_pages(_http(answers.preflight("GET", correlation_id)))
    return _http(answers.not_allowed(request.path, str(request.method), "GET", correlation_id))


def _kept_from_pages(response: Said) -> Said:
    """In an open house nobody shows a key, so a page of any site could read what its visitor may (`http.pages`)."""
    for name, _ in answers.ANYBODY if house().settings.open else ():
        del response[name.decode()]
    return response


def _http(response: Response) -> HttpResponse:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
    headers.pop("content-length", None)
    headers.pop("connection", None)
    return HttpResponse(response.body, status=response.status, headers=headers)


for _path in ingest.PATHS:
    endpoint(
        "POST",
        _path,
        f"ingest{_path.replace('/', '_')}",
        ingest.answer,
        summary="Events of an application" if _path == "/ingest" else "The same as /ingest, for pages",
        description="At most 1000 in 1 MiB, all stored or none, durable when the answer comes; the same `batchId` is "
        "stored once. Needs the scope `ingest` or `admin`; a page may show its key as `?token=`.",
        response={200: openapi.Ingested, **openapi.ERRORS},
        openapi_extra=openapi.ingest(),
    )

for _path in ("/events", "/recent"):
    endpoint(
        "GET",
        _path,
        _path[1:],
        reading.listing,
        summary="Events, newest first" if _path == "/events" else "The newest events",
        description="What was acknowledged is seen, in a table or not yet. `links` lead to the next and the previous "
        "page. Needs the scope `query` or `admin`.",
        response={200: openapi.EventsListed, **openapi.OF_READING},
        openapi_extra=openapi.listing(),
    )
router.api_operation(
    ["GET"],
    "/events/stream",
    operation_id="events_stream",
    summary="Events as they come in",
    description="Server-sent events, until who listens hangs up; a client that comes back with `Last-Event-ID` goes on "
    "behind it. Needs the scope `query` or `admin`.",
    response={200: None, **openapi.OF_READING},
    openapi_extra=openapi.stream(),
)(_stream)

router.api_operation([one for one in METHODS if one != "GET"], "/events/stream", include_in_schema=False)(_no_stream)

_TAKEN: dict[str, Any] = {"slack": openapi.Ingested | openapi.Challenge}
for _provider in signatures.PROVIDERS:
    endpoint(
        "POST",
        f"/webhooks/{_provider}",
        f"webhook_{_provider.replace('-', '_')}",
        webhooks.answer,
        summary=f"A delivery of {_provider}",
        description="Becomes an event `webhook.<provider>.<event>`. Needs no key but the provider's signature, made "
        "with the secret in `EVODB_EVENTS_WEBHOOK_SECRETS`.",
        response={200: _TAKEN.get(_provider, openapi.Ingested), **openapi.ERRORS},
        openapi_extra=openapi.webhook(),
    )
endpoints(f"{webhooks.PATH}{{provider}}", webhooks.answer, {})

endpoint(
    "GET",
    schemas.PATH,
    "schemas",
    schemas.answer_all,
    summary="Which types of events have a schema",
    description="Those of one namespace. Needs the scope `query` or `admin`.",
    response={200: openapi.SchemasListed, **openapi.OF_READING},
    openapi_extra={"security": openapi.KEY, "parameters": openapi.FILTERS[:1]},
)
_SCHEMA = {"openapi_extra": openapi.schema(), "response": {200: openapi.OneSchema, **openapi.OF_SCHEMA}}
endpoints(
    f"{schemas.PATH}/{{event_type}}",
    schemas.answer_one,
    {
        "GET": _SCHEMA
        | {
            "operation_id": "schema",
            "summary": "The schema of a type",
            "description": "As it was sent. Needs the scope `query` or `admin`.",
        },
        "PUT": {
            "operation_id": "schema_put",
            "summary": "What events of a type have to be like",
            "description": "JSON Schema 2020-12 of at most 16 KiB. It holds for every event that comes after the "
            "answer, at every process: `/ingest` refuses a batch with another one (`SCHEMA_VALIDATION_ERROR`). Needs "
            "the scope `admin`, for this namespace.",
            "response": {(200, 201): openapi.OneSchema, **openapi.OF_SCHEMA, 413: openapi.EventsError},
            "openapi_extra": openapi.schema(with_body=True),
        },
        "DELETE": _SCHEMA
        | {
            "operation_id": "schema_delete",
            "summary": "No schema any more",
            "description": "Events of this type may be anything again. Needs the scope `admin`, for this namespace.",
        },
    },
)

endpoint(
    "GET",
    f"{documents.PATH}/history",
    "document_history",
    documents.answer,
    summary="The changes of a document, newest first",
    description="What was acknowledged is seen, in a table or not yet; `links.next` leads on. Of one source they come "
    "in the order of their bookmarks, else of their times. A slash in a name comes as `%2F`. Needs the scope `query` "
    "or `admin`.",
    response={200: openapi.History, **openapi.OF_DOCUMENT},
    openapi_extra=openapi.document(is_history=True),
)
endpoint(
    "GET",
    documents.PATH,
    "document",
    documents.answer,
    summary="A document, as it is or was",
    description="By its last change, or the last one until `asOf` or `bookmark`; a deleted one says so. Where several "
    "sources have such a document, `source` names one. A slash in a name comes as `%2F`. Needs the scope `query` or "
    "`admin`.",
    response={200: openapi.Document, **openapi.OF_DOCUMENT},
    openapi_extra=openapi.document(),
)
