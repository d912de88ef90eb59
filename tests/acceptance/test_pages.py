"""What docs/getting-started.md and docs/operations.md tell to type is typed, and what they show is what there is."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from django.conf import settings

from lakehouse.conf import Settings, variable
from lakehouse.metrics import SERIES
from tests.acceptance.processes import ROOT, Process, environment, until
from tests.services import free_port

DOCS = ROOT / "docs"
PAGES = ("getting-started.md", "operations.md")
NOT_TYPED = [
    ("getting-started.md", "clone", "make .venv/.ready"),
    ("operations.md", "cluster", 'pg_dump --format=custom --file=evodb.dump "$EVODB_DATABASE_URL"'),
    (
        "operations.md",
        "cluster",
        "export EVODB_DATABASE_URL=postgresql://evodb@db/evodb EVODB_BROKER_URL=redis://redis/0",
    ),
]
"""What would make the .venv that this test runs in, and what needs machines that are not here."""
FENCE = re.compile(r"^```(\w*) ?(.*)\n((?s:.*?))^```$", re.MULTILINE)
PARENT_PORT, RECEIVER_PORT = "8800", "8900"
MARK = "=== block "
PAGES_S = 600


@dataclasses.dataclass
class Block:
    page: str
    code: str
    shown: str = ""
    """What the page shows of what it prints; … is any text."""


def fences(page: str) -> list[tuple[str, str, str]]:
    """Language, what stands beside it, and what is in it."""
    return FENCE.findall((DOCS / page).read_text())


def typed() -> Iterator[Block]:
    for page in PAGES:
        block: Block | None = None
        for language, info, text in fences(page):
            if language == "text" and block is not None:
                block.shown = text
            block = Block(page, text) if (language, info) == ("sh", "run") else None
            if block is not None:
                yield block


def test_every_command_of_the_two_pages_does_what_they_say(tmp_path: Path) -> None:
    blocks = list(typed())
    clone = tmp_path / "clone"
    clone.mkdir()
    for name, there in {
        ".venv": Path(sys.prefix),
        "manage.py": ROOT / "manage.py",
        "examples": ROOT / "examples",
    }.items():
        (clone / name).symlink_to(there)
    script = tmp_path / "typed.sh"
    ports = {PARENT_PORT: free_port(), RECEIVER_PORT: free_port()}
    script.write_text(script_of(blocks, ports))
    shell = Process("shell", ["bash", str(script)], environment({}, PYTHONPATH=str(ROOT)), clone)
    shell.start()
    try:
        until(lambda: not shell.is_running, "everything is typed", shell, within_s=PAGES_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # the programs it left in the background; theirs die with them
        shell.clean_up()
    said = shell.said.split(MARK)[1:]
    assert shell.running is not None
    assert (shell.running.returncode, len(said)) == (0, len(blocks)), shell.said[-3000:]
    for block, output in zip(blocks, said, strict=True):
        missing = first_missing(on_ports(block.shown, ports), output)
        assert missing is None, f"{block.page} shows {missing!r}, and this was there:\n{output}"


def script_of(blocks: list[Block], ports: dict[str, int]) -> str:
    lines = ["exec 2>&1", "set -eu", f"export EVODB_UP_PORT={ports[PARENT_PORT]}"]
    for number, block in enumerate(blocks):
        code = on_ports(block.code, ports).replace("examples/child.py", "child.py")  # its address is in it
        lines += [f"printf '\n{MARK}{number}\n'", code]
    program = on_ports((ROOT / "examples" / "child.py").read_text(), ports)
    return "\n".join([f"printf %s {shlex.quote(program)} > child.py", *lines]) + "\n"


def on_ports(text: str, ports: dict[str, int]) -> str:
    """With ports that are free in place of those of the page."""
    for port, instead in ports.items():
        text = re.sub(rf"\b{port}\b", str(instead), text)
    return text


def first_missing(shown: str, output: str) -> str | None:
    """The first line of what is shown that is not there, behind the one before it."""
    lines = iter(output.splitlines())
    for line in shown.splitlines():
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
        if not any(pattern.fullmatch(found) for found in lines):
            return line
    return None


def test_what_is_shown_has_to_be_there_and_in_its_order() -> None:
    output = "\n=== block 3\na 17\nb\nc\n"
    assert first_missing("", output) is None
    assert first_missing("a …\nc\n", output) is None
    assert first_missing("c\nb\n", output) == "b"
    assert first_missing("a 18\n", output) == "a 18"
    assert first_missing("a\n", output) == "a"


def test_only_what_cannot_run_here_is_not_typed() -> None:
    found = [
        (page, info, text.splitlines()[0])
        for page in PAGES
        for language, info, text in fences(page)
        if language not in ("text", "yaml") and (language, info) != ("sh", "run")
    ]
    assert [
        (page, info, line[: len(wanted[2])]) for (page, info, line), wanted in zip(found, NOT_TYPED, strict=True)
    ] == (NOT_TYPED)
    for page in PAGES:
        assert len(re.findall("^```", (DOCS / page).read_text(), re.MULTILINE)) == 2 * len(fences(page))


def test_every_metric_is_in_operations_with_its_kind_and_its_meaning() -> None:
    text = (DOCS / "operations.md").read_text()
    rows = re.findall(r"^\| `(dolake_\w+)` \| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)
    labels = {series.name: ", by " + " and ".join(series.labels) if series.labels else "" for series in SERIES}
    assert rows == [(series.name, series.kind + labels[series.name], series.help) for series in SERIES]
    named = {name.removesuffix("_bucket") for name in re.findall(r"\bdolake_[a-z_]+\b", text)}
    assert named <= {series.name for series in SERIES} | {"dolake_ingested"}


def test_every_term_of_what_is_kept_is_the_one_of_the_code() -> None:
    text = (DOCS / "operations.md").read_text().split("## What is kept")[1].split("\n## ")[0]
    defaults = {variable(row.name): row.default for row in dataclasses.fields(Settings)}
    terms = re.findall(r"`(EVODB_\w+)` \((\d+)", text)
    assert len(terms) > 8
    assert {name: int(value) for name, value in terms} == {name: defaults[name] for name, _ in terms}
    assert set(re.findall(r"EVODB_\w+", text)) <= set(defaults)
    tasks = set(re.findall(r"\| `([a-z-]+)`,", text))
    assert len(tasks) > 4
    assert tasks <= set(settings.CELERY["beat_schedule"])


def test_every_setting_the_two_pages_name_exists() -> None:
    known = {variable(row.name) for row in dataclasses.fields(Settings)} | {"EVODB_TOKEN"}
    for page in PAGES:
        named = set(re.findall(r"EVODB_[A-Z_0-9]*[A-Z0-9]\b", (DOCS / page).read_text()))
        assert {name for name in named - known if not any(one.startswith(f"{name}_") for one in known)} == set()


def test_every_link_of_the_pages_leads_to_a_file_and_its_heading() -> None:
    for page in PAGES:
        for path, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", (DOCS / page).read_text()):
            if path.startswith("http"):
                continue
            there = (DOCS / path).resolve() if path else DOCS / page
            assert there.exists(), f"{page} points to {path}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                assert anchor in {slug(heading) for heading in headings}, f"{page} points to {path}#{anchor}"


def slug(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
