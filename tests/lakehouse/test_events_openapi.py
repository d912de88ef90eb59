"""What OpenAPI says of events is what is answered: a client that was made of it can read every answer."""

from __future__ import annotations

import json

import jsonschema
import pytest

from tests.lakehouse.events_site import admin_key, event, ingest, key_of
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_events_webhooks import PROVIDERS, SECRETS, signed

pytestmark = pytest.mark.django_db(transaction=True)

CHALLENGE = json.dumps({"type": "url_verification", "challenge": "c"}).encode()
SCHEMA = "/schemas/custom.x?namespace=acme"
READ = [
    ("GET", "/events?limit=1", "/events", b"", 200),
    ("GET", "/recent", "/recent", b"", 200),
    ("GET", "/events?limit=0", "/events", b"", 400),
    ("GET", "/documents/users/user-1", "/documents/{collection}/{doc_id}", b"", 200),
    ("GET", "/documents/users/user-1/history", "/documents/{collection}/{doc_id}/history", b"", 200),
    ("GET", "/documents/users/none", "/documents/{collection}/{doc_id}", b"", 404),
    ("PUT", SCHEMA, "/schemas/{event_type}", b'{"type": "object"}', 201),
    ("PUT", SCHEMA, "/schemas/{event_type}", b'{"type": "object"}', 200),
    ("GET", SCHEMA, "/schemas/{event_type}", b"", 200),
    ("GET", "/schemas?namespace=acme", "/schemas", b"", 200),
    ("DELETE", SCHEMA, "/schemas/{event_type}", b"", 200),
    ("POST", "/ingest?namespace=acme", "/ingest", b'{"events": []}', 200),
    ("POST", "/e?namespace=acme", "/e", b"{}", 400),
    ("GET", "/subscriptions/list", "/subscriptions/list", b"", 200),
]


def check(whole, method, path, heard):
    """Raises unless the answer is as it is described."""
    said = whole["paths"][path][method.lower()]["responses"][str(heard.status)]
    (content,) = said["content"].values()
    jsonschema.validate(heard.json, content["schema"] | {"components": whole["components"]})


async def test_every_answer_about_events_is_as_openapi_describes_it():
    async with home(open=False):
        whole = (await ask("GET", "/openapi.json")).json
        token, admin = await key_of("acme", "query", "subscribe"), await admin_key()
        one = {"events": [event()], "batchId": "b"}
        for _ in range(2):  # the second is deduplicated
            check(whole, "POST", "/ingest", await ingest(one, "/ingest?namespace=acme", token=admin))
        for method, path, described, body, status in READ:
            writes = method != "GET"
            heard = await ask(method, path, body, token=admin if writes else token)
            assert heard.status == status, (method, path, heard.body)
            check(whole, method, described, heard)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_every_answer_to_a_delivery_is_as_openapi_describes_it(provider):
    async with home(open=False, events_webhook_secrets=SECRETS):
        whole = (await ask("GET", "/openapi.json")).json
        body = json.dumps({"id": "evt_1"}).encode()
        for headers, sent in ((signed(provider, body), body), ({}, body), (signed(provider, CHALLENGE), CHALLENGE)):
            heard = await ask("POST", f"/webhooks/{provider}?namespace=acme", sent, headers=headers)
            check(whole, "POST", f"/webhooks/{provider}", heard)
