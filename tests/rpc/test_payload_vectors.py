"""The golden frames of the payloads beyond version 1 keep their meaning, and where that is promised their bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rpc import batch, columns, entries, msgpack_payload
from rpc.batch import Encoding, Flag, Layout
from rpc.messages import UNSET, CDCBatchMessage, WalEntry, WalOperation
from rpc.protocol import decode_message

BATCHES = json.loads((Path(__file__).parent.parent / "vectors" / "payloads.json").read_text())["batches"]
NAMED = {"compressed": Flag.COMPRESSED, "metadata": Flag.METADATA, "columns": Flag.COLUMNS, "msgpack": Flag.MSGPACK}


def wal(row: dict[str, Any]) -> WalEntry:
    given = {key: row[key] for key in ("sequence", "timestamp", "table")}
    texts = {key: row.get(key, UNSET) for key in ("before", "after", "metadata")}
    return WalEntry(operation=WalOperation(row["operation"]), row_id=row["rowId"], **given, **texts)


@pytest.mark.parametrize("row", BATCHES, ids=[row["name"] for row in BATCHES])
def test_a_golden_frame_holds_its_entries(row: dict[str, Any]) -> None:
    data = bytes.fromhex(row["hex"])
    found = decode_message(data)
    assert isinstance(found, CDCBatchMessage)
    assert found.entries == [wal(entry) for entry in row["entries"]]
    assert (found.source_do_id, found.correlation_id, found.sequence_number) == ("shop-1", "c-7", 7)
    assert data[4] == sum(NAMED[name] for name in row["flags"]) | Flag.CORRELATION | Flag.STRICT_CRC


@pytest.mark.parametrize("row", [row for row in BATCHES if "decode_only" not in row], ids=lambda row: row["name"])
def test_the_entries_become_the_golden_frame(row: dict[str, Any]) -> None:
    whole = [wal(entry) for entry in row["entries"]]
    raw = [entries.from_wal(entry) for entry in whole]
    encoding, payload = {
        "columns": (Encoding.COLUMNS, columns.encode(raw)),
        "binary with metadata": (Encoding.BINARY_METADATA, entries.payload_of(raw)[0]),
        "msgpack": (Layout.MSGPACK, msgpack_payload.encode(whole)),
    }[row["name"]]
    made = batch.encode(
        payload, encoding=encoding, entry_count=len(whole), source="shop-1", sequence=7,
        timestamp_ms=1_700_000_000_003, strict_crc=True, correlation_id="c-7",
    )  # fmt: skip
    assert made.hex() == row["hex"]
