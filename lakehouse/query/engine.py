"""SQL over the lake, read-only, within bounds: a query is a process, and whatever ends the query ends the process.

    room ─ turn ─ fork ─ job ─ where are its tables? ─ rows

The text of a query is never trusted here: its process checks it, and is fenced in case the check is wrong (see
`reader`, `statement` and `fence`, and docs/decisions/0013). What this side knows is who may ask for what: `find` says
where a table is, or raises.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lakehouse.conf import Settings
from lakehouse.errors import (
    QUERY_ERRORS,
    InvalidQuery,
    QueryCancelled,
    QueryError,
    QueryTimeout,
    QueryTooLarge,
    QueryUnavailable,
    TooManyQueries,
)
from lakehouse.query import messages
from lakehouse.query.forks import Forks
from lakehouse.query.messages import Answer, Failure, Hello, Job, Limits, Name, Place, Wanted

log = logging.getLogger(__name__)

SQL_CHARS_MAX = 100_000
DEFAULT_NAMESPACE = "lake"
FORMATS = ("json", "csv", "arrow")
END_S = 5.0

T = TypeVar("T")
Find = Callable[[Sequence[Name]], Awaitable[list[Place]]]
"""Where these tables are, in the same order. Raises QueryError for what is not there or not the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    sql: str
    parameters: list[Any] | dict[str, Any] = field(default_factory=list)
    namespace: str = DEFAULT_NAMESPACE
    as_of: str = ""
    rows_max: int | None = None
    timeout_ms: int | None = None
    """Both at most what the settings allow."""
    format: str = "json"


class Engine:
    """Of one process and event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._forks = Forks(settings, os.environ)
        self._turns = asyncio.Semaphore(settings.query_processes)
        self._callers: Counter[str] = Counter()
        self._running: dict[str, asyncio.Task[Answer]] = {}
        self._idle: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def run(self, query: Query, *, find: Find, caller: str = "", query_id: str = "") -> Answer:
        """Raises QueryError. Cancelling this ends the query, and so does `cancel` with its id."""
        query_id = query_id or uuid.uuid4().hex
        self._check(query, caller, query_id)
        self._callers[caller] += 1
        task = self._running[query_id] = asyncio.create_task(self._run(query, find))
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and not _is_cancelled():
                raise QueryCancelled from None
            task.cancel()
            await asyncio.wait([task])
            raise
        finally:
            del self._running[query_id]
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]

    def cancel(self, query_id: str) -> bool:
        """Whether there was such a query to cancel, running or waiting."""
        task = self._running.get(query_id)
        return task is not None and task.cancel()

    async def close(self) -> None:
        """End every query; none is taken any more."""
        self._is_closed = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._rest()
        await self._forks.close()

    def _check(self, query: Query, caller: str, query_id: str) -> None:
        settings = self._settings
        if self._is_closed:
            raise QueryUnavailable("this process stops; another one takes over")
        if len(query.sql) > SQL_CHARS_MAX:
            raise InvalidQuery(f"the query has {len(query.sql)} characters, wanted at most {SQL_CHARS_MAX}")
        if query.format not in FORMATS:
            raise InvalidQuery(f"the format is {query.format[:40]!r}, wanted {', '.join(FORMATS)}")
        if query_id in self._running:
            raise InvalidQuery(f"a query with the id {query_id[:100]!r} is running already")
        if self._callers[caller] >= settings.query_per_key_max:
            raise TooManyQueries(f"{settings.query_per_key_max} queries with this key are running or waiting already")
        if len(self._running) >= settings.query_processes + settings.query_waiting_max:
            raise QueryUnavailable(f"{len(self._running)} queries are running or waiting already; come back later")

    async def _run(self, query: Query, find: Find) -> Answer:
        timeout_ms = self._timeout_ms(query)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._turns.acquire()
        except TimeoutError:
            raise QueryUnavailable(f"no turn within {timeout_ms} ms, for others take long; come back later") from None
        try:
            async with self._process() as (reader, writer, pids), asyncio.timeout(timeout_ms / 1000):
                return await self._talk(query, find, reader, writer, pids)
        except TimeoutError:
            raise QueryTimeout(
                f"the query took longer than {timeout_ms} ms (at most EVODB_QUERY_TIMEOUT_MS) and was ended; read "
                "less, for example fewer days of _ts"
            ) from None
        finally:
            self._turns.release()

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, list[int]]]:
        """A process for one query, which is gone in the end, and its folder too."""
        if self._idle is not None:
            self._idle.cancel()
        pids: list[int] = []
        reader, writer = await asyncio.open_connection(sock=await self._forks.fork())
        try:
            yield reader, writer, pids
        finally:
            for pid in pids:
                self._forks.kill(pid)
            with suppress(OSError):
                writer.write_eof()
            await asyncio.wait([asyncio.create_task(_drained(reader))], timeout=END_S)
            writer.close()
            self._idle = asyncio.get_running_loop().call_later(self._settings.query_idle_ms / 1000, self._rest_if_idle)

    async def _talk(
        self, query: Query, find: Find, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pids: list[int]
    ) -> Answer:
        pids.append((await self._heard(reader, Hello)).pid)
        folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="evodb-query-")
        try:
            writer.write(_framed(self._job(query, folder)))
            wanted = await self._heard(reader, Wanted)
            places = await find(wanted.names) if wanted.names else []
            writer.write(messages.framed(places))
            return await self._heard(reader, Answer)
        finally:
            for pid in pids:
                self._forks.kill(pid)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _heard(self, reader: asyncio.StreamReader, kind: type[T]) -> T:
        try:
            (length,) = messages.LENGTH.unpack(await reader.readexactly(messages.LENGTH.size))
            if length > self._settings.query_bytes_max + messages.TALK_BYTES_MAX:
                raise QueryError(f"a message of {length} bytes from the process of a query")
            message = messages.said.decode(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            raise QueryTooLarge(
                "the process of the query ended before it had an answer; most often it needed more memory than it may "
                "have (EVODB_QUERY_MEMORY_BYTES_MAX)"
            ) from None
        if isinstance(message, Failure):
            if message.detail:
                log.warning("a query failed (%s): %s", message.code, message.detail)
            raise QUERY_ERRORS.get(message.code, QueryError)(message.text)
        if not isinstance(message, kind):
            raise QueryError(f"the process of a query said {type(message).__name__}, wanted {kind.__name__}")
        return message

    def _job(self, query: Query, folder: str) -> Job:
        settings = self._settings
        limits = Limits(
            timeout_ms=self._timeout_ms(query),
            memory_bytes_max=settings.query_memory_bytes_max,
            temp_bytes_max=settings.query_temp_bytes_max,
            temp_folder=folder,
            threads=settings.query_threads,
            rows_max=min(query.rows_max or settings.query_rows_max, settings.query_rows_max),
            bytes_max=settings.query_bytes_max,
        )
        return Job(
            sql=query.sql,
            parameters=query.parameters,
            namespace=query.namespace,
            as_of=query.as_of,
            format=query.format,
            limits=limits,
        )

    def _timeout_ms(self, query: Query) -> int:
        longest = self._settings.query_timeout_ms
        return min(query.timeout_ms or longest, longest)

    def _rest_if_idle(self) -> None:
        if not self._running:
            self._rest()

    def _rest(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._forks.stop()


def _framed(job: Job) -> bytes:
    """Raises InvalidQuery for what no process can be told."""
    try:
        return messages.framed(job)
    except OverflowError:
        wanted = "-9223372036854775808 to 18446744073709551615; a larger one goes as text, and CAST(? AS HUGEINT)"
        raise InvalidQuery(f"a parameter is a number that does not fit, wanted {wanted}") from None
    except UnicodeEncodeError:
        raise InvalidQuery("the query, its namespace, time or a parameter has half a character in it (UTF-8)") from None


def _is_cancelled() -> bool:
    """Whether it is the caller who is cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _drained(reader: asyncio.StreamReader) -> None:
    """Until the process is gone, and its end of the socket with it."""
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        return
