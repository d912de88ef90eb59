"""What an operator does to keys: name one, revoke it, rotate it with an overlap, and hear why nothing was changed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import close_old_connections, connection

from lakehouse.models import AccessKey
from lakehouse.parent import access, key_changes
from lakehouse.parent.key_changes import KeyNotChanged, meant, revoke, rotate

pytestmark = pytest.mark.django_db

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


def key(name: str = "laptop", **fields: Any) -> tuple[AccessKey, str]:
    return access.new_key(name, **{"scopes": ["ingest"], "now_ms": NOW_MS} | fields)


def is_good(token: str, now_ms: int) -> bool:
    return access.find(token, now_ms=now_ms) is not None


def test_a_key_is_meant_by_its_name_its_prefix_its_id_or_itself() -> None:
    row, text = key()
    key("other")
    for called in ("laptop", row.prefix, str(row.pk), text):
        assert meant(called, now_ms=NOW_MS) == row


@pytest.mark.parametrize(
    "called", ["nobody", "evodb_", "", "0", "-1", "9" * 30, "²", "%", "*", "a\0b", "evodb_" + "x" * 43]
)
def test_a_key_nobody_has_is_said_with_those_there_are(called: str) -> None:
    row, _ = key()
    with pytest.raises(KeyNotChanged, match="there is no key") as caught:
        meant(called, now_ms=NOW_MS)
    assert f"known are: laptop ({row.prefix})" in str(caught.value)
    assert "x" * 43 not in str(caught.value)


def test_without_any_key_that_is_said() -> None:
    with pytest.raises(KeyNotChanged, match="there is none yet"):
        meant("laptop", now_ms=NOW_MS)


def test_two_keys_of_one_name_have_to_be_told_apart() -> None:
    first, second = key()[0], key()[0]
    with pytest.raises(KeyNotChanged, match="2 keys are called 'laptop'") as caught:
        meant("laptop", now_ms=NOW_MS)
    assert f"{first.prefix} (id {first.pk}), {second.prefix} (id {second.pk})" in str(caught.value)


def test_among_keys_of_one_name_the_one_that_is_still_good_is_meant() -> None:
    first, second = key()[0], key()[0]
    revoke(first, now_ms=NOW_MS)
    assert meant("laptop", now_ms=NOW_MS) == second


def test_a_revoked_key_opens_nothing_and_keeps_the_moment_it_was_revoked() -> None:
    row, text = key()
    assert revoke(row, now_ms=NOW_MS + 5)
    assert not is_good(text, NOW_MS + 5)
    assert not revoke(row, now_ms=NOW_MS + 9)
    row.refresh_from_db()
    assert row.revoked_ms == NOW_MS + 5


def test_a_rotated_key_and_its_successor_are_both_good_until_the_overlap_is_over() -> None:
    old, old_text = key()
    new, new_text = rotate(old, now_ms=NOW_MS, overlap_ms=HOUR_MS)
    assert is_good(old_text, NOW_MS + HOUR_MS - 1)
    assert not is_good(old_text, NOW_MS + HOUR_MS)
    assert is_good(new_text, NOW_MS)
    assert is_good(new_text, NOW_MS + 10_000 * HOUR_MS)
    assert new.rotated_from == old


def test_a_successor_is_bound_like_the_key_before_it() -> None:
    bound = {
        "scopes": ["query", "ingest"],
        "source_pattern": "edge-*\nbank-1",
        "parents": "eu-*",
        "namespaces": "lake",
        "priority": "high",
        "limits": {"burst_capacity": 7},
    }
    old, _ = key(**bound)
    new, _ = rotate(old, now_ms=NOW_MS)
    assert {name: getattr(new, name) for name in bound} == bound
    assert (new.name, new.created_ms, new.expires_ms, new.last_used_ms) == ("laptop", NOW_MS, None, None)


def test_the_successor_of_a_key_that_expires_lives_as_long() -> None:
    old, _ = key(expires_ms=NOW_MS + 100 * HOUR_MS)
    later_ms = NOW_MS + 60 * HOUR_MS
    new, _ = rotate(old, now_ms=later_ms, overlap_ms=HOUR_MS)
    assert new.expires_ms == later_ms + 100 * HOUR_MS


def test_an_overlap_never_lets_a_key_live_longer() -> None:
    old, old_text = key(expires_ms=NOW_MS + HOUR_MS)
    rotate(old, now_ms=NOW_MS, overlap_ms=24 * HOUR_MS)
    assert not is_good(old_text, NOW_MS + HOUR_MS)


def test_without_an_overlap_the_old_key_ends_at_once() -> None:
    old, old_text = key()
    rotate(old, now_ms=NOW_MS, overlap_ms=0)
    assert not is_good(old_text, NOW_MS)


def test_a_key_is_rotated_once_and_then_its_successor_is() -> None:
    old, _ = key()
    new, _ = rotate(old, now_ms=NOW_MS)
    with pytest.raises(KeyNotChanged, match=rf"was rotated already; rotate its successor {new.prefix} \(id {new.pk}\)"):
        rotate(old, now_ms=NOW_MS)
    assert AccessKey.objects.count() == 2
    assert rotate(new, now_ms=NOW_MS)[0].rotated_from == new


@pytest.mark.parametrize(
    ("columns", "said"), [({"revoked_ms": NOW_MS}, "was revoked"), ({"expires_ms": NOW_MS}, "expired")]
)
def test_a_key_that_ended_is_not_rotated(columns: dict[str, int], said: str) -> None:
    old, _ = key()
    AccessKey.objects.filter(pk=old.pk).update(**columns)
    with pytest.raises(KeyNotChanged, match=said):
        rotate(old, now_ms=NOW_MS)
    assert AccessKey.objects.count() == 1


@pytest.mark.parametrize("overlap_ms", [-1, key_changes.OVERLAP_MS_MAX + 1, 2**70])
def test_an_overlap_that_cannot_be_is_refused(overlap_ms: int) -> None:
    old, _ = key()
    with pytest.raises(KeyNotChanged, match="the overlap is"):
        rotate(old, now_ms=NOW_MS, overlap_ms=overlap_ms)
    assert AccessKey.objects.count() == 1


def test_a_row_somebody_broke_by_hand_is_not_rotated_by_half() -> None:
    old, _ = key()
    AccessKey.objects.filter(pk=old.pk).update(limits={"speed": 1})
    with pytest.raises(ValueError, match="unknown limit speed"):
        rotate(old, now_ms=NOW_MS)
    old.refresh_from_db()
    assert (AccessKey.objects.count(), old.expires_ms) == (1, None)


@pytest.mark.django_db(transaction=True)
def test_two_operators_who_rotate_a_key_at_once_make_one_successor() -> None:
    old, _ = key()
    ready, said = threading.Barrier(2), []

    def operator() -> None:
        ready.wait()
        try:
            said.append(rotate(old, now_ms=NOW_MS)[0].prefix)
        except KeyNotChanged as exc:
            said.append(str(exc))
        finally:
            connection.close()

    close_old_connections()
    both = [threading.Thread(target=operator) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert AccessKey.objects.count() == 2
    assert sum("was rotated already" in text for text in said) == 1
