"""/subscriptions: what a key may see and do, and that another tenant's is not there."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from lakehouse.clock import now_ms
from lakehouse.events.event import shown
from lakehouse.models import Flush, FlushTable, Parent
from lakehouse.parent import access
from lakehouse.parent.house import house as opened
from lakehouse.subscriptions import routes
from lakehouse.subscriptions.models import Attempt, Delivery, Subscription
from tests.builders import NOW_MS, parent
from tests.lakehouse.events_site import key_of
from tests.lakehouse.http_site import Heard, ask, home

pytestmark = pytest.mark.django_db(transaction=True)

ACTS = ("unsubscribe", "reactivate", "pause")
HOOK = {"name": "hook", "pattern": "collection.*", "target": "https://example.com/hook"}


@pytest.fixture(autouse=True)
async def house() -> AsyncIterator[None]:
    async with home(open=False):
        yield


@sync_to_async
def a_key(*, parents: str = "*", namespaces: str = "*", scopes: tuple[str, ...] = ("subscribe",)) -> str:
    key, text = access.new_key("k", scopes=list(scopes), source_pattern="*", now_ms=NOW_MS)
    type(key).objects.filter(pk=key.pk).update(parents=parents, namespaces=namespaces)
    return text


@sync_to_async
def a_parent(name: str, namespace: str = "lake", **fields: Any) -> Parent:
    made = parent(name)
    Parent.objects.filter(pk=made.pk).update(namespace=namespace, **fields)
    return Parent.objects.get(pk=made.pk)


@sync_to_async
def created(model: Any, **fields: Any) -> Any:
    return model.objects.create(**fields)


async def subscribed(token: str, **fields: Any) -> Any:
    heard = await ask("POST", "/subscriptions/subscribe", HOOK | fields, token=token)
    assert heard.status == 201, heard.body
    return heard.json["subscription"]


def problem(heard: Heard) -> tuple[int, str]:
    assert set(heard.json) <= {"error", "code", "details"}
    assert heard.json["error"]
    return heard.status, heard.json["code"]


async def test_a_subscription_from_its_beginning_to_its_end() -> None:
    await a_parent("default", commit_number=7)
    token = await a_key()
    made = await subscribed(token, batchEvents=10)
    pk = made["id"]
    assert (made["commitNumber"], made["state"], made["batchEvents"]) == (7, "active", 10)
    assert made["secret"].startswith("whsec_")
    shown = (await ask("GET", f"/subscriptions/{pk}", token=token)).json["subscription"]
    assert shown == made | {"secret": None}
    listed = (await ask("GET", "/subscriptions/list?parent=default", token=token)).json
    assert [one["id"] for one in listed["subscriptions"]] == [pk]
    changed = await ask(
        "PUT", f"/subscriptions/{pk}", {"pattern": "**", "target": "https://example.com/b"}, token=token
    )
    assert (changed.json["subscription"]["pattern"], changed.json["subscription"]["name"]) == ("**", "hook")
    for action, state in (("pause", "paused"), ("reactivate", "active"), ("unsubscribe", "disabled")):
        heard = await ask("POST", f"/subscriptions/{action}", {"subscriptionId": pk}, token=token)
        assert heard.json["subscription"]["state"] == state
    standing = (await ask("GET", f"/subscriptions/status/{pk}", token=token)).json
    assert (standing["behind"], standing["pendingEvents"], standing["deadLetters"]) == (0, 0, 0)
    assert (await ask("DELETE", f"/subscriptions/{pk}", token=token)).status == 200
    assert problem(await ask("GET", f"/subscriptions/{pk}", token=token)) == (404, "NOT_FOUND")


async def test_who_would_hear_of_an_event_is_told() -> None:
    await a_parent("default")
    token = await a_key()
    for name, pattern, table in (("a", "**", ""), ("b", "*.insert", "orders"), ("c", "x", "")):
        await subscribed(token, name=name, pattern=pattern, table=table)

    async def names(query: str) -> list[str]:
        heard = await ask("GET", f"/subscriptions/match?{query}", token=token)
        return [one["name"] for one in heard.json["subscriptions"]]

    assert await names("eventType=collection.insert&table=orders") == ["a", "b"]
    assert await names("eventType=collection.insert") == ["a"]


async def test_of_another_tenant_nothing_is_there() -> None:
    await a_parent("ours", "ours")
    await a_parent("theirs", "theirs")
    admin = await a_key(scopes=("admin",))
    theirs = (await subscribed(admin, parent="theirs"))["id"]
    letter = await sync_to_async(Delivery.objects.create)(
        subscription_id=theirs, commit_number=1, dead_ms=1, events=b"[]"
    )
    for ours in (await a_key(parents="ours"), await a_key(namespaces="ours")):
        mine = (await subscribed(ours, parent="ours"))["id"]
        asked = [
            ("POST", "/subscriptions/subscribe", HOOK | {"parent": "theirs"}),
            *(
                ("POST", f"/subscriptions/{act}", {"subscriptionId": theirs})
                for act in ("unsubscribe", "reactivate", "pause")
            ),
            ("GET", "/subscriptions/match?parent=theirs&eventType=x", b""),
            ("GET", f"/subscriptions/status/{theirs}", b""),
            *((method, f"/subscriptions/{theirs}", b"") for method in ("GET", "DELETE")),
            ("PUT", f"/subscriptions/{theirs}", {"pattern": "**"}),
            ("POST", f"/subscriptions/{theirs}/replay", {"startAt": "2026-01-01"}),
            ("GET", f"/subscriptions/{theirs}/dead-letters", b""),
            ("GET", f"/subscriptions/{theirs}/deliveries", b""),
            ("GET", f"/subscriptions/dead-letters/{letter.pk}", b""),
            ("POST", f"/subscriptions/dead-letters/{letter.pk}/retry", b""),
            ("GET", f"/subscriptions/deliveries/{letter.pk}/logs", b""),
        ]
        for method, path, body in asked:
            assert problem(await ask(method, path, body, token=ours)) == (404, "NOT_FOUND"), path
        listed = (await ask("GET", "/subscriptions/list", token=ours)).json["subscriptions"]
        assert [one["id"] for one in listed] == [mine]
        assert (await ask("GET", "/subscriptions/list?parent=theirs", token=ours)).json["subscriptions"] == []
        assert (await ask("GET", "/subscriptions/dead-letters", token=ours)).json["deadLetters"] == []
        await ask("DELETE", f"/subscriptions/{mine}", token=ours)
    assert await sync_to_async(Subscription.objects.get)() == await sync_to_async(Subscription.objects.get)(pk=theirs)


async def test_the_key_of_a_namespace_subscribes_to_its_events_before_there_are_any() -> None:
    await a_parent("default")
    token = await key_of("acme", "subscribe")
    made = await subscribed(token)
    assert made["parent"] == "events.acme"
    assert (await subscribed(token, parent="events.acme"))["parent"] == "events.acme"
    found = (await ask("GET", "/subscriptions/match?eventType=collection.insert", token=token)).json["subscriptions"]
    assert [one["parent"] for one in found] == ["events.acme"] * 2
    for other in ("events.globex", "default"):
        heard = await ask("POST", "/subscriptions/subscribe", HOOK | {"parent": other}, token=token)
        assert problem(heard) == (404, "NOT_FOUND")
    assert not await sync_to_async(Parent.objects.filter(name="events.globex").exists)()
    assert (await subscribed(await a_key()))["parent"] == "default"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/subscriptions/list", "GET"),
        ("GET", "/subscriptions/subscribe", "POST"),
        ("PATCH", "/subscriptions/7", "DELETE, GET, PUT"),
    ],
)
async def test_another_method_is_405_in_the_shape_of_all_errors(method: str, path: str, allowed: str) -> None:
    heard = await ask(method, path)
    assert problem(heard) == (405, "METHOD_NOT_ALLOWED")
    assert heard.headers["allow"] == allowed


async def test_a_page_of_another_site_subscribes_with_its_key_and_finds_its_request_again() -> None:
    await a_parent("default")
    token, mine = await a_key(), {"x-correlation-id": "mine"}
    asked = await ask("OPTIONS", "/subscriptions/7", headers=mine)
    assert (asked.status, asked.headers["access-control-allow-methods"]) == (200, "DELETE, GET, PUT, OPTIONS")
    letter = await created(Delivery, subscription_id=(await subscribed(token))["id"], commit_number=1, dead_ms=1)
    heard = [
        asked,
        await ask("GET", "/subscriptions/list", token=token, headers=mine),
        await ask("GET", f"/subscriptions/dead-letters/{letter.pk}", token=token, headers=mine),
        await ask("GET", "/subscriptions/list?limit=x", token=token, headers=mine),
        await ask("POST", "/subscriptions/subscribe", b"{", token=token, headers=mine),
        await ask("GET", "/subscriptions/list", headers=mine),
        await ask("POST", "/subscriptions/list", headers=mine),
        await ask("GET", "/subscriptions/4711", token=token, headers=mine),
    ]
    assert [one.status for one in heard] == [200, 200, 200, 400, 400, 401, 405, 404]
    for one in heard:
        assert (one.headers["access-control-allow-origin"], one.headers["x-correlation-id"]) == ("*", "mine")
    assert (await ask("GET", "/subscriptions/list", token=token)).headers["x-correlation-id"]


async def test_every_refusal_has_one_shape_whoever_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem(await ask("GET", "/subscriptions/list", token="ns_public_" + "a" * 20)) == (
        *(401, "INVALID_NAMESPACE_KEY"),
    )
    token = await a_key()

    def away(*_: Any) -> None:
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(routes, "reached", away)
        heard = await ask("GET", "/subscriptions/list", token=token)
        assert problem(heard) == (503, "SERVICE_UNAVAILABLE")
        assert heard.headers["retry-after"] == "1"
    monkeypatch.setattr(opened(), "is_closing", True)
    heard = await ask("POST", "/subscriptions/subscribe", HOOK, token=token)
    assert problem(heard) == (503, "SERVICE_UNAVAILABLE")
    assert (heard.headers["retry-after"], heard.json["details"]["reason"]) == ("1", "shutting_down")


async def test_without_the_scope_nobody_gets_in() -> None:
    await a_parent("default")
    assert problem(await ask("GET", "/subscriptions/list")) == (401, "AUTH_REQUIRED")
    assert problem(await ask("GET", "/subscriptions/list", token=await a_key(scopes=("ingest", "query")))) == (
        403,
        "FORBIDDEN",
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pattern": "a..b"}, "empty segment"),
        ({"target": "http://169.254.169.254/latest"}, "no public address"),
        ({"targetKind": "smoke"}, "targetKind"),
        ({"targetKind": "celery", "target": "lakehouse.tasks.purge_files"}, "EVODB_SUBSCRIPTION_TASKS"),
        ({"batchEvents": 0}, "wanted 1 to 1000"),
        ({"batchMs": 10_001}, "wanted 1 to 10000"),
        ({"patern": "x"}, "patern"),
        ({"name": None}, "name"),
        ({"startAt": "yesterday"}, "wanted a moment"),
        ({"startAt": "0001-01-01T00:00:00+23:59"}, "reaches back to"),
        ({"startAt": "2020-01-01", "startSnapshot": 1}, "wanted one of them"),
        ({"startSnapshot": 5}, "no commit of parent 'default'"),
        ({"startSnapshot": 2**80}, "startSnapshot"),
    ],
)
async def test_what_cannot_be_subscribed_hears_why_and_leaves_nothing(fields: dict[str, Any], said: str) -> None:
    await a_parent("default")
    heard = await ask("POST", "/subscriptions/subscribe", HOOK | fields, token=await a_key())
    assert problem(heard) == (400, "INVALID_REQUEST")
    assert said in heard.json["error"]
    assert not await sync_to_async(Subscription.objects.exists)()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'"x"'])
async def test_a_body_that_is_none_is_400(body: bytes) -> None:
    await a_parent("default")
    heard = await ask("POST", "/subscriptions/subscribe", body, token=await a_key())
    assert heard.status == 400
    assert heard.json["error"]


async def test_a_parent_has_only_so_many(settings: Any) -> None:
    settings.EVODB = dataclasses.replace(settings.EVODB, subscriptions_max=1)
    await a_parent("default")
    token = await a_key()
    await subscribed(token)
    assert problem(await ask("POST", "/subscriptions/subscribe", HOOK, token=token)) == (409, "CONFLICT")


async def test_who_unsubscribes_and_comes_back_is_one_more_and_there_may_be_no_room(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.EVODB = dataclasses.replace(settings.EVODB, subscriptions_max=2)
    monkeypatch.setattr("lakehouse.subscriptions.patterns.WIDE_CHARS_MAX", 12)
    await a_parent("default")
    token = await a_key()
    gone = (await subscribed(token, pattern="**.abc.**"))["id"]
    await ask("POST", "/subscriptions/unsubscribe", {"subscriptionId": gone}, token=token)
    wide, other = (await subscribed(token, pattern="*abcd*"))["id"], (await subscribed(token))["id"]
    back = ("POST", "/subscriptions/reactivate", {"subscriptionId": gone})
    again = ("POST", f"/subscriptions/{gone}/replay", {"startAt": shown(now_ms())})
    for method, path, body in (back, again):
        heard = await ask(method, path, body, token=token)
        assert problem(heard) == (409, "CONFLICT")
        assert "has 2 of 2 subscriptions" in heard.json["error"]
    await ask("POST", "/subscriptions/unsubscribe", {"subscriptionId": other}, token=token)
    heard = await ask(*back, token=token)
    assert (problem(heard), "characters" in heard.json["error"]) == ((409, "CONFLICT"), True)
    await ask("POST", "/subscriptions/unsubscribe", {"subscriptionId": wide}, token=token)
    assert (await ask(*again, token=token)).json["subscription"]["state"] == "active"


async def test_a_parent_has_no_room_for_ever_more_patterns_of_many_stars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each type that is new is walked against all of their letters, so there is a bound to those."""
    monkeypatch.setattr("lakehouse.subscriptions.patterns.WIDE_CHARS_MAX", 12)
    await a_parent("default")
    token = await a_key()
    first = await subscribed(token, pattern="**.a.**")
    ordinary = await subscribed(token, pattern="a*b.**")
    await subscribed(token, pattern="**.a.**")
    heard = await ask("POST", "/subscriptions/subscribe", HOOK | {"pattern": "*abcd*"}, token=token)
    assert problem(heard) == (409, "CONFLICT")
    assert "have 7 of 12 characters and '*abcd*' has 6; wanted one * in a segment" in heard.json["error"]
    path = f"/subscriptions/{ordinary['id']}"
    assert problem(await ask("PUT", path, {"pattern": "*abcd*"}, token=token)) == (409, "CONFLICT")
    for one in (first["id"], first["id"] + 2):
        await ask("POST", "/subscriptions/unsubscribe", {"subscriptionId": one}, token=token)
    assert (await ask("PUT", path, {"pattern": "*abcd*"}, token=token)).status == 200
    assert (await ask("PUT", path, {"pattern": "*abcdefghi*"}, token=token)).status == 200


async def test_the_messages_of_a_subscription_are_listed_by_what_became_of_them() -> None:
    await a_parent("default")
    token = await a_key()
    pk, other = (await subscribed(token))["id"], (await subscribed(token))["id"]
    states = ("delivered", "pending", "dead", "pending")
    made = [await created(Delivery, subscription_id=pk, state=state, commit_number=7) for state in states]
    await created(Delivery, subscription_id=other, commit_number=7)
    every = (await ask("GET", f"/subscriptions/{pk}/deliveries", token=token)).json
    assert [(one["id"], one["state"]) for one in every["deliveries"]] == list(
        zip([one.pk for one in made], states, strict=True)
    )
    first = (await ask("GET", f"/subscriptions/{pk}/deliveries?state=pending&limit=1", token=token)).json
    assert first["deliveries"][0] | {"id": 0} == {
        "id": 0,
        "messageId": f"msg_{made[1].uid}",
        "state": "pending",
        "attempts": 0,
        "eventCount": 1,
        "commitNumber": 7,
        "createdMs": 0,
        "nextAttemptMs": 0,
        "finishedMs": None,
        "lastError": "",
    }
    path = f"/subscriptions/{pk}/deliveries?state=pending&after={first['next']}"
    rest = (await ask("GET", path, token=token)).json
    assert ([one["id"] for one in rest["deliveries"]], rest["next"]) == ([made[3].pk], None)
    assert every["deliveries"][0]["nextAttemptMs"] is None
    assert problem(await ask("GET", f"/subscriptions/{pk}/deliveries?state=lost", token=token)) == (
        *(400, "INVALID_REQUEST"),
    )


async def test_letters_are_listed_looked_at_tried_again_and_have_a_log() -> None:
    await a_parent("default")
    token = await a_key()
    pk = (await subscribed(token))["id"]
    fields = {"state": "dead", "dead_ms": 1, "reason": "rejected", "events": b'[{"id":"e"}]', "commit_number": 1}
    letters = [await created(Delivery, subscription_id=pk, **fields) for _ in range(3)]
    await sync_to_async(Attempt.objects.create)(
        delivery=letters[0], started_ms=5, duration_ms=7, status=422, error="no"
    )
    first = (await ask("GET", f"/subscriptions/{pk}/dead-letters?limit=2", token=token)).json
    assert ([one["id"] for one in first["deadLetters"]], first["next"]) == (
        [letters[0].pk, letters[1].pk],
        letters[1].pk,
    )
    rest = (await ask("GET", f"/subscriptions/dead-letters?after={first['next']}", token=token)).json
    assert ([one["id"] for one in rest["deadLetters"]], rest["next"]) == ([letters[2].pk], None)
    one = (await ask("GET", f"/subscriptions/dead-letters/{letters[0].pk}", token=token)).json["deadLetter"]
    assert (one["events"], one["reason"]) == ([{"id": "e"}], "rejected")
    path = f"/subscriptions/dead-letters/{letters[0].pk}/retry"
    assert (await ask("POST", path, token=token)).json["deadLetter"]["state"] == "pending"
    assert problem(await ask("POST", path, token=token)) == (409, "CONFLICT")
    log = (await ask("GET", f"/subscriptions/deliveries/{letters[0].pk}/logs", token=token)).json
    assert log["attempts"] == [{"startedMs": 5, "durationMs": 7, "status": 422, "error": "no"}]


async def test_a_subscription_starts_behind_a_snapshot_or_is_told_again_from_there() -> None:
    made = await a_parent("default", commit_number=3)
    for number in (1, 2, 3):
        done = {"trigger": "age", "lease_epoch": 1, "state": "committed", "started_ms": 1, "finished_ms": 1}
        flush = await created(Flush, parent=made, commit_number=number, **done)
        files = {"namespace": "lake", "table": "orders", "rows": 1, "files": 1, "size_bytes": 1}
        await created(FlushTable, flush=flush, snapshot_id=100 + number, **files)
    token = await a_key()
    one = await subscribed(token, startSnapshot=101)
    assert one["commitNumber"] == 1
    heard = await ask("POST", f"/subscriptions/{one['id']}/replay", {"startSnapshot": 102}, token=token)
    assert heard.json["subscription"]["commitNumber"] == 2
    assert problem(await ask("POST", f"/subscriptions/{one['id']}/replay", {}, token=token)) == (400, "INVALID_REQUEST")
    await sync_to_async(Flush.objects.filter(commit_number=3).update)(batches=1)
    heard = await ask("POST", f"/subscriptions/{one['id']}/replay", {"startSnapshot": 101}, token=token)
    assert (heard.status, "not all that came after" in heard.json["error"]) == (400, True)


async def test_the_api_describes_itself() -> None:
    paths = (await ask("GET", "/openapi.json")).json["paths"]
    wanted = "subscribe unsubscribe reactivate pause list match status/{pk} {pk} dead-letters {pk}/dead-letters"
    wanted += " dead-letters/{pk} dead-letters/{pk}/retry deliveries/{pk}/logs {pk}/replay {pk}/deliveries"
    assert {path.removeprefix("/subscriptions/") for path in paths if path.startswith("/subscriptions/")} == {
        *wanted.split()
    }
    assert set(paths["/subscriptions/{pk}"]) == {"get", "put", "delete"}


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"a\\u0000"'])
async def test_a_text_that_no_database_takes_is_no_table_and_no_parent(text: bytes) -> None:
    await a_parent("default")
    token = await a_key()
    body = b'{"name":"hook","pattern":"**","target":"https://example.com/","%b":%b}'
    heard = await ask("POST", "/subscriptions/subscribe", body % (b"table", text), token=token)
    assert problem(heard) == (400, "INVALID_REQUEST")
    heard = await ask("POST", "/subscriptions/subscribe", body % (b"parent", text), token=token)
    assert problem(heard) == (404, "NOT_FOUND")


async def test_a_dead_letter_of_an_event_a_thousand_levels_deep_is_shown_whole() -> None:
    await a_parent("default")
    token = await a_key()
    one = (await subscribed(token))["id"]
    event = b'{"id":"e","doc":' + b"[" * 1000 + b"]" * 1000 + b"}"
    letter = await created(Delivery, subscription_id=one, commit_number=1, dead_ms=1, events=b"[" + event + b"]")
    heard = await ask("GET", f"/subscriptions/dead-letters/{letter.pk}", token=token)
    assert (heard.status, event in heard.body) == (200, True)
    await sync_to_async(Delivery.objects.update)(events=b"")
    heard = await ask("GET", f"/subscriptions/dead-letters/{letter.pk}", token=token)
    assert (heard.json["deadLetter"]["id"], heard.json["deadLetter"]["events"]) == (letter.pk, [])
