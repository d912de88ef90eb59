"""What a torture found, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lakehouse.torture.rounds import Round
from lakehouse.torture.town import Plan


def write(folder: Path, plan: Plan, seed: str, rounds: Sequence[Round]) -> tuple[Path, Path]:
    """torture.md and torture.json in this folder."""
    markdown, as_json = folder / "torture.md", folder / "torture.json"
    markdown.write_text(_markdown(plan, seed, rounds))
    told = {"seed": seed, "plan": asdict(plan), "rounds": [asdict(one) for one in rounds], "ok": is_well(rounds)}
    as_json.write_text(json.dumps(told, indent=2))
    return markdown, as_json


def is_well(rounds: Sequence[Round]) -> bool:
    return not any(one.wrong for one in rounds)


def summary(rounds: Sequence[Round]) -> str:
    changes, faults = sum(one.changes for one in rounds), sum(len(one.faults) for one in rounds)
    minutes = sum(one.seconds for one in rounds) / 60
    what = f"{len(rounds)} rounds, {faults} faults, {changes} changes compared, {minutes:.1f} minutes"
    return f"{what}: source and lake are equal" if is_well(rounds) else f"{what}: SOURCE AND LAKE DIFFER"


def _markdown(plan: Plan, seed: str, rounds: Sequence[Round]) -> str:
    lines = [f"# Torture with seed {seed}", "", f"{plan}. {summary(rounds)}.", ""]
    lines += ["| round | changes | seconds | faults | |", "|---|---|---|---|---|"]
    for one in rounds:
        verdict = "equal" if not one.wrong else "**" + " ".join(one.wrong).replace("|", "/").replace("\n", " ") + "**"
        lines.append(f"| {one.number} | {one.changes} | {one.seconds:.0f} | {'; '.join(one.faults)} | {verdict} |")
    again = f"python manage.py torture --seed {seed} --round N --database {plan.database} --lake {plan.lake}"
    return "\n".join([*lines, "", f"One round again: `{again}`", ""])
