"""What both sides of a connection can speak beyond version 1, and what they settle on. Pure.

A child says in `connect` which payloads it could send, in the order it would like to; the parent answers in `status`
with those of them it takes. A child that offers nothing is told nothing, so old children never see the fields; a child
that is told nothing sends what every parent takes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from importlib.util import find_spec
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from rpc import compression
from rpc.batch import Encoding, Layout
from rpc.compression import Compression
from rpc.messages import ClientCapabilities, StatusMessage

__all__ = ["Accepted", "PayloadEncoding", "Terms", "accept", "choose", "offers", "settle", "takes_documents"]


class PayloadEncoding(StrEnum):
    """How a child may lay out the payload of a batch."""

    BINARY = "binary"
    """Version 1, in rows."""
    COLUMNS = "columns"
    MSGPACK = "msgpack"
    ARROW = "arrow"
    """Columns whose documents are an Arrow IPC stream."""


ALWAYS_TAKEN = frozenset({PayloadEncoding.BINARY, PayloadEncoding.COLUMNS})
"""What needs no negotiation."""
FALLBACK = PayloadEncoding.COLUMNS
LAYOUTS: Mapping[PayloadEncoding, Encoding | Layout] = {
    PayloadEncoding.BINARY: Encoding.BINARY,
    PayloadEncoding.COLUMNS: Encoding.COLUMNS,
    PayloadEncoding.MSGPACK: Layout.MSGPACK,
    PayloadEncoding.ARROW: Encoding.COLUMNS,
}
"""How a frame announces each."""


class Accepted(NamedTuple):
    """The parent's answer, as the fields of `status`; UNSET to a child that offered nothing."""

    encodings: list[str] | UnsetType
    compressions: list[str] | UnsetType


class Terms(NamedTuple):
    """What a child sends on this connection."""

    encoding: PayloadEncoding
    compression: Compression


def offers(*, wanted: Sequence[PayloadEncoding] = (FALLBACK,)) -> tuple[list[str], list[str]]:
    """The encodings and compressions for `connect`: of the wanted ones what this installation has the libraries for."""
    has_arrow = find_spec("pyarrow") is not None
    encodings = [one.value for one in wanted if one is not PayloadEncoding.ARROW or has_arrow]
    return encodings, [Compression.ZSTD.value] if compression.is_available() else []


def accept(capabilities: ClientCapabilities, *, has_epoch: bool, takes_arrow: bool = True) -> Accepted:
    """What the parent takes of a child's offers.

    Arrow is for children that keep an epoch: elsewhere an entry is recognised by its bytes, which a typed document
    does not have one by one.
    """
    refused = set() if has_epoch and takes_arrow else {PayloadEncoding.ARROW}
    compressions = {Compression.NONE} | ({Compression.ZSTD} if compression.is_available() else set())
    return Accepted(
        _common(capabilities.encodings, set(PayloadEncoding) - refused),
        _common(capabilities.compressions, compressions),
    )


def takes_documents(accepted: Accepted) -> bool:
    """Whether batches of this connection may bring Arrow documents; `documents` of `rpc.protocol.read`."""
    return accepted.encodings is not UNSET and PayloadEncoding.ARROW in accepted.encodings


def choose(offered: Sequence[str], accepted: Collection[str] | UnsetType) -> PayloadEncoding:
    """The first of the child's encodings that the parent takes."""
    taken = ALWAYS_TAKEN if accepted is UNSET else ALWAYS_TAKEN | set(accepted)
    return next((PayloadEncoding(one) for one in offered if one in taken and one in set(PayloadEncoding)), FALLBACK)


def settle(capabilities: ClientCapabilities, status: StatusMessage) -> Terms:
    """What a child with these capabilities sends after this `status`."""
    zstd = _both(capabilities.compressions, status.compressions, Compression.ZSTD)
    offered = [] if capabilities.encodings is UNSET else capabilities.encodings
    return Terms(choose(offered, status.encodings), Compression.ZSTD if zstd else Compression.NONE)


def taken(status: StatusMessage) -> set[PayloadEncoding]:
    """The encodings this `status` takes of those that were offered; names nobody knows are none."""
    told = [] if status.encodings is UNSET else status.encodings
    return {PayloadEncoding(one) for one in told if one in set(PayloadEncoding)}


def _common(offered: list[str] | UnsetType, taken: Collection[str]) -> list[str] | UnsetType:
    return UNSET if offered is UNSET else [one for one in dict.fromkeys(offered) if one in taken]


def _both(offered: list[str] | UnsetType, accepted: list[str] | UnsetType, name: str) -> bool:
    return offered is not UNSET and accepted is not UNSET and name in offered and name in accepted
