"""daphne's permessage-deflate: declined, or accepted and bounded.

daphne 4.2 has no option for it and autobahn below it declines what a child offers; here that is decided and not left to
chance. autobahn 26 stops inflating where a message is larger than a frame may be, but with `failByDrop` off it reads
on until the child has said goodbye, and inflates as much of every further piece, 64 KiB of which may become 64 MiB.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from autobahn.exception import PayloadExceededError
from autobahn.websocket.compress import PERMESSAGE_COMPRESSION_EXTENSION
from autobahn.websocket.compress_deflate import PerMessageDeflate, PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from daphne.ws_protocol import WebSocketProtocol

WINDOW_BITS, MEMORY_LEVEL = 10, 1
"""For what we say, which is short and much like what was said before: 7 KiB a socket, where zlib's own grow to 256."""


def mend(*, inflated_bytes_max: int) -> None:
    """Harmless when it is done twice. No message has more bytes when it is inflated; 0 declines every offer."""
    WebSocketProtocol.perMessageCompressionAccept = staticmethod(partial(answer, bytes_max=inflated_bytes_max))
    PERMESSAGE_COMPRESSION_EXTENSION[Deflate.EXTENSION_NAME]["PMCE"] = Deflate


def answer(offers: list[Any], *, bytes_max: int) -> PerMessageDeflateOfferAccept | None:
    """What a child hears that offers these, the one it likes best first; None is a no."""
    offer = next((one for one in offers if isinstance(one, PerMessageDeflateOffer)), None)
    if offer is None or not bytes_max:
        return None
    bits = min(offer.request_max_window_bits or WINDOW_BITS, WINDOW_BITS)
    return PerMessageDeflateOfferAccept(  # type: ignore[no-untyped-call]
        offer, window_bits=bits, mem_level=MEMORY_LEVEL, max_message_size=bytes_max
    )


class Deflate(PerMessageDeflate):
    """Of one connection. After a message that is too large nothing is inflated any more."""

    _is_over = False

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> Any:
        """Raises PayloadExceededError."""
        if self._is_over:
            raise PayloadExceededError("a message was too large")
        try:
            return super().decompress_message_data(data, max_output_len)  # type: ignore[no-untyped-call]
        except PayloadExceededError:
            self._is_over = True
            raise

    def end_decompress_message(self) -> None:
        if not self._is_over:
            super().end_decompress_message()  # type: ignore[no-untyped-call]
