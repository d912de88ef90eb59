"""A client without outbox and epoch, on a wire that does anything: one copy of what it has in memory, whatever happens.

It retries under a new sequence, cuts its batches anew while doing so, and forgets everything when it dies; then it
begins at sequence 1 again, its entries too. What it was told to be stored is stored, and nothing is stored twice.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import ExitStack

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from lakehouse.flush import claim, payloads
from lakehouse.flush.claim import Terms
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Batch
from rpc import batch
from rpc.batch import BatchFrame, Encoding
from rpc.messages import NackReason
from tests.builders import NOW_MS, parent
from tests.contracts.old_clients import Entry, PackageClient, change
from tests.repetition import LONG
from tests.simulation.sides import Frame, Line, ParentSide
from tests.simulation.world import LIMITS

TERMS = Terms(owner="worker", trigger=FlushTrigger.MANUAL, lease_ms=1, entries_max=10, bytes_max=10**6)
HELLO = json.dumps({"type": "connect", "timestamp": 1, "sourceDoId": "shop-1", "lastAckSequence": 0})

some = st.integers(1, 4)
place = st.integers(0, 11)


class OldChild:
    """One process of the original client; `memory` is what it wants to be rid of, by sequence of the entry."""

    def __init__(self) -> None:
        self.memory: dict[int, Entry] = {}
        self.line: Line | None = None
        self._entries, self._batches = itertools.count(1), itertools.count(1)
        self._encoder = PackageClient("", "shop-1")
        self._under_way: dict[str, list[int]] = {}

    def write(self, number: int) -> None:
        entry = change(next(self._entries), n=number)
        self.memory[entry["sequence"]] = entry

    def connect(self, line: Line) -> None:
        self.line, self._under_way = line, {}
        line.up.append(HELLO)

    def send(self, entries_max: int) -> None:
        """What is not under way, in one batch."""
        assert self.line is not None
        busy = {sequence for sequences in self._under_way.values() for sequence in sequences}
        if left := [sequence for sequence in self.memory if sequence not in busy][:entries_max]:
            number = next(self._batches)
            self._under_way[f"c-{number}"] = left
            entries = [self.memory[sequence] for sequence in left]
            self.line.up.append(self._encoder.encode(number, f"c-{number}", entries, is_retry=False))

    def lose_patience(self) -> None:
        """No answer in time: all of it is sent again, under new sequences and in new batches."""
        self._under_way = {}

    def hear(self) -> list[int]:
        """The numbers that the next frame says are stored."""
        assert self.line is not None
        message = json.loads(self.line.down.pop(0))
        known = self._under_way.pop(message.get("correlationId"), [])
        if message["type"] != "ack":
            assert message["type"] == "status" or message["shouldRetry"], f"refused for good: {message}"
            return []
        return [self.memory.pop(sequence)["after"]["n"] for sequence in known if sequence in self.memory]


class DeliveryOfOldClients(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        with ExitStack() as stack:
            stack.enter_context(transaction.atomic())
            stack.callback(transaction.set_rollback, True)
            self.parent_id = parent(**LIMITS).pk
            self.cleanup = stack.pop_all()
        self.now_ms = NOW_MS
        self.parent = ParentSide(self.parent_id, now_ms=lambda: self.now_ms)
        self.numbers = itertools.count(1)
        self.child = OldChild()
        self.told: set[int] = set()
        self.stored: Counter[int] = Counter()
        self.stored_through = 0

    def teardown(self) -> None:
        with self.cleanup:
            for _ in range(300):
                if not self.child.memory:
                    break
                self.exchange()
                self.child.lose_patience()
                self.flush()
            self.each_is_stored_once()
            assert not self.child.memory

    @invariant()
    def each_is_stored_once(self) -> None:
        self.look()
        assert not [number for number, count in self.stored.items() if count > 1]
        assert self.told <= set(self.stored)

    @rule(count=some)
    def it_writes(self, count: int) -> None:
        for number in itertools.islice(self.numbers, count):
            self.child.write(number)

    @rule(entries_max=some)
    def it_sends(self, entries_max: int) -> None:
        if self.child.line is None:
            self.child.connect(self.parent.dial("shop-1", set()))
        self.child.send(entries_max)

    @rule()
    def it_loses_patience(self) -> None:
        self.child.lose_patience()

    @rule()
    def it_dies(self) -> None:
        self.cut()
        self.child = OldChild()

    @rule()
    def its_line_is_cut(self) -> None:
        self.cut()

    @rule(rounds=some)
    def all_goes_well(self, rounds: int) -> None:
        for _ in range(rounds):
            self.exchange()

    @precondition(lambda self: self.lines())
    @rule(places=st.lists(place, min_size=1, max_size=5))
    def frames_arrive(self, places: list[int]) -> None:
        for which in places:
            if lines := self.lines():
                self.parent.take([lines[which % len(lines)]])

    @precondition(lambda self: len(self.lines()) > 1)
    @rule()
    def frames_of_all_lines_arrive_together(self) -> None:
        self.parent.take(self.lines())

    @precondition(lambda self: self.frames())
    @rule()
    def it_hears(self) -> None:
        self.told.update(self.child.hear())

    @precondition(lambda self: self.lines())
    @rule(which=place, is_lost=st.booleans())
    def a_frame_goes_astray(self, which: int, is_lost: bool) -> None:
        """Lost or doubled, but for the hello: nothing comes before it."""
        line = self.lines()[which % len(self.lines())]
        frame = line.up[-1]
        if isinstance(frame, bytes):
            line.up[-1:] = [] if is_lost else [frame, frame]

    @precondition(lambda self: self.frames())
    @rule()
    def an_answer_is_lost(self) -> None:
        self.frames().pop(0)

    @rule(keep=st.booleans())
    def the_parent_dies(self, keep: bool) -> None:
        self.parent.take(self.lines(), keep=keep, answer=False)
        self.parent.die()
        self.cut()

    @precondition(lambda self: self.lines())
    @rule(which=place)
    def the_parent_says_not_now(self, which: int) -> None:
        self.parent.refuse(self.lines()[which % len(self.lines())], NackReason.INTERNAL_ERROR)

    @rule()
    def what_waits_is_flushed(self) -> None:
        self.flush()

    @rule(ms=st.sampled_from([1, 100, 1000, -1000, -100_000]))
    def the_clock_of_the_parent_goes_on_or_back(self, ms: int) -> None:
        self.now_ms += ms

    def lines(self) -> list[Line]:
        return [line for line in self.parent.lines if line.up]

    def frames(self) -> list[Frame]:
        return self.child.line.down if self.child.line is not None else []

    def cut(self) -> None:
        """What was said before may still arrive."""
        if self.child.line is not None:
            self.child.line.cut()
        self.child.line = None
        self.child.lose_patience()

    def exchange(self) -> None:
        self.it_sends(3)
        while lines := self.lines():
            self.parent.take(lines)
        while self.frames():
            self.told.update(self.child.hear())

    def flush(self) -> None:
        self.look()
        claimed = claim.take(self.parent_id, TERMS, now_ms=self.now_ms + 10**6)
        if claimed is not None:
            claim.finish(claimed, [], [], now_ms=self.now_ms)
            payloads.forget(self.parent_id)

    def look(self) -> None:
        rows = Batch.objects.filter(pk__gt=self.stored_through).order_by("pk")
        for pk, encoding, payload in rows.values_list("pk", "encoding", "stored__payload"):
            frame = BatchFrame(0, None, "", None, 0, False, Encoding(encoding), bytes(payload), 0, [], [])
            self.stored.update(json.loads(one.after)["n"] for one in batch.raw_entries(frame))
            self.stored_through = pk


SETTINGS = settings(
    max_examples=400 if LONG else 40,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.django_db
def test_an_old_client_leaves_one_copy_of_what_it_was_told_is_stored() -> None:
    run_state_machine_as_test(DeliveryOfOldClients, settings=SETTINGS)
