"""How a worker gets into trouble: what there is to do for it, where it is struck, and what happens meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from lakehouse.flush import history
from rpc.failpoints import Failpoint
from tests.simulation.house import FAILURES_MAX, LEASE_MS
from tests.simulation.strikes import RECOVERY_POINTS, End, Mishap
from tests.simulation.world import CHILDREN, WORKERS, World

OF_EACH_TABLE = {Failpoint.FILES_WRITTEN, Failpoint.METADATA_WRITTEN, Failpoint.RECOVERY_STAGED}


class Meanwhile(Enum):
    """What may happen while a worker is paused."""

    ITS_LEASE_ENDS = auto()
    BATCHES_COME = auto()
    ANOTHER_FLUSHES = auto()
    ANOTHER_DIES = auto()
    ANOTHER_RECOVERS = auto()
    A_TABLE_IS_REWRITTEN = auto()
    THE_STORE_GOES = auto()
    THE_STORE_COMES = auto()
    HISTORY_IS_FORGOTTEN = auto()


def flush_goes_wrong(
    world: World, owner: str, point: Failpoint, end: End, pause: Sequence[Meanwhile], *, later: bool = False
) -> None:
    """A flush comes to this point, and there it happens."""
    something_comes(world)
    if point is Failpoint.FALLBACK_WRITTEN:
        the_breaker_opens(world, owner)
    else:
        all_is_well_again(world, owner)
    world.house.flush(owner, _mishap(world, owner, point, end, pause, later=later))


def recovery_goes_wrong(
    world: World, owner: str, point: Failpoint, end: End, pause: Sequence[Meanwhile], *, later: bool = False
) -> None:
    """A recovery comes to this point, and there it happens."""
    assert point in RECOVERY_POINTS
    if not world.house.keeps:
        the_breaker_opens(world, owner)
        world.house.flush(owner)
    all_is_well_again(world, owner)
    world.house.recover(owner, _mishap(world, owner, point, end, pause, later=later))


def something_comes(world: World) -> None:
    for name in CHILDREN:
        world.write(name, 2)
        world.exchange(name, 2)


def the_breaker_opens(world: World, owner: str) -> None:
    """The store goes, and flushes find out."""
    world.house.store.is_away = True
    for _ in range(FAILURES_MAX):
        something_comes(world)
        world.now_ms += world.house.lease_left_ms(owner)
        world.house.flush(owner)


def all_is_well_again(world: World, owner: str) -> None:
    """The store is back, and whoever is to be waited for was waited for."""
    world.house.store.is_away = False
    world.now_ms += max(world.house.lease_left_ms(owner), world.house.breaker_left_ms(owner))


def happen(world: World, paused: str, what: Meanwhile) -> None:
    house, [other] = world.house, set(WORKERS) - {paused}
    match what:
        case Meanwhile.ITS_LEASE_ENDS:
            world.now_ms += LEASE_MS + 1
        case Meanwhile.BATCHES_COME:
            something_comes(world)
        case Meanwhile.ANOTHER_FLUSHES:
            house.flush(other)
        case Meanwhile.ANOTHER_DIES:
            house.flush(other, Mishap(Failpoint.METADATA_WRITTEN, 1, End.KILLED))
        case Meanwhile.ANOTHER_RECOVERS:
            house.recover(other)
        case Meanwhile.A_TABLE_IS_REWRITTEN:
            house.rewrite(0)
        case Meanwhile.THE_STORE_GOES | Meanwhile.THE_STORE_COMES:
            house.store.is_away = what is Meanwhile.THE_STORE_GOES
        case Meanwhile.HISTORY_IS_FORGOTTEN:
            history.forget(0, now_ms=2**60)


def _mishap(world: World, owner: str, point: Failpoint, end: End, pause: Sequence[Meanwhile], *, later: bool) -> Mishap:
    def pass_by() -> None:
        for one in pause:
            happen(world, owner, one)

    return Mishap(point, 2 if later and point in OF_EACH_TABLE else 1, end, pass_by)
