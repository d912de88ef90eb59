"""What all endpoints have in common: methods, keys, and that OpenAPI tells the truth about them."""

import asyncio
import json
import re
import urllib.request

import pytest
from django.urls import URLResolver
from openapi_spec_validator import validate

from lakehouse.http import documents, openapi
from lakehouse.http.api import METHODS
from lakehouse.models import Parent
from lakehouse.parent import access
from lakehouse.urls import urlpatterns
from tests.builders import NOW_MS, parent
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)

ENDPOINTS = {
    "/health": ("GET", "HEAD"),
    "/ready": ("GET", "HEAD"),
    "/status": ("GET", "HEAD"),
    "/metrics": ("GET", "HEAD"),
    "/verify": ("GET", "HEAD"),
    "/flush": ("POST",),
    "/cdc": ("POST",),
    "/query": ("POST",),
    "/query/{query_id}": ("DELETE",),
}
EVENTS = {
    **{key: ["POST"] for key in ("/ingest", "/e")},
    **{key: ["GET"] for key in ("/events", "/recent", "/events/stream", "/schemas")},
    **{f"/webhooks/{name}": ["POST"] for name in ("github", "stripe", "slack", "svix", "standard-webhooks")},
    "/schemas/{event_type}": ["DELETE", "GET", "PUT"],
    "/documents/{collection}/{doc_id}": ["GET"],
    "/documents/{collection}/{doc_id}/history": ["GET"],
}
"""They have an error shape of their own (test_events_*)."""
OF_SUBSCRIPTIONS = "/subscriptions/"
"""They are in test_subscription_http."""
OTHERWISE = ("/\\A(?:iceberg", "/openapi.json", "/docs", "/dashboard/")
"""The catalog, which has a document of its own (apache/iceberg), what shows ours, and pages for people."""
WRONG = [(method, path) for path, allowed in ENDPOINTS.items() for method in METHODS if method not in allowed]


def fetch(request):
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.status, dict(response.headers), response.read()


@pytest.mark.parametrize("door", ["front", "django"])
async def test_a_living_process_says_so_without_asking_anybody(door):
    async with home(open=False):
        heard = await ask("GET", "/health", door=door)
        assert (heard.status, heard.body) == (200, b"OK")
        assert heard.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_real_server_serves_it_over_a_socket():
    async with serving() as server:
        url = server.url.replace("ws://", "http://").removesuffix("/ws")
        head = urllib.request.Request(f"{url}/health", method="HEAD")
        assert (await asyncio.to_thread(fetch, head))[::2] == (200, b"")
        body = json.dumps({"events": []}).encode()
        status, headers, found = await asyncio.to_thread(fetch, urllib.request.Request(f"{url}/cdc", body))
        assert (status, json.loads(found)["success"], headers["content-type"]) == (200, True, "application/json")


@pytest.mark.parametrize(("method", "path"), WRONG)
async def test_another_method_is_405_in_json_and_names_those_that_are_answered(method, path):
    async with home():
        heard = await ask(method, path)
        assert (heard.status, heard.headers["allow"]) == (405, ", ".join(ENDPOINTS[path]))
        if method != "HEAD":
            assert heard.json["error"].startswith(f"{path} answers")


@pytest.mark.parametrize("path", ["/nothing", "/cdc/", "/status/x", "/docs/x", "/subscriptions/1/x", "/webhooks"])
async def test_an_unknown_path_is_404_in_json_for_a_program(path):
    async with home():
        for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}, {"accept": "text/html;q*=none''1"}):
            heard = await ask("GET", path, headers=accept)
            assert (heard.status, heard.headers["content-type"]) == (404, "application/json")
            assert heard.json == {
                "error": f"there is nothing at {path}; /docs shows every endpoint",
                "code": "NOT_FOUND",
            }


@pytest.mark.parametrize("path", ["/ws", "/ws/", "/ws/north"])
async def test_the_address_of_the_children_in_a_browser_says_what_it_is_for(path):
    async with home():
        heard = await ask("GET", path, headers=BROWSER)
        assert (heard.status, heard.json["error"].partition("; ")[0]) == (404, f"{path} is for WebSockets of children")


@pytest.mark.parametrize("path", ["/nothing", "/query", "/subscriptions", "/flush"])
async def test_a_content_type_nobody_can_read_is_400_in_json(path):
    async with home():
        heard = await ask("POST", path, b"{}", headers={"content-type": "text/plain;charset*=none''1"})
        assert (heard.status, heard.json["code"]) == (400, "INVALID_REQUEST")


BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize(("path", "headers"), [("/nothing", BROWSER), ("/dashboard/nothing", {})])
async def test_an_unknown_path_is_a_page_for_who_looks_with_a_browser(path, headers):
    async with home():
        heard = await ask("GET", path, headers=headers)
        assert (heard.status, heard.headers["content-type"]) == (404, "text/html; charset=utf-8")


async def test_the_root_leads_to_the_admin():
    async with home():
        heard = await ask("GET", "/")
        assert (heard.status, heard.headers["location"]) == (302, "/admin/")


@pytest.mark.parametrize(("method", "path"), [("GET", "/status"), ("GET", "/metrics"), ("POST", "/flush")])
async def test_nothing_is_told_without_a_key(method, path):
    async with home(open=False):
        heard = await ask(method, path)
        assert (heard.status, heard.headers["www-authenticate"]) == (401, "Bearer")
        assert "evodb_" not in heard.body.decode()
        assert (await ask(method, path, token="evodb_wrong")).status == 401


@pytest.mark.parametrize(
    ("method", "path", "good", "bad"),
    [
        ("GET", "/status", ["query", "admin"], ["ingest", "subscribe"]),
        ("GET", "/metrics", ["query", "admin"], ["ingest", "subscribe"]),
        ("POST", "/flush", ["ingest", "admin"], ["query", "subscribe"]),
    ],
)
async def test_a_key_needs_one_of_the_scopes(method, path, good, bad):
    async with home(open=False):
        for scope in [*good, *bad]:
            _, token = await in_thread(lambda scope=scope: access.new_key("k", scopes=[scope], now_ms=NOW_MS))
            assert (await ask(method, path, token=token)).status == (200 if scope in good else 403), scope
            assert (await ask(method, f"{path}?token={token}")).status == (200 if scope in good else 403), scope


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("GET", "/status", "query or admin"),
        ("POST", "/flush", "ingest or admin"),
        ("POST", "/cdc", "ingest"),
        ("POST", "/ingest", "ingest or admin"),
        ("GET", "/events", "query or admin"),
        ("PUT", "/schemas/custom.x", "admin"),
        ("POST", "/query", "query or admin"),
        ("GET", "/subscriptions/list", "subscribe or admin"),
        ("GET", "/iceberg/v1/config", "query or admin"),
    ],
)
async def test_a_key_without_the_scope_hears_which_one_is_wanted(method, path, scopes):
    other = "ingest" if "ingest" not in scopes else "query"
    _, token = await in_thread(lambda: access.new_key("k", scopes=[other], now_ms=NOW_MS))
    async with home(open=False):
        heard = await ask(method, path, {}, token=token)
        assert heard.status == 403
        assert f"the access key does not have the scope {scopes}, which this needs" in heard.body.decode()


@pytest.mark.parametrize(("method", "path"), [("GET", "/status"), ("POST", "/flush")])
async def test_a_parent_the_key_is_not_for_is_403_whether_it_exists_or_not(method, path):
    await in_thread(lambda: parent("us"))
    _, token = await in_thread(lambda: access.new_key("k", scopes=["admin"], parents="eu-*", now_ms=NOW_MS))
    async with home(open=False):
        for name in ("us", "nowhere", "default"):
            assert (await ask(method, f"{path}?parent={name}", token=token)).status == 403
        assert (await ask(method, path, token=token)).status == 403


@pytest.mark.parametrize(("method", "path"), [("GET", "/status"), ("POST", "/flush")])
async def test_a_parent_nobody_named_is_404_and_does_not_begin_to_exist(method, path):
    async with home():
        heard = await ask(method, f"{path}?parent=eu")
        assert (heard.status, heard.json["error"][:28]) == (404, "no parent is called 'eu'; a ")
    assert not await in_thread(Parent.objects.exists)


async def test_who_tries_keys_has_to_wait_at_last():
    async with home(open=False, key_failures_per_minute=2, whitelisted_ips=""):
        answers = [await ask("GET", "/status", token="evodb_x", client=("198.51.100.7", 1)) for _ in range(3)]
        assert [heard.status for heard in answers] == [401, 401, 429]
        assert "retry-after" in answers[2].headers


async def test_who_shows_no_key_has_to_wait_as_who_tries_keys():
    async with home(open=False, key_failures_per_minute=4, whitelisted_ips=""):
        asked = [("GET", "/status"), ("GET", "/metrics"), ("POST", "/flush"), ("POST", "/cdc"), ("GET", "/status")]
        answers = [await ask(*what, client=("198.51.100.7", 1)) for what in asked]
        assert [heard.status for heard in answers] == [401] * 4 + [429]
        assert (await ask("GET", "/status", client=("198.51.100.8", 1))).status == 401


async def test_who_asks_for_the_status_without_end_takes_no_connection_of_a_child():
    async with home(requests_per_second=2, connections_per_second=2) as (opened, _):
        now_ms = opened.now_ms()
        opened.doorman._now_ms = lambda: now_ms
        answers = [await ask(*what) for what in (("GET", "/status"), ("POST", "/flush?parent=eu"), ("GET", "/metrics"))]
        assert [heard.status for heard in answers] == [200, 404, 429]
        assert (await ask("POST", "/cdc", {"events": []})).status == 200


# OpenAPI.


async def document():
    async with home(open=False):
        return (await ask("GET", "/openapi.json")).json


async def test_openapi_knows_every_endpoint_with_its_methods_and_every_error():
    every = (await document())["paths"]
    paths = {path: operations for path, operations in every.items() if not path.startswith(OF_SUBSCRIPTIONS)}
    found = {path: sorted(method.upper() for method in operations) for path, operations in paths.items()}
    assert found == {path: [allowed[0]] for path, allowed in ENDPOINTS.items()} | EVENTS
    said = {path: set(paths[path][method.lower()]["responses"]) for path, (method, *_) in ENDPOINTS.items()}
    of_parent = {"200", "400", "401", "403", "404", "405", "429", "503"}
    assert said == {
        "/health": {"200"},
        "/ready": {"200", "503"},
        "/status": of_parent,
        "/verify": of_parent,
        "/metrics": {"200", "401", "403", "405", "429", "503"},
        "/flush": of_parent,
        "/cdc": {"200", "400", "401", "403", "405", "409", "413", "429", "503"},
        "/query": {"200", "400", "401", "403", "405", "409", "413", "422", "429", "500", "503"},
        "/query/{query_id}": {"200", "401", "403", "404", "405", "429", "503"},
    }


async def test_openapi_explains_every_endpoint_with_examples():
    whole = await document()
    for path, operations in whole["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
            for status, answer in operation["responses"].items():
                assert example_of(answer, whole), f"{path} {status}"
    assert "AccessKeyAuth" in whole["components"]["securitySchemes"]


def example_of(answer, whole):
    (content,) = answer["content"].values()
    if "example" in content:
        return content["example"]
    schema = content["schema"]
    kind = schema.get("anyOf", [schema])[0]["$ref"].rpartition("/")[2]
    return whole["components"]["schemas"][kind]["examples"]


async def test_every_reference_of_openapi_leads_somewhere_and_every_name_is_there_once():
    whole = await document()
    text = json.dumps(whole)
    kinds = set(re.findall(r'"\$ref": "([^"]*)"', text))
    assert kinds <= {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}
    operations = re.findall(r'"operationId": "([^"]*)"', text)
    others = [name for name in operations if name.startswith("subscriptions_")]
    assert len(operations) == len(set(operations)) == len(ENDPOINTS) + sum(map(len, EVENTS.values())) + len(others)


def routes(patterns=urlpatterns, before=""):
    """Every path of the URLconf that our API answers, as OpenAPI writes it."""
    for one in patterns:
        path = before + str(one.pattern)
        if isinstance(one, URLResolver):
            yield from routes(one.url_patterns, path)
        elif path:
            yield "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)


async def test_every_route_of_the_api_is_in_openapi_and_nothing_else_is():
    found = {path for path in routes() if not path.startswith(OTHERWISE)}
    assert {path.partition("/")[2].partition("/")[0] for path in found} >= {
        *(
            "ingest",
            "e",
            "events",
            "recent",
            "query",
            "webhooks",
            "schemas",
            "documents",
            "subscriptions",
            "cdc",
            "flush",
        ),
    }
    assert found - {"/webhooks/{provider}"} == set((await document())["paths"])  # that one tells which there are


@pytest.mark.once
async def test_openapi_is_what_the_specification_says():
    validate(await document())


@pytest.mark.parametrize(
    "kind",
    [
        documents.Answered,
        documents.QueryRefused,
        documents.Stored,
        documents.Refused,
        documents.Flushed,
        documents.Ready,
        documents.Status,
    ],
)
def test_an_example_is_one_of_its_kind(kind):
    (example,) = kind.model_config["json_schema_extra"]["examples"]
    assert kind.model_validate(example).model_dump(by_alias=True, exclude_unset=True) == example


async def test_the_example_of_events_is_taken():
    body = openapi.cdc_extra()["requestBody"]["content"]["application/json"]["example"]
    async with home():
        assert (await ask("POST", "/cdc", body)).json["eventsReceived"] == 1


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")  # whitenoise
async def test_the_docs_need_no_other_host():
    async with home():
        page = (await ask("GET", "/docs")).body.decode()
        links = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert len(links) >= 3
        assert all(link.startswith("/static/ninja/") for link in links)
        assert json.loads(re.search(r"<script type=.application/json.[^>]*>(.*?)</script>", page, re.S)[1]) == {
            "layout": "BaseLayout",
            "deepLinking": True,
            "tryItOutEnabled": True,
            "validatorUrl": None,
            "url": "/openapi.json",
        }
        for link in links:
            assert (await ask("GET", link)).status == 200, link
