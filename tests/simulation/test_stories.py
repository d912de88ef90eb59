"""Stories that go wrong today. Drop into tests/simulation/; each uses the real client in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse.flush import history
from rpc.messages import NackReason
from rpc.outbox import Outbox
from tests.simulation import virtual
from tests.simulation.sides import Line
from tests.simulation.virtual import WholeChild
from tests.simulation.world import World

pytestmark = pytest.mark.django_db
SHOP = "shop-1"
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("rpc.keeper.dial", virtual.dial)
    world = World(tmp_path, WholeChild)
    world.exchange(SHOP, rounds=3)
    yield world
    world.close()


def line(world: World) -> Line:
    found = world.children[SHOP].line
    assert found is not None
    return found


def shake_hands(world: World) -> None:
    world.children[SHOP].step()
    world.parent.take([line(world)])
    world.children[SHOP].hear(1)


def test_an_old_backup_whose_sequences_history_has_forgotten_loses_nothing(world: World) -> None:
    """LOSS. The parent says `duplicate` for any content of a sequence whose digest it has forgotten."""
    backup = world.back_up(SHOP)
    world.write(SHOP, 3)
    world.exchange(SHOP, rounds=3)
    world.flush()
    history.forget(7, now_ms=world.now_ms + 8 * DAY_MS)
    world.restore(SHOP, backup)
    world.write_offline(SHOP, 1)
    world.exchange(SHOP, rounds=5)
    world.check()


def test_a_parent_that_says_not_now_while_a_restored_file_is_compared_loses_nothing(world: World) -> None:
    """LOSS. Link._agreed takes a nack `internal_error` for an agreement, and `ack_through` drops the batch."""
    backup = world.back_up(SHOP)
    world.write(SHOP, 3)
    world.exchange(SHOP, rounds=3)
    world.restore(SHOP, backup)
    world.write_offline(SHOP, 1)
    shake_hands(world)  # batch 1 is durable, so the child sends its own batch 1 to compare
    world.parent.refuse(line(world), NackReason.INTERNAL_ERROR)
    world.children[SHOP].hear(1)
    world.exchange(SHOP, rounds=5)
    world.check()


def test_batches_behind_one_that_is_refused_are_not_doubled_by_the_new_epoch(world: World) -> None:
    """DOUBLED. A gap below the highest durable sequence hides the conflict until batches behind it are stored."""
    world.write_offline(SHOP, 1, 1)
    backup = world.back_up(SHOP)
    world.write_offline(SHOP, 1)
    shake_hands(world)
    world.parent.refuse(line(world), NackReason.BUFFER_FULL)  # batch 1 does not fit, 2 and 3 do
    world.parent.take([line(world)] * 2)
    world.restore(SHOP, backup)
    world.write_offline(SHOP, 1, 1)
    *_, last = world.ledgers[SHOP].written
    world.exchange(SHOP, rounds=10)
    assert world.journal(SHOP).count(last) == 1


def test_what_a_connection_had_compared_before_it_was_cut_is_not_doubled_by_the_new_epoch(world: World) -> None:
    """DOUBLED. The parent's watermark has passed the batch, so the next connection compares what is behind it only."""
    backup = world.back_up(SHOP)
    world.write_offline(SHOP, 1, 1)
    shake_hands(world)
    world.parent.refuse(line(world), NackReason.BUFFER_FULL)
    world.parent.take([line(world)])  # batch 2
    world.restore(SHOP, backup)
    world.write_offline(SHOP, 1, 1)
    first, _ = world.ledgers[SHOP].written
    shake_hands(world)
    world.parent.take([line(world)])  # batch 1, which it did not have, and the child never hears it
    world.children[SHOP].hang_up()
    world.exchange(SHOP, rounds=10)
    assert world.journal(SHOP).count(first) == 1


def test_the_order_holds_when_a_newer_backup_follows_an_older_one(world: World) -> None:
    """ORDER. The newer file goes on in its epoch, below the epoch the older one began meanwhile."""
    older = world.back_up(SHOP)
    world.write(SHOP, 1)
    world.exchange(SHOP, rounds=3)
    newer = world.back_up(SHOP)
    world.restore(SHOP, older)  # by mistake
    [wrong] = world.write(SHOP, 1)
    world.exchange(SHOP, rounds=5)
    world.ledgers[SHOP].backups.append(newer)
    world.restore(SHOP, newer)
    [last] = world.write(SHOP, 1)
    world.exchange(SHOP, rounds=5)
    assert set(world.journal(SHOP)) >= {wrong, last}
    assert world.journal(SHOP)[-1] == last


def test_the_order_holds_when_a_new_file_begins_with_a_clock_that_is_behind(world: World) -> None:
    """ORDER. A replaced disk, and a clock without a battery: the new epoch is below the old one for ever."""
    world.write(SHOP, 1)
    world.exchange(SHOP, rounds=3)
    empty = world.back_up(SHOP)
    empty.path.unlink()
    world.skews_ms[SHOP] = -DAY_MS
    Outbox(empty.path, now_ms=lambda: world.clock(SHOP)).close()
    empty.written.clear()
    world.restore(SHOP, empty)
    [last] = world.write(SHOP, 1)
    world.exchange(SHOP, rounds=5)
    assert world.journal(SHOP)[-1] == last


def test_a_clock_that_is_set_back_does_not_stop_a_child_that_was_told_to_wait(world: World) -> None:
    """STALL. Timers run on the wall clock: `paused until` lies a day ahead, and so do resends and heartbeats."""
    world.write(SHOP, 3)
    world.children[SHOP].step()
    world.parent.refuse(line(world), NackReason.BUFFER_FULL)
    world.children[SHOP].hear(1)
    world.skews_ms[SHOP] = -DAY_MS
    world.exchange(SHOP, rounds=1000)  # ten seconds
    assert not world.kept(SHOP)
