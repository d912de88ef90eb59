"""Where webhooks may go, when they are tried again, how they are signed, and what a subscriber hears."""

from __future__ import annotations

import base64

import pytest

from lakehouse.subscriptions import events, guard, retries, signatures, terms
from lakehouse.subscriptions.events import Entry
from lakehouse.subscriptions.retries import Again, Dead, Outcome, Reason
from lakehouse.subscriptions.terms import Allowed
from rpc.retry_after import retry_after_ms
from tests.builders import NOW_MS


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "fd00:ec2::254", "2001:db8::1", "fec0::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"),
        *("localhost", "", "1", "0x7f.1", "2130706433", "8.8.8.8%evil.example", "8.8.8.8%"),
    ],
)
def test_no_webhook_goes_where_the_public_is_not(address: str) -> None:
    assert not guard.is_allowed(address)


def test_a_name_that_begins_as_an_address_is_looked_up_before_anybody_connects_to_it() -> None:
    assert not guard.is_address("8.8.8.8%evil.example")
    assert guard.is_address("fe80::1%eth0")


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_a_webhook_goes_to_the_public(address: str) -> None:
    assert guard.is_allowed(address)


def test_an_operator_allows_a_network_and_nothing_beside_it() -> None:
    allowed = guard.networks(["10.0.0.0/8"])
    assert guard.is_allowed("10.1.2.3", allowed)
    assert guard.is_allowed("::ffff:10.1.2.3", allowed)
    assert not guard.is_allowed("127.0.0.1", allowed)


@pytest.mark.parametrize(
    ("kind", "target", "said"),
    [
        ("webhook", "ftp://example.com/x", "wanted a URL"),
        ("webhook", "https:///x", "wanted a URL"),
        ("webhook", "https://example.com:0/", "wanted a URL"),
        ("webhook", "https://example.com:99999/", "which is no URL"),
        ("webhook", "https://[::1/", "which is no URL"),
        ("webhook", "https://exämple.com/", "printable ASCII"),
        ("webhook", "https://example.com/a b", "printable ASCII"),
        ("webhook", "https://example.com/\r\nx: y", "printable ASCII"),
        ("webhook", "https://me:pw@example.com/", "has a user in its URL"),
        (
            "webhook",
            "http://127.0.0.1/",
            "no public address; an operator allows it by EVODB_WEBHOOK_NETWORKS=127.0.0.0/8",
        ),
        ("webhook", "http://10.1.2.3/", "an operator allows it by EVODB_WEBHOOK_NETWORKS=10.1.2.3"),
        ("webhook", "http://[::1]/", "an operator allows it by EVODB_WEBHOOK_NETWORKS=::1"),
        ("webhook", "http://localhost:8900/hook", "target is at 127.0.0.1, which is no public address"),
        ("webhook", "http://[::ffff:169.254.169.254]/", "no public address"),
        ("webhook", "https://example.com/" + "a" * 2000, "wanted at most 2000"),
        ("celery", "lakehouse.tasks.purge_files", "not allowed"),
        ("celery", "shop.tasks.other", "not allowed"),
        ("celery", "a b", "wanted the name of a Celery task"),
        ("channels", "a/b", "wanted 1 to 60 letters"),
        ("smoke", "x", "wanted webhook, celery or channels"),
    ],
)
def test_a_target_that_may_not_be_hears_why(kind: str, target: str, said: str) -> None:
    assert said in (terms.of_target(kind, target, Allowed.of([], ["*.on_event", "lakehouse.*"])) or "")


@pytest.mark.parametrize("network", ["127.0.0.0/8", "::1"])
def test_a_receiver_on_this_machine_is_taken_by_its_name_where_it_is_allowed(network: str) -> None:
    assert terms.of_target("webhook", "http://localhost:8900/hook", Allowed.of([network], [])) is None


@pytest.mark.parametrize(
    ("kind", "target"),
    [("webhook", "https://example.com/hook?a=1"), ("celery", "shop.tasks.on_event"), ("channels", "orders")],
)
def test_a_target_that_may_be_is_taken(kind: str, target: str) -> None:
    assert terms.of_target(kind, target, Allowed.of([], ["shop.*"])) is None


def test_every_field_that_is_wrong_is_named() -> None:
    wrong = {"name": " ", "pattern": "a..b", "target_kind": "webhook", "target": "x", "attempts_max": 0}
    wrong |= {"batch_events": 1001, "batch_ms": 0, "table": "t" * 501}
    assert set(terms.complaints(wrong, Allowed())) == set(wrong) - {"target_kind"}


def test_attempts_are_one_two_four_and_eight_seconds_apart_and_then_end() -> None:
    failed = Outcome(False, 503)
    found = [retries.next_of(failed, attempts_made=made, attempts_max=5, chance=0) for made in range(1, 6)]
    assert found == [Again(1000), Again(2000), Again(4000), Again(8000), Dead(Reason.MAX_RETRIES_EXCEEDED)]
    assert retries.next_of(failed, attempts_made=1, attempts_max=5, chance=0.999) == Again(1999)


def test_no_delay_is_longer_than_five_minutes_whatever_the_target_says() -> None:
    assert retries.delay_ms(20, chance=1) == 300_000
    assert retries.delay_ms(60_000, chance=1) == 300_000
    assert retries.delay_ms(1, chance=0, retry_after_ms=60_000) == 60_000
    assert retry_after_ms("99999999999999", now_ms=NOW_MS, most_ms=retries.MOST_MS) == 300_000


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7", 7000),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10_000),
        ("Tue, 14 Nov 2000 22:13:30 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_moment(text: str, wanted: int | None) -> None:
    assert retry_after_ms(text, now_ms=NOW_MS, most_ms=retries.MOST_MS) == wanted


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_would_be_refused_again_is_not_tried_again(status: int) -> None:
    assert retries.next_of(Outcome(False, status), attempts_made=1, attempts_max=5, chance=0) == Dead(Reason.REJECTED)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's libraries."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    signed = signatures.sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    found = dict(signatures.headers(secret, "msg_1", 1000, body))
    assert signatures.is_ours(secret, found, body, now_s=1300)
    assert not signatures.is_ours(secret, found, body, now_s=1301)
    assert not signatures.is_ours(secret, found, body + b" ", now_s=1000)
    assert not signatures.is_ours("whsec_" + base64.b64encode(b"x").decode(), found, body, now_s=1000)
    assert not signatures.is_ours(secret, {}, body, now_s=1000)


def entry(**fields: object) -> Entry:
    known = Entry("orders", "r1", 0, None, '{"id":1}', 7, NOW_MS, "shop-1", "", 1, 3)
    return known._replace(**fields)


def told(one: Entry) -> dict[str, object]:
    return events.orjson.loads(events.event_of("default", one).body)  # type: ignore[no-any-return]


def test_a_change_is_an_event_of_its_collection() -> None:
    found = told(entry(operation=1, before='{"id":0}'))
    assert found.pop("id").startswith("evt_")  # type: ignore[attr-defined]
    assert found == {
        "type": "collection.update",
        "ts": "2023-11-14T22:13:20.000Z",
        "do": {"id": "shop-1"},
        "collection": "orders",
        "docId": "r1",
        "doc": {"id": 1},
        "prev": {"id": 0},
        "bookmark": "0000000000000000001.00000000000000000007",
    }
    gone = told(entry(operation=2, before='{"id":1}', after=None, shard="eu"))
    assert (gone["type"], gone["prev"], gone["do"], "doc" in gone) == (
        "collection.delete",
        {"id": 1},
        {"id": "shop-1", "name": "eu"},
        False,
    )
    assert "prev" not in told(entry(before='{"id":1}'))


def test_the_id_of_an_event_is_that_of_where_it_came_from() -> None:
    one = events.event_of("default", entry())
    assert one.event_id == events.event_of("default", entry(timestamp_ms=0, after="{}")).event_id
    others = [entry(sequence=8), entry(table="items"), entry(source="shop-2"), entry(epoch=2), entry(operation=2)]
    found = {events.event_of("default", other).event_id for other in others} | {events.event_of("eu", entry()).event_id}
    assert len(found | {one.event_id}) == 7


def test_an_event_of_the_events_table_is_told_as_it_is() -> None:
    text = '{"type":"page","ts":"2026-01-01T00:00:00Z","n":123456789012345678901234567890}'
    found = events.event_of("default", entry(table="events", after=text))
    assert (found.type, found.body) == ("page", b'{"id":"%b",' % found.event_id.encode() + text[1:].encode())
    named = '{"id":"e-1","type":"page","ts":"x"}'
    assert events.event_of("default", entry(table="events", after=named)).body == named.encode()
    assert events.event_of("default", entry(table="events", after=named)).event_id == "e-1"
    assert told(entry(table="events", after='{"id":7,"type":"page","ts":"x"}'))["id"] != 7


@pytest.mark.parametrize("after", ['{"type":"page"}', '{"type":"a b","ts":"x"}', "[]", '{"type":1,"ts":2}', None, "{"])
def test_a_row_of_a_table_that_is_only_called_events_is_a_change(after: str | None) -> None:
    assert events.event_of("default", entry(table="events", after=after)).type == "collection.insert"


def test_no_number_of_a_document_loses_a_digit_and_what_is_no_json_is_text() -> None:
    body = events.event_of("default", entry(after='{"n": 1.00000000000000000001}')).body
    assert b'"doc":{"n": 1.00000000000000000001}' in body
    assert told(entry(after="not json"))["doc"] == "not json"
    assert told(entry(after="null"))["doc"] is None
