"""What does a message cost on one core, and an entry in it?

Question
  How many entries a second does one core encode and decode in each payload, with 100 and 1000 entries in a batch?

Method
  One thread, the best of seven runs, each of at least 20 ms. Entries with documents of 8 keys and 180 bytes.
  encode   entries as Python values (dicts) become the frame that is sent
  pack     entries that are bytes already, as an outbox keeps them, become that frame; for Arrow: an Arrow table does
  check    what the parent does before its ack: the frame is read, every length and count checked, nothing copied
           that need not be (JSON and msgpack have to be taken apart, so theirs is a whole decode into columns)
  values   the frame becomes entries as Python values again, each document a dict
  load     what the flush does with a checked payload: all fields of all entries as Arrow arrays, for Arrow also the
           typed columns of the documents, for the others still JSON text

Last answer (2 cores of an AMD EPYC, shared; CPython 3.11), entries/s
                               bytes      encode        pack       check      values        load
  JSON, 100 a batch              275     490 795           -     762 484     307 270     494 790
  binary v1, 100 a batch         209     615 206   2 210 240   1 868 757     394 039     352 070
  columns, 100 a batch           203     608 171   2 294 834   5 210 930     476 154     491 363
  columns, zstd, 100 a batch      13     510 181   1 355 068   3 144 947     443 715     495 235
  msgpack, 100 a batch           173   2 780 492           -     259 925     169 727     491 841
  Arrow, 100 a batch             167     247 623   1 623 957   5 303 848     194 571     275 491
  JSON, 1000 a batch             278     502 836           -     711 129     291 078   3 885 286
  binary v1, 1000 a batch        212     619 433   2 488 489   2 135 807     382 467     968 543
  columns, 1000 a batch          206     618 793   2 715 680  10 976 690     478 229   3 885 498
  columns, zstd, 1000 a batch      11     577 183   2 068 766   9 397 742     470 500   3 880 315
  msgpack, 1000 a batch          178   3 151 289           -     258 101     167 760   3 875 172
  Arrow, 1000 a batch            158     317 933   6 405 630  12 596 268     270 845   1 956 554

  In words: binary v1 is encoded from dicts at 0.6 M/s, from bytes at 2.2 M/s, checked at 1.9 M/s and becomes dicts
  again at 0.4 M/s. Arrow that is Arrow already is framed at 6 M/s in batches of 1000 (1.6 M/s in batches of 100, where
  the fixed 40 us of a stream weigh) and checked at 5 to 12 M/s; a child that has to shred dicts first makes 0.3 M/s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from lakehouse.flush import entries as sheet
from lakehouse.flush.entries import StoredBatch
from rpc import arrow_payload, batch, columns, entries, msgpack_payload, protocol
from rpc.batch import BatchFrame, Encoding, Layout
from rpc.compression import Compression
from rpc.messages import CDCBatchMessage, WalEntry, WalOperation

RUNS, RUN_SECONDS = 7, 0.02
NOW_MS = 1_700_000_000_000


def main() -> None:
    print(f"{'':26}{'bytes':>8}{'encode':>12}{'pack':>12}{'check':>12}{'values':>12}{'load':>12}")
    for count in (100, 1000):
        for name, steps in payloads(count).items():
            figures = "".join(f"{rate(step, count) if step else '-':>12}" for step in steps[1:])
            print(f"{name + f', {count} a batch':26}{len(steps[0]) // count:>8}{figures}", flush=True)


def payloads(count: int) -> dict[str, tuple[Any, ...]]:
    """A frame of each kind, and what to measure: encode, pack, check, values, load."""
    wal = [entry(number) for number in range(count)]
    raw = [entries.from_wal(one) for one in wal]
    message = CDCBatchMessage(timestamp=NOW_MS, source_do_id="shop-1", entries=wal, sequence_number=1)
    table = pa.table({key: [document(number)[key] for number in range(count)] for key in document(0)})
    ids = pa.array([one.row_id for one in wal])

    def of_table() -> bytes:
        return arrow_payload.of_table(table, ids, table="orders", first_sequence=0, timestamp_ms=NOW_MS)

    def framed(payload: bytes, encoding: Encoding | Layout, *, small: bool = False) -> bytes:
        return batch.encode(
            payload, encoding=encoding, entry_count=count, source="shop-1", sequence=1, timestamp_ms=NOW_MS,
            strict_crc=True, compress_with=Compression.ZSTD if small else Compression.NONE,
        )  # fmt: skip

    def dumped() -> list[entries.RawEntry]:
        return [entries.from_wal(one) for one in wal]

    made: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
        "JSON": (lambda: protocol.encode_message(message, binary=False), None),
        "binary v1": (
            lambda: protocol.encode_message(message),
            lambda: framed(entries.payload_of(raw)[0], Encoding.BINARY),
        ),
        "columns": (
            lambda: framed(columns.encode(dumped()), Encoding.COLUMNS),
            lambda: framed(columns.encode(raw), Encoding.COLUMNS),
        ),
        "columns, zstd": (
            lambda: framed(columns.encode(dumped()), Encoding.COLUMNS, small=True),
            lambda: framed(columns.encode(raw), Encoding.COLUMNS, small=True),
        ),
        "msgpack": (lambda: framed(msgpack_payload.encode(wal), Layout.MSGPACK), None),
        "Arrow": (
            lambda: framed(arrow_payload.encode(wal), Encoding.COLUMNS),
            lambda: framed(of_table(), Encoding.COLUMNS),
        ),
    }
    return {name: (encode(), encode, pack, *reading(encode())) for name, (encode, pack) in made.items()}


def reading(frame: str | bytes) -> tuple[Callable[[], Any], ...]:
    read = protocol.read(frame, documents=True)
    assert isinstance(read, BatchFrame)
    stored = StoredBatch(1, "shop-1", "", 1, 1, NOW_MS, read.encoding, read.payload)
    return (
        lambda: protocol.read(frame, documents=True),
        lambda: protocol.decode_message(frame),
        lambda: sheet.read([stored]),
    )


def entry(number: int) -> WalEntry:
    return WalEntry(
        sequence=number, timestamp=NOW_MS, operation=WalOperation.INSERT, table="orders", row_id=f"r{number}",
        after=document(number),
    )  # fmt: skip


def document(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "item": "tea and biscuits",
        "total": 4.5 + number,
        "paid": number % 2 == 0,
        "customer": f"c-{number % 97}",
        "note": "x" * 40,
        "at": "2024-01-01T00:00:00Z",
        "quantity": number * 7,
    }


def rate(step: Callable[[], Any], count: int) -> str:
    """Entries a second, the best of several runs."""
    best = 0.0
    for _ in range(RUNS):
        times, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < RUN_SECONDS or not times:
            step()
            times += 1
        best = max(best, times * count / seconds)
    return f"{best:,.0f}".replace(",", " ")


if __name__ == "__main__":
    main()
