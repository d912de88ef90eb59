"""print golden bytes of the wire, made by this encoder

    evodb vector                       the names there are
    evodb vector batch_min_corr        its bytes in hex, or its JSON text

For whoever writes another client: the names are those of tests/vectors/rpc_wire.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from rpc.commands import endings
from rpc.commands import options as given
from rpc.commands.endings import UsageError
from rpc.frames import encode_batch, encode_frame
from rpc.messages import (
    AckMessage,
    AckStatus,
    AnyRpcMessage,
    CDCBatchMessage,
    FlushReason,
    FlushRequestMessage,
    HeartbeatMessage,
    NackMessage,
    NackReason,
    WalEntry,
    WalOperation,
)
from rpc.protocol import encode_message

MOMENT_MS = 1_700_000_000_000

Change = tuple[str, dict[str, Any] | None, dict[str, Any] | None]
"""Operation, before, after; None is absent."""

ALICE, BOB = {"id": 1, "name": "Alice"}, {"id": 1, "name": "Bob"}
EVENT = {
    "type": "cdc_event", "operation": "INSERT", "table": "users", "rowId": "user-1", "timestamp": MOMENT_MS,
    "sequence": 1, "after": {"id": "user-1", "name": "Alice"},
}  # fmt: skip


def command(argv: list[str]) -> int:
    made = given.parser("vector", __doc__)
    made.add_argument("name", nargs="?", help="one of those that are listed without a name")
    return endings.ended(made, run, argv)


def run(options: argparse.Namespace) -> int:
    if options.name is None:
        lines = [json.dumps({"event": "vector", "name": name}) if options.json else name for name in VECTORS]
        sys.stdout.write("\n".join(lines) + "\n")
        return endings.OK
    if options.name not in VECTORS:
        raise UsageError(f"there is no vector {options.name!r}; type one of {', '.join(VECTORS)}")
    data = VECTORS[options.name]()
    shown = data.hex() if isinstance(data, bytes) else data
    if options.json:
        size_bytes = len(data if isinstance(data, bytes) else data.encode())
        form = "hex" if isinstance(data, bytes) else "text"
        shown = json.dumps({"event": "vector", "name": options.name, form: shown, "length": size_bytes})
    sys.stdout.write(shown + "\n")
    return endings.OK


def batch(*changes: Change, correlation_id: str | None = "corr-1", is_retry: bool = False) -> CDCBatchMessage:
    entries = [
        WalEntry(
            sequence=number,
            timestamp=MOMENT_MS + number - 1,
            operation=WalOperation(operation),
            table="users",
            row_id="r1",
            **{name: row for name, row in (("before", before), ("after", after)) if row is not None},
        )
        for number, (operation, before, after) in enumerate(changes, 1)
    ]
    named = {} if correlation_id is None else {"correlation_id": correlation_id}
    return CDCBatchMessage(
        timestamp=MOMENT_MS,
        source_do_id="shard-001",
        entries=entries,
        sequence_number=1,
        first_entry_sequence=min(1, len(entries)),
        last_entry_sequence=len(entries),
        size_bytes=128,
        is_retry=is_retry,
        retry_count=0,
        **named,
    )


def nack(reason: NackReason, *, correlation_id: str | None = None) -> NackMessage:
    named = {} if correlation_id is None else {"correlation_id": correlation_id}
    return NackMessage(
        timestamp=MOMENT_MS,
        sequence_number=7,
        reason=reason,
        error_message="Parent buffer is full",
        should_retry=True,
        retry_delay_ms=5000,
        **named,
    )


def ack(status: AckStatus) -> AckMessage:
    return AckMessage(timestamp=MOMENT_MS, correlation_id="corr-1", sequence_number=7, status=status)


def heartbeat() -> HeartbeatMessage:
    return HeartbeatMessage(timestamp=MOMENT_MS, source_do_id="shard-001", last_ack_sequence=42, pending_entries=10)


def flush_request() -> FlushRequestMessage:
    return FlushRequestMessage(timestamp=MOMENT_MS, source_do_id="shard-001", reason=FlushReason.MANUAL)


def _encoded(message: AnyRpcMessage) -> Callable[[], str | bytes]:
    return lambda: encode_message(message)


VECTORS: dict[str, Callable[[], str | bytes]] = {
    "batch_min_nocorr": _encoded(batch(("INSERT", None, ALICE), correlation_id=None)),
    "batch_min_corr": _encoded(batch(("INSERT", None, ALICE))),
    "batch_empty_entries_corr": _encoded(batch()),
    "batch_retry_flag": _encoded(batch(("INSERT", None, ALICE), is_retry=True)),
    "entry_update_before_after": _encoded(batch(("UPDATE", ALICE, {"id": 1, "name": "Alice Smith"}))),
    "entry_delete_before_only": _encoded(batch(("DELETE", ALICE, None))),
    "entry_no_before_no_after": _encoded(batch(("INSERT", None, None))),
    "three_ops": _encoded(batch(("INSERT", None, ALICE), ("UPDATE", ALICE, BOB), ("DELETE", BOB, None))),
    "dec_ack_ok": _encoded(ack(AckStatus.OK)),
    "dec_ack_duplicate": _encoded(ack(AckStatus.DUPLICATE)),
    "nack_buffer_full": _encoded(nack(NackReason.BUFFER_FULL)),
    "nack_rate_limited": _encoded(nack(NackReason.RATE_LIMITED)),
    "heartbeat": _encoded(heartbeat()),
    "flush_request_manual": _encoded(flush_request()),
    "frame_insert": lambda: encode_frame(EVENT),
    "framebatch_one": lambda: encode_batch([EVENT]),
}
"""Each name as in the file of golden bytes; `dec_...` are what a parent answers."""
