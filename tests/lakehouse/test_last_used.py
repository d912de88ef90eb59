"""When keys were last used: noted often, written seldom, never lost to a database that is away, never turned back."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from lakehouse.models import AccessKey
from lakehouse.parent import access, last_used
from lakehouse.parent.last_used import WRITE_EVERY_MS, LastUsed

pytestmark = pytest.mark.django_db

NOW_MS = 1_700_000_000_000


@pytest.fixture
def notes() -> LastUsed:
    return LastUsed()


def key(*, used_ms: int | None = NOW_MS) -> AccessKey:
    row, _ = access.new_key("laptop", scopes=["ingest"], now_ms=NOW_MS)
    AccessKey.objects.filter(pk=row.pk).update(last_used_ms=used_ms)
    row.refresh_from_db()
    return row


def stored(row: AccessKey) -> int | None:
    return AccessKey.objects.values_list("last_used_ms", flat=True).get(pk=row.pk)


def test_a_key_in_use_costs_one_write_a_minute(notes: LastUsed) -> None:
    row = key()
    notes.note(row, now_ms=NOW_MS)
    with CaptureQueriesContext(connection) as queries:
        for second in range(1, 60):
            notes.note(row, now_ms=NOW_MS + second * 1000)
    assert len(queries) == 0
    notes.note(row, now_ms=NOW_MS + WRITE_EVERY_MS)
    assert stored(row) == NOW_MS + WRITE_EVERY_MS


def test_all_keys_are_written_together(notes: LastUsed) -> None:
    rows = [key() for _ in range(5)]
    notes.note(rows[0], now_ms=NOW_MS)
    for number, row in enumerate(rows, 1):
        notes.note(row, now_ms=NOW_MS + number)
    with CaptureQueriesContext(connection) as queries:
        notes.write(now_ms=NOW_MS + 10)
    assert len(queries) == 1
    assert [stored(row) for row in rows] == [NOW_MS + number for number in range(1, 6)]


def test_many_keys_are_written_in_parts(notes: LastUsed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_used, "KEYS_AT_ONCE", 2)
    rows = [key() for _ in range(5)]
    notes.note(rows[0], now_ms=NOW_MS)
    for row in rows:
        notes.note(row, now_ms=NOW_MS + 7)
    notes.write(now_ms=NOW_MS + 10)
    assert [stored(row) for row in rows] == [NOW_MS + 7] * 5


def test_the_first_use_of_a_key_is_written_at_once(notes: LastUsed) -> None:
    notes.note(key(), now_ms=NOW_MS)
    fresh = key(used_ms=None)
    notes.note(fresh, now_ms=NOW_MS + 1)
    assert stored(fresh) == NOW_MS + 1


def test_what_another_process_knows_better_is_kept(notes: LastUsed) -> None:
    row = key(used_ms=NOW_MS + 500)
    notes.note(row, now_ms=NOW_MS)
    assert stored(row) == NOW_MS + 500


def test_a_clock_that_was_set_back_does_not_silence_the_notes(notes: LastUsed) -> None:
    row = key(used_ms=0)
    notes.note(row, now_ms=NOW_MS)
    AccessKey.objects.filter(pk=row.pk).update(last_used_ms=0)
    notes.note(row, now_ms=NOW_MS - 10 * WRITE_EVERY_MS)
    assert stored(row) == NOW_MS - 10 * WRITE_EVERY_MS


def test_a_key_that_is_gone_disturbs_nobody(notes: LastUsed) -> None:
    gone, row = key(), key()
    AccessKey.objects.filter(pk=gone.pk).delete()
    notes.note(gone, now_ms=NOW_MS)
    notes.note(row, now_ms=NOW_MS + WRITE_EVERY_MS)
    assert stored(row) == NOW_MS + WRITE_EVERY_MS


def test_what_could_not_be_written_is_written_a_minute_later(
    notes: LastUsed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = key()

    def locked(_: object) -> None:
        raise OperationalError("database is locked")

    with monkeypatch.context() as broken:
        broken.setattr(last_used, "_write", locked)
        notes.note(row, now_ms=NOW_MS + 5)
    assert "the last use of 1 keys is written a minute later: database is locked" in caplog.text
    assert stored(row) == NOW_MS
    notes.note(key(), now_ms=NOW_MS + 5 + WRITE_EVERY_MS)
    assert stored(row) == NOW_MS + 5
