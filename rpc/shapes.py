"""A cut batch in the payload that its parent takes.

The outbox cuts columns. Any other payload is made of them once and kept, since a retry has to be the same bytes even
when the library that made them is another version by then. What does not fit the other payload stays columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from rpc import arrow_payload, msgpack_payload
from rpc.errors import ProtocolError
from rpc.negotiation import FALLBACK, PayloadEncoding

__all__ = ["Shape", "Shaped", "shape_of"]


class Shaped(NamedTuple):
    encoding: PayloadEncoding
    payload: bytes


Shape = Callable[[bytes], Shaped]
"""From a columnar payload."""


def shape_of(encoding: PayloadEncoding) -> Shape | None:
    """How to make payloads of this encoding; None for the one the outbox makes anyway."""
    make = _MAKERS.get(encoding)
    if make is None:
        return None

    def shape(payload: bytes) -> Shaped:
        try:
            return Shaped(encoding, make(payload))
        except ProtocolError:
            return Shaped(FALLBACK, payload)

    return shape


_MAKERS: Mapping[PayloadEncoding, Callable[[bytes], bytes]] = {
    PayloadEncoding.MSGPACK: msgpack_payload.from_columns,
    PayloadEncoding.ARROW: arrow_payload.from_columns,
}
