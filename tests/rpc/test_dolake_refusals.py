"""When a refused child may come back, and what a child of the package hears instead of a reason it does not know."""

from __future__ import annotations

import pytest

from rpc.dolake.refusals import Reason, retry_delay_ms
from rpc.messages import NackReason

ALMOST_ONE = 0.999_999
CHANCES = (0.0, 0.5, ALMOST_ONE)


def delays(reason: Reason, refusals: int = 1) -> list[int | None]:
    return [retry_delay_ms(reason, refusals=refusals, chance=chance) for chance in CHANCES]


@pytest.mark.parametrize(
    ("refusals", "wanted"),
    [
        (0, [50, 100, 149]),
        (1, [100, 200, 299]),
        (8, [12_800, 25_600, 38_399]),
        (9, [15_000, 30_000, 44_999]),
        (10_000, [15_000, 30_000, 44_999]),
    ],
)
def test_each_refusal_in_a_row_doubles_the_wait_up_to_a_maximum(refusals: int, wanted: list[int]) -> None:
    assert delays(Reason.RATE_LIMITED, refusals) == wanted


def test_a_parent_may_have_delays_of_its_own() -> None:
    assert retry_delay_ms(Reason.RATE_LIMITED, refusals=3, chance=0.5, base_ms=10, max_ms=60) == 60
    assert retry_delay_ms(Reason.RATE_LIMITED, refusals=2, chance=0.5, base_ms=10, max_ms=60) == 40


def test_what_was_shed_may_come_back_soon_and_a_full_buffer_takes_a_while() -> None:
    assert delays(Reason.LOAD_SHEDDING) == [50, 100, 149]
    assert delays(Reason.BUFFER_FULL) == [1000, 3000, 5000]


def test_what_passes_by_itself_is_tried_again_after_a_second() -> None:
    assert delays(Reason.SHUTTING_DOWN) == delays(Reason.INTERNAL_ERROR) == [1000] * 3


def test_nobody_is_asked_to_send_again_what_cannot_be_stored() -> None:
    final = {reason for reason in Reason if delays(reason) == [None] * 3}
    assert final == {
        Reason.INVALID_FORMAT,
        Reason.PAYLOAD_TOO_LARGE,
        Reason.EVENT_TOO_LARGE,
        Reason.TOO_MANY_EVENTS,
        Reason.INVALID_SEQUENCE,
    }


def test_every_reason_of_the_package_is_one_here_and_stays_itself() -> None:
    assert [Reason(reason).of_the_package for reason in NackReason] == list(NackReason)


def test_what_the_package_does_not_know_becomes_the_nearest_it_does() -> None:
    others = {reason: reason.of_the_package for reason in Reason if reason.value not in set(NackReason)}
    assert others == {
        Reason.PAYLOAD_TOO_LARGE: NackReason.INVALID_FORMAT,
        Reason.EVENT_TOO_LARGE: NackReason.INVALID_FORMAT,
        Reason.TOO_MANY_EVENTS: NackReason.INVALID_FORMAT,
        Reason.LOAD_SHEDDING: NackReason.RATE_LIMITED,
    }
    assert {reason for reason in Reason if reason.is_size_violation} == set(others) - {Reason.LOAD_SHEDDING}
