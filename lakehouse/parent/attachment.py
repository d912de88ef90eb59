"""What a sleeping connection remembers: at most 2048 bytes, enough to go on as if it had never slept.

Everything else is in the database. Behind a proxy that holds the sockets it travels with every request.
"""

from __future__ import annotations

import msgspec

BYTES_MAX = 2048


class Attachment(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One connection. Names are only here while no row has them: a child that has not said who it is."""

    parent_id: int
    key_id: int | None
    child_id: int | None = None
    epoch: int | None = None
    own_epoch: bool = False
    source: str | None = None
    shard: str | None = None
    dialect: str
    binary_replies: bool = False
    encodings: list[str] | None = None
    compressions: list[str] | None = None
    allowance: bytes
    """What is left of its tokens (limits.allowance)."""
    checked_ms: int
    """When its key was looked up last."""

    def pack(self) -> bytes | None:
        """The bytes, or None when they would be too many; then the connection stays awake."""
        packed = _encode(self)
        return packed if len(packed) <= BYTES_MAX else None

    @classmethod
    def unpack(cls, packed: bytes) -> Attachment:
        """What `pack` made. Raises ValueError for anything else."""
        try:
            return _decode(packed)
        except msgspec.MsgspecError as exc:
            raise ValueError(f"{len(packed)} bytes are no attachment: {exc}") from None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Attachment).decode
