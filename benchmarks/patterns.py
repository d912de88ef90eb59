"""How long does it take to know for which of 10 000 subscriptions an event is?

Question
  How many microseconds does one event cost, for a type that was asked for before and for one that was not, when the
  patterns are those of a large tenant, and when they are the worst that somebody may write?

Method
  10 000 patterns in one index, one thread, its CPU time. `first` asks for types that the index has never seen, each
  once, 2000 of them (200 of the worst); `again` asks for the same types a second time, when they are remembered.
     literal   shop.order.created and its like, every one another
     mixed     half literal, a quarter `shop.N.*`, an eighth `webN*.push`, an eighth `**.N` and `a.**.N`
     stars     `*aN*.b*N`, of which no letter says where to look; as many as may be, else `aN*.b*N`
     hostile   as many letters as may be of the likes of `**.*a*a.**.a*`, all others `a*aa.**.aaa*a` and so on, all
               different, and types of 128 letters a in 1 to 64 segments

Last answer (November 2026, 2 cores of an AMD EPYC, quiet; CPython 3.11)
  us an event      first    slowest      again  matched
  literal            3.3      205.3       0.62      1.0
  mixed              5.8       41.8       0.63      1.2
  stars              7.0       46.1       0.65      0.0
  hostile          156.0      502.8       0.73    235.5

  In words: 6 us for a type that is new and 0.6 us for one that is not, and 0.16 ms, at worst 0.5, where everything was
  made to explode; on a busy machine the worst was 1.15. Such patterns cost 364 ms when each place was visited,
  segment by segment.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator

from lakehouse.subscriptions.patterns import WIDE_CHARS_MAX, PatternIndex, complaint, wide_chars

SUBSCRIPTIONS = 10_000
TYPES = 2000
HOSTILE_TYPES = 200


def literal() -> Iterator[str]:
    return (f"shop.order{number}.created" for number in itertools.count())


def mixed() -> Iterator[str]:
    for number in itertools.count():
        yield from (f"shop.order{number}.created", f"shop.order{number}.*", f"order{number}.paid", f"web{number}*.push")
        yield from (
            f"shop.a{number}.*",
            f"shop.b{number}",
            f"c{number}.d",
            f"**.order{number}" if number % 2 else f"shop.**.e{number}",
        )


def stars() -> Iterator[str]:
    yield from _within(f"*a{number}*.b*{number}" for number in itertools.count())
    yield from (f"a{number}*.b*{number}" for number in itertools.count())


def hostile() -> Iterator[str]:
    pieces = ("**", "*", "a", "a*", "*a", "*a*", "**")
    yield from _within(
        pattern
        for chosen in itertools.product(pieces, repeat=7)
        if wide_chars(pattern := ".".join(("**", *chosen, "**", "a")))
    )
    chance = random.Random(1)
    for number in itertools.count():
        some = [f"{'a' * chance.randrange(24)}*{'a' * chance.randrange(24)}" for _ in range(1 + number % 6)]
        some.insert(chance.randrange(len(some) + 1), "**")
        yield ".".join(some)


def _within(patterns: Iterable[str]) -> Iterator[str]:
    """As many of these as a parent may have."""
    letters = 0
    for pattern in patterns:
        letters += wide_chars(pattern)
        if letters > WIDE_CHARS_MAX:
            return
        yield pattern


def types(of: str) -> list[str]:
    if of == "hostile":
        return [_dotted(128, 1 + number % 64, number // 64) for number in range(HOSTILE_TYPES)]
    return [f"shop.order{number}.created" for number in range(TYPES)]


def _dotted(length: int, segments: int, turn: int) -> str:
    """So many characters in so many segments, nearly all of them a."""
    text = ["a"] * length
    for number in range(1, segments):
        text[number * length // segments] = "."
    text[-1 - turn] = "b" if turn else "a"
    return "".join(text)


def measured(index: PatternIndex[int], asked: list[str], *, match: Callable[[str], object]) -> tuple[float, float]:
    """Microseconds of CPU of a type on average, and of the slowest."""
    took = []
    for event_type in asked:
        started = time.thread_time_ns()
        match(event_type)
        took.append(time.thread_time_ns() - started)
    return sum(took) / len(took) / 1000, max(took) / 1000


def main() -> None:
    print(f"{'us an event':10} {'first':>10} {'slowest':>10} {'again':>10} {'matched':>8}")
    for patterns in (literal, mixed, stars, hostile):
        index: PatternIndex[int] = PatternIndex()
        for number, pattern in enumerate(itertools.islice(patterns(), SUBSCRIPTIONS)):
            assert complaint(pattern) is None, pattern
            index.add(pattern, number)
        asked = types(patterns.__name__)
        index.match("first")
        first, slowest = measured(index, asked, match=index.match)
        again, _ = measured(index, asked, match=index.match)
        matched = sum(len(index.match(one)) for one in asked) / len(asked)
        print(f"{patterns.__name__:10} {first:10.1f} {slowest:10.1f} {again:10.2f} {matched:8.1f}")


if __name__ == "__main__":
    main()
