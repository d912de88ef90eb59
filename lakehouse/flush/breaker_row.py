"""The breaker's row: who may ask the object store now, and what came of it, agreed on by all processes.

Every change names the turn it saw, so that of two at once one counts. A probe is one turn: what a probe says that was
taken for dead meanwhile counts for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace

from django.db.models import F

from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable
from lakehouse.flush import breaker
from lakehouse.flush.breaker import BreakerState, Patience, Seen, Way
from lakehouse.models import StoreBreaker
from lakehouse.renewal import renewed

log = logging.getLogger(__name__)

ROW = 1
KNOWN_MS = 1000
CLOCKS_APART_MS_MAX = 60_000
ERROR_CHARS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Passage:
    """Where a flush goes. `turn` is the probe's, 0 for all others."""

    way: Way
    turn: int = 0
    outage_until_ms: int = 0
    """A drill says that the store is away; 0: there is none."""
    failures: int = 0
    """Of others, one after the other, before this flush began."""


def patience_of(settings: Settings) -> Patience:
    """A probe that is silent is taken for dead as soon as a worker would be."""
    return Patience(
        failures_max=settings.breaker_failures_max, open_ms=settings.breaker_open_ms, probe_ms=settings.lease_ms
    )


def read() -> StoreBreaker:
    """The row, or what it would be."""
    return StoreBreaker.objects.filter(pk=ROW).first() or StoreBreaker(pk=ROW)


def enter(patience: Patience, *, owner: str, now_ms: int) -> Passage:
    """Where a flush that begins now goes; the probe is taken by this. It belongs into `watched`."""
    row = read()
    chosen, turn = _way(row, now_ms=now_ms), 0
    if chosen is Way.PROBE:
        if _change(row, breaker.probing(_seen(row), patience, now_ms=now_ms), now_ms=now_ms, probe_owner=owner):
            turn = row.turn + 1
        else:
            chosen = Way.FALLBACK
    return Passage(chosen, turn, row.outage_until_ms if now_ms < row.outage_until_ms else 0, row.failures)


def is_asked(*, now_ms: int) -> bool:
    """Whether a flush that begins now would ask the store."""
    return _way(read(), now_ms=now_ms) is not Way.FALLBACK


def begin_outage(*, until_ms: int, now_ms: int) -> bool:
    """Every flush finds the store away until then, or until it is ended. False when there is an outage already."""
    StoreBreaker.objects.get_or_create(pk=ROW)
    free = StoreBreaker.objects.filter(pk=ROW, outage_until_ms__lte=now_ms)
    return free.update(outage_until_ms=until_ms) == 1


def prolong_outage(*, since_ms: int, until_ms: int) -> bool:
    """Whoever began it (until `since_ms`) goes on; False when it was ended meanwhile."""
    return StoreBreaker.objects.filter(pk=ROW, outage_until_ms=since_ms).update(outage_until_ms=until_ms) == 1


def end_outage() -> None:
    """The store is as away as it is."""
    StoreBreaker.objects.filter(pk=ROW).update(outage_until_ms=0)


def hurry(*, now_ms: int) -> bool:
    """Somebody does not want to wait: the next flush is the probe. Whether the breaker was open."""
    return StoreBreaker.objects.filter(pk=ROW, state=BreakerState.OPEN).update(open_until_ms=now_ms) == 1


@contextmanager
def watched(passage: Passage, patience: Patience, *, now_ms: Callable[[], int]) -> Iterator[None]:
    """Within this the store is asked, and the breaker hears how that ended."""
    try:
        if passage.outage_until_ms:
            raise StoreUnavailable(f"a drill keeps the store away until {passage.outage_until_ms} ms")
        with _kept_alive(passage, patience, now_ms=now_ms):
            yield
    except StoreUnavailable as exc:
        _fail(passage, patience, error=str(exc), now_ms=now_ms())
        raise
    except BaseException:
        _release(passage, now_ms=now_ms())
        raise
    _succeed(passage, now_ms=now_ms())


def _kept_alive(passage: Passage, patience: Patience, *, now_ms: Callable[[], int]) -> AbstractContextManager[None]:
    """A probe says that it lives; a process that is stopped or dead does not."""
    if passage.way is not Way.PROBE:
        return nullcontext()

    def renew() -> None:
        same_turn = StoreBreaker.objects.filter(pk=ROW, turn=passage.turn)
        same_turn.update(probe_until_ms=now_ms() + patience.probe_ms)

    return renewed(renew, term_ms=patience.probe_ms, what="the probe of the object store")


def _fail(passage: Passage, patience: Patience, *, error: str, now_ms: int) -> None:
    note = {"last_error": error[:ERROR_CHARS_MAX]}
    if passage.way is Way.PROBE:
        row = read()
        if row.turn == passage.turn:
            _change(row, breaker.failed(_seen(row), patience, now_ms=now_ms), now_ms=now_ms, **note)
        return
    StoreBreaker.objects.get_or_create(pk=ROW)
    while (row := read()).state == BreakerState.CLOSED:  # another failure at the same moment counts as well
        after = breaker.failed(_seen(row), patience, now_ms=now_ms)
        opens = after.state is BreakerState.OPEN
        if _change(row, after, now_ms=now_ms, opened_total=row.opened_total + opens, **note):
            if opens:
                log.error("the object store is away, the breaker is open after %d failures: %s", after.failures, error)
            return


def _succeed(passage: Passage, *, now_ms: int) -> None:
    """Of what failed since this flush began, the next one tells that it is over."""
    if passage.way is Way.LAKE and not passage.failures:
        return
    row = read()
    if passage.way is Way.PROBE:
        if row.turn == passage.turn and _change(row, breaker.succeeded(), now_ms=now_ms):
            log.warning("the object store is back, the breaker is closed")
    elif row.state == BreakerState.CLOSED and row.failures:
        _change(row, breaker.succeeded(), now_ms=now_ms)


def _release(passage: Passage, *, now_ms: int) -> None:
    if passage.way is Way.PROBE and (row := read()).turn == passage.turn:
        _change(row, breaker.released(_seen(row), now_ms=now_ms), now_ms=now_ms)


def _change(row: StoreBreaker, after: Seen, *, now_ms: int, **more: object) -> bool:
    """False when somebody else was faster."""
    moved = {"turn": F("turn") + 1, "changed_ms": now_ms, "probe_owner": ""} | more
    same_turn = StoreBreaker.objects.filter(pk=ROW, turn=row.turn)
    return same_turn.update(**asdict(after), **moved) == 1


def _way(row: StoreBreaker, *, now_ms: int) -> Way:
    """What a clock far ahead of ours wrote is over; nobody waits hours for its moments."""
    seen = _seen(row)
    if row.changed_ms > now_ms + CLOCKS_APART_MS_MAX:
        seen = replace(seen, open_until_ms=0, probe_until_ms=0)
    return breaker.way(seen, now_ms=now_ms)


def _seen(row: StoreBreaker) -> Seen:
    return Seen(
        state=BreakerState(row.state),
        failures=row.failures,
        open_until_ms=row.open_until_ms,
        probe_until_ms=row.probe_until_ms,
    )


class Word:
    """What this process knows of the breaker, asked again when it is older than a second. Any thread may read it."""

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._asked_ms: int | None = None

    @property
    def is_away(self) -> bool:
        """The object store is, as far as anybody tried."""
        return self.state is not BreakerState.CLOSED

    def refresh(self, now_ms: int) -> None:
        """One query a second, by a thread that may wait for the database."""
        if self._asked_ms is None or not 0 <= now_ms - self._asked_ms < KNOWN_MS:
            self.state, self._asked_ms = BreakerState(read().state), now_ms

    def forget(self) -> None:
        """Know nothing, as a process that begins."""
        self.state, self._asked_ms = BreakerState.CLOSED, None


word = Word()
