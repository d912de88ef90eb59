"""The key a laptop starts with: there is always one that works, and never one more."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lakehouse.models import AccessKey
from lakehouse.parent import access, first_key, key_changes

pytestmark = pytest.mark.django_db

NOW_MS = 1_700_000_000_000


def ensure(folder: Path) -> str | None:
    return first_key.ensure(folder, now_ms=NOW_MS)


def test_the_first_start_makes_a_key_that_may_do_everything(tmp_path: Path) -> None:
    token = ensure(tmp_path)
    assert token is not None
    key = access.find(token, now_ms=NOW_MS)
    assert key is not None
    assert (key.name, key.scopes, key.expires_ms) == ("first key", list(access.SCOPES), None)


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    token = ensure(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["access-token"]
    path = tmp_path / "access-token"
    assert path.read_text() == f"{token}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_next_start_has_the_same_key(tmp_path: Path) -> None:
    assert ensure(tmp_path) == ensure(tmp_path)
    assert AccessKey.objects.count() == 1


def test_a_file_without_its_key_becomes_a_key_again(tmp_path: Path) -> None:
    token = ensure(tmp_path)
    AccessKey.objects.all().delete()
    assert ensure(tmp_path) == token
    assert AccessKey.objects.count() == 1


def test_where_keys_were_made_by_hand_none_is_made(tmp_path: Path) -> None:
    access.new_key("laptop", scopes=["ingest"], now_ms=NOW_MS)
    assert ensure(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert AccessKey.objects.count() == 1


def test_a_first_key_that_was_revoked_stays_revoked(tmp_path: Path) -> None:
    ensure(tmp_path)
    key_changes.revoke(AccessKey.objects.get(), now_ms=NOW_MS)
    assert ensure(tmp_path) is None
    assert AccessKey.objects.count() == 1


def test_a_first_key_that_was_rotated_is_good_until_the_overlap_is_over(tmp_path: Path) -> None:
    token = ensure(tmp_path)
    key_changes.rotate(AccessKey.objects.get(), now_ms=NOW_MS, overlap_ms=5)
    assert ensure(tmp_path) == token
    assert first_key.ensure(tmp_path, now_ms=NOW_MS + 5) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"secret", b"\xff\x00", b"evodb_" + b"x" * 44])
def test_a_file_that_holds_no_key_makes_none_and_says_so(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "access-token").write_bytes(content)
    assert ensure(tmp_path) is None
    assert not AccessKey.objects.exists()
    assert "access-token holds no key; remove it for a new one" in caplog.text


def test_when_another_process_was_first_its_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "access-token"
    theirs = first_key._keep(path, access.new_token())
    assert first_key._keep(path, access.new_token()) == theirs
    first_key._make_key_of(theirs, NOW_MS)
    first_key._make_key_of(theirs, NOW_MS)
    assert ensure(tmp_path) == theirs
    assert AccessKey.objects.count() == 1
