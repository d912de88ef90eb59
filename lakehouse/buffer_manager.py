"""The buffer of a parent of one's own: in memory, bounded, and in the order of arrival. Pure: the time comes in.

A batch is held until `mark_persisted`, also while it is being written; so the bounds are those of memory. The parent
in `lakehouse` does not need this: its buffer is the journal, which outlives the process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum

from lakehouse.flush.policy import FlushTrigger, Waiting, due
from rpc.buffers import BufferedBatch, BufferSnapshot, ChildConnectionState
from rpc.config import DEFAULT_PARENT_CONFIG, ParentConfig
from rpc.deduplication import DEFAULT_DEDUP_CONFIG, DedupConfig, DeduplicationTracker, content_key
from rpc.errors import BufferOverflowError
from rpc.messages import DEFAULT_CLIENT_CAPABILITIES, UNSET, BufferStats, ClientCapabilities, WalEntry

__all__ = ["Added", "CDCBufferManager"]


class Added(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """The same entries of the same child were accepted within the window; nothing was kept."""


class CDCBufferManager:
    """Takes batches, says when a flush is due, and hands them out in order until they are persisted.

    `dedup` bounds how many children and contents are remembered; how long is the config's. None compares nothing.
    """

    def __init__(
        self,
        config: ParentConfig = DEFAULT_PARENT_CONFIG,
        *,
        dedup: DedupConfig | None = DEFAULT_DEDUP_CONFIG,
        max_children: int = 1_000,
    ) -> None:
        if max_children < 1:
            raise ValueError(f"max_children is {max_children}, wanted at least 1")
        self.config = config
        window_ms = config.deduplication_window_ms
        self._seen = None if dedup is None else DeduplicationTracker(replace(dedup, window_ms=window_ms))
        self._max_children = max_children
        self._children: OrderedDict[str, ChildConnectionState] = OrderedDict()
        self._arrivals = 0
        self._arrival: dict[str, int] = {}
        """Of every batch that is held, by its id."""
        self._waiting: dict[int, BufferedBatch] = {}
        self._taken: dict[int, BufferedBatch] = {}
        self._entries = self._bytes = self._taken_entries = self._taken_bytes = 0
        self._last_flush_ms: int | None = None

    def connected(
        self,
        source: str,
        *,
        now_ms: int,
        shard: str | None = None,
        capabilities: ClientCapabilities = DEFAULT_CLIENT_CAPABILITIES,
    ) -> None:
        """A child is here, or here again; the one that was silent longest is forgotten for one too many."""
        self._note(
            ChildConnectionState(
                source_do_id=source,
                source_shard_name=shard,
                connected_ms=now_ms,
                last_activity_ms=now_ms,
                capabilities=capabilities,
            )
        )

    def left(self, source: str) -> None:
        """A child went; its batches stay."""
        self._children.pop(source, None)

    def add_batch(self, source: str, sequence: int, entries: Sequence[WalEntry], size_bytes: int, now_ms: int) -> Added:
        """Hold a batch, unless its content is a repeat.

        Raises BufferOverflowError when it does not fit beside what is held, ValueError when it cannot be a batch;
        nothing of it is kept or remembered then.
        """
        if not entries or size_bytes < 0:
            raise ValueError(
                f"batch {sequence} of {source!r} has {len(entries)} entries and {size_bytes} bytes, "
                "wanted at least 1 entry and 0 bytes"
            )
        content = b"" if self._seen is None else content_key(entries)
        if self._seen is not None and self._seen.is_duplicate(source, content, now_ms=now_ms):
            self._heard(source, sequence, now_ms, entries=0)
            return Added.DUPLICATE
        self._check_room(len(entries), size_bytes)
        self._hold(source, sequence, tuple(entries), size_bytes, now_ms)
        if self._seen is not None:
            self._seen.record(source, content, now_ms=now_ms)
        return Added.ACCEPTED

    def due(self, *, now_ms: int) -> FlushTrigger | None:
        """Why what waits should be flushed now, or None. What was taken already does not count."""
        if not self._waiting:
            return None
        oldest = next(iter(self._waiting.values()))
        waiting = Waiting(
            self._entries - self._taken_entries,
            self._bytes - self._taken_bytes,
            oldest.received_ms,
            self._last_flush_ms or 0,
        )
        return due(waiting, self.config, now_ms=now_ms)

    def take_for_flush(self) -> tuple[BufferedBatch, ...]:
        """All that waits, oldest first. Each of these has to be marked or restored."""
        batches = tuple(self._waiting.values())
        self._taken |= self._waiting
        self._waiting = {}
        self._taken_entries, self._taken_bytes = self._entries, self._bytes
        return batches

    def mark_persisted(self, batch_ids: Iterable[str], *, now_ms: int) -> int:
        """Let go of what is in its table; returns how many were held. An id that is gone already is no mistake."""
        gone = 0
        for batch_id in batch_ids:
            arrival = self._arrival.pop(batch_id, None)
            if arrival is None:
                continue
            batch = self._taken.pop(arrival, None)
            if batch is None:  # it was restored although the write got through
                batch = self._waiting.pop(arrival)
            else:
                self._back(batch)
            self._entries -= len(batch.entries)
            self._bytes -= batch.size_bytes
            gone += 1
        if gone:
            self._last_flush_ms = now_ms
        return gone

    def restore(self, batches: Iterable[BufferedBatch]) -> None:
        """A flush failed: its batches wait again, before those that came later.

        Raises ValueError for a batch that is not out for a flush; none is restored then.
        """
        arrivals = {batch.batch_id: self._arrival.get(batch.batch_id, -1) for batch in batches}
        if strangers := sorted(batch_id for batch_id, arrival in arrivals.items() if arrival not in self._taken):
            raise ValueError(f"batch {strangers[0]!r} is not out for a flush; restore what take_for_flush gave")
        back = {arrival: self._taken.pop(arrival) for arrival in arrivals.values()}
        for batch in back.values():
            self._back(batch)
        self._waiting = dict(sorted((back | self._waiting).items()))

    def get_stats(self) -> BufferStats:
        """Of all that is held, also what is being written."""
        held = self._held()
        return BufferStats(
            batch_count=len(held),
            entry_count=self._entries,
            total_size_bytes=self._bytes,
            utilization=max(self._entries / self.config.max_buffer_entries, self._bytes / self.config.max_buffer_bytes),
            oldest_batch_time=held[0].received_ms if held else UNSET,
            newest_batch_time=held[-1].received_ms if held else UNSET,
        )

    def get_snapshot(self) -> BufferSnapshot:
        return BufferSnapshot(
            batches=self._held(),
            children=dict(self._children),
            stats=self.get_stats(),
            last_flush_ms=self._last_flush_ms,
        )

    def _check_room(self, entries: int, size_bytes: int) -> None:
        for name, held, more, most in (
            ("entries", self._entries, entries, self.config.max_buffer_entries),
            ("bytes", self._bytes, size_bytes, self.config.max_buffer_bytes),
        ):
            if held + more > most:
                raise BufferOverflowError(
                    f"the buffer holds {held} {name}, {more} more are beyond max_buffer_{name} ({most}); flush first"
                )

    def _hold(self, source: str, sequence: int, entries: tuple[WalEntry, ...], size_bytes: int, now_ms: int) -> None:
        self._heard(source, sequence, now_ms, entries=len(entries))
        self._arrivals += 1
        batch = BufferedBatch(
            batch_id=f"{source}-{sequence}-{now_ms}-{self._arrivals}",
            source_do_id=source,
            source_shard_name=self._children[source].source_shard_name,
            entries=entries,
            received_ms=now_ms,
            sequence_number=sequence,
            size_bytes=size_bytes,
        )
        self._arrival[batch.batch_id] = self._arrivals
        self._waiting[self._arrivals] = batch
        self._entries += len(entries)
        self._bytes += size_bytes

    def _heard(self, source: str, sequence: int, now_ms: int, *, entries: int) -> None:
        """A batch is answered with an ack, a repeat as well; without entries it brought nothing new."""
        known = self._children.get(source) or ChildConnectionState(
            source_do_id=source, connected_ms=now_ms, last_activity_ms=now_ms
        )
        self._note(
            replace(
                known,
                last_received_sequence=sequence,
                last_ack_sequence=sequence,
                last_activity_ms=now_ms,
                batches_received=known.batches_received + bool(entries),
                entries_received=known.entries_received + entries,
            )
        )

    def _note(self, child: ChildConnectionState) -> None:
        self._children[child.source_do_id] = child
        self._children.move_to_end(child.source_do_id)
        if len(self._children) > self._max_children:
            self._children.popitem(last=False)

    def _back(self, batch: BufferedBatch) -> None:
        """Not out for a flush any more."""
        self._taken_entries -= len(batch.entries)
        self._taken_bytes -= batch.size_bytes

    def _held(self) -> tuple[BufferedBatch, ...]:
        return tuple(batch for _, batch in sorted((self._taken | self._waiting).items()))
