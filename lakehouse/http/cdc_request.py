"""The body of POST /cdc: which events, of which child, and the number by which a retry of them is known. Pure.

The events are those of `rpc.dolake`, with its limits and its words for what is wrong with them. A request is stored
whole or not at all, under one number of its child: its own `sequenceNumber`, one made of its `Idempotency-Key`, or one
by chance. So what an earlier request holds never takes an event out of this one, however alike they are.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from lakehouse.journal.dedup import BY_CHANCE, BY_KEY, REQUESTS, number_of
from rpc.batch import BatchFrame
from rpc.dolake import limits as sizes
from rpc.dolake import reading
from rpc.dolake.complaints import complaint, complaints
from rpc.dolake.limits import WireLimits
from rpc.dolake.reading import DolakeBatch, Event, Name
from rpc.dolake.refusals import NotTaken, Reason, Refusal
from rpc.echo import Echo
from rpc.messages import UInt
from rpc.names import NAME_CHARS_MAX, is_name
from rpc.surrogates import mended

EPOCH = REQUESTS
"""Of all that comes over HTTP; a socket never has it."""
KEY_CHARS_MAX = 255


class CdcBody(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    events: list[Event]
    source_do_id: Name | UnsetType = UNSET
    source_shard_name: str | UnsetType = UNSET
    sequence_number: UInt | UnsetType = UNSET


_json = msgspec.json.Decoder(CdcBody)


def read(data: bytes) -> tuple[CdcBody, bytes]:
    """The body, and the text that it was read from. Raises NotTaken, naming every field that is wrong."""
    try:
        return _json.decode(data), data
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        whole = mended(data)
    return _read(whole), whole


def _read(data: bytes) -> CdcBody:
    try:
        return _json.decode(data)
    except msgspec.ValidationError as exc:
        text = "; ".join(complaints(data, CdcBody) or [complaint(exc)])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        text = f"message: not JSON: {exc}" if data else "message: the body is empty"
    raise not_taken(text)


def frame(
    body: CdcBody, data: bytes, *, child: str, shard: str | None, sequence: int, limits: WireLimits, now_ms: int
) -> BatchFrame:
    """The request as the journal takes it. Raises NotTaken."""
    for field, name in (("sourceDoId", child), ("sourceShardName", shard)):
        if name is not None and not is_name(name):
            raise not_taken(f"{field}: is {name[:100]!r}, wanted 1 to {NAME_CHARS_MAX} printable characters")
    batch = DolakeBatch(
        timestamp=now_ms,
        source_do_id=child,
        source_shard_name=shard or UNSET,
        sequence_number=sequence,
        events=body.events,
    )
    return reading.frame_of(batch, data, limits)


def sequence_of(body: CdcBody, key: str | None, *, number: int) -> int:
    """The number of this request. `number` is one of NUMBER_BITS by chance. Raises NotTaken for a key that is none."""
    if body.sequence_number is not UNSET:
        return body.sequence_number
    if key is None:
        return BY_CHANCE + number
    if not key.strip() or len(key) > KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
        raise not_taken(f"Idempotency-Key: is {key[:60]!r}, wanted 1 to {KEY_CHARS_MAX} printable ASCII characters")
    return BY_KEY + number_of(key)


def too_large(size: int, limits: WireLimits) -> NotTaken:
    return sizes.payload_too_large(size, limits, Echo())


def not_taken(text: str) -> NotTaken:
    return NotTaken(Refusal(Reason.INVALID_FORMAT, text), Echo())
