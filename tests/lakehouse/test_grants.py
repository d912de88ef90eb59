"""What a key allows: by scope, child, parent and namespace, to the letter; and what a refusal tells to whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.parent.grants import ADMIN, EVERYBODY, SCOPES, Grant, Refusal, fits, token_of

LAPTOP = Grant(
    1,
    "laptop (evodb_ab12)",
    scopes=("ingest", "query"),
    sources=("shop-*", "bank-1"),
    parents=("eu-*",),
    namespaces=("lake",),
)


@pytest.mark.parametrize(
    ("name", "pattern", "matches"),
    [
        ("", "*", True),
        ("any/thing\u2028é", "*", True),
        ("edge-1/shard", "edge-*", True),
        ("edge/../bank", "edge/*", True),
        ("edge/../bank", "bank*", False),
        ("/bank", "bank", False),
        ("bank/", "bank", False),
        ("bank\n", "bank", False),
        ("bank\nshop", "bank", False),
        ("shop\nbank", "bank", False),
        ("Bank", "bank", False),
        ("bank ", "bank", False),
        ("ｂank", "bank", False),
        ("é", "e\u0301", False),
        ("e\u0301", "é", False),
        ("é", "?", True),
        ("e\u0301", "?", False),
        ("*", "bank-*", False),
        ("bank-*", "bank-1", False),
        ("[a-z]*", "bank", False),
        ("bank-2", "bank-[13]", False),
        ("bank-3", "bank-[13]", True),
        ("bank[1]", "bank[1]", False),
        ("x" * 500, "*x*x*x*x*x*x*y", False),
    ],
)
def test_a_pattern_matches_the_whole_name_and_nothing_else(name: str, pattern: str, matches: bool) -> None:
    assert fits(name, [pattern]) is matches


def test_no_pattern_matches_nothing() -> None:
    assert not fits("shop-1", [])
    assert not fits("", [])


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_name_without_wildcards_matches_only_itself(name: str, other: str) -> None:
    plain = "".join(letter for letter in name if letter not in "*?[]")
    assert fits(plain, [plain])
    assert fits(other, [plain]) is (other == plain)


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_name_and_any_pattern_get_an_answer(name: str, pattern: str) -> None:
    assert fits(name, [pattern]) in (True, False)


def test_a_grant_is_asked_only_about_what_is_named() -> None:
    assert LAPTOP.allows(scope="query")
    assert LAPTOP.allows(scope="ingest", source="bank-1", parent="eu-2", namespace="lake")


@pytest.mark.parametrize(
    ("asked", "reason", "said"),
    [
        ({"scope": "admin"}, Refusal.SCOPE, "has 'ingest', 'query', not the scope admin"),
        ({"source": "bank-10"}, Refusal.SOURCE, "is for 'shop-*', 'bank-1', not child 'bank-10'"),
        ({"parent": "us-1"}, Refusal.PARENT, "is for 'eu-*', not parent 'us-1'"),
        ({"namespace": "lake2"}, Refusal.NAMESPACE, "is for 'lake', not namespace 'lake2'"),
        ({"source": ""}, Refusal.SOURCE, "not child ''"),
    ],
)
def test_a_refusal_says_what_was_asked_and_what_the_key_is_for(
    asked: dict[str, str], reason: Refusal, said: str
) -> None:
    refused = LAPTOP.refusal(**{"scope": "ingest"} | asked)  # type: ignore[arg-type]
    assert refused is not None
    assert (refused.reason, refused.http_status) == (reason, 403)
    assert refused.why.startswith("laptop (evodb_ab12) ")
    assert said in refused.why


def test_a_refusal_cannot_break_a_log_into_lines_or_fill_it() -> None:
    refused = LAPTOP.refusal(scope="ingest", source="evil\nINFO all is well" + "x" * 10_000)
    assert refused is not None
    assert refused.why.isprintable()
    assert len(refused.why) < 300


def test_a_key_without_scopes_allows_nothing() -> None:
    assert not any(Grant(1, "k", scopes=()).allows(scope=scope) for scope in SCOPES)


def test_an_open_house_is_open_for_all_but_its_administration() -> None:
    assert [scope for scope in SCOPES if not EVERYBODY.allows(scope=scope, source="x", parent="y")] == [ADMIN]


def test_only_who_is_not_known_hears_401() -> None:
    unauthenticated = {"no key", "unknown key", "revoked key", "expired key", "broken key"}
    assert {reason for reason in Refusal if reason.http_status == 401} == unauthenticated
    assert {reason.http_status for reason in Refusal} == {400, 401, 403}


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ({}, {}, ""),
        ({"Authorization": "Bearer k"}, {}, "k"),
        ({"authorization": "bearer  k "}, {}, "k"),
        ({"AUTHORIZATION": "BEARER k"}, {"token": "other"}, "k"),
        ({}, {"token": " k "}, "k"),
        ({"Authorization": "Basic abc"}, {"token": "k"}, "k"),
        ({"Authorization": "Bearer"}, {"token": "k"}, ""),
        ({"Authorization": "k"}, {}, ""),
        ({"Authorization": ""}, {"token": "k"}, "k"),
    ],
)
def test_a_key_comes_as_a_bearer_header_or_in_the_address(
    headers: dict[str, str], query: dict[str, str], token: str
) -> None:
    assert token_of(headers, query) == token
