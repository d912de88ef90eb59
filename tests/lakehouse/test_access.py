"""Access keys: shown once, stored as a digest, bounded in scope, source and time."""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import Any

import pytest

from lakehouse.http.keys import permit
from lakehouse.key_limits import HOUSE_LIMITS, KeyLimits
from lakehouse.models import AccessKey
from lakehouse.parent import access
from lakehouse.parent.grants import EVERYBODY, Grant, Refusal, Refused, token_of

pytestmark = pytest.mark.django_db

NOW_MS = 1_700_000_000_000


def key(*scopes: str, source_pattern: str = "*", **fields: Any) -> tuple[AccessKey, str]:
    return access.new_key("laptop", scopes=scopes or ["ingest"], source_pattern=source_pattern, now_ms=NOW_MS, **fields)


def change(row: AccessKey, **columns: Any) -> None:
    """As somebody with SQL does, past every check."""
    AccessKey.objects.filter(pk=row.pk).update(**columns)


def reason(token: str, *, now_ms: int = NOW_MS) -> Refusal | None:
    found = access.recognize(token, now_ms=now_ms)
    return found.reason if isinstance(found, Refused) else None


def test_a_new_key_is_found_by_its_text() -> None:
    row, text = key()
    assert access.find(text, now_ms=NOW_MS) == row


def test_no_column_holds_the_key_itself() -> None:
    row, text = key()
    stored = AccessKey.objects.filter(pk=row.pk).values_list()[0]
    assert sha256(text.encode()).hexdigest() in stored
    assert not any(text in str(value) or text.removeprefix(access.KEY_PREFIX) in str(value) for value in stored)


def test_two_keys_of_one_name_are_different() -> None:
    assert key()[1] != key()[1]


def test_a_key_has_256_random_bits() -> None:
    assert len(key()[1].removeprefix(access.KEY_PREFIX)) == 43  # 32 bytes in base64


@pytest.mark.parametrize("token", ["evodb_", "nobody's", "\udced", "\0", "a\0b", "x" * 10_000, "é", "*", "%", "_"])
def test_any_other_text_finds_nothing(token: str) -> None:
    key()
    assert access.find(token, now_ms=NOW_MS) is None
    assert reason(token) is Refusal.UNKNOWN_KEY


def test_no_text_is_no_key() -> None:
    assert access.find("", now_ms=NOW_MS) is None
    assert reason("") is Refusal.NO_KEY


@pytest.mark.parametrize("more", ["x", "\0", " ", "\n", "=", "x" * 5_000_000])
def test_a_key_with_something_after_it_is_another_text(more: str) -> None:
    _, text = key()
    assert access.find(text + more, now_ms=NOW_MS) is None
    assert access.find(text[:-1], now_ms=NOW_MS) is None
    assert access.find(text.upper(), now_ms=NOW_MS) is None


def test_a_row_without_a_digest_is_nobodys_key() -> None:
    AccessKey.objects.create(name="made by hand", scopes=["ingest"])
    assert reason("x" * 5_000) is Refusal.UNKNOWN_KEY
    assert reason("") is Refusal.NO_KEY


def test_a_list_can_call_a_key_by_its_first_characters() -> None:
    row, text = key()
    assert text.startswith(row.prefix)
    assert row.prefix.startswith("evodb_")
    assert len(row.prefix) == 10
    assert str(row) == f"laptop ({row.prefix})"


def test_a_key_that_ended_says_how_and_revoked_comes_first() -> None:
    row, text = key(expires_ms=NOW_MS + 1)
    assert reason(text) is None
    assert reason(text, now_ms=NOW_MS + 1) is Refusal.EXPIRED
    change(row, revoked_ms=NOW_MS)
    assert reason(text, now_ms=NOW_MS + 1) is Refusal.REVOKED


def test_the_digest_itself_is_no_key() -> None:
    row, _ = key()
    assert access.find(row.digest, now_ms=NOW_MS) is None


def test_a_revoked_key_is_not_found() -> None:
    row, text = key()
    AccessKey.objects.filter(pk=row.pk).update(revoked_ms=NOW_MS)
    assert access.find(text, now_ms=NOW_MS) is None


@pytest.mark.parametrize(("now_ms", "alive"), [(NOW_MS + 999, True), (NOW_MS + 1000, False)])
def test_a_key_ends_the_moment_it_expires(now_ms: int, alive: bool) -> None:
    row, text = key(expires_ms=NOW_MS + 1000)
    assert (access.find(text, now_ms=now_ms) is not None) is alive
    assert (access.by_id(row.pk, now_ms=now_ms) is not None) is alive


def test_a_key_that_was_found_before_is_not_good_after_its_revocation() -> None:
    row, _ = key()
    assert access.by_id(row.pk, now_ms=NOW_MS) == row
    AccessKey.objects.filter(pk=row.pk).update(revoked_ms=NOW_MS)
    assert access.by_id(row.pk, now_ms=NOW_MS) is None


@pytest.mark.parametrize(
    ("pattern", "source", "allowed"),
    [
        ("*", "edge-1", True),
        ("*", "", True),
        ("edge-*", "edge-1", True),
        ("edge-*", "edge-1/shard", True),
        ("edge-*", "Edge-1", False),
        ("edge-?", "edge-12", False),
        ("edge-1", "edge-1", True),
        ("edge-1", "edge-10", False),
    ],
)
def test_a_key_writes_only_as_the_children_of_its_pattern(pattern: str, source: str, allowed: bool) -> None:
    row, _ = key(source_pattern=pattern)
    assert access.allows(row, scope="ingest", source=source) is allowed


def test_a_key_does_only_what_its_scopes_say() -> None:
    row, _ = key("query", "subscribe")
    assert [scope for scope in access.SCOPES if access.allows(row, scope=scope, source="edge")] == [
        "query",
        "subscribe",
    ]


@pytest.mark.parametrize("scopes", [[], ["ingest", "fly"], "ingest", [""], ["INGEST"]])
def test_a_key_without_a_known_scope_is_not_made(scopes: Any) -> None:
    with pytest.raises(ValueError, match="wanted some of ingest, query, subscribe, admin"):
        access.new_key("laptop", scopes=scopes, source_pattern="*", now_ms=NOW_MS)
    assert not AccessKey.objects.exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "the name is '', wanted 1 to 100 printable"),
        ({"name": "a\nb"}, "the name is"),
        ({"name": "a\0b"}, "the name is"),
        ({"name": "x" * 101}, "the name is"),
        ({"source_pattern": ""}, "source patterns: found 0 patterns, wanted 1 to 100"),
        ({"source_pattern": []}, "source patterns: found 0 patterns"),
        ({"source_pattern": ["edge-*\n*"]}, "has a line break, which no name can have"),
        ({"source_pattern": ["edge\0"]}, "source patterns: pattern 'edge\\x00' can fit no name"),
        ({"parents": ["x" * 501]}, "parent patterns: pattern"),
        ({"namespaces": ["a"] * 101}, "namespace patterns: found 101 patterns"),
        ({"priority": "highest"}, "priority is 'highest', wanted normal or high"),
        ({"limits": {"burst_capacity": 0}}, "limit burst_capacity is 0, wanted a whole number from 1"),
        ({"limits": {"speed": 1}}, "unknown limit speed"),
        ({"limits": []}, "limits are"),
        ({"expires_ms": NOW_MS}, "wanted a moment after now"),
    ],
)
def test_a_key_that_cannot_work_is_not_made_and_it_is_said_why(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        access.new_key(**{"name": "laptop", "scopes": ["ingest"], "now_ms": NOW_MS} | fields)
    assert said in str(caught.value)
    assert not AccessKey.objects.exists()


def test_a_key_carries_what_it_was_bound_to() -> None:
    row, text = key(
        "query",
        "ingest",
        "query",
        source_pattern=["edge-*", " bank-1 "],
        parents="eu-*\r\nus-1\n",
        namespaces="lake",
        priority="high",
        limits={"messages_per_second": 5, "burst_capacity": None},
    )
    found = access.find(text, now_ms=NOW_MS)
    assert found == row
    grant = access.grant_of(found)
    assert grant == Grant(
        row.pk,
        str(row),
        scopes=("query", "ingest"),
        sources=("edge-*", "bank-1"),
        parents=("eu-*", "us-1"),
        namespaces=("lake",),
        priority="high",
        limits=KeyLimits(messages_per_second=5),
    )


def test_a_key_made_before_there_were_parents_and_limits_is_bound_as_before() -> None:
    row = AccessKey.objects.create(name="old", digest=access.digest_of("old"), scopes=["ingest"], source_pattern="a-*")
    assert access.find("old", now_ms=NOW_MS) == row
    assert access.grant_of(row) == Grant(row.pk, "old", scopes=("ingest",), sources=("a-*",), limits=HOUSE_LIMITS)


@pytest.mark.parametrize(
    "broken",
    [{"scopes": "ingest"}, {"scopes": ["fly"]}, {"scopes": 5}, {"priority": ""}, {"limits": []}, {"limits": {"a": 1}}],
)
def test_a_row_somebody_broke_by_hand_opens_nothing(broken: dict[str, Any]) -> None:
    row, _ = key()
    change(row, **broken)
    row.refresh_from_db()
    refused = access.grant_of(row)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.BROKEN_KEY
    assert "correct it in the admin" in refused.why
    assert not access.allows(row, scope="ingest", source="edge")


@pytest.mark.parametrize("broken", [{"scopes": []}, {"source_pattern": ""}, {"source_pattern": "\n \n"}])
def test_a_row_that_was_emptied_by_hand_opens_nothing(broken: dict[str, Any]) -> None:
    row, _ = key()
    change(row, **broken)
    row.refresh_from_db()
    assert not access.allows(row, scope="ingest", source="edge")
    assert not access.allows(row, scope="ingest", source="")


# HTTP


def ask(scope: str, token: str | None = None, *, is_open: bool = False, parent: str | None = None) -> Grant | Refused:
    return permit(token or "", [scope], parent=parent, is_open=is_open, now_ms=NOW_MS)


def test_a_request_with_a_key_gets_what_the_key_allows() -> None:
    row, text = key("query", namespaces="lake", priority="high")
    for headers, query in (({"Authorization": f"Bearer {text}"}, {}), ({}, {"token": text})):
        grant = ask("query", token_of(headers, query))
        assert isinstance(grant, Grant)
        assert (grant.key_id, grant.priority) == (row.pk, "high")
        assert not grant.allows(scope="query", namespace="other")


@pytest.mark.parametrize(
    ("scope", "token", "parent", "status", "wanted"),
    [
        ("query", None, None, 401, Refusal.NO_KEY),
        ("query", "evodb_wrong", None, 401, Refusal.UNKNOWN_KEY),
        ("admin", "good", None, 403, Refusal.SCOPE),
        ("query", "good", "other", 403, Refusal.PARENT),
    ],
)
def test_a_request_is_refused_with_401_or_403(
    scope: str, token: str | None, parent: str | None, status: int, wanted: Refusal
) -> None:
    _, text = key("query", source_pattern="edge", parents="eu", namespaces="lake")
    refused = ask(scope, text if token == "good" else token, parent=parent)
    assert isinstance(refused, Refused)
    assert (refused.http_status, refused.reason) == (status, wanted)


def test_a_refused_request_is_in_the_log_without_the_key_it_showed(caplog: pytest.LogCaptureFixture) -> None:
    _, text = key("query")
    with caplog.at_level(logging.WARNING):
        ask("admin", text)
        ask("query", "evodb_a-wrong-key-of-somebody")
    assert "a request was refused (scope): laptop (evodb_" in caplog.text
    assert "a request was refused (unknown key): nobody made the key that was shown" in caplog.text
    assert text not in caplog.text
    assert "a-wrong-key" not in caplog.text


def test_an_open_house_asks_for_a_key_only_at_its_administration() -> None:
    _, text = key("admin")
    assert [ask(scope, is_open=True) for scope in ("ingest", "query", "subscribe")] == [EVERYBODY] * 3
    refused = ask("admin", is_open=True)
    assert isinstance(refused, Refused)
    assert refused.http_status == 401
    assert isinstance(ask("admin", text, is_open=True), Grant)


def test_a_used_key_is_not_called_unused() -> None:
    row, text = key("query")
    ask("admin", text)
    row.refresh_from_db()
    assert row.last_used_ms is None
    ask("query", text)
    row.refresh_from_db()
    assert row.last_used_ms == NOW_MS
