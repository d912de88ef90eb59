"""Two children, a parent, the wire between them and their clocks, and what must come of all that was written."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpc.config import ChildConfig
from rpc.failpoints import Failpoint
from rpc.outbox import Outbox
from tests.builders import NOW_MS, parent
from tests.simulation.house import House
from tests.simulation.sides import ChildSide, Frame, Line, ParentSide, entry
from tests.simulation.strikes import armed
from tests.simulation.virtual import WholeChild

CHILDREN = ("shop-1", "shop-2")
CONFIG = ChildConfig(
    max_batch_size=3,
    batch_timeout_ms=1,
    ack_timeout_ms=200,
    handshake_timeout_ms=300,
    initial_retry_delay_ms=5,
    max_retry_delay_ms=20,
    max_pending_batches=4,
    max_retries=2,
    max_reconnect_attempts=0,
    heartbeat_interval_ms=1000,
    heartbeat_timeout_ms=300,
)
LIMITS = {"flush_threshold_entries": 6, "max_buffer_entries": 20}
WORKERS = ("worker-1", "worker-2")
ROUNDS_MAX = 300
ROUND_MS = 10
HOUR_MS = 3600 * 1000


@dataclass(frozen=True)
class Backup:
    """A copy of an outbox, and all that was ever written into the file that was copied."""

    path: Path
    written: list[int]


@dataclass
class Ledger:
    """What has to come of everything one child ever wrote."""

    written: list[int] = field(default_factory=list)
    """Into the present file and into what it was copied from, in order."""
    carried: set[int] = field(default_factory=set)
    """What left at least once."""
    copies_more: Counter[int] = field(default_factory=Counter)
    """How often more than once an entry may be in the journal."""
    backups: list[Backup] = field(default_factory=list)
    was_restored: bool = False
    has_new_epoch: bool = False

    def restore(self, backup: Backup, kept: list[int]) -> None:
        """What the file keeps and had left before may come a second time; that is the promise."""
        self.copies_more.update(number for number in kept if number in self.carried)
        self.written = list(backup.written)
        self.was_restored = True


class World:
    def __init__(self, folder: Path, kind: type[ChildSide] | type[WholeChild]) -> None:
        self.now_ms = NOW_MS
        self.skews_ms: Counter[str] = Counter()
        self._folder = folder
        self._kind = kind
        self._numbers = itertools.count(1)
        self._parent_id = parent(**LIMITS).pk
        self.parent = ParentSide(self._parent_id, now_ms=lambda: self.clock("parent"))
        self.house = House(folder, self._parent_id, clock=self.clock)
        self.ledgers = {name: Ledger() for name in CHILDREN}
        self._dying: set[str] = set()
        self.children = {name: self._child(name) for name in CHILDREN}
        for name in CHILDREN:
            self.back_up(name)

    def close(self) -> None:
        for child in self.children.values():
            child.close()
        self.house.close()

    def clock(self, who: str) -> int:
        return self.now_ms + self.skews_ms[who]

    def write(self, name: str, count: int) -> list[int]:
        numbers = list(itertools.islice(self._numbers, count))
        self.children[name].append(numbers)
        self.ledgers[name].written += numbers
        return numbers

    def write_offline(self, name: str, *counts: int) -> None:
        """Batches of so many entries, by a child that was started again and has not called yet."""
        self.children[name].close()
        with Outbox(self._folder / name, now_ms=lambda: self.clock(name)) as outbox:
            for count in counts:
                numbers = list(itertools.islice(self._numbers, count))
                outbox.append([entry(number, timestamp_ms=self.clock(name)) for number in numbers])
                outbox.cut(entries_max=count, bytes_max=CONFIG.max_batch_bytes)
                self.ledgers[name].written += numbers
        self.children[name] = self._child(name)

    def kill(self, name: str) -> None:
        """As kill -9 does: nobody is told, the file is what it was."""
        self._put_back(name, self._copy(name))

    def kill_at(self, name: str, point: Failpoint) -> None:
        """While it does what is due and hears what was said; it comes to this point or not."""
        images: list[Path] = []

        def strike(_: Failpoint) -> None:
            images.append(self._copy(name))
            self._dying.add(name)
            if self.children[name].line is not None:
                self.children[name].line.cut()

        with armed(point, 1, strike):
            self.children[name].step()
            self.children[name].hear(10)
        self._dying.discard(name)
        if images:
            self._put_back(name, images[0])

    def back_up(self, name: str) -> Backup:
        ledger = self.ledgers[name]
        ledger.backups.append(Backup(self._copy(name), list(ledger.written)))
        return ledger.backups[-1]

    def restore(self, name: str, backup: Backup) -> None:
        """As long as that takes, what had left before has arrived or never will."""
        self._put_back(name, backup.path)
        self.ledgers[name].restore(backup, self.kept(name))
        for line in self.parent.lines:
            if line.name == name:
                line.up.clear()

    def kill_the_parent(self, places: list[int], *, keep: bool) -> None:
        """While it stores what comes from these places."""
        self.parent.take(self.lines(places), keep=keep, answer=False)
        self.parent.die()
        for child in self.children.values():
            child.hang_up()

    def flush(self) -> None:
        self.house.flush(WORKERS[0])

    def exchange(self, name: str, rounds: int = 1) -> None:
        """On a wire that works."""
        for _ in range(rounds):
            child = self.children[name]
            child.step()
            self.parent.take([line for line in self.parent.lines if line.name == name for _ in line.up])
            while child.line is not None and child.line.down:
                child.hear(len(child.line.down))
            self.now_ms += ROUND_MS

    def heal(self) -> None:
        """A wire that works, a store that is there and workers that live, until every entry is in its table."""
        self.house.store.is_away = False
        for worker in WORKERS:
            self.skews_ms[worker] = 0
        for number in range(ROUNDS_MAX):
            if not any(self.kept(name) for name in CHILDREN) and self.house.is_done:
                return
            for name in CHILDREN:
                self.exchange(name)
            if number % 5 == 0:
                self._bring_home()
            self.now_ms += 100
        waiting = [self.kept(name) for name in CHILDREN]
        raise AssertionError(f"{waiting} of the children and what the house holds do not arrive though all is well")

    def _bring_home(self) -> None:
        """A round of the workers. A dead one keeps its lease for as long as its clock was ahead, a breaker its term."""
        done = self.house.flush(WORKERS[0]) is not None
        if not self.house.recover(WORKERS[0], reset=True) and not done and not self.house.is_done:
            self.now_ms += HOUR_MS

    def kept(self, name: str) -> list[int]:
        """The entries in the outbox, in order."""
        with self.children[name].outbox._file.reading() as connection:
            rows = connection.execute("SELECT after FROM _evodb_change ORDER BY id").fetchall()
        return [json.loads(after)["n"] for (after,) in rows]

    def journal(self, name: str) -> list[int]:
        """What was ever stored of this child, by epoch and sequence."""
        return self.house.journal(name)

    def check(self) -> None:
        """Nothing is lost, nothing is doubled, nothing is out of order."""
        self.house.check()
        for name, ledger in self.ledgers.items():
            journal, kept = self.house.journal(name), self.kept(name)
            doubled = [n for n, count in Counter(journal).items() if count > 1 + ledger.copies_more[n]]
            assert not doubled, f"{name}: {doubled} are in the journal too often"
            lost = set(ledger.written) - set(journal) - set(kept)
            assert not lost, f"{name}: {sorted(lost)} are nowhere any more"
            gone_out = set(ledger.written) - set(kept)
            last = list(reversed(dict.fromkeys(number for number in reversed(journal) if number in gone_out)))
            assert last == sorted(last), f"{name}: {last} are not in order"
            assert self.children[name].outbox.dead_letters() == []
            assert ledger.was_restored or not ledger.has_new_epoch, f"{name} was never restored and began a new epoch"

    def said(self) -> list[Line]:
        """Lines with something for the parent to read."""
        return [line for line in self.parent.lines if line.up]

    def lines(self, places: list[int]) -> list[Line]:
        """The lines of so many frames, each the next one of its line."""
        waiting = Counter({line: len(line.up) for line in self.said()})
        lines = []
        for place in places:
            if left := [line for line, count in waiting.items() if count]:
                lines.append(left[place % len(left)])
                waiting[lines[-1]] -= 1
        return lines

    def under_way(self) -> list[tuple[list[Frame], int]]:
        """Every frame on a line that both ends hold."""
        lines = [child.line for child in self.children.values() if child.line is not None]
        return [(frames, index) for line in lines for frames in (line.up, line.down) for index in range(len(frames))]

    def _child(self, name: str) -> ChildSide | WholeChild:
        ledger = self.ledgers[name]
        child = self._kind(
            name,
            self._folder / name,
            CONFIG,
            dial=lambda: self._dial(name, ledger),
            now_ms=lambda: self.clock(name),
            passed_ms=lambda: self.now_ms - NOW_MS,
        )
        renew_epoch = child.outbox.renew_epoch

        def noted(**options: Any) -> int:
            ledger.has_new_epoch = True
            return renew_epoch(**options)

        child.outbox.renew_epoch = noted
        return child

    def _dial(self, name: str, ledger: Ledger) -> Line:
        line = self.parent.dial(name, ledger.carried)
        if name in self._dying:
            line.cut()
        return line

    def _copy(self, name: str) -> Path:
        path = self._folder / f"{name}.{next(self._numbers)}"
        source, target = sqlite3.connect(self._folder / name), sqlite3.connect(path)
        source.backup(target)
        source.close()
        target.close()
        return path

    def _put_back(self, name: str, image: Path) -> None:
        self.children[name].close()
        for left in self._folder.glob(f"{name}-*"):
            left.unlink()
        shutil.copy(image, self._folder / name)
        self.children[name] = self._child(name)
