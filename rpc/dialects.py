"""JSON in: what a child may write, in the package's dialect or in its README's, and what a nack needs of the rest."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec
from msgspec import UNSET, UnsetType

from rpc import columns, entries
from rpc.batch import MESSAGE_BYTES_MAX, BatchFrame, Dialect, Encoding
from rpc.echo import echo_of
from rpc.entries import RawEntry
from rpc.errors import ProtocolError
from rpc.messages import RpcMessage, UInt, WalOperation, WireEntry

README_ENTRIES = 2**20
"""More entries than a message of 16 MiB can hold in JSON."""
README_SEQUENCES = 2**33


class JsonBatch(RpcMessage, frozen=True, kw_only=True):
    """What a JSON cdc_batch has in every dialect."""

    correlation_id: str | UnsetType = UNSET
    source_do_id: str
    source_shard_name: str | UnsetType = UNSET
    sequence_number: UInt
    is_retry: bool = False


class WireBatch(JsonBatch, tag="cdc_batch", frozen=True, kw_only=True):
    """A JSON cdc_batch as the parent reads it: values stay the bytes they came as."""

    entries: list[WireEntry]


class FilledBatch(WireBatch, frozen=True, kw_only=True):
    """A batch some of whose entries had no time and got that of the message, which changes with every retry."""

    untimed: frozenset[int] = frozenset()


class ReadmeEntry(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """The entry as the package's README writes it."""

    op: WalOperation
    table: str
    data: msgspec.Raw | UnsetType = UNSET
    lsn: UInt | UnsetType = UNSET
    row_id: str | UnsetType = UNSET
    timestamp: UInt | UnsetType = UNSET


class ReadmeBatch(JsonBatch, tag="cdc_batch", frozen=True, kw_only=True):
    entries: list[ReadmeEntry]


class RowKey(msgspec.Struct):
    id: msgspec.Raw | UnsetType = UNSET


_readme_json = msgspec.json.Decoder(ReadmeBatch)
_row_key_json = msgspec.json.Decoder(RowKey)
_text_json = msgspec.json.Decoder(str)


def read(data: str | bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The message that `decoder` makes of this text. Raises ProtocolError with what could be read all the same."""
    if (size := size_bytes(data, MESSAGE_BYTES_MAX)) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"message has {size} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
    try:
        return decoder.decode(data)
    except (msgspec.ValidationError, UnicodeError, RecursionError) as exc:
        return _read_readme(data, exc)
    except msgspec.DecodeError as exc:
        _refuse(data, ProtocolError(f"neither an EvoDB frame nor JSON: {exc}"))


def size_bytes(data: str | bytes, bound: int) -> int:
    """As UTF-8; of text that cannot be larger than `bound` the characters are counted, which costs nothing."""
    if isinstance(data, bytes) or data.isascii() or 4 * len(data) <= bound:
        return len(data)
    return len(data.encode("utf-8", "surrogatepass"))


def frame_of(batch: WireBatch) -> BatchFrame:
    """A JSON batch with its entries packed, so that behind this line there is one kind of batch. Raises
    ProtocolError.
    """
    try:
        raw = [entries.from_wire(entry) for entry in batch.entries]
        return packed(batch, raw, dialect=Dialect.RPC, identity=_identity(batch, raw))
    except ProtocolError as exc:
        exc.sequence_number, exc.correlation_id = batch.sequence_number, batch.correlation_id or None
        raise


def packed(batch: JsonBatch, raw: list[RawEntry], *, dialect: Dialect, identity: bytes | None = None) -> BatchFrame:
    """A batch with these entries in columns. Raises ProtocolError."""
    return BatchFrame(
        batch.timestamp,
        batch.correlation_id or None,
        batch.source_do_id,
        batch.source_shard_name or None,
        batch.sequence_number,
        batch.is_retry,
        Encoding.COLUMNS,
        columns.encode(raw),
        len(raw),
        {entry.table for entry in raw},
        [entry.sequence for entry in raw],
        identity,
        dialect,
    )


def _identity(batch: WireBatch, raw: list[RawEntry]) -> bytes | None:
    """The payload without the times that were filled in, if any were."""
    if not isinstance(batch, FilledBatch):
        return None
    return columns.encode(
        [entry._replace(timestamp_ms=0) if n in batch.untimed else entry for n, entry in enumerate(raw)]
    )


def _read_readme(data: str | bytes, first_error: Exception) -> WireBatch:
    """A batch in the README's dialect, or the error of the proper one."""
    try:
        batch = _readme_json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        _refuse(data, first_error)
    if batch.sequence_number >= README_SEQUENCES:
        _refuse(data, ProtocolError(f"sequenceNumber is {batch.sequence_number}, wanted less than {README_SEQUENCES}"))
    return FilledBatch(
        timestamp=batch.timestamp,
        correlation_id=batch.correlation_id,
        source_do_id=batch.source_do_id,
        source_shard_name=batch.source_shard_name,
        entries=[_from_readme(entry, index, batch) for index, entry in enumerate(batch.entries)],
        sequence_number=batch.sequence_number,
        is_retry=batch.is_retry,
        untimed=frozenset(index for index, entry in enumerate(batch.entries) if entry.timestamp is UNSET),
    )


def _from_readme(entry: ReadmeEntry, index: int, batch: ReadmeBatch) -> WireEntry:
    """What the README leaves out is filled in: a sequence of the batch's own, so that no two batches share one."""
    delete = entry.op is WalOperation.DELETE
    return WireEntry(
        sequence=batch.sequence_number * README_ENTRIES + index if entry.lsn is UNSET else entry.lsn,
        timestamp=batch.timestamp if entry.timestamp is UNSET else entry.timestamp,
        operation=entry.op,
        table=entry.table,
        row_id=_row_id(entry.data) if entry.row_id is UNSET else entry.row_id,
        before=entry.data if delete else UNSET,
        after=UNSET if delete else entry.data,
    )


def _row_id(data: msgspec.Raw | UnsetType) -> str:
    if data is UNSET:
        return ""
    try:
        key = _row_key_json.decode(data).id
        if key is UNSET:
            return ""
        return str(_text_json.decode(key)) if bytes(key)[:1] == b'"' else bytes(key).decode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""


def _refuse(data: str | bytes, error: Exception) -> NoReturn:
    echo = echo_of(data)
    text = str(error)
    if "missing required field `type`" in text:
        text = "Invalid JSON message: missing type field"
    raise ProtocolError(text, sequence_number=echo.sequence_number, correlation_id=echo.correlation_id) from None
