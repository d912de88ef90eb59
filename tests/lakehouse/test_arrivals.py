"""Handshakes: who is let in to which parent, which parents begin to exist, and what a refusal tells the log."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from lakehouse.key_limits import KeyLimits
from lakehouse.models import AccessKey, Child, Parent
from lakehouse.parent import access, arrivals, key_changes
from lakehouse.parent.arrivals import Admitted, Knock
from lakehouse.parent.grants import Refusal, Refused

pytestmark = pytest.mark.django_db

NOW_MS = 1_700_000_000_000


def key(**fields: Any) -> tuple[AccessKey, str]:
    return access.new_key("laptop", **{"scopes": ["ingest"], "now_ms": NOW_MS} | fields)


def knock(token: str = "", *, parent: str = "default", child: str | None = None, shard: str | None = None) -> Knock:
    return Knock(parent, token, child, shard)


def judge(at: Knock, *, is_open: bool = False, now_ms: int = NOW_MS, **more: Any) -> Admitted | Refused:
    return arrivals.judge(at, is_open=is_open, now_ms=now_ms, **more)


def admitted(at: Knock, **more: Any) -> Admitted:
    verdict = judge(at, **more)
    assert isinstance(verdict, Admitted)
    return verdict


def refusal(at: Knock, **more: Any) -> tuple[Refusal, int]:
    verdict = judge(at, **more)
    assert isinstance(verdict, Refused)
    return verdict.reason, verdict.http_status


def parents() -> list[str]:
    return list(Parent.objects.order_by("name").values_list("name", flat=True))


def test_a_key_lets_in_with_all_it_gives() -> None:
    row, token = key(priority="high", limits={"max_payload_bytes": 8_000_000})
    found = admitted(knock(token, child="shop-1"))
    assert (found.key_id, found.parent, found.namespace, found.priority) == (row.pk, "default", "lake", "high")
    assert found.limits == KeyLimits(max_payload_bytes=8_000_000)
    assert Parent.objects.get(pk=found.parent_id).created_ms == NOW_MS


def test_an_open_house_asks_nobody() -> None:
    found = admitted(knock(child="anybody"), is_open=True)
    assert (found.key_id, found.priority, found.limits) == (None, "normal", KeyLimits())
    assert arrivals.may_write(found, "anybody else", now_ms=NOW_MS)


def test_who_is_not_known_hears_401_whatever_the_reason_is() -> None:
    revoked, expired = key(), key(expires_ms=NOW_MS + 1)
    key_changes.revoke(revoked[0], now_ms=NOW_MS)
    assert refusal(knock()) == (Refusal.NO_KEY, 401)
    assert refusal(knock("evodb_wrong")) == (Refusal.UNKNOWN_KEY, 401)
    assert refusal(knock("x" * 1_000_000)) == (Refusal.UNKNOWN_KEY, 401)
    assert refusal(knock("\0")) == (Refusal.UNKNOWN_KEY, 401)
    assert refusal(knock(revoked[1])) == (Refusal.REVOKED, 401)
    assert refusal(knock(expired[1]), now_ms=NOW_MS + 1) == (Refusal.EXPIRED, 401)
    assert parents() == []


@pytest.mark.parametrize(
    ("bound", "at", "reason"),
    [
        ({"scopes": ["query", "subscribe", "admin"]}, {}, Refusal.SCOPE),
        ({"source_pattern": "shop-*"}, {"child": "bank-1"}, Refusal.SOURCE),
        ({"source_pattern": "shop"}, {"child": "shop/../bank"}, Refusal.SOURCE),
        ({"source_pattern": "é"}, {"child": "e\u0301"}, Refusal.SOURCE),
        ({"parents": "eu-*"}, {"parent": "us-1"}, Refusal.PARENT),
        ({"parents": "eu-*"}, {"parent": "default"}, Refusal.PARENT),
        ({"namespaces": "bronze"}, {}, Refusal.NAMESPACE),
    ],
)
def test_a_good_key_that_is_not_for_this_hears_403(bound: dict[str, Any], at: dict[str, str], reason: Refusal) -> None:
    _, token = key(**bound)
    assert refusal(knock(token, **at)) == (reason, 403)
    assert parents() == []


@pytest.mark.parametrize(
    "at",
    [
        {"parent": "../etc"},
        {"parent": "a b"},
        {"parent": "default\n"},
        {"parent": ""},
        {"parent": "x" * 101},
        {"child": "shop\n1"},
        {"child": "shop\x00"},
        {"child": "shop\u2028"},
        {"child": "x" * 501},
        {"shard": "a\tb"},
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
def test_a_name_that_cannot_be_stored_is_refused_before_any_key_is_looked_at(
    at: dict[str, str], is_open: bool, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        assert refusal(knock("evodb_any", **at), is_open=is_open) == (Refusal.BAD_NAME, 400)
    assert parents() == []


def test_the_log_says_why_and_who_and_never_the_key(caplog: pytest.LogCaptureFixture) -> None:
    row, token = key(source_pattern="shop-*")
    with caplog.at_level(logging.WARNING):
        judge(knock(token, child="bank-1"))
        judge(knock("evodb_a-wrong-key-of-somebody", child="bank-1", parent="eu-1"))
    first, second = (record.getMessage() for record in caplog.records)
    assert first == (
        f"a handshake of child 'bank-1' at parent 'default' was refused (source): laptop ({row.prefix}) is for "
        "'shop-*', not child 'bank-1'"
    )
    assert second.startswith("a handshake of child 'bank-1' at parent 'eu-1' was refused (unknown key): nobody made")
    assert "wrong-key" not in second


def test_a_name_cannot_write_lines_of_its_own_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    judge(knock(parent="x\nERROR all is lost", child="y\r\n" + "z" * 10_000))
    [record] = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 500


def test_a_knock_never_shows_its_key() -> None:
    assert "evodb_secret" not in repr(knock("evodb_secret"))


# Parents that begin to exist


def test_a_parent_begins_to_exist_once() -> None:
    _, token = key(parents="eu-*")
    first = admitted(knock(token, parent="eu-1"))
    assert admitted(knock(token, parent="eu-1"), now_ms=NOW_MS + 9) == first
    assert parents() == ["eu-1"]


def test_so_many_parents_begin_to_exist_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    _, token = key()
    for name in ("a", "b"):
        admitted(knock(token, parent=name), parents_max=2)
    assert refusal(knock(token, parent="c"), parents_max=2) == (Refusal.TOO_MANY_PARENTS, 403)
    assert refusal(knock(parent="c"), parents_max=2, is_open=True) == (Refusal.TOO_MANY_PARENTS, 403)
    assert "at parent 'c' was refused (too many parents): it does not exist, there are 2 parents" in caplog.text
    assert "EVODB_PARENTS_MAX (2)" in caplog.text
    assert admitted(knock(token, parent="a"), parents_max=2)
    assert parents() == ["a", "b"]


def test_an_operator_makes_more_parents_than_begin_by_themselves() -> None:
    _, token = key()
    Parent.objects.create(name="made in the admin", namespace="lake")
    Parent.objects.create(name="bank", namespace="lake")
    assert admitted(knock(token, parent="bank"), parents_max=0)
    assert refusal(knock(token, parent="new"), parents_max=0) == (Refusal.TOO_MANY_PARENTS, 403)


def test_without_a_word_the_bound_is_that_of_the_settings(settings: Any) -> None:
    settings.EVODB = dataclasses.replace(settings.EVODB, parents_max=0)
    assert refusal(knock(), is_open=True) == (Refusal.TOO_MANY_PARENTS, 403)


def test_a_parent_in_a_namespace_the_key_is_not_for_is_not_written_to() -> None:
    _, token = key(namespaces="bronze")
    Parent.objects.create(name="bank", namespace="gold")
    Parent.objects.create(name="shop", namespace="bronze")
    assert refusal(knock(token, parent="bank")) == (Refusal.NAMESPACE, 403)
    assert admitted(knock(token, parent="shop")).namespace == "bronze"


def test_whether_a_parent_exists_is_not_told_to_a_key_that_may_not_reach_it() -> None:
    _, token = key(parents="shop")
    Parent.objects.create(name="bank")
    assert refusal(knock(token, parent="bank")) == refusal(knock(token, parent="no-bank")) == (Refusal.PARENT, 403)


# A connection that is open


def test_a_child_writes_as_itself_and_as_nobody_else() -> None:
    _, token = key(source_pattern="shop-*")
    found = admitted(knock(token))
    assert arrivals.arrive(found, "shop-1", shard=None, epoch=1, now_ms=NOW_MS) is not None
    for other in ("bank-1", "Shop-1", "shop", "", "x/shop-1", " shop-1", "bank\nshop-1"):
        assert arrivals.arrive(found, other, shard=None, epoch=1, now_ms=NOW_MS) is None
    assert list(Child.objects.values_list("name", flat=True)) == ["shop-1"]


@pytest.mark.parametrize(
    "columns",
    [
        {"revoked_ms": NOW_MS},
        {"expires_ms": NOW_MS + 10_000},
        {"scopes": ["query"]},
        {"scopes": []},
        {"source_pattern": "bank-*"},
        {"parents": "other"},
        {"namespaces": "other"},
        {"limits": {"speed": 1}},
    ],
)
def test_what_a_key_loses_ends_its_open_connections(columns: dict[str, Any]) -> None:
    row, token = key()
    found = admitted(knock(token))
    assert arrivals.may_write(found, "shop-1", now_ms=NOW_MS + 9_999)
    AccessKey.objects.filter(pk=row.pk).update(**columns)
    assert not arrivals.may_write(found, "shop-1", now_ms=NOW_MS + 10_000)


def test_a_rotated_key_keeps_its_connections_until_the_overlap_is_over() -> None:
    row, token = key()
    found = admitted(knock(token))
    key_changes.rotate(row, now_ms=NOW_MS, overlap_ms=5)
    assert arrivals.may_write(found, "shop-1", now_ms=NOW_MS + 4)
    assert not arrivals.may_write(found, "shop-1", now_ms=NOW_MS + 5)


def test_a_handshake_is_a_use_of_the_key_and_a_refused_one_is_not() -> None:
    row, token = key(source_pattern="shop-*")
    judge(knock(token, child="bank-1"))
    row.refresh_from_db()
    assert row.last_used_ms is None
    judge(knock(token, child="shop-1"))
    row.refresh_from_db()
    assert row.last_used_ms == NOW_MS
