"""POST /webhooks/<provider>: a good signature makes an event, a forged or an old one is 401 and stored nowhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest

from lakehouse.clock import now_ms
from lakehouse.events import signatures
from lakehouse.events.refusals import EventsRefused
from lakehouse.models import BatchPayload, Parent
from rpc import columns
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_events_schemas import made
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "whsec_" + base64.b64encode(b"a secret of 24 bytes ...").decode()
PROVIDERS = ("github", "stripe", "slack", "svix", "standard-webhooks")
SECRETS = json.dumps({"acme": dict.fromkeys(PROVIDERS, SECRET), "default": {"github": SECRET}})
BODY = json.dumps({"id": "evt_1", "event_id": "Ev1", "type": "invoice.paid", "event": {"type": "message"}}).encode()


def signed(provider, body=BODY, *, secret=SECRET, at_s=None, delivery="d-1"):
    """The headers that the provider would send."""
    time = str(now_ms() // 1000 if at_s is None else at_s)

    def mac(text, key=None):
        return hmac.new(secret.encode() if key is None else key, text, hashlib.sha256)

    if provider == "github":
        found = "sha256=" + mac(body).hexdigest()
        return {"x-hub-signature-256": found, "x-github-event": "push", "x-github-delivery": delivery}
    if provider == "stripe":
        return {"stripe-signature": f"t={time},v0=x,v1={'0' * 64},v1={mac(time.encode() + b'.' + body).hexdigest()}"}
    if provider == "slack":
        found = "v0=" + mac(b"v0:" + time.encode() + b":" + body).hexdigest()
        return {"x-slack-signature": found, "x-slack-request-timestamp": time}
    prefix = "svix" if provider == "svix" else "webhook"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    found = mac(f"{delivery}.{time}.".encode() + body, key).digest()
    signatures = f"v1,{base64.b64encode(b'0' * 32).decode()} v1,{base64.b64encode(found).decode()}"
    return {f"{prefix}-id": delivery, f"{prefix}-timestamp": time, f"{prefix}-signature": signatures}


async def deliver(provider, body=BODY, *, query="namespace=acme", headers=None):
    return await ask(
        "POST", f"/webhooks/{provider}?{query}", body, headers=signed(provider) if headers is None else headers
    )


async def rows():
    def read():
        payloads = BatchPayload.objects.order_by("pk").values_list("payload", flat=True)
        return [json.loads(one.after) for payload in payloads for one in columns.decode(bytes(payload)).entries()]

    return await in_thread(read)


TOLD = {
    "github": ("push", "d-1"),
    "stripe": ("invoice.paid", "evt_1"),
    "slack": ("message", "Ev1"),
    "svix": ("invoice.paid", "d-1"),
    "standard-webhooks": ("invoice.paid", "d-1"),
}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_delivery_becomes_an_event_once(provider):
    kind, delivery = TOLD[provider]
    async with home(open=False, events_webhook_secrets=SECRETS):
        heard = [await deliver(provider) for _ in range(2)]
        assert [(one.status, one.json.get("deduplicated")) for one in heard] == [(200, None), (200, True)]
        assert heard[0].json["namespace"] == "acme"
    (row,) = await rows()
    assert (row["ns"], row["type"], row["source"]) == ("acme", f"webhook.{provider}.{kind}", provider)
    assert row["webhook"] == {"provider": provider, "eventType": kind, "deliveryId": delivery, "verified": True}
    assert row["payload"] == json.loads(BODY)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_forged_a_missing_or_an_old_signature_is_401_and_stored_nowhere(provider):
    good, now_s = signed(provider), now_ms() // 1000
    forged = [
        {},
        signed(provider, secret="whsec_" + base64.b64encode(b"another secret ........").decode()),
        signed(provider, BODY + b" "),
        {name: value[:-1] + ("0" if value[-1] != "0" else "1") for name, value in good.items()},
        dict.fromkeys(good, "ü"),
        dict.fromkeys(good, ""),
    ]
    if provider != "github":
        forged += [signed(provider, at_s=now_s - 302), signed(provider, at_s=now_s + 310), signed(provider, at_s=-1)]
    async with home(events_webhook_secrets=SECRETS):
        for headers in forged:
            heard = await deliver(provider, headers=headers)
            assert (heard.status, heard.json["code"]) == (401, "INVALID_SIGNATURE"), headers
        assert not await in_thread(Parent.objects.exists)


async def test_the_secret_of_one_tenant_opens_no_other():
    async with home(events_webhook_secrets=SECRETS):
        assert (await deliver("github", query="namespace=globex")).json["code"] == "INVALID_SIGNATURE"
        assert (await deliver("github", query="")).json["namespace"] == "default"
        assert (await deliver("github", query="namespace=..%2Fx")).json["code"] == "INVALID_NAMESPACE"
        assert (await deliver("stripe", query="")).json["code"] == "INVALID_SIGNATURE"


async def test_without_secrets_no_webhook_is_taken():
    async with home(events_webhook_secrets=""):
        assert (await deliver("github")).status == 401


async def test_an_unknown_provider_is_404_and_another_method_405():
    async with home(events_webhook_secrets=SECRETS):
        heard = await ask("POST", "/webhooks/gitlab", BODY)
        assert (heard.status, heard.json["code"]) == (404, "NOT_FOUND")
        assert heard.json["error"].startswith("no provider is called 'gitlab', wanted one of github, ")
        heard = await ask("GET", "/webhooks/github")
        assert (heard.status, heard.headers["allow"]) == (405, "POST")


async def test_slack_hears_its_challenge_and_nothing_is_stored():
    body = json.dumps({"type": "url_verification", "challenge": "c"}).encode()
    async with home(events_webhook_secrets=SECRETS):
        heard = await deliver("slack", body, headers=signed("slack", body))
        assert (heard.status, heard.json) == (200, {"challenge": "c"})
    assert await rows() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 100_000])
async def test_a_payload_that_is_no_object_is_400_when_its_signature_is_good(body):
    async with home(events_webhook_secrets=SECRETS):
        heard = await deliver("github", body, headers=signed("github", body))
        assert (heard.status, heard.json["code"]) == (400, "INVALID_JSON")


async def test_a_payload_over_a_mebibyte_is_413_and_one_below_is_taken_whole():
    large = json.dumps({"x": "x" * 900_000}).encode()
    async with home(events_webhook_secrets=SECRETS):
        assert (await deliver("github", large, headers=signed("github", large))).status == 200
        heard = await deliver("github", b"x" * 2**20 + b"x")
        assert (heard.status, heard.json["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert len((await rows())[0]["payload"]["x"]) == 900_000


async def test_json_that_its_sender_calls_a_form_keeps_its_payload():
    headers = signed("github") | {"content-type": "application/x-www-form-urlencoded"}
    async with home(events_webhook_secrets=SECRETS):
        assert (await deliver("github", headers=headers)).status == 200
    (row,) = await rows()
    assert row["payload"] == json.loads(BODY)


async def test_a_form_and_a_name_with_signs_are_taken():
    form = b"command=%2Fdeploy&text=&to=a&to=b"
    headers = signed("slack", form) | {"content-type": "application/x-www-form-urlencoded"}
    odd = json.dumps({"type": "a b/../c" + "x" * 200, "id": 7}).encode()
    async with home(events_webhook_secrets=SECRETS):
        assert (await deliver("slack", form, headers=headers)).status == 200
        assert (await deliver("stripe", odd, headers=signed("stripe", odd))).status == 200
    command, named = await rows()
    assert (command["type"], command["payload"]) == (
        "webhook.slack.delivery",
        {"command": "/deploy", "text": "", "to": ["a", "b"]},
    )
    assert named["type"] == ("webhook.stripe.a_b_.._c" + "x" * 200)[:128]


async def test_half_an_emoji_in_a_delivery_becomes_a_sign_and_costs_nobody_the_rest():
    body = b'{"type":"message","text":"cut \\ud83d off"}'
    async with home(events_webhook_secrets=SECRETS):
        heard = await deliver("github", body, headers=signed("github", body))
        assert heard.status == 200, heard.body
    assert (await rows())[0]["payload"]["text"] == "cut \ufffd off"


async def test_a_delivery_that_is_not_as_the_schema_of_its_type_is_refused_as_at_ingest():
    schema = {"properties": {"payload": {"required": ["ref"]}}}
    await made(schema, kind="webhook.github.push", namespace="acme")
    async with home(open=False, events_webhook_secrets=SECRETS):
        heard = await deliver("github")
        assert (heard.status, heard.json["code"]) == (400, "SCHEMA_VALIDATION_ERROR")
        assert heard.json["details"] == {
            "indices": [0],
            "errors": [{"index": 0, "path": "/payload", "message": "'ref' is a required property"}],
        }
        assert await rows() == []
        body = b'{"ref": "main"}'
        assert (await deliver("github", body, headers=signed("github", body))).status == 200
        assert (await deliver("stripe")).status == 200
    assert [row["type"] for row in await rows()] == ["webhook.github.push", "webhook.stripe.invoice.paid"]


async def test_a_preflight_of_a_webhook_is_answered_as_that_of_all_events():
    async with home(open=False):
        heard = await ask("OPTIONS", "/webhooks/github", headers={"x-correlation-id": "mine"})
        assert (heard.status, heard.headers["access-control-allow-methods"]) == (200, "POST, OPTIONS")
        assert (heard.headers["access-control-allow-origin"], heard.headers["x-correlation-id"]) == ("*", "mine")


def test_the_examples_that_github_and_svix_publish_are_good():
    secret, signature = "It's a Secret to Everybody", "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    signatures.github({"x-hub-signature-256": f"sha256={signature}"}, b"Hello, World!", secret, 0)
    signed_by_svix = {
        "svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "svix-timestamp": "1614265330",
        "svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    for seconds in (-300, 300):
        assert signatures.standard(signed_by_svix, body, secret, 1614265330 + seconds).delivery_id
    for seconds in (-301, 301):
        with pytest.raises(EventsRefused):
            signatures.standard(signed_by_svix, body, secret, 1614265330 + seconds)
