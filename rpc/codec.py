"""One object that speaks the protocol, for code that hands a codec around; the functions are in `rpc.protocol`."""

from __future__ import annotations

from dataclasses import dataclass

from rpc import protocol
from rpc.errors import ProtocolError
from rpc.messages import AnyRpcMessage
from rpc.protocol import ClientFrame

__all__ = ["ProtocolCodec", "get_codec"]


@dataclass(frozen=True, slots=True)
class ProtocolCodec:
    """Encodes in the binary layout where there is one, or with `binary` False always as JSON text.

    `documents`: frames that are read may bring Arrow documents, which both sides have to agree on.
    """

    binary: bool = True
    documents: bool = False

    def encode(self, message: AnyRpcMessage) -> str | bytes:
        """Raises ProtocolError for a message that does not fit the wire."""
        return protocol.encode_message(message, binary=self.binary)

    def decode(self, data: str | bytes) -> AnyRpcMessage:
        """Any message of either side, entries as values. Raises ProtocolError, whatever the bytes are."""
        return protocol.decode_message(data)

    def read(self, frame: str | bytes) -> ClientFrame:
        """A frame of a child, a batch as checked bytes. Raises ProtocolError, whatever the bytes are."""
        return protocol.read(frame, documents=self.documents)

    def is_valid(self, data: str | bytes) -> bool:
        try:
            self.decode(data)
        except ProtocolError:
            return False
        return True


_SHARED = ProtocolCodec()


def get_codec() -> ProtocolCodec:
    """The codec with default options; it has no state, so one serves all."""
    return _SHARED
