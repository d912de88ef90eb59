"""The main job, on real data: 336 776 flights of 16 carriers, each with a database of its own, become one table.

While they are inserted, updated and deleted, 16 children stream every change to a parent, which is killed in the
middle. Then DuckDB reads the lake, and all of it is compared. `FLIGHTS=20000 make demo` is the short form.

    source.py      the edge databases and the applications that write them
    streaming.py   the children
    house.py       the parent
    compare.py     the judge
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import compare
from house import Failed, House, settle_in
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from source import Writers, create, database, flights
from streaming import Report, Street

from lakehouse.query import duck
from rpc.errors import LakehouseRpcError

PEAK_MIB_MAX = 400


def main() -> int:
    console = Console()
    folder = Path("demo-lake").resolve()
    limit = flights_wanted()
    settle_in(folder)
    house = House(folder)
    try:
        with console.status("making 16 databases, starting the parent"):
            sizes = make_databases(folder, limit)
            house.start()
        # Each flight is written twice: as scheduled, then as it happened or was cancelled.
        entries = 2 * sum(sizes.values())
        report = stream(house, folder, list(sizes), limit, entries, console)
    finally:
        house.stop()
    is_same = compare.show(compare.compare(folder), console)
    return 0 if tell(report, entries, console) and is_same else 1


def flights_wanted() -> int | None:
    """FLIGHTS of the environment; None is all."""
    text = os.environ.get("FLIGHTS", "")
    if text and (not text.isdecimal() or not int(text)):
        sys.exit(f"FLIGHTS is {text!r}, wanted how many of the 336776 flights, for example FLIGHTS=20000")
    return int(text) if text else None


def make_databases(folder: Path, limit: int | None) -> dict[str, int]:
    """An empty database per carrier, and how many flights it will see."""
    if folder.exists():
        shutil.rmtree(folder)
    sizes = {carrier: len(rows) for carrier, rows in flights(limit).items()}
    for carrier in sizes:
        create(database(folder, carrier))
    return sizes


def stream(
    house: House, folder: Path, carriers: list[str], limit: int | None, entries: int, console: Console
) -> Report:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("changes acknowledged", total=entries)
        street = Street(house, Writers(folder, limit), show=lambda acked: progress.update(bar, completed=acked))
        try:
            return asyncio.run(street.walk({name: database(folder, name) for name in carriers}, entries=entries))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None


def tell(report: Report, entries: int, console: Console) -> bool:
    """Print how it went; returns whether the parent was killed indeed and stayed small."""
    console.print(
        f"{entries:,} changes in {report.took_s:.1f} s, from the first write to the last row in the table: "
        f"{entries / report.took_s:,.0f}/s\n"
        f"the last one was in the table {report.freshness_s:.1f} s after its ack\n"
        f"parent killed (pid {report.killed_pid}, now {report.restarted_pid}) at {report.acked_at_kill:,} acks; "
        f"after {report.reconnected_s:.1f} s all children were back ({report.reconnects} reconnects), "
        f"{report.duplicates} batches came twice and were answered duplicate\n"
        f"parent's memory at its peak: {report.peak_mib:.0f} MiB (at most {PEAK_MIB_MAX})\n"
        "to look at the table:",
        highlight=False,
        soft_wrap=True,
    )
    console.print(duck.shell_command(compare.location()), markup=False, highlight=False, soft_wrap=True)
    return report.killed_pid != report.restarted_pid and report.peak_mib < PEAK_MIB_MAX


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failed, LakehouseRpcError) as exc:
        sys.exit(f"The demo failed: {exc}")
