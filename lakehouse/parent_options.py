"""The options of LakehouseParent, in the forms its users know: settings by name, or the README's groups. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rpc.config import DEFAULT_PARENT_CONFIG, ParentConfig

__all__ = ["FallbackOptions", "merged", "overrides_of"]

BUFFER = {
    "max_bytes": "max_buffer_bytes",
    "max_entries": "max_buffer_entries",
    "flush_threshold": "flush_threshold_entries",
}
THRESHOLD_OF = {"max_buffer_bytes": "flush_threshold_bytes", "max_buffer_entries": "flush_threshold_entries"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackOptions:
    """The group `fallback`."""

    enabled: bool = True
    max_local_bytes: int = 1024 * 1024 * 1024
    recovery_interval_ms: int = 60_000

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FallbackOptions:
        """Raises TypeError for a name nobody knows, ValueError for what cannot work."""
        options = cls(**_known("fallback", given, cls.__dataclass_fields__))
        if not isinstance(options.enabled, bool):
            raise ValueError(f"fallback enabled is {options.enabled!r}, wanted True or False")
        for name in ("max_local_bytes", "recovery_interval_ms"):
            value = getattr(options, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"fallback {name} is {value!r}, wanted a whole number of at least 1")
        return options


def overrides_of(config: Mapping[str, Any] | None, buffer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Both as overrides of ParentConfig. Raises TypeError for a name nobody knows."""
    group = _known("buffer", buffer or {}, BUFFER)
    fields = _known("config", config or {}, ParentConfig.__dataclass_fields__)
    return fields | {BUFFER[name]: value for name, value in group.items()}


def merged(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The stored overrides with the given ones on top, checked. Raises ValueError.

    A smaller buffer takes along the threshold nobody chose, since it has to hold two flushes.
    """
    whole = {**stored, **given}
    for most, threshold in THRESHOLD_OF.items():
        value = whole.get(most)
        if threshold not in whole and isinstance(value, int) and value > 1:
            usual = getattr(DEFAULT_PARENT_CONFIG, threshold)
            if value < 2 * usual:
                whole[threshold] = value // 2
    ParentConfig.with_overrides(whole)
    return whole


def _known(group: str, given: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(given) - set(names)):
        raise TypeError(f"{group} has {unknown[0]!r}, known are {', '.join(names)}")
    return dict(given)
