"""How a child and a parent behave when nothing else is said; the tables of docs/settings.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

__all__ = [
    "DEFAULT_CHILD_CONFIG",
    "DEFAULT_PARENT_CONFIG",
    "ChildConfig",
    "ParentConfig",
]

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildConfig:
    max_batch_size: int = 1000
    """Entries of one batch."""
    max_batch_bytes: int = 4 * MIB
    batch_timeout_ms: int = 1000
    """A batch that does not fill up leaves after this."""
    max_retries: int = 3
    initial_retry_delay_ms: int = 100
    max_retry_delay_ms: int = 10_000
    backoff_multiplier: float = 2.0
    auto_reconnect: bool = True
    max_reconnect_attempts: int = 10
    """Attempts in a row without a connection before `connect` and `drain` give up; 0 is for ever."""
    heartbeat_interval_ms: int = 30_000
    heartbeat_timeout_ms: int = 10_000
    handshake_timeout_ms: int = 10_000
    ack_timeout_ms: int = 30_000
    max_pending_batches: int = 100
    """Batches on the wire without an ack."""
    capture_poll_interval_ms: int = 200
    """A captured database is looked at so often for what other programs wrote."""
    outbox_bytes_max: int = 1024 * MIB

    def __post_init__(self) -> None:
        _positive(self, "max_batch_size", "max_batch_bytes", "initial_retry_delay_ms", "max_pending_batches")
        _positive(self, "handshake_timeout_ms", "ack_timeout_ms", "heartbeat_interval_ms", "outbox_bytes_max")
        if self.backoff_multiplier < 1:
            raise ValueError(f"backoff_multiplier is {self.backoff_multiplier}, wanted at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentConfig:
    flush_threshold_entries: int = 10_000
    flush_threshold_bytes: int = 50 * MIB
    flush_threshold_ms: int = 60_000
    """Age of the oldest waiting batch."""
    flush_interval_ms: int = 30_000
    """Time since the last flush, when anything waits."""
    max_buffer_bytes: int = 100 * MIB
    max_buffer_entries: int = 100_000
    deduplication_window_ms: int = 300_000
    """Entries of an old client are compared with those of so many last ms; a batch exactly that old still counts."""
    parquet_row_group_size: int = 100_000
    parquet_compression: Literal["snappy", "zstd", "gzip", "none"] = "snappy"

    def __post_init__(self) -> None:
        _positive(self, *(row.name for row in fields(self) if row.type == "int"))
        if self.max_buffer_bytes < 2 * self.flush_threshold_bytes:
            raise ValueError(
                f"max_buffer_bytes is {self.max_buffer_bytes}, wanted at least twice flush_threshold_bytes "
                f"({self.flush_threshold_bytes}): one flush being written, one being filled"
            )
        if self.max_buffer_entries < 2 * self.flush_threshold_entries:
            raise ValueError(
                f"max_buffer_entries is {self.max_buffer_entries}, wanted at least twice flush_threshold_entries "
                f"({self.flush_threshold_entries})"
            )
        if self.parquet_compression not in ("snappy", "zstd", "gzip", "none"):
            raise ValueError(f"parquet_compression is {self.parquet_compression!r}, wanted snappy, zstd, gzip or none")

    @classmethod
    def with_overrides(cls, overrides: Mapping[str, Any]) -> ParentConfig:
        """The defaults with these fields replaced. Raises ValueError naming what is unknown or cannot work."""
        known = {row.name for row in fields(cls)}
        if unknown := sorted(set(overrides) - known):
            raise ValueError(f"unknown parent setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**overrides)


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}, wanted a whole number of at least 1")


DEFAULT_CHILD_CONFIG = ChildConfig()
DEFAULT_PARENT_CONFIG = ParentConfig()
