"""How a child and a parent behave when nothing else is said; the tables of docs/settings.md."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

__all__ = [
    "DEFAULT_CHILD_CONFIG",
    "DEFAULT_PARENT_CONFIG",
    "ChildConfig",
    "EventEmitterConfig",
    "OnHandlerErrorCallback",
    "ParentConfig",
]

MIB = 1024 * 1024
COUNT_MAX = 2**53 - 1
"""What JSON holds of a number."""
MS_MAX = 9_000_000_000_000
"""Some 285 years; what a thread may wait for ends soon after."""
OnHandlerErrorCallback: TypeAlias = Callable[[Exception, str], None]
"""Hears what a handler of the application raised, and which handler it was."""


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
    pending_batch_ttl_ms: int = 30_000
    """A batch without an answer for so long is announced, and `send_batch` stops waiting; it stays in the outbox."""
    pending_batch_cleanup_interval_ms: int = 5_000
    """So often is looked for those."""
    high_water: float = 0.8
    """Of the window, the outbox or the parent's buffer; reaching it is announced once."""
    low_water: float = 0.2
    encoding: Literal["columns", "msgpack", "arrow"] = "columns"
    """The payload the child would like to send; what a parent does not take is not sent to it."""
    compression: Literal["none", "zstd"] = "none"
    capture_poll_interval_ms: int = 200
    """A captured database is looked at so often for what other programs wrote."""
    outbox_bytes_max: int = 1024 * MIB
    outbox_when_full: Literal["raise", "wait", "drop_oldest"] = "raise"
    """Whether `send` raises, waits for the next acks, or drops what is oldest and in no batch yet, counting it."""
    outbox_when_corrupt: Literal["raise", "keep_aside"] = "raise"
    """Whether a damaged outbox file stops the client, or is renamed and an empty one begun."""
    outbox_fsync_within_ms: int = 0
    """0: each `send` is on the disk when it returns; else a power cut may cost what was sent within so many ms."""
    on_handler_error: OnHandlerErrorCallback | None = None
    """A handler's error never ends anything; without this it is logged."""

    def __post_init__(self) -> None:
        _whole(self, *(row.name for row in fields(self) if row.type == "int"), zero=_ZERO_IS_FINE)
        if not (
            _is_number(self.low_water) and _is_number(self.high_water) and 0 <= self.low_water < self.high_water <= 1
        ):
            raise ValueError(
                f"low_water is {self.low_water!r}, high_water {self.high_water!r}; "
                "wanted 0 <= low_water < high_water <= 1"
            )
        if not _is_number(self.backoff_multiplier) or not 1 <= self.backoff_multiplier < math.inf:
            raise ValueError(f"backoff_multiplier is {self.backoff_multiplier!r}, wanted a number of at least 1")
        if not isinstance(self.auto_reconnect, bool):
            raise ValueError(f"auto_reconnect is {self.auto_reconnect!r}, wanted True or False")
        _one_of(self, encoding=("columns", "msgpack", "arrow"), compression=("none", "zstd"))
        _one_of(self, outbox_when_full=("raise", "wait", "drop_oldest"), outbox_when_corrupt=("raise", "keep_aside"))
        self._check_on_handler_error()

    def _check_on_handler_error(self) -> None:
        given = self.on_handler_error
        if given is not None and (not callable(given) or inspect.iscoroutinefunction(given)):
            raise ValueError(f"on_handler_error is {given!r}, wanted a plain function: nobody would await another")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventEmitterConfig:
    """How events of an application reach its parent over HTTP."""

    endpoint: str
    api_key: str = field(default="", repr=False)
    batch_size: int = 100
    flush_interval_ms: int = 1000
    cdc: bool = False
    """Changes of collections become events too."""
    track_previous: bool = False
    """Such an event brings the document as it was."""
    max_retry_queue_size: int = 10_000
    max_set_aside: int = 1000
    """Events that were refused for good and are kept to be looked at; beyond it, or the bytes, the oldest go."""
    max_set_aside_bytes: int = 16 * MIB
    max_consecutive_failures: int = 10
    """So many open the circuit, for `circuit_breaker_reset_ms`."""
    circuit_breaker_reset_ms: int = 300_000
    fetch_timeout_ms: int = 30_000

    def __post_init__(self) -> None:
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint is {self.endpoint!r}, wanted a URL beginning with http:// or https://")
        _positive(self, "batch_size", "flush_interval_ms", "max_retry_queue_size", "max_consecutive_failures")
        _positive(self, "max_set_aside", "max_set_aside_bytes")
        _positive(self, "circuit_breaker_reset_ms", "fetch_timeout_ms")


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
    children_max: int = 100_000
    """A child nobody knew is refused when the parent has so many; those it has go on."""
    tables_max: int = 10_000
    """Entries for one table more become dead letters."""
    parquet_row_group_size: int = 100_000
    parquet_compression: Literal["snappy", "zstd", "gzip", "none"] = "snappy"
    nested_values: Literal["json", "struct"] = "json"
    """New columns of objects and arrays: JSON text, or structs and lists. A table's schema may say otherwise."""
    current_state: bool = False
    """Tables of now beside those of changes, for all tables of its namespace."""

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
        _one_of(self, parquet_compression=("snappy", "zstd", "gzip", "none"), nested_values=("json", "struct"))
        if not isinstance(self.current_state, bool):
            raise ValueError(f"current_state is {self.current_state!r}, wanted true or false")

    @classmethod
    def with_overrides(cls, overrides: Mapping[str, Any]) -> ParentConfig:
        """The defaults with these fields replaced. Raises ValueError naming what is unknown or cannot work."""
        known = {row.name for row in fields(cls)}
        if unknown := sorted(set(overrides) - known):
            raise ValueError(f"unknown parent setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**overrides)


_ZERO_IS_FINE = ("batch_timeout_ms", "max_retries", "max_reconnect_attempts", "outbox_fsync_within_ms")


def _whole(config: Any, *names: str, zero: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        low, high = 0 if name in zero else 1, MS_MAX if name.endswith("_ms") else COUNT_MAX
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, wanted a whole number from {low} to {high}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}, wanted a whole number of at least 1")


def _one_of(config: Any, **wanted: tuple[str, ...]) -> None:
    for name, values in wanted.items():
        if getattr(config, name) not in values:
            raise ValueError(f"{name} is {getattr(config, name)!r}, wanted {', '.join(values[:-1])} or {values[-1]}")


DEFAULT_CHILD_CONFIG = ChildConfig()
DEFAULT_PARENT_CONFIG = ParentConfig()
