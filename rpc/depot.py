"""What an application hands over: kept in the outbox, made into batches, and told what became of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rpc.config import ChildConfig
from rpc.deduplication import DedupConfig
from rpc.entries import RawEntry
from rpc.errors import BufferOverflowError, LakehouseRpcError, ProtocolError
from rpc.given import EntryLike, lsn_of, raw_entry
from rpc.keeper import Keeper
from rpc.ledger import Ledger
from rpc.messages import AckStatus, WalEntry
from rpc.outbox import DeadLetter, Outbox, OutboxFull
from rpc.outbox_rows import row_bytes
from rpc.outcome import RpcSendResult
from rpc.session import Persisted, Refusal, Resolved

T = TypeVar("T")
LOOK_AGAIN_S = 1.0
"""A full outbox is tried again after so long, also when no answer came: another process may have made room."""


class Given(NamedTuple):
    """What an application handed over."""

    raw: list[RawEntry]
    lsns: list[int | None] | None
    """None when no entry has one."""


@dataclass(slots=True)
class Cut:
    """What became of entries in the outbox."""

    sequences: list[int]
    """Batches that have them, and whatever else waited."""
    repeated: int
    letters: Sequence[DeadLetter] = ()
    acked: int = 0
    failure: LakehouseRpcError | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """Entries that are batches now. The futures end with the answers, or with what ended the connection."""

    sequences: list[int]
    entries: int
    answers: list[asyncio.Future[Resolved | Refusal]]
    failure: LakehouseRpcError | None = None
    """Why the rest of the entries is in no batch yet."""
    repeated: int = 0
    """Entries that were kept by a call before."""
    letters: Sequence[DeadLetter] = ()
    """Which of those were refused for good."""
    acked: int = 0
    """A batch that was acknowledged, as those are that are neither in `sequences` nor in `letters`."""

    @property
    def tables(self) -> list[int]:
        """Batches to be seen in their tables: a child's go there in their order."""
        return sorted({*self.sequences, self.acked} - {0})

    async def result(self, *, ttl_ms: int) -> RpcSendResult:
        try:
            async with asyncio.timeout(ttl_ms / 1000):
                answers = await asyncio.gather(*self.answers)
        except TimeoutError:
            return self._kept(f"no answer within {ttl_ms} ms; the outbox keeps the entries and goes on sending them")
        except LakehouseRpcError as exc:
            return self._kept(f"{exc}; the outbox has the entries, do not hand them in again", cause=exc)
        if self.failure is not None:
            return self._kept(f"{self.failure}; the outbox has the entries", cause=self.failure)
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        statuses = [answer.status for answer in answers if isinstance(answer, Resolved)]
        if self.repeated and not answers and not self.letters:
            statuses = [AckStatus.DUPLICATE]
        errors = [refusal.text for refusal in refusals] + list(map(_refused_before, self.letters))
        return RpcSendResult(
            success=not errors,
            sequence_numbers=self.sequences,
            entries=self.entries,
            status=statuses[-1] if statuses else None,
            error=errors[0] if errors else None,
        )

    async def persisted(self, durable: RpcSendResult, tables: list[asyncio.Future[Persisted]]) -> RpcSendResult:
        """The result once the batches are in their tables, or why nobody will say so."""
        if self.repeated and not tables:
            text = "these were acknowledged in an epoch that ended, and nobody will say when they are in their table"
            return replace(durable, success=False, kept=True, error=text)
        try:
            found = await asyncio.gather(*tables)
        except LakehouseRpcError as exc:
            return replace(durable, success=False, kept=True, error=str(exc), cause=exc)
        return replace(durable, status=AckStatus.PERSISTED, path=found[-1].path if found else None)

    def _kept(self, error: str, *, cause: LakehouseRpcError | None = None) -> RpcSendResult:
        return RpcSendResult(
            success=False,
            sequence_numbers=self.sequences,
            entries=self.entries,
            error=error,
            kept=True,
            cause=cause,
        )


class Depot:
    """The outbox of a client. `cutting` is held while entries are made into batches."""

    def __init__(
        self,
        outbox: Outbox | str | Path,
        ledger: Ledger,
        keeper: Keeper,
        *,
        config: ChildConfig,
        dedup: DedupConfig | None,
        now_ms: Callable[[], int],
    ) -> None:
        self.owns_outbox = not isinstance(outbox, Outbox)
        self.outbox = outbox if isinstance(outbox, Outbox) else _open(outbox, config)
        self.cutting = asyncio.Lock()
        self._ledger = ledger
        self._keeper = keeper
        self._config = config
        self._dedup = dedup
        self._now_ms = now_ms

    async def keep(self, entries: Iterable[EntryLike]) -> int:
        """Store these, all or none; returns how many were new. Waits for room if told to."""
        given = self._given(entries)
        while True:
            progress = self._ledger.awaited.progress
            try:
                stored = await self._in_thread(self._append, given)
            except BufferOverflowError as exc:
                await self._wait_for_room(exc, progress)
            else:
                self._ledger.look()
                self._keeper.added(stored, sum(map(row_bytes, given.raw)))
                return stored

    async def send(self, entries: Iterable[EntryLike]) -> Sent:
        """Store these and make batches of everything that waits. Waits for room if told to."""
        given = self._given(entries)
        while True:
            progress = self._ledger.awaited.progress
            try:
                async with self.cutting:
                    with self._ledger.awaited.early_answers():
                        cut = await self._in_thread(self._append_and_cut, given)
                        answers = self._ledger.awaited.batches(cut.sequences)
            except BufferOverflowError as exc:
                await self._wait_for_room(exc, progress)
            else:
                self._ledger.look()
                self._keeper.wake()
                return Sent(cut.sequences, len(given.raw), answers, cut.failure, cut.repeated, cut.letters, cut.acked)

    async def cut(self) -> None:
        """Make batches of everything that waits."""
        async with self.cutting:
            cut = await self._in_thread(self._append_and_cut, None)
        self._keeper.wake()
        if cut.failure is not None:
            raise cut.failure

    async def close(self) -> None:
        if self.owns_outbox:
            await asyncio.to_thread(self.outbox.close)

    def _given(self, entries: Iterable[EntryLike]) -> Given:
        if isinstance(entries, Mapping | WalEntry | RawEntry | str | bytes):
            raise ProtocolError(f"{type(entries).__name__} is one entry at most, wanted a list of entries: [...]")
        now_ms, listed = self._now_ms(), list(entries)
        lsns = [lsn_of(entry) for entry in listed]
        raw = [raw_entry(entry, now_ms=now_ms) for entry in listed]
        return Given(raw, None if lsns.count(None) == len(lsns) else lsns)

    def _append(self, given: Given) -> int:
        stored = self.outbox.append(given.raw, lsns=given.lsns, dedup=self._dedup)
        self._ledger.outbox_level = self.outbox.pending_bytes / self.outbox.bytes_max
        return stored

    def _append_and_cut(self, given: Given | None) -> Cut:
        self.outbox.unacked(limit=0)  # raises while somebody else drains, before anything is kept
        repeated = 0 if given is None else len(given.raw) - self._append(given)
        link, cut = self._keeper.link, Cut([], repeated)
        shape = None if link is None else link.shape
        limits = {"entries_max": self._config.max_batch_size, "bytes_max": self._config.max_batch_bytes}
        try:
            while (batch := self.outbox.cut(**limits, shape=shape)) is not None:
                cut.sequences.append(batch.sequence)
            if given is not None and given.lsns is not None and repeated:
                found = self.outbox.whereabouts(given.raw, given.lsns)
                cut.sequences, cut.letters = sorted({*cut.sequences, *found.batches}), found.letters
                waiting = self.outbox.unacked(limit=1)
                cut.acked = waiting[0].sequence - 1 if waiting else self.outbox.last_sequence
        except LakehouseRpcError as exc:
            cut.failure = exc  # the entries are kept: nobody may hand them in again
        return cut

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """What `call` returns. Who is cancelled does not stop the thread, so the link looks when that is done."""
        work = asyncio.ensure_future(asyncio.to_thread(call, *args))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._look_at_what_was_kept)
            raise

    def _look_at_what_was_kept(self, done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._keeper.wake()

    async def _wait_for_room(self, full: BufferOverflowError, progress: asyncio.Event) -> None:
        """Until there may be room. Raises what was raised when nobody wants to wait, or waiting cannot help."""
        if self._config.outbox_when_full != "wait" or not full.retryable:
            raise full
        self._ledger.outbox_level = 1.0
        self._ledger.look()
        self._keeper.wake()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(progress.wait(), LOOK_AGAIN_S)


def _refused_before(letter: DeadLetter) -> str:
    return (
        f"refused before as batch {letter.sequence} ({letter.reason}); outbox.revive({letter.sequence}) sends it again"
    )


def _open(path: str | Path, config: ChildConfig) -> Outbox:
    gives_way = config.outbox_when_full == "drop_oldest"
    return Outbox(
        path,
        bytes_max=config.outbox_bytes_max,
        fsync_within_ms=config.outbox_fsync_within_ms,
        # The client itself waits, where it can be cancelled.
        when_full=OutboxFull.DROP_OLDEST if gives_way else OutboxFull.RAISE,
        keep_corrupt_aside=config.outbox_when_corrupt == "keep_aside",
    )
