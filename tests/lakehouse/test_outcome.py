"""What a table says of itself, and what may be concluded from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lakehouse.flush.outcome import Absent, Announced, Landed, SeenSnapshot, SeenTable, Unknown, is_ahead, look_up

OURS, BEFORE = "12-aa", "7-bb"
ANNOUNCED = Announced(OURS, "uuid", base_snapshot_id=100, marker_before=BEFORE)
BASE = SeenSnapshot(100, None, 1, BEFORE)
THEIRS = SeenSnapshot(300, 100, 2, "")
LANDED = SeenSnapshot(200, 100, 2, OURS)
UNTOUCHED = SeenTable("uuid", 100, [BASE], BEFORE)


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        pytest.param(UNTOUCHED, Absent(), id="main stands where it stood"),
        pytest.param(SeenTable("uuid", 200, [BASE, LANDED], OURS), Landed(200), id="it is the newest"),
        pytest.param(
            SeenTable("uuid", 400, [BASE, LANDED, SeenSnapshot(400, 200, 3, "")], OURS),
            Landed(200),
            id="not the newest",
        ),
        pytest.param(SeenTable("uuid", 100, [BASE, LANDED], OURS), Landed(200), id="it landed and was rolled back"),
        pytest.param(SeenTable("uuid", 400, [SeenSnapshot(400, 200, 3, "")], OURS), Landed(None), id="it has expired"),
        pytest.param(SeenTable("uuid", 300, [BASE, THEIRS], BEFORE), Absent(), id="others committed, none is ours"),
        pytest.param(SeenTable("uuid", 300, [BASE, THEIRS], ""), Absent(), id="a whole history needs no marker"),
        pytest.param(
            SeenTable("uuid", 400, [SeenSnapshot(400, 300, 3, "")], BEFORE), Absent(), id="the marker is as it was"
        ),
    ],
)
def test_what_can_be_told(seen: SeenTable, found: object) -> None:
    assert look_up(ANNOUNCED, seen) == found


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        pytest.param(None, "the table is gone", id="no table"),
        pytest.param(replace(UNTOUCHED, table_uuid="other"), "is another one", id="another table of that name"),
        pytest.param(
            SeenTable("uuid", 400, [SeenSnapshot(400, 300, 3, "")], ""), "no marker of ours", id="expired, no marker"
        ),
        pytest.param(
            SeenTable("uuid", 400, [SeenSnapshot(400, 300, 3, "")], "9-cc"),
            "of neither",
            id="a strange marker",
        ),
        pytest.param(SeenTable("uuid", None, [], ""), "no marker of ours", id="the table was emptied"),
    ],
)
def test_what_cannot_be_told_is_never_taken_for_absent(seen: SeenTable | None, why: str) -> None:
    found = look_up(ANNOUNCED, seen)
    assert isinstance(found, Unknown)
    assert why in found.why


def test_a_history_without_a_beginning_is_not_whole_on_a_table_that_began_empty() -> None:
    announced = Announced(OURS, "uuid", base_snapshot_id=None, marker_before="")
    first = SeenSnapshot(300, None, 1, "")
    assert look_up(announced, SeenTable("uuid", 300, [first], "")) == Absent()
    only_the_newest_is_shown = replace(first, sequence_number=5)
    assert isinstance(look_up(announced, SeenTable("uuid", 300, [only_the_newest_is_shown], "")), Unknown)
    assert look_up(announced, SeenTable("uuid", None, [], "")) == Absent()


def test_snapshots_in_a_circle_are_no_history() -> None:
    seen = SeenTable("uuid", 300, [SeenSnapshot(300, 400, 2, ""), SeenSnapshot(400, 300, 3, "")], "")
    assert isinstance(look_up(ANNOUNCED, seen), Unknown)


def test_a_marker_of_a_flush_to_come_is_ahead_of_the_journal() -> None:
    assert is_ahead("12-aa", 12)
    assert is_ahead("13-aa", 12)
    assert not is_ahead("11-aa", 12)
    assert not is_ahead("", 12)
    assert not is_ahead("of somebody else", 12)
