"""What is made of two sums that differ: red, or the reason why they need not agree."""

from __future__ import annotations

from typing import Any

import pytest

from rpc.entry_digest import Sum
from rpc.verification import Delivered, Told, Verdict, compare, is_settled

A, B = Sum(3, 30, 1, 3), Sum(2, 7, 4, 5)


def held(**changed: Any) -> Delivered:
    return Delivered(100, 5, {100: {"orders": A}}, {}, 0, 0, None, 100)._replace(**changed)


def told(**changed: Any) -> Told:
    return Told(100, 5, [], {100: {"orders": A}}, 0)._replace(**changed)


def verdicts(child: Delivered, parent: Told) -> list[Verdict]:
    return [line.verdict for line in compare(child, parent)]


def test_equal_sums_are_green_wherever_they_begin_and_end() -> None:
    assert verdicts(held(), told(sums={100: {"orders": A._replace(first=0, last=9)}})) == [Verdict.GREEN]


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({}, "3 entries were acknowledged and the parent has not counted them"),
        ({"orders": B}, "1 entries were acknowledged and the parent has not counted them"),
        ({"orders": A._replace(digest=31)}, "as many entries, and not the same ones"),
        ({"orders": A + B}, "the parent counted 2 entries more than were acknowledged"),
    ],
)
def test_sums_of_the_epoch_a_child_is_in_have_to_agree(theirs: dict[str, Sum], said: str) -> None:
    (line,) = compare(held(), told(sums={100: theirs}))
    assert (line.verdict, line.why) == (Verdict.RED, said)


def test_a_batch_the_parent_has_and_the_child_has_no_ack_of_is_counted_at_both_sides() -> None:
    child = held(unacked={5: {"orders": B}, 6: {"items": B}}, last_sequence=6)
    parent = told(sums={100: {"orders": A + B}})
    assert verdicts(child, parent) == [Verdict.GREEN]
    assert not is_settled(child, parent)
    assert is_settled(child, told(sequence=4))
    assert verdicts(child, told(sequence=3, islands=[[5, 5]], sums={100: {"orders": A + B}})) == [Verdict.GREEN]


def test_a_file_from_a_backup_is_told_and_not_red() -> None:
    (line,) = compare(held(last_sequence=3), told(sums={100: {"orders": A + B}}))
    assert (line.verdict, "backup" in line.why) == (Verdict.EXPLAINED, True)
    found = compare(held(), told(epoch=200, sums={100: {"orders": A + B}, 200: {"orders": B}}))
    assert [(line.epoch, line.verdict) for line in found] == [(200, Verdict.EXPLAINED), (100, Verdict.EXPLAINED)]
    assert all("backup" in line.why for line in found)


def test_of_an_epoch_that_ended_the_parent_may_have_more_and_never_less() -> None:
    child = held(epoch=200, sums={100: {"orders": A}, 200: {"orders": B}}, summed_epoch=0)
    more = told(epoch=200, sums={100: {"orders": A + B}, 200: {"orders": B}})
    assert verdicts(child, more) == [Verdict.EXPLAINED, Verdict.GREEN]
    assert "sent again in the next" in compare(child, more)[0].why
    assert verdicts(child, told(epoch=200, sums={200: {"orders": B}})) == [Verdict.RED, Verdict.GREEN]


def test_what_waits_at_the_parent_unsummed_is_told() -> None:
    (line,) = compare(held(), told(sums={}, unsummed=3))
    assert (line.verdict, "3 entries wait at the parent" in line.why) == (Verdict.EXPLAINED, True)


def test_a_file_that_counts_only_since_an_entry_says_so() -> None:
    (line,) = compare(held(summed_after=9), told(sums={100: {"orders": A + B}}))
    assert (line.verdict, "since entry 9" in line.why) == (Verdict.EXPLAINED, True)


def test_entries_that_came_without_an_epoch_are_told_apart() -> None:
    found = compare(held(), told(sums={0: {"orders": B}, 100: {"orders": A}}))
    assert [(line.epoch, line.verdict) for line in found] == [(0, Verdict.EXPLAINED), (100, Verdict.GREEN)]
    assert "over HTTP" in found[0].why
