"""What `append` accepted is in the journal once and in order, whatever sequence of mishaps hypothesis thinks of.

Both sides are real and none of their waiting is: the machine moves frames, deaths, backups and clocks. A failing story
is printed step by step and is the same one in every run.
"""

from __future__ import annotations

import functools
import tempfile
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
from rpc.messages import NackReason
from tests.simulation import virtual
from tests.simulation.sides import ChildSide
from tests.simulation.virtual import WholeChild
from tests.simulation.world import CHILDREN, World

T = TypeVar("T")
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Nothing here survives a power cut anyway, and an fsync waits for whatever else the disk is at."""
DAY_MS = 24 * 3600 * 1000
REFUSALS = [NackReason.BUFFER_FULL, NackReason.RATE_LIMITED, NackReason.INTERNAL_ERROR, NackReason.SHUTTING_DOWN]

whose = st.sampled_from(CHILDREN)
some = st.integers(1, 4)
place = st.integers(0, 11)


class Fate(Enum):
    LOST = auto()
    DOUBLED = auto()
    LATE = auto()


class End(Enum):
    LINE_CUT = auto()
    CHILD_KILLED = auto()
    PARENT_KILLED_BEFORE_THE_COMMIT = auto()
    PARENT_KILLED_AFTER_THE_COMMIT = auto()


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


class Delivery(RuleBasedStateMachine):
    kind: type[ChildSide] | type[WholeChild] = ChildSide

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

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.world.check()

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

    @happening(name=whose, places=st.lists(place, max_size=6), end=st.sampled_from(End))
    def a_connection_ends(self, name: str, places: list[int], end: End) -> None:
        """Whoever has to notices. What a child said before may still arrive, if the parent lives."""
        if end is End.LINE_CUT:
            self.world.children[name].hang_up()
        elif end is End.CHILD_KILLED:
            self.world.kill(name)
        else:
            self.world.kill_the_parent(places, keep=end is End.PARENT_KILLED_AFTER_THE_COMMIT)

    @precondition(lambda self: self.world.said())
    @happening(which=place, reason=st.sampled_from(REFUSALS))
    def the_parent_says_not_now(self, which: int, reason: NackReason) -> None:
        self.world.parent.refuse(chosen(self.world.said(), which), reason)

    @happening()
    def a_flush(self) -> None:
        self.world.flush()
        history.forget(0, now_ms=2**60)

    # Time

    @happening(ms=st.sampled_from([1, 10, 50, 150, 250, 1200]))
    def time_passes(self, ms: int) -> None:
        self.world.now_ms += ms

    @happening(who=st.sampled_from(["parent", *CHILDREN]), ms=st.sampled_from([-DAY_MS, -5000, 5000, DAY_MS]))
    def a_clock_jumps(self, who: str, ms: int) -> None:
        self.world.skews_ms[who] += ms


class DeliveryOfClients(Delivery):
    kind = WholeChild


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.django_db
@pytest.mark.parametrize("machine", [Delivery, DeliveryOfClients])
def test_whatever_happens_each_entry_is_in_the_journal_once_and_in_order(
    machine: type[Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpc.keeper.connect", virtual.dial)
    run_state_machine_as_test(machine, settings=SETTINGS)
    assert not Parent.objects.exists()
