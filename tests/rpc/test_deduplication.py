from __future__ import annotations

import random

import msgspec
import pytest

from rpc.deduplication import DEFAULT_DEDUP_CONFIG, DedupConfig, DeduplicationTracker, content_key
from rpc.messages import WalEntry, WalOperation

WINDOW_MS = DEFAULT_DEDUP_CONFIG.window_ms


def tracker(**config: int) -> DeduplicationTracker:
    return DeduplicationTracker(DedupConfig(**config))


def test_the_defaults_are_those_of_the_package() -> None:
    found = DEFAULT_DEDUP_CONFIG
    assert (found.window_ms, found.max_entries_per_source, found.max_sources) == (300_000, 10_000, 1_000)


def test_looking_does_not_record() -> None:
    seen = tracker()
    assert not seen.is_duplicate("s", 1, now_ms=0)
    assert not seen.is_duplicate("s", 1, now_ms=0)
    seen.record("s", 1, now_ms=0)
    assert seen.is_duplicate("s", 1, now_ms=0)


@pytest.mark.parametrize(("age_ms", "expected"), [(0, True), (WINDOW_MS, True), (WINDOW_MS + 1, False)])
def test_a_content_exactly_as_old_as_the_window_is_still_a_duplicate(age_ms: int, expected: bool) -> None:
    seen = tracker()
    seen.record("s", 1, now_ms=1000)
    assert seen.is_duplicate("s", 1, now_ms=1000 + age_ms) is expected


def test_a_duplicate_does_not_refresh_its_time() -> None:
    seen = tracker(window_ms=100)
    seen.record("s", 1, now_ms=0)
    assert seen.is_duplicate("s", 1, now_ms=90)
    seen.record("s", 1, now_ms=90)
    assert not seen.is_duplicate("s", 1, now_ms=101)


def test_a_content_recorded_again_after_the_window_is_young_again() -> None:
    seen = tracker(window_ms=100)
    seen.record("s", 1, now_ms=0)
    seen.record("s", 1, now_ms=150)
    assert seen.is_duplicate("s", 1, now_ms=250)


def test_sources_do_not_know_of_each_other() -> None:
    seen = tracker()
    seen.record("s", 1, now_ms=0)
    assert not seen.is_duplicate("t", 1, now_ms=0)


def test_the_oldest_content_of_a_source_gives_room() -> None:
    seen = tracker(max_entries_per_source=2)
    for content in (1, 2, 3):
        seen.record("s", content, now_ms=content)
    assert [seen.is_duplicate("s", content, now_ms=3) for content in (1, 2, 3)] == [False, True, True]
    assert (seen.stats.entries, seen.stats.evicted) == (2, 1)


def test_the_source_heard_of_longest_ago_gives_room() -> None:
    seen = tracker(max_sources=2)
    for source in ("a", "b", "a", "c"):
        seen.record(source, 1, now_ms=0)
    assert [seen.is_duplicate(source, 1, now_ms=0) for source in "abc"] == [True, False, True]


def test_cleanup_forgets_what_is_old_and_whom_nothing_is_known_of() -> None:
    seen = tracker(window_ms=100)
    seen.record("a", 1, now_ms=0)
    seen.record("b", 1, now_ms=50)
    seen.cleanup(now_ms=101)
    assert (seen.stats.sources, seen.stats.entries) == (1, 1)


def test_clear_forgets_a_source_or_everything() -> None:
    seen = tracker()
    for source in "abc":
        seen.record(source, 1, now_ms=0)
    seen.clear("a")
    seen.clear("never seen")
    assert seen.stats.sources == 2
    seen.clear()
    assert seen.stats.sources == 0


def test_stats_count_questions_and_duplicates() -> None:
    seen = tracker()
    assert seen.stats.duplicate_rate == 0
    seen.record("s", 1, now_ms=0)
    for content in (1, 1, 2, 3):
        seen.is_duplicate("s", content, now_ms=0)
    assert (seen.stats.checks, seen.stats.duplicates, seen.stats.duplicate_rate) == (4, 2, 0.5)


def test_it_never_holds_more_than_its_bounds_and_agrees_with_a_model() -> None:
    chance, seen, model, now_ms = random.Random(3), tracker(window_ms=50), {}, 0
    bounded = tracker(window_ms=50, max_entries_per_source=3, max_sources=2)
    for _ in range(5000):
        now_ms += chance.randrange(4)
        source, content = chance.choice("abc"), chance.randrange(20)
        age_ms = now_ms - model.get((source, content), -1000)
        assert seen.is_duplicate(source, content, now_ms=now_ms) is (age_ms <= 50)
        assert not bounded.is_duplicate(source, content, now_ms=now_ms) or age_ms <= 50
        if age_ms > 50:
            model[source, content] = now_ms
            seen.record(source, content, now_ms=now_ms)
            bounded.record(source, content, now_ms=now_ms)
        assert bounded.stats.sources <= 2
        assert bounded.stats.entries <= 6


@pytest.mark.parametrize("field", ["window_ms", "max_entries_per_source", "max_sources"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_a_config_that_cannot_work_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        DedupConfig(**{field: value})


def test_the_same_entries_are_the_same_content() -> None:
    fields = {"timestamp": 2, "operation": WalOperation.UPDATE, "table": "t", "row_id": "r", "before": None}
    row = WalEntry(sequence=1, after={"a": 1}, **fields)
    assert content_key([row]) == content_key([msgspec.structs.replace(row, metadata={"trace": "x"})])
    for name, value in {"sequence": 2, "timestamp": 3, "operation": WalOperation.INSERT, "table": "u", "row_id": "q",
                        "before": 0, "after": {"a": 2}}.items():  # fmt: skip
        assert content_key([msgspec.structs.replace(row, **{name: value})]) != content_key([row])
    assert content_key([row, row]) != content_key([row])
