"""What a client tells about itself: as stats, as the integration guide's status, as Prometheus lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from rpc.ledger import Ledger
from rpc.outbox import Outbox
from rpc.outcome import ClientState, ClientStats


class Status(TypedDict):
    """As the integration guide has it."""

    connected: bool
    last_ack_sequence: int
    pending_batches: int
    retry_queue_length: int
    buffer_size: int


def stats(ledger: Ledger, outbox: Outbox, attempts: int, failure: Exception | None) -> ClientStats:
    tally = ledger.tally
    return ClientStats(
        state=ledger.state,
        last_sequence=outbox.last_sequence,
        last_ack_sequence=tally.last_ack,
        pending_batches=outbox.pending_batches,
        batch_buffer_size=outbox.uncut_entries(),
        batch_buffer_bytes=outbox.pending_bytes,
        reconnect_attempts=0 if ledger.state is ClientState.CONNECTED else attempts,
        reconnects=max(0, tally.welcomes - 1),
        messages_sent=tally.messages,
        bytes_sent=tally.size_bytes,
        acked_batches=tally.acked,
        duplicates=tally.duplicates,
        refused_batches=tally.refused,
        retried_batches=ledger.retried,
        dropped_entries=outbox.dropped_entries,
        last_ack_lsn=outbox.last_ack_lsn,
        is_paused=ledger.is_paused,
        utilization=ledger.level,
        error=None if failure is None else f"{type(failure).__name__}: {failure}",
    )


def status(of: ClientStats) -> Status:
    return Status(
        connected=of.connected,
        last_ack_sequence=of.last_ack_sequence,
        pending_batches=of.pending_batches,
        retry_queue_length=of.retried_batches,
        buffer_size=of.batch_buffer_size,
    )


def metrics_text(of: ClientStats) -> str:
    """One gauge or counter after the other, in Prometheus' text format."""
    return "\n".join(line for row in _rows(of) for line in _lines(*row)) + "\n"


def _rows(of: ClientStats) -> Iterator[tuple[str, str, str, float]]:
    yield "dosql_dolake_connected", "gauge", "Whether the parent knows this child now", of.connected
    yield "dosql_cdc_buffer_size", "gauge", "Entries that are in no batch yet", of.batch_buffer_size
    yield "dosql_pending_acks", "gauge", "Batches without an ack", of.pending_batches
    yield "dosql_retry_queue_length", "gauge", "Batches that were sent more than once and wait", of.retried_batches
    yield "evodb_child_outbox_bytes", "gauge", "Bytes the outbox holds", of.batch_buffer_bytes
    yield "evodb_child_utilization", "gauge", "The fullest of window, outbox and parent, 0 to 1", of.utilization
    yield "evodb_child_paused", "gauge", "Whether the parent's buffer is full", of.is_paused
    yield "evodb_child_last_ack_sequence", "gauge", "The last batch that is durable at the parent", of.last_ack_sequence
    yield "evodb_child_messages_sent_total", "counter", "Batches sent, again ones included", of.messages_sent
    yield "evodb_child_sent_bytes_total", "counter", "Their bytes", of.bytes_sent
    yield "evodb_child_acked_batches_total", "counter", "Batches acknowledged", of.acked_batches
    yield "evodb_child_duplicates_total", "counter", "Batches the parent had already", of.duplicates
    yield "evodb_child_refused_batches_total", "counter", "Nacks heard", of.refused_batches
    yield "evodb_child_dropped_entries_total", "counter", "Entries given up for want of room", of.dropped_entries
    yield "evodb_child_reconnects_total", "counter", "Connections after the first", of.reconnects


def _lines(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    yield f"{name} {float(value):g}" if isinstance(value, float) else f"{name} {int(value)}"
