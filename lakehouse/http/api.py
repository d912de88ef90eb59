"""The endpoints, as django-ninja knows them and /docs shows them. What they do stands in the modules beside this one.

Where `front` stands before Django, it answers POST /cdc and /health; the operations here do the same, slower, and tell
OpenAPI about it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from inspect import Signature, signature
from typing import Any

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from ninja import Query, Status
from ninja.errors import HttpError, ValidationError

from lakehouse import metrics as series
from lakehouse.events.api import router as events
from lakehouse.http import answers, cdc, flushes, openapi, pages, queries, rows, unstorable
from lakehouse.http import status as statuses
from lakehouse.http.documents import (
    Answered,
    Cancelled,
    CheckResult,
    Flushed,
    ParentQuery,
    QueryRefused,
    Ready,
    StatusQuery,
    Stored,
)
from lakehouse.http.documents import Status as StatusDocument
from lakehouse.http.keys import AccessKeyAuth, SentAway
from lakehouse.http.readiness import readiness_of
from lakehouse.http.scrape import scrape
from lakehouse.http.verification import Verification, VerifyQuery, verification
from lakehouse.limits.refusal import Response
from lakehouse.parent.grants import ADMIN, INGEST, QUERY
from lakehouse.parent.greeting import DEFAULT_PARENT
from lakehouse.parent.house import house
from lakehouse.subscriptions import routes, visitors
from rpc.dolake.refusals import Reason, Refusal

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
RETRY_MS = 1000

api = openapi.Described(
    title="EvoDB",
    version=version("evodb"),
    description="A parent over HTTP. Sockets are at `/ws` (docs/protocol.md); all of this is in docs/http-api.md.",
    urls_namespace="http",
    docs=openapi.DOCS,
)
View = Callable[..., Any]


def endpoint(method: str, path: str, **said: Any) -> Callable[[View], View]:
    """An operation, its HEAD if it is a GET, and 405 in JSON for every other method."""

    def register(view: View) -> View:
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        api.api_operation([method], path, operation_id=view.__name__, by_alias=True, **said)(view)
        if method == "GET":
            same = {name: said[name] for name in ("auth", "response") if name in said}
            api.api_operation(["HEAD"], path, by_alias=True, include_in_schema=False, **same)(view)

        async def not_allowed(request: HttpRequest, **_: str) -> HttpResponse:
            if (said := pages.preflight(request, method)) is not None:
                return _http(said)
            text = f"{path} answers {' and '.join(allowed)}, not {request.method}"
            code = {"code": visitors.CODES[405]} if pages.is_for_pages(request) else {}
            refusal = answers.answer(405, {"error": text, **code}, (b"allow", ", ".join(allowed).encode()))
            return pages.shown(request, _http(refusal))

        # What stands in the path has to be a parameter of each of its operations.
        known = [one for name, one in signature(view).parameters.items() if name == "request" or f"{{{name}}}" in path]
        not_allowed.__signature__ = Signature(known)  # type: ignore[attr-defined]
        others = [name for name in METHODS if name not in allowed]
        api.api_operation(others, path, include_in_schema=False)(not_allowed)
        return view

    return register


@endpoint("GET", "/health", summary="Is this process alive?", openapi_extra=openapi.text_answer("OK"))
async def health(request: HttpRequest) -> HttpResponse:
    """Asks nothing and nobody, so that a database that is away never gets a process killed."""
    return HttpResponse("OK", content_type="text/plain; charset=utf-8")


@endpoint("GET", "/ready", summary="Can this process do its work?", response={(200, 503): Ready})
async def ready(request: HttpRequest) -> Status[Ready]:
    """Database, broker, object store, catalog and fuses, at once and each within 2 s; a process that stops is not
    ready, whatever they say. No key is needed, and nothing is told but the kind of error and which fuse is blown. A
    parent takes events while the object store is away; a balancer that shall go on sending them asks /health."""
    found = await readiness_of(house()).look()
    is_ready = all(one.ok for one in found.values()) and not house().is_closing
    checks = {name: CheckResult(ok=one.ok, latency_ms=one.latency_ms, error=one.error) for name, one in found.items()}
    return Status(200 if is_ready else 503, Ready(ready=is_ready, checks=checks))


@endpoint(
    "GET",
    "/status",
    summary="A parent at one moment",
    auth=AccessKeyAuth(QUERY, ADMIN),
    response={200: StatusDocument, **openapi.OF_PARENT},
)
async def status(request: HttpRequest, query: Query[StatusQuery]) -> Status[StatusDocument]:
    """Its buffer, its children, its limits and its flushes. Needs the scope `query` or `admin`."""
    opened = house()
    now_ms = opened.now_ms()
    seen = await sync_to_async(rows.picture)(
        query.parent, default=DEFAULT_PARENT, sources_max=query.limit, now_ms=now_ms
    )
    if seen is None:
        raise SentAway(_no_parent(query.parent))
    return Status(200, statuses.status(opened, seen, now_ms=now_ms))


@endpoint(
    "GET",
    "/metrics",
    summary="Everything that can be counted, for Prometheus",
    auth=AccessKeyAuth(QUERY, ADMIN, of_all_parents=True),
    response={200: None, **openapi.ERRORS},
    openapi_extra=openapi.text_answer(
        '# TYPE dolake_buffer_events gauge\ndolake_buffer_events{parent="default"} 300\n'
    ),
)
async def metrics(request: HttpRequest) -> HttpResponse:
    """The parents that the key may reach. Needs the scope `query` or `admin`, as a bearer token."""
    grant = request.auth  # type: ignore[attr-defined]  # the grant
    return HttpResponse(await scrape(house(), grant), content_type=series.CONTENT_TYPE)


@endpoint(
    "GET",
    "/verify",
    summary="What the journal counted of one child",
    auth=AccessKeyAuth(INGEST, ADMIN),
    response={200: Verification, **openapi.OF_PARENT},
)
async def verify(request: HttpRequest, query: Query[VerifyQuery]) -> Status[Verification]:
    """How many entries, and the sums of their digests, for the child to compare with its own (`evodb verify`). Needs
    the scope `ingest` for this child, or `admin`."""
    opened, grant = house(), request.auth  # type: ignore[attr-defined]  # the grant
    if not grant.allows(scope=ADMIN) and not grant.allows(scope=INGEST, source=query.child):
        raise SentAway(answers.no_key(403))
    found = await sync_to_async(verification)(query.parent, query.child, now_ms=opened.now_ms())
    if found is None:
        text = f"parent {query.parent[:100]!r} has no child {query.child[:100]!r}; one begins to exist when it connects"
        raise SentAway(answers.answer(404, {"error": text}))
    return Status(200, found)


@endpoint(
    "POST",
    "/flush",
    summary="Bring what is durable into its tables now",
    auth=AccessKeyAuth(INGEST, ADMIN),
    response={200: Flushed, **openapi.OF_PARENT, 503: Flushed},
    openapi_extra=openapi.retry_after(429, 503),
)
async def flush(request: HttpRequest, query: Query[ParentQuery]) -> HttpResponse:
    """Asks a worker and waits up to 50 s. Needs the scope `ingest` or `admin`, for a child may ask on its socket, too.
    After 503 everything is as durable as before, and will be flushed."""
    found = await sync_to_async(rows.find)(query.parent, default=DEFAULT_PARENT)
    if found is None:
        raise SentAway(_no_parent(query.parent))
    result = await flushes.flush(house(), found.pk)
    document = Flushed(
        success=result.success,
        batches_flushed=result.batches_flushed,
        events_flushed=result.entries_flushed,
        bytes_written=result.bytes_written,
        paths=result.paths,
        duration_ms=result.duration_ms,
        used_fallback=result.used_fallback,
        error=result.error or None,
    ).model_dump(by_alias=True, exclude_none=True)
    if result.success:
        return _http(answers.answer(200, document))
    return _http(answers.answer(503, document, (b"retry-after", b"5")))


@endpoint(
    "POST",
    "/cdc",
    summary="Events of a child without a socket",
    response={200: Stored, **openapi.OF_CDC},
    openapi_extra=openapi.cdc_extra(),
)
async def store(request: HttpRequest) -> HttpResponse:
    """Stored whole or not at all, and durable when the answer comes. The same `sequenceNumber` of a child, or else the
    same `Idempotency-Key`, is stored once; without either every request is new. Needs the scope `ingest`."""

    async def read_body(bytes_max: int) -> bytes:
        return request.read(bytes_max + 1)

    return _http(await cdc.answer(request.scope, read_body, house()))  # type: ignore[attr-defined]


@endpoint(
    "POST",
    "/query",
    summary="Ask the tables in SQL",
    auth=visitors.KeyAuth(QUERY, ADMIN, of_all_parents=True),
    response={200: Answered, **openapi.OF_QUERY},
    openapi_extra=openapi.query_extra(),
)
async def query(request: HttpRequest) -> HttpResponse:
    """One SELECT, within bounds of time, memory, rows and bytes; who hangs up ends it. Needs the scope `query` or
    `admin`, and sees the tables of the key's namespaces."""
    grant = request.auth  # type: ignore[attr-defined]
    body, accept = request.read(queries.BODY_BYTES_MAX + 1), request.headers.get("accept", "")
    answer = await queries.answer(body, accept, grant=grant, caller=_caller(request), house=house())
    return pages.shown(request, _http(answer))


@endpoint(
    "DELETE",
    "/query/{query_id}",
    summary="Cancel a query",
    auth=visitors.KeyAuth(QUERY, ADMIN, of_all_parents=True),
    response={200: Cancelled, **openapi.ERRORS, 404: QueryRefused, 503: QueryRefused},
)
async def cancel_query(request: HttpRequest, query_id: str) -> HttpResponse:
    """The one that was asked with this `queryId`, by the same key, whichever process of the parent was asked. It is
    answered with 409 and `QUERY_CANCELLED`, and its process and its turn are free."""
    return pages.shown(request, _http(await queries.cancel(query_id, caller=_caller(request), house=house())))


def _caller(request: HttpRequest) -> str:
    """Whose queries are counted together: those of a key, or in an open house of an address."""
    grant = request.auth  # type: ignore[attr-defined]
    if grant.key_id is not None:
        return f"key {grant.key_id}"
    address = house().doorman.address_of(request.scope)  # type: ignore[attr-defined]  # an ASGI request
    return f"address {address and address.ip}"


api.add_router("", events)
api.add_router("/subscriptions", routes.router)


@api.exception_handler(SentAway)
def _sent_away(request: HttpRequest, exc: SentAway) -> HttpResponse:
    return pages.shown(request, _http(exc.response))


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, exc: ValidationError) -> HttpResponse:
    said = [f"{one['loc'][-1]}: {one['msg'][:1].lower()}{one['msg'][1:]}" for one in exc.errors]
    return _complained(request, 400, "; ".join(said))


@api.exception_handler(HttpError)
def _unreadable(request: HttpRequest, exc: HttpError) -> HttpResponse:
    """A body that is no JSON."""
    return _complained(request, exc.status_code, str(exc))


@api.exception_handler(DatabaseError)
def _database_away(request: HttpRequest, exc: DatabaseError) -> HttpResponse:
    if (said := unstorable.complaint(exc)) is not None:
        return _complained(request, 400, said)
    text = "the database is not available"
    refused = answers.refused(Refusal(Reason.INTERNAL_ERROR, text, RETRY_MS))
    if pages.is_for_pages(request):
        refused = visitors.refusal(503, text, visitors.CODES[503], headers=refused.headers)
    return pages.shown(request, _http(refused))


def _complained(request: HttpRequest, status: int, text: str) -> HttpResponse:
    code = {"code": visitors.CODES.get(status, "ERROR")} if pages.is_for_pages(request) else {}
    return pages.shown(request, _http(answers.answer(status, {"error": text, **code})))


def _no_parent(name: str) -> Response:
    text = f"no parent is called {name[:100]!r}; a child makes one by naming it, or the admin does"
    return answers.answer(404, {"error": text})


def _http(response: Response) -> HttpResponse:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
    headers.pop("content-length")
    headers.pop("connection", None)
    return HttpResponse(response.body, status=response.status, headers=headers)
