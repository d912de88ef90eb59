"""What `append` accepted is in its table once and in order, whatever sequence of mishaps hypothesis thinks of.

Real are the children (ChildSide has the pure session and the outbox, WholeChild the whole client), the sessions and the
journal of the parent, its workers with claim, flush, breaker, fallback, recovery and history, and the database. None of
their waiting is: the machine moves frames, deaths, backups and clocks. Made up are the wire, which is two lists, and
the files of the lake (tests.simulation.lake). An outbox neither expires nor is compacted: an ack deletes its rows. What
is forgotten is the journal's, payloads with each flush and batches by a rule.

A run takes about 1600 steps, the same ones until our code changes, for hypothesis takes constants from it. A step of
Delivery takes 5 ms on an idle core (2457 in 12.5 s). `make test-long` tells other stories for 15 minutes, and
EVODB_TEST_SIMULATION_MINUTES=60 for as many. One that fails is shortened and printed.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from lakehouse.flush import history
from lakehouse.models import Parent
from rpc.failpoints import Failpoint
from rpc.messages import NackReason
from tests.repetition import LONG
from tests.simulation import happenings, virtual
from tests.simulation.happenings import Meanwhile
from tests.simulation.house import LEASE_MS
from tests.simulation.sides import ChildSide
from tests.simulation.strikes import FLUSH_POINTS, RECOVERY_POINTS, End
from tests.simulation.virtual import WholeChild
from tests.simulation.world import CHILDREN, HOUR_MS, WORKERS, World

T = TypeVar("T")
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Nothing here survives a power cut anyway, and an fsync waits for whatever else the disk is at."""
DAY_MS = 24 * HOUR_MS
REFUSALS = [NackReason.BUFFER_FULL, NackReason.RATE_LIMITED, NackReason.INTERNAL_ERROR, NackReason.SHUTTING_DOWN]

JUMPS_MS = [-DAY_MS, -HOUR_MS, -5000, 5000, HOUR_MS, DAY_MS]
CHILD_POINTS = [Failpoint.OUTBOX_WRITTEN, Failpoint.SENT, Failpoint.ACK_LOST]

whose = st.sampled_from(CHILDREN)
worker = st.sampled_from(WORKERS)
some = st.integers(1, 4)
place = st.integers(0, 11)


class Fate(Enum):
    LOST = auto()
    DOUBLED = auto()
    LATE = auto()


class Break(Enum):
    LINE_CUT = auto()
    CHILD_KILLED = auto()
    PARENT_KILLED_BEFORE_THE_COMMIT = auto()
    PARENT_KILLED_AFTER_THE_COMMIT = auto()


ends = st.sampled_from(End)
zombie = st.just([Meanwhile.ITS_LEASE_ENDS, Meanwhile.ANOTHER_FLUSHES])
pauses = zombie | st.lists(st.sampled_from(Meanwhile), max_size=4)


def happening(**arguments: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A rule, after which the children do what is due, as programs that run do."""

    def decorate(happen: Callable[..., None]) -> Any:
        @rule(**arguments)
        @functools.wraps(happen)
        def happen_and_go_on(self: Delivery, **values: Any) -> None:
            happen(self, **values)
            for child in self.world.children.values():
                child.step()

        return happen_and_go_on

    return decorate


def chosen(found: Sequence[T], which: int) -> T:
    return found[which % len(found)]


class Street(RuleBasedStateMachine):
    """Children whose wires work, and whatever may happen behind the journal."""

    kind: type[ChildSide] | type[WholeChild] = ChildSide
    happened: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evodb-machine-", dir=IN_MEMORY)))
            stack.enter_context(transaction.atomic())
            stack.callback(transaction.set_rollback, True)
            self.world = World(folder, self.kind)
            stack.callback(self.world.close)
            self.cleanup = stack.pop_all()

    def teardown(self) -> None:
        with self.cleanup:
            self.world.heal()
            self.world.check()
            self.happened += self.world.house.happened

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.happened["steps"] += 1
        self.world.check()

    # What happens to the workers and to the lake

    @precondition(lambda self: not self.world.house.is_idle)
    @happening(owner=worker)
    def a_flush(self, owner: str) -> None:
        self.world.house.flush(owner)

    @happening(owner=worker, point=st.sampled_from(FLUSH_POINTS), later=st.booleans(), end=ends, pause=pauses)
    def a_flush_goes_wrong(self, owner: str, point: Failpoint, later: bool, end: End, pause: list[Meanwhile]) -> None:
        happenings.flush_goes_wrong(self.world, owner, point, end, pause, later=later)

    @precondition(lambda self: self.world.house.keeps)
    @happening(owner=worker)
    def a_recovery(self, owner: str) -> None:
        self.world.house.recover(owner)

    @happening(owner=worker, point=st.sampled_from(RECOVERY_POINTS), later=st.booleans(), end=ends, pause=pauses)
    def a_recovery_goes_wrong(
        self, owner: str, point: Failpoint, later: bool, end: End, pause: list[Meanwhile]
    ) -> None:
        happenings.recovery_goes_wrong(self.world, owner, point, end, pause, later=later)

    @happening(is_away=st.booleans())
    def the_store_goes_or_comes(self, is_away: bool) -> None:
        self.world.house.store.is_away = is_away

    @happening(which=place)
    def a_table_is_rewritten(self, which: int) -> None:
        self.world.house.rewrite(which)

    @happening(days=st.sampled_from([0, 1, 7]))
    def history_is_forgotten(self, days: int) -> None:
        history.forget(days, now_ms=self.world.clock("worker-1"))

    # Time

    @happening(ms=st.sampled_from([1, 10, 50, 150, 250, 1200, 5000, LEASE_MS]))
    def time_passes(self, ms: int) -> None:
        self.world.now_ms += ms

    @happening(who=st.sampled_from(["parent", *CHILDREN, *WORKERS]), ms=st.sampled_from(JUMPS_MS))
    def a_clock_jumps(self, who: str, ms: int) -> None:
        self.world.skews_ms[who] += ms


class Delivery(Street):
    """And whatever may happen before it."""

    # What happens to a child

    @happening(name=whose, count=some)
    def a_child_writes(self, name: str, count: int) -> None:
        self.world.write(name, count)

    @happening(name=whose, entries_max=some)
    def a_child_cuts_a_batch(self, name: str, entries_max: int) -> None:
        self.world.children[name].cut(entries_max)

    @happening(name=whose)
    def a_backup_is_made(self, name: str) -> None:
        self.world.back_up(name)

    @happening(name=whose, age=place, counts=st.lists(some, max_size=5))
    def a_backup_comes_back(self, name: str, age: int, counts: list[int]) -> None:
        """And is written to before there is a connection."""
        self.world.restore(name, chosen(self.world.ledgers[name].backups, -1 - age))
        self.world.write_offline(name, *counts)

    # What happens on the wire

    @happening(rounds=some)
    def all_goes_well(self, rounds: int) -> None:
        for name in CHILDREN:
            self.world.exchange(name, rounds)

    @happening(name=whose, counts=st.lists(some, min_size=1, max_size=5))
    def all_goes_well_while_a_child_writes(self, name: str, counts: list[int]) -> None:
        for count in counts:
            self.world.write(name, count)
            self.world.exchange(name)

    @precondition(lambda self: self.world.said())
    @happening(places=st.lists(place, min_size=1, max_size=6))
    def frames_arrive(self, places: list[int]) -> None:
        self.world.parent.take(self.world.lines(places))

    @happening(name=whose, frames=some)
    def a_child_hears(self, name: str, frames: int) -> None:
        self.world.children[name].hear(frames)

    @precondition(lambda self: self.world.under_way())
    @happening(which=place, fate=st.sampled_from(Fate))
    def a_frame_goes_astray(self, which: int, fate: Fate) -> None:
        frames, index = chosen(self.world.under_way(), which)
        frame = frames[index]
        if fate is not Fate.DOUBLED:
            del frames[index]
        if fate is not Fate.LOST:
            frames.append(frame)

    # What happens to both ends

    @happening(name=whose, places=st.lists(place, max_size=6), end=st.sampled_from(Break))
    def a_connection_ends(self, name: str, places: list[int], end: Break) -> None:
        """Whoever has to notices. What a child said before may still arrive, if the parent lives."""
        if end is Break.LINE_CUT:
            self.world.children[name].hang_up()
        elif end is Break.CHILD_KILLED:
            self.world.kill(name)
        else:
            self.world.kill_the_parent(places, keep=end is Break.PARENT_KILLED_AFTER_THE_COMMIT)

    @precondition(lambda self: self.world.said())
    @happening(which=place, reason=st.sampled_from(REFUSALS))
    def the_parent_says_not_now(self, which: int, reason: NackReason) -> None:
        self.world.parent.refuse(chosen(self.world.said(), which), reason)

    @precondition(lambda self: self.kind is WholeChild)
    @happening(name=whose, point=st.sampled_from(CHILD_POINTS))
    def a_child_is_killed_at(self, name: str, point: Failpoint) -> None:
        self.world.kill_at(name, point)


class DeliveryOfClients(Delivery):
    kind = WholeChild


SETTINGS = settings(
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MINUTES = float(os.environ.get("EVODB_TEST_SIMULATION_MINUTES") or (15 if LONG else 0))
MACHINES: dict[type[Street], int] = {Street: 8, Delivery: 12, DeliveryOfClients: 12}
"""How many stories each tells."""
STEPS_MIN = 300


@pytest.mark.django_db
@pytest.mark.parametrize(("machine", "examples"), MACHINES.items())
def test_whatever_happens_each_entry_is_in_its_table_once_and_in_order(
    machine: type[Street], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpc.keeper.dial", virtual.dial)
    monkeypatch.setattr(machine, "happened", Counter(), raising=False)
    stories = settings(SETTINGS, max_examples=examples, derandomize=not MINUTES, database=None)
    until_s = time.monotonic() + MINUTES * 60 / len(MACHINES)
    while not machine.happened["steps"] or time.monotonic() < until_s:
        run_state_machine_as_test(machine, settings=stories)
    print(*(f"{count} {what}" for what, count in machine.happened.most_common()), sep="\n")
    assert machine.happened["steps"] >= STEPS_MIN
    assert not Parent.objects.exists()
