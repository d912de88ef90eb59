"""What hypothesis may or may not come to in test_machine: each trouble of a worker at each point, once.

The same at true processes and files: tests/acceptance/test_deaths.py and test_fallback_deaths.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc.failpoints import Failpoint
from tests.simulation import happenings
from tests.simulation.happenings import Meanwhile
from tests.simulation.sides import ChildSide
from tests.simulation.strikes import AFTER_THE_COMMIT, FLUSH_POINTS, IN_TRANSACTION, RECOVERY_POINTS, End
from tests.simulation.world import CHILDREN, WORKERS, World

pytestmark = pytest.mark.django_db
WORKER = WORKERS[0]
LEASE_AND_OTHER = [Meanwhile.ITS_LEASE_ENDS, Meanwhile.ANOTHER_FLUSHES, Meanwhile.ANOTHER_RECOVERS]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, ChildSide)
    world.write(CHILDREN[0], 3)
    world.exchange(CHILDREN[0], rounds=3)
    world.flush()
    yield world
    world.close()


def finish(world: World, end: End, point: Failpoint) -> None:
    """It did happen, and nothing comes of it."""
    assert world.house.happened[f"{end.name.lower()} at {point}"] == 1
    world.check()
    world.heal()
    world.check()


@pytest.mark.parametrize("point", FLUSH_POINTS)
@pytest.mark.parametrize("end", End)
def test_a_flush_that_is_struck_anywhere_loses_and_doubles_nothing(world: World, point: Failpoint, end: End) -> None:
    happenings.flush_goes_wrong(world, WORKER, point, end, LEASE_AND_OTHER)
    has_slept = end is End.PAUSED and point not in {*AFTER_THE_COMMIT, *IN_TRANSACTION}
    assert world.house.happened["woke too late"] == has_slept
    finish(world, end, point)


@pytest.mark.parametrize("point", RECOVERY_POINTS)
@pytest.mark.parametrize("end", End)
def test_a_recovery_that_is_struck_anywhere_loses_and_doubles_nothing(world: World, point: Failpoint, end: End) -> None:
    happenings.recovery_goes_wrong(world, WORKER, point, end, LEASE_AND_OTHER)
    finish(world, end, point)


@pytest.mark.parametrize("what", Meanwhile)
def test_whatever_happens_while_a_flush_pauses_does_it_no_harm(world: World, what: Meanwhile) -> None:
    happenings.flush_goes_wrong(world, WORKER, Failpoint.METADATA_WRITTEN, End.PAUSED, [what])
    finish(world, End.PAUSED, Failpoint.METADATA_WRITTEN)


def test_a_table_that_was_rewritten_meanwhile_is_staged_anew(world: World) -> None:
    pause = [Meanwhile.A_TABLE_IS_REWRITTEN]
    happenings.flush_goes_wrong(world, WORKER, Failpoint.METADATA_WRITTEN, End.PAUSED, pause, later=True)
    assert len(world.house.store.foreign) == 1
    assert world.house.is_idle
    finish(world, End.PAUSED, Failpoint.METADATA_WRITTEN)
