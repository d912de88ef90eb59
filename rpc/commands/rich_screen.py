"""The screen of somebody who watches: bars and a live line by rich, which `pip install 'evodb[cli]'` brings."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class RichScreen:
    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._line = Text()
        # Else what is told on stderr, to a file maybe, would come out here.
        watched = sys.stderr.isatty()
        self._live = Live(console=self._console, refresh_per_second=8, transient=True, redirect_stderr=watched)
        self._live.start()

    def event(self, kind: str, text: str, **fields: Any) -> None:
        self._console.print(Text(text))

    def status(self, text: str, **fields: Any) -> None:
        self._line = Text(text, no_wrap=True, overflow="ellipsis")
        self._show()

    def progress(self, what: str, done: int, total: int | None) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, count="")
        if total is None:
            self._bars.update(self._tasks[what], completed=done, count=f"{done:,}")
        else:
            total = max(done, total)  # an estimate may turn out too small
            self._bars.update(self._tasks[what], completed=done, total=total, count=f"{done:,} of {total:,}")
        self._show()

    def close(self) -> None:
        self._live.stop()

    def _show(self) -> None:
        self._live.update(Group(self._bars, self._line) if self._tasks else self._line)
