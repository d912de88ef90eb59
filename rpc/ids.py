"""Names for what travels: of a batch, and of a question that waits for its answer."""

from __future__ import annotations

import secrets

__all__ = ["generate_batch_id", "generate_correlation_id"]


def generate_batch_id(source_do_id: str, sequence_number: int, timestamp_ms: int) -> str:
    """The same for the same batch, so that a retry keeps its name."""
    return f"{source_do_id}-{sequence_number}-{timestamp_ms}"


def generate_correlation_id() -> str:
    """96 bits of chance as 24 hexadecimal digits; two in a billion connections do not meet."""
    return secrets.token_hex(12)
