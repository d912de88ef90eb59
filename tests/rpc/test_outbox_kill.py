"""kill -9 at any moment, again and again on one file: nothing a call returned for is lost, changed or numbered anew."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest

from rpc import columns
from rpc.entries import RawEntry
from rpc.outbox import Outbox, OutboxBatch

ROUNDS = 10

CHILDREN = """
import os, random, sys
from hashlib import blake2b
from rpc import columns
from rpc.entries import RawEntry
from rpc.outbox import Outbox

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # whole lines, whenever it is killed

def live(path, number, seed, within):
    number, rng = int(number), random.Random(int(seed))
    say("born", os.getpid())
    outbox = Outbox(path, fsync_within_ms=int(within))
    say("epoch", outbox.epoch)
    while True:
        count = rng.randint(1, 4)
        outbox.append([RawEntry(0, 1, 0, b"t", str(number + n).encode(), b"", b"{}") for n in range(count)])
        number += count
        say("appended", number)
        if rng.random() < 0.4:
            batch = outbox.cut(entries_max=rng.randint(1, 9), bytes_max=10_000)
            numbers = [entry.row_id.decode() for entry in columns.decode(batch.payload).entries()]
            say("cut", batch.sequence, blake2b(batch.payload).hexdigest(), *numbers)
        if rng.random() < 0.4 and (found := outbox.unacked(limit=4)):
            sequence = rng.choice(found).sequence
            say("acking", sequence)
            outbox.ack(sequence)
            say("acked", sequence)

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        live(*line.split("|"))
    os.waitpid(pid, 0)
    say("dead")
"""


class Children:
    """Processes that use an outbox until they are killed; forked, for each would take long to import what it needs."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", CHILDREN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def killed_after(self, path: Path, *, number: int, seed: int, within_ms: int, lines: int) -> list[list[str]]:
        """What a child printed that was killed some time after so many lines."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{path}|{number}|{seed}|{within_ms}\n")
        self._parent.stdin.flush()
        born = self._parent.stdout.readline().split()
        printed = [self._parent.stdout.readline() for _ in range(lines)]
        os.kill(int(born[1]), signal.SIGKILL)
        while (line := self._parent.stdout.readline()) != "dead\n":
            assert line, "the children's parent died"
            printed.append(line)
        return [line.split() for line in printed]

    def close(self) -> None:
        self._parent.kill()
        self._parent.communicate()


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.close()


class Model:
    """What must be true of the file, from all that was printed and found until now."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.returned_for = 0
        self.batches: dict[int, str] = {}
        self.numbers: dict[int, list[int]] = {}
        self.acking: set[int] = set()
        self.acked: set[int] = set()
        self.entries: dict[int, int] = {}
        """The number that the entry with this sequence carries."""

    def hear(self, printed: list[list[str]]) -> None:
        for word, first, *rest in printed:
            if word == "epoch":
                assert self.epoch in (None, first)
                self.epoch = first
            elif word == "appended":
                self.returned_for = int(first)
            elif word == "cut":
                assert int(first) > max(self.batches, default=0), "a sequence was given twice"
                self.batches[int(first)] = rest[0]
                self.numbers[int(first)] = list(map(int, rest[1:]))
            else:
                (self.acking if word == "acking" else self.acked).add(int(first))

    def check(self, path: Path) -> int:
        """Compare with the file; returns the next number to append."""
        with Outbox(path) as outbox:
            unacked = {batch.sequence: batch for batch in outbox.unacked(limit=10_000)}
            assert outbox.last_sequence == max([*self.batches, *unacked], default=0)
            uncut = outbox._file.connection.execute(
                "SELECT id, row_id FROM _evodb_change WHERE id > (SELECT value FROM _evodb_meta WHERE key = ?)",
                ("cut_through",),
            ).fetchall()
            (rows,) = outbox._file.connection.execute("SELECT count(*) FROM _evodb_change").fetchone()
        waiting = [self._same(batch) for batch in unacked.values()]
        waiting.append([self._known(entry, int(row_id)) for entry, row_id in uncut])
        gone = self.batches.keys() - unacked.keys()
        assert self.acked <= gone <= self.acked | self.acking, "a batch vanished without its ack, or outlived it"
        self.acked |= gone
        kept = [number for numbers in waiting for number in numbers]
        assert rows == len(kept), "an entry that is gone still takes room"
        done = [number for sequence in gone for number in self.numbers[sequence]]
        assert sorted(kept + done) == list(range(len(kept) + len(done)))
        assert len(kept) + len(done) >= self.returned_for
        return len(kept) + len(done)

    def _same(self, batch: OutboxBatch) -> list[int]:
        digest = blake2b(batch.payload).hexdigest()
        assert self.batches.setdefault(batch.sequence, digest) == digest
        entries = columns.decode(batch.payload).entries()
        numbers = [self._known(entry.sequence, int(entry.row_id)) for entry in entries]
        assert self.numbers.setdefault(batch.sequence, numbers) == numbers
        return numbers

    def _known(self, entry: int, number: int) -> int:
        assert self.entries.setdefault(entry, number) == number, "an entry's sequence means something else now"
        return number


@pytest.mark.parametrize("within_ms", [0, 5])
def test_whenever_a_process_is_killed_nothing_that_a_call_returned_for_is_lost(
    children: Children, tmp_path: Path, within_ms: int
) -> None:
    path, rng, model, number = tmp_path / "outbox.db", random.Random(within_ms), Model(), 0
    for seed in range(ROUNDS):
        lines = rng.randint(1, 150)
        model.hear(children.killed_after(path, number=number, seed=seed, within_ms=within_ms, lines=lines))
        number = model.check(path)
    assert model.acked
    assert number > ROUNDS


def test_a_process_killed_while_it_opens_the_first_time_leaves_an_outbox(children: Children, tmp_path: Path) -> None:
    for seed in range(5):
        path = tmp_path / f"outbox{seed}.db"
        children.killed_after(path, number=0, seed=seed, within_ms=0, lines=0)
        with Outbox(path) as outbox:
            assert outbox.epoch > 0
            held = outbox.uncut_entries()
            outbox.append([RawEntry(0, 1, 0, b"t", b"1", b"", b"{}")])
            assert outbox.uncut_entries() == held + 1
