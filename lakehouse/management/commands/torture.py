"""`manage.py torture`: real processes, faults by a seed, and a comparison of source and lake after every round."""

from __future__ import annotations

import itertools
import random
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from lakehouse.management.operation import Operation


class Command(Operation):
    help = (
        "Start a house of its own (nothing of yours is touched), let children write into it, kill and cut off whatever "
        "runs, by a seed, and compare every row. Ends with 1 when one is missing or double."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seed", default="", help="as an earlier report says it; without one a new one is made")
        parser.add_argument("--minutes", type=float, default=10, help="rounds begin for so long")
        parser.add_argument("--round", type=int, help="this round only, to see it again")
        parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
        parser.add_argument("--lake", choices=["folder", "s3"], default="folder")
        parser.add_argument("--children", type=int, default=3, help="edge databases that write at the same time")
        parser.add_argument("--folder", type=Path, help="where data, logs and the report are kept")

    def handle(self, **options: Any) -> None:
        try:
            from lakehouse.torture import report, rounds
            from lakehouse.torture.town import Plan, Town
        except ModuleNotFoundError as exc:
            raise CommandError(f"found no {exc.name}; type: pip install 'evodb[torture]'") from exc
        seed = options["seed"] or str(random.SystemRandom().randrange(10**6))
        folder: Path = options["folder"] or Path(tempfile.mkdtemp(prefix="evodb-torture-"))
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CommandError(f"found files in {folder}, wanted an empty folder; name another one with --folder")
        plan = Plan(database=options["database"], lake=options["lake"], children=options["children"])
        self.stdout.write(f"seed {seed}; {plan}; everything is kept in {folder}")
        numbers = iter([options["round"]]) if options["round"] else itertools.count(1)
        with Town(folder, plan, random.Random(seed)) as town:
            done = rounds.run(town, seed, numbers, until_s=options["minutes"] * 60, say=self.stdout.write)
        written, _ = report.write(folder, plan, seed, done)
        self.stdout.write(f"{report.summary(done)}; {written}")
        if not report.is_well(done):
            raise CommandError(f"seed {seed}: rows are missing or double; logs and databases are in {folder}")
