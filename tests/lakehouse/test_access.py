"""Access keys: shown once, stored as a digest, bounded in scope, source and time."""

from __future__ import annotations

from hashlib import sha256

import pytest

from lakehouse.models import AccessKey
from lakehouse.parent import access

pytestmark = pytest.mark.django_db

NOW_MS = 1_700_000_000_000


def key(*scopes: str, source_pattern: str = "*", expires_ms: int | None = None) -> tuple[AccessKey, str]:
    return access.new_key(
        "laptop", scopes=scopes or ["ingest"], source_pattern=source_pattern, now_ms=NOW_MS, expires_ms=expires_ms
    )


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


@pytest.mark.parametrize("token", ["", "evodb_", "nobody's", "\udced", "\0", "x" * 10_000])
def test_any_other_text_finds_nothing(token: str) -> None:
    key()
    assert access.find(token, now_ms=NOW_MS) is None


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


@pytest.mark.parametrize("scopes", [[], ["ingest", "fly"]])
def test_a_key_without_a_known_scope_is_not_made(scopes: list[str]) -> None:
    with pytest.raises(ValueError, match="wanted some of ingest, query, subscribe, admin"):
        access.new_key("laptop", scopes=scopes, source_pattern="*", now_ms=NOW_MS)
    assert not AccessKey.objects.exists()
