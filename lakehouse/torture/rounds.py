"""Rounds of torture: children write and stream, faults strike, then all is brought to an end and compared.

The lake is put in order before it is compared: what upkeep merged and deleted must not be missed by anybody.

A round is made of its seed and its number alone, so a round that failed is run again by them. What the processes make
of it is theirs: the same faults in the same order do not meet them at the same instruction twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from lakehouse.torture import afterwards, edge_app, faults
from lakehouse.torture.compare import difference, state_of
from lakehouse.torture.house import Child
from lakehouse.torture.process import until
from lakehouse.torture.town import Town

FAULTS_PER_ROUND = (2, 5)
DRAINED_WITHIN_S = 180.0
UNFINISHED = """
SELECT (SELECT count(*) FROM lakehouse_batch WHERE state <> 'persisted')
     + (SELECT count(*) FROM lakehouse_batchpayload) + (SELECT count(*) FROM lakehouse_fallbackbatch)
"""


@dataclass(slots=True)
class Round:
    """What happened, and what is wrong afterwards; nothing, if all is well."""

    number: int
    seed: str
    faults: list[str] = field(default_factory=list)
    changes: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def run(town: Town, seed: str, numbers: Iterator[int], *, until_s: float, say: Callable[[str], None]) -> list[Round]:
    """Rounds until the time is over or one of them went wrong; at least one."""
    begun, rounds = time.monotonic(), []
    for number in numbers:
        found = one(town, seed, number)
        rounds.append(found)
        say(f"round {number}: {found.changes} changes, {found.seconds:.0f} s; " + "; ".join(found.faults))
        for line in found.wrong:
            say(f"  WRONG: {line}")
        if found.wrong or time.monotonic() - begun > until_s:
            break
    return rounds


def one(town: Town, seed: str, number: int) -> Round:
    dice, begun = random.Random(f"{seed}/{number}"), time.monotonic()
    found = Round(number, seed)
    shops = [
        town.house.child(f"shop-{number}-{n}", writes_per_s_max=town.plan.writes_per_s_max)
        for n in range(town.plan.children)
    ]
    town.shops = shops
    for shop in shops:
        shop.process.start()
    _write_on(shops)
    for _ in range(dice.randint(*FAULTS_PER_ROUND)):
        fault = faults.choose(dice, town)
        found.faults.append(fault.name)
        fault.strike(town)
        faults.settle(town)
    found.wrong = _ended(town, shops)
    found.wrong = found.wrong or [wrong for one in shops + town.guests if (wrong := _compared(town, one, found))]
    found.wrong += _verified(town)
    town.shops, town.guests, town.erasures = [], [], []
    found.seconds = time.monotonic() - begun
    return found


def _write_on(shops: list[Child]) -> None:
    """Each of them has come up, and writes."""
    before = {shop.name: edge_app.so_far(shop.database) for shop in shops}
    programs = [shop.process for shop in shops]
    until(
        lambda: all(edge_app.so_far(shop.database) > before[shop.name] for shop in shops), "the shops write", *programs
    )


def _ended(town: Town, shops: list[Child]) -> list[str]:
    """The shops sent all they have, and all of it is in its tables; what of this did not come to pass."""
    try:
        _write_on(shops)
        for shop in shops:
            code = shop.process.end(within_s=DRAINED_WITHIN_S)
            if code:
                return [f"{shop.name} ended with {code}: {shop.process.said[-500:]}"]
        until(lambda: not town.house.journal.one(UNFINISHED), "everything is flushed", within_s=DRAINED_WITHIN_S)
        afterwards.bring_to_an_end(town)
        for action in faults.UPKEEP:
            until(partial(afterwards.told, town, "lake", *action), f"lake {action[0]}", within_s=DRAINED_WITHIN_S)
    except AssertionError as exc:
        return [str(exc)]
    letters = town.house.journal.one("SELECT count(*) FROM lakehouse_deadletter")
    return [f"{letters} dead letters, wanted none"] if letters else []


def _compared(town: Town, shop: Child, found: Round) -> str | None:
    wanted = afterwards.left(town, shop.name, edge_app.ledger(shop.database))
    stored, state = town.house.changes(shop.name), afterwards.wanted_now(town, shop)
    found.changes += len(stored)
    wrong = difference(wanted, stored)
    if wrong is None and state_of(stored) != state:
        wrong = "the rows that are left differ"
    wrong = wrong or afterwards.difference_now(state, town.house.now(shop.name))
    return None if wrong is None else f"{shop.name}: {wrong}"


def _verified(town: Town) -> list[str]:
    """What `manage.py verify` says against it."""
    try:
        town.house.manage("verify")
    except AssertionError as exc:
        return [str(exc)]
    return []
