"""What becomes of the rows once they are in the lake: tables of now, and what somebody wants erased.

Guests write, send what they have and leave, and are erased while others write on; whoever erases dies or is told to
come back, and is asked again in the end. By then no file of the lake may have such a row.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from lakehouse.models.catalog import VERSION_BITS
from lakehouse.query import duck
from lakehouse.torture import edge_app
from lakehouse.torture.compare import Change, State
from lakehouse.torture.death import Death
from lakehouse.torture.erasure import TABLE, Erasure
from lakehouse.torture.house import Child
from lakehouse.torture.process import until
from lakehouse.torture.town import Town
from rpc.failpoints import Failpoint

REFRESHING = (Failpoint.CURRENT_WRITTEN, Failpoint.CURRENT_SWAPPED)
ERASING = (Failpoint.ERASED_WRITTEN, Failpoint.ERASED_SWAPPED)
REFRESH = "import django; django.setup(); from lakehouse import tasks; tasks.refresh_current()"
STALE = f"""
SELECT count(*) FROM lakehouse_icebergtable t JOIN lakehouse_namespace n ON n.id = t.namespace_id
LEFT JOIN lakehouse_currenttable c ON c.namespace = n.name AND c."table" = t.name
WHERE n.name = 'lake' AND (c.version IS NULL OR c.version <> (t.id << {VERSION_BITS}) + t.version)
"""
WAITING = """
SELECT count(*) FROM lakehouse_batch b JOIN lakehouse_child c ON c.id = b.child_id
WHERE c.name = '{child}' AND b.state <> 'persisted'
"""
TO_COME_BACK = ("somebody else is at it", "try again", "type the same again", "and then the same again")
GUEST_CHANGES = 150
WITHIN_S = 180.0
TWO_HOURS_MS = 7_200_000


def refresh(town: Town, death: Death) -> None:
    """As a worker does it when the beat says so."""
    death.meet(town.house.another("refresh", [sys.executable, "-c", REFRESH]))


def erase(town: Town, place: float, death: Death, *, is_all: bool) -> None:
    """A guest comes and goes, and is erased while files are merged: all of it, or one of its orders."""
    guest = _guest(town)
    orders = sorted({row for _, table, row, _ in edge_app.ledger(guest.database) if table == TABLE}, key=int)
    erasure = Erasure(guest.name, "" if is_all else orders[int(place * len(orders))])
    attempt(town, erasure, death)


def attempt(town: Town, erasure: Erasure, death: Death) -> None:
    """It counts as asked for, whatever becomes of it."""
    town.erasures.append(erasure)
    merging = town.house.another("upkeep", town.house.command("lake", "compact", "--all"))
    merging.start()
    death.meet(town.house.another("erase", town.house.command(*erasure.command)))
    merging.kill()


def bring_to_an_end(town: Town) -> None:
    """What was to be erased is, and the tables of now are new. Raises AssertionError."""
    for erasure in town.erasures:
        until(partial(told, town, *erasure.command), f"erased: {erasure}", within_s=WITHIN_S)
    if town.erasures:
        _sweep(town)
        found = holding(town)
        assert not found, f"files with erased rows: {found[:5]}"
    until(partial(_is_fresh, town), "the tables of now are new", within_s=WITHIN_S)


def told(town: Town, *command: str) -> str:
    """What a command said; nothing while it has to wait for somebody."""
    try:
        return town.house.manage(*command, within_s=WITHIN_S) or "done"
    except AssertionError as exc:
        if any(words in str(exc) for words in TO_COME_BACK):
            return ""
        raise


def left(town: Town, child: str, changes: Sequence[Change]) -> list[Change]:
    """Of these changes of a child those nobody erased."""
    return [one for one in changes if not any(erasure.has(child, *one[1:3]) for erasure in town.erasures)]


def wanted_now(town: Town, shop: Child) -> State:
    rows = edge_app.state(shop.database).items()
    return {at: row for at, row in rows if not any(erasure.has(shop.name, *at) for erasure in town.erasures)}


def difference_now(wanted: State, found: Sequence[tuple[str, str, dict[str, object]]]) -> str | None:
    """What the tables of now say otherwise than the source; None when they say the same."""
    rows = {(table, row_id): row for table, row_id, row in found}
    if len(rows) != len(found):
        return f"the tables of now have {len(found)} rows of {len(rows)} row ids"
    for at in sorted(wanted.keys() | rows.keys()):
        if rows.get(at) != wanted.get(at):
            return f"{at} is {rows.get(at)} in the table of now, the source has {wanted.get(at)}"
    return None


def holding(town: Town) -> list[str]:
    """Files that have a row somebody erased."""
    place = f"{town.house.settings.resolved_warehouse}/**/*.parquet"
    found = []
    with duck.connect(town.house.settings) as connection:
        files = [row[0] for row in connection.execute("SELECT file FROM glob(?)", [place]).fetchall()]
        for erasure in town.erasures:
            some = [file for file in files if not erasure.row_id or f"/{TABLE}/" in file]
            rows = "read_parquet(?, filename = true, union_by_name = true)"
            sql = f"SELECT DISTINCT filename FROM {rows} WHERE {erasure.condition}"
            found += [row[0] for row in connection.execute(sql, [some]).fetchall()] if some else []
    return sorted(found)


def _guest(town: Town) -> Child:
    guest = town.house.child(f"guest-{len(town.house.children)}", writes_per_s_max=town.plan.writes_per_s_max)
    town.guests.append(guest)
    guest.process.start()
    until(lambda: edge_app.so_far(guest.database) > GUEST_CHANGES, "a guest writes", guest.process)
    code = guest.process.end(within_s=WITHIN_S)
    assert code == 0, f"{guest.name} ended with {code}: {guest.process.said[-500:]}"
    waiting = WAITING.format(child=guest.name)
    until(lambda: not town.house.journal.one(waiting), f"{guest.name} is in the lake", within_s=WITHIN_S)
    return guest


def _sweep(town: Town) -> None:
    """Files of those that died are deleted, as in two hours. Nobody else may have a file without a name by now."""
    programs = [*town.workers, town.house.beat]
    for program in programs:
        program.kill()
    command = town.house.command("lake", "orphans", "--delete", "--older-hours", "1")
    try:
        town.house.run(command, within_s=WITHIN_S, EVODB_CLOCK_SHIFT_MS=str(TWO_HOURS_MS))
    finally:
        for program in programs:
            program.start()


def _is_fresh(town: Town) -> bool:
    town.house.run([sys.executable, "-c", REFRESH], within_s=WITHIN_S)
    return not town.house.journal.one(STALE)
