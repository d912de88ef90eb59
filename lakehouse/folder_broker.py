"""kombu's broker of plain files, for processes that may be killed at any moment.

kombu's own writes a message under its final name and locks it afterwards: whoever looks in between, or after the writer
was killed there, reads nothing, and a Celery worker ends of it. Here a message, and the table of a queue's bindings,
get their name when they are whole. What a power cut left torn is said in the log and passed over: a lost message
costs nothing, since tasks ask the journal what there is to do (docs/decisions/0008-embedded-mode.md).
"""

from __future__ import annotations

import fcntl
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem, virtual
from kombu.utils.json import dumps, loads

log = logging.getLogger(__name__)

Bindings = list[Any]
"""Rows of routing key, pattern and queue."""

SCHEME = "folder"


def register() -> None:
    """Let Celery find it under `folder://`."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"


class Channel(filesystem.Channel):
    def get_table(self, exchange: str) -> Bindings:
        try:
            rows = loads(self._table_file(exchange).read_bytes())
        except FileNotFoundError:
            return []
        except ValueError:
            log.warning("the bindings of exchange %s are torn; a worker that starts writes them anew", exchange)
            return []
        return [filesystem.exchange_queue_t(*row) for row in rows]

    def _queue_bind(self, exchange: str, routing_key: str | None, pattern: str | None, queue: str) -> None:
        row = _row(routing_key, pattern, queue)
        self._rewrite(exchange, lambda rows: rows if row in rows else [row, *rows])

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any) -> None:
        virtual.Channel._delete(self, queue)
        row = _row(routing_key, pattern, queue)
        self._rewrite(exchange, lambda rows: [other for other in rows if other != row])

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        name = f"{time.monotonic_ns():020}_{uuid.uuid4()}.{queue}.msg"
        self._publish(Path(self.data_folder_out) / name, payload)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for path in self._messages(queue):
            claimed = Path(self.processed_folder) / path.name
            try:
                path.rename(claimed)
            except FileNotFoundError:
                continue  # another worker has it
            said = claimed.read_bytes()
            claimed.unlink()
            try:
                return loads(said)
            except ValueError:
                log.warning("a message of %d bytes in queue %s is torn; it is passed over", len(said), queue)
        raise Empty

    def _messages(self, queue: str) -> list[Path]:
        """Those of this queue, oldest first."""
        found = Path(self.data_folder_in).iterdir()
        return sorted(path for path in found if path.name.partition(".")[2] == f"{queue}.msg")

    def _table_file(self, exchange: str) -> Path:
        return Path(self._exchange_file(exchange))  # type: ignore[attr-defined]  # the stubs lag behind

    def _rewrite(self, exchange: str, change: Callable[[Bindings], Bindings]) -> None:
        file = self._table_file(exchange)
        with _locked(file.with_suffix(".lock")):
            before = self.get_table(exchange)
            after = change(before)
            if after != before:
                self._publish(file, after)

    def _publish(self, file: Path, content: Any) -> None:
        draft = Path(self.processed_folder) / f"{uuid.uuid4()}.draft"
        try:
            draft.write_text(dumps(content))
            draft.rename(file)
        except OSError:
            draft.unlink(missing_ok=True)  # on a full disk there would be one for every task
            raise


class Transport(filesystem.Transport):
    Channel = Channel
    driver_type = driver_name = SCHEME


def _row(routing_key: str | None, pattern: str | None, queue: str) -> Any:
    return filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("ab") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
