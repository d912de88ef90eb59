"""What happens to a house under torture. Each fault is done and undone here; chance only chooses.

fault = choose(dice, town)      by the seed
fault.strike(town)              takes its time, and leaves everything running
"""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

import psutil

from lakehouse.torture import afterwards, death
from lakehouse.torture.erasure import Erasure
from lakehouse.torture.flaky_store import MOODS
from lakehouse.torture.process import Process, until
from lakehouse.torture.town import LEASE_MS, Town
from rpc.failpoints import VARIABLE, Failpoint

CHILD = (Failpoint.OUTBOX_WRITTEN, Failpoint.SENT, Failpoint.ACK_LOST)
DAPHNE = (Failpoint.RECEIVED, Failpoint.JOURNALLED, Failpoint.ACKED)
FOREIGN = (Failpoint.FOREIGN_ANNOUNCED, Failpoint.FOREIGN_APPENDING, Failpoint.FOREIGN_APPENDED)
"""Nobody here walks there: the house under torture keeps its own catalog."""
MOVING = tuple(point for point in Failpoint if point.name.startswith("MOVE_"))
TYPED = afterwards.ERASING + MOVING
"""Nor there, but for who erases; and no house under torture moves."""
WORKER = tuple(point for point in Failpoint if point not in CHILD + DAPHNE)
PAST_THE_LEASE_S = LEASE_MS / 1000 + 1
REACHED_WITHIN_S = 10.0
HOUR_MS = 3_600_000
SHIFTED_S, FULL_S = 3.0, 2.0
"""How long a process lives with a wrong clock, and with a full disk."""
UPKEEP = (("compact", "--all"), ("expire", "--hours", "0", "--keep", "1", "--grace-hours", "0"), ("upkeep",))


@dataclass(frozen=True, slots=True)
class Fault:
    """`name` says what was done in words of the report."""

    name: str
    strike: Callable[[Town], None]


def choose(dice: random.Random, town: Town) -> Fault:
    kinds = [_killed, _killed, _at_a_failpoint, _at_a_failpoint, _zombie, _second_beat, _clock, _disk_full, _kept]
    kinds += [_refreshed, _erased]
    kinds += [_away] if town.services else []
    kinds += [_locked] if town.is_sqlite else []
    kinds += [_moody] if town.store is not None else []
    return dice.choice(kinds)(dice, town)


def _killed(dice: random.Random, town: Town) -> Fault:
    process = dice.choice(town.everybody())
    in_s = dice.random()

    def strike(_: Town) -> None:
        time.sleep(in_s)
        process.kill()
        process.start()

    return Fault(f"kill -9 of {process.name}", strike)


def _at_a_failpoint(dice: random.Random, town: Town) -> Fault:
    point, action, visit = (
        dice.choice([point for point in Failpoint if point not in FOREIGN + TYPED]),
        dice.choice(["kill", "kill", "pause", "fail"]),
        dice.randint(1, 4),
    )
    process = _walker(point, dice, town)

    def strike(_: Town) -> None:
        usual = process.env
        process.kill()
        process.env = {**usual, VARIABLE: f"{point}={action}@{visit}"}
        process.start()
        process.env = usual
        _meet(process, action)

    return Fault(f"{process.name}: {point}={action}@{visit}", strike)


def _walker(point: Failpoint, dice: random.Random, town: Town) -> Process:
    if point in CHILD:
        return dice.choice(town.shops).process
    return dice.choice(town.workers if point in WORKER else town.parents)


def _meet(process: Process, action: str) -> None:
    """Wait until it happened, if it does; then go on, a paused process when its lease is over.

    One that never came there dies otherwise, or it would stop at some later time, when nobody wakes it.
    """
    deadline = time.monotonic() + REACHED_WITHIN_S
    while time.monotonic() < deadline and not _has_met(process):
        time.sleep(0.05)
    if not _is_dead(process):
        if _is_stopped(process):
            time.sleep(PAST_THE_LEASE_S)
            process.send(signal.SIGCONT)
        elif action != "fail":
            process.kill()
    if _is_dead(process):
        process.start()


def _zombie(dice: random.Random, town: Town) -> Fault:
    """A worker that stops in the middle, loses its lease to another one, and wakes up."""
    worker, other = town.workers

    def strike(_: Town) -> None:
        worker.send(signal.SIGSTOP)
        if not other.is_running:
            other.start()
        time.sleep(PAST_THE_LEASE_S)
        worker.send(signal.SIGCONT)

    return Fault(f"{worker.name} stands still past its lease, {other.name} takes over", strike)


def _second_beat(dice: random.Random, town: Town) -> Fault:
    seconds = 1 + 3 * dice.random()

    def strike(town: Town) -> None:
        town.second_beat.start()
        time.sleep(seconds)
        town.second_beat.kill()

    return Fault(f"two beats for {seconds:.0f} s", strike)


def _clock(dice: random.Random, town: Town) -> Fault:
    process, shift_ms = dice.choice(town.everybody()), dice.choice([HOUR_MS, -HOUR_MS])

    def strike(_: Town) -> None:
        usual = process.env
        process.kill()
        process.env = {**usual, "EVODB_CLOCK_SHIFT_MS": str(shift_ms)}
        process.start()
        process.env = usual
        time.sleep(SHIFTED_S)
        process.kill()
        process.start()

    return Fault(f"{process.name} lives {'an hour ahead' if shift_ms > 0 else 'an hour ago'} for a while", strike)


def _disk_full(dice: random.Random, town: Town) -> Fault:
    """No file of this process grows any more, as on a full disk."""
    process = dice.choice(town.everybody())
    size = dice.choice([0, 4096, 65_536])

    def strike(_: Town) -> None:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))
            time.sleep(FULL_S)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        if _is_dead(process):
            process.start()

    return Fault(f"{process.name} finds the disk full at {size} bytes a file", strike)


def _kept(dice: random.Random, town: Town) -> Fault:
    """The lake is put in order while flushes write to it; whoever does it dies in the middle, or comes to its end."""
    action, end = dice.choice(UPKEEP), death.choose(dice)

    def strike(town: Town) -> None:
        end.meet(town.house.another("upkeep", town.house.command("lake", *action)))

    return Fault(f"lake {action[0]}{end}", strike)


def _refreshed(dice: random.Random, town: Town) -> Fault:
    """The tables of now are brought up to date, by one more than usual; it dies in the middle, or comes to its end."""
    end = death.choose(dice, afterwards.REFRESHING)
    return Fault(f"tables of now are refreshed{end}", lambda town: afterwards.refresh(town, end))


def _erased(dice: random.Random, town: Town) -> Fault:
    """A guest is erased, or one of its orders, or an order of everybody, which is told to wait until all is flushed."""
    what, place, number = dice.choice(["a guest", "an order of a guest"]), dice.random(), str(dice.randint(1, 9))
    is_of_all, end = dice.random() < 0.25, death.choose(dice, afterwards.ERASING)

    def strike(town: Town) -> None:
        if is_of_all:
            afterwards.attempt(town, Erasure(row_id=number), end)
        else:
            afterwards.erase(town, place, end, is_all=what == "a guest")

    return Fault(f"{f'order {number} of everybody' if is_of_all else what} is erased{end}", strike)


def _away(dice: random.Random, town: Town) -> Fault:
    service, seconds = dice.choice(town.services), 1 + 5 * dice.random()

    def strike(_: Town) -> None:
        service.stop()
        time.sleep(seconds)
        service.start()

    return Fault(f"{service.name} is away for {seconds:.0f} s", strike)


def _locked(dice: random.Random, town: Town) -> Fault:
    seconds = 1 + 4 * dice.random()

    def strike(town: Town) -> None:
        path = town.house.settings.resolved_database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")

    return Fault(f"somebody holds the only writer of SQLite for {seconds:.0f} s", strike)


def _moody(dice: random.Random, town: Town) -> Fault:
    moods, seconds = dice.sample(MOODS, dice.randint(1, 3)), 2 + 6 * dice.random()

    def strike(town: Town) -> None:
        assert town.store is not None
        town.store.moods = moods
        time.sleep(seconds)
        town.store.moods = ()

    return Fault(f"the object store answers {', '.join(moods)} for {seconds:.0f} s", strike)


def _has_met(process: Process) -> bool:
    return _is_dead(process) or _is_stopped(process)


def _is_dead(process: Process) -> bool:
    return process.running is None or process.running.poll() is not None


def _is_stopped(process: Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    return False


def settle(town: Town) -> None:
    """Whoever died is started again."""
    for process in town.everybody():
        if _is_dead(process):
            process.start()
    until(lambda: not any(_is_stopped(process) for process in town.everybody()), "nobody stands still")
