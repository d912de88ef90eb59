"""What does a message cost on one core, an entry in it, and the child that sends it?

Questions
  1. How many entries a second does one core encode and decode in each payload, with 100 and 1000 entries in a batch?
  2. How much CPU does a child's process spend on 100 000 entries, and on what?

Method
  1. One thread, its CPU time, the best of seven runs of at least 20 ms. Documents of 8 keys and 180 bytes.
     encode   entries as Python values (dicts) become the frame that is sent
     pack     entries that are bytes already, as an outbox keeps them, become that frame; for Arrow: an Arrow table does
     check    what the parent does before its ack: the frame is read, every length and count checked, nothing copied
              that need not be (JSON and msgpack have to be taken apart, so theirs is a whole decode into columns)
     decode   the frame becomes entries as Python values again, each document a dict
     load     what the flush does with a checked payload: all fields of all entries as Arrow arrays, for Arrow also the
              typed columns of the documents, for the others still JSON text
  2. A LakehouseRpcClient with its outbox on a disk is given dicts, `send_many` by `send_many`, then drained; a parent
     in another process acks (benchmarks/acker.py). ms of CPU of all threads of the child's process, batches of 1000;
     "1 a call" is measured with 5000 entries.
     bytes    the dicts are checked and become JSON text
     append   they go into the outbox, with one fsync a call
     cut      they become a batch, with one fsync, and the payload to send
     unacked  the batch is read back from the outbox to be sent, or found not to be there yet
     ack      it is forgotten
     wire     what is left: the frame, the socket, the session, the event loop and its way to the threads

Last answer (2 cores of an AMD EPYC, shared; CPython 3.11)
  1. entries/s                 bytes      encode        pack       check      decode        load
  JSON, 100 a batch              275     495 589           -     816 366     396 730     478 406
  binary v1, 100 a batch         209     661 542   2 211 008   2 579 908     602 748     347 690
  columns, 100 a batch           203     665 378   2 315 126   5 084 900     682 659     486 500
  columns, zstd, 100 a batch      13     537 845   1 322 021   3 069 753     618 205     484 093
  msgpack, 100 a batch           173   2 663 563           -     259 322     190 747     479 052
  Arrow, 100 a batch             167     251 918   1 556 422   5 163 629     194 855     254 259
  JSON, 1000 a batch             278     497 017           -     766 202     380 311   3 783 443
  binary v1, 1000 a batch        212     647 291   2 532 541   3 263 940     593 257     962 922
  columns, 1000 a batch          206     663 610   2 705 811  10 810 815     717 824   3 819 298
  columns, zstd, 1000 a batch     11     619 885   2 073 734   9 302 406     709 290   3 801 248
  msgpack, 1000 a batch          178   3 148 482           -     256 645     192 737   3 504 760
  Arrow, 1000 a batch            158     312 593   6 259 490  12 624 041     276 903   1 958 229

  2. ms per 100 000 entries         whole    bytes   append      cut  unacked      ack     wire
  columns, 1000 a call               1811      378      517      367      267       66      217
  columns, 100 a call                2273      360      638      320      311       49      595
  columns, 1 a call                 50660      366    13688      320     3324       46    32916
  columns and zstd, 1000 a call      1751      390      517      312      284       64      183
  msgpack, 1000 a call               2043      391      557      771       17       80      228
  Arrow, 1000 a call                 2026      361      513      913       12       71      157

  In words: binary v1 is encoded from dicts at 0.65 M/s, from bytes at 2.2 M/s, checked at 2.6 M/s and becomes dicts
  again at 0.6 M/s, a quarter of which is msgspec reading the documents. Arrow that is Arrow already is framed at 6 M/s
  in batches of 1000 (1.6 M/s in batches of 100, where the fixed 40 us of a stream weigh) and checked at 5 to 12 M/s;
  a child that has to shred dicts first makes 0.3 M/s. A child spends 18 us an entry when it hands over 1000 at once
  and 0.5 ms when it hands over one, two
  thirds of it outside the outbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from benchmarks import child
from lakehouse.flush import entries as sheet
from lakehouse.flush.entries import StoredBatch
from rpc import arrow_payload, batch, columns, entries, msgpack_payload, protocol
from rpc.batch import BatchFrame, Encoding, Layout
from rpc.compression import Compression
from rpc.messages import CDCBatchMessage, WalEntry, WalOperation

RUNS, RUN_SECONDS = 7, 0.02
NOW_MS = 1_700_000_000_000


def main() -> None:
    print(f"{'':26}{'bytes':>8}{'encode':>12}{'pack':>12}{'check':>12}{'decode':>12}{'load':>12}")
    for count in (100, 1000):
        for name, steps in payloads(count).items():
            figures = "".join(f"{rate(step, count) if step else '-':>12}" for step in steps[1:])
            print(f"{name + f', {count} a batch':26}{len(steps[0]) // count:>8}{figures}", flush=True)
    print("\nms of a child's CPU per 100 000 entries")
    child.report([mapping(number) for number in range(1000)])


def payloads(count: int) -> dict[str, tuple[Any, ...]]:
    """A frame of each kind, and what to measure: encode, pack, check, decode, load."""
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


def mapping(number: int) -> dict[str, Any]:
    """The entry as an application writes it."""
    return {"operation": "INSERT", "table": "orders", "row_id": f"r{number}", "after": document(number)}


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
    """Entries a second of CPU time, the best of several runs."""
    best = 0.0
    for _ in range(RUNS):
        times, start = 0, time.process_time()
        while (seconds := time.process_time() - start) < RUN_SECONDS or not times:
            step()
            times += 1
        best = max(best, times * count / seconds)
    return f"{best:,.0f}".replace(",", " ")


if __name__ == "__main__":
    main()
