"""`create_rpc_client` in the forms its users know: positional, or all by name with the README's groups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from rpc.client import LakehouseRpcClient
from rpc.config import DEFAULT_CHILD_CONFIG, ChildConfig
from rpc.deduplication import DEFAULT_DEDUP_CONFIG, DedupConfig
from rpc.handlers import Handlers

__all__ = ["create_rpc_client"]

BATCHING = {"max_size": "max_batch_size", "max_delay_ms": "batch_timeout_ms", "max_bytes": "max_batch_bytes"}
KNOWN = {"outbox", "token", "shard_name", "handlers", "now_ms", "steady_ms", "chance"}
"""What goes to the client as it is."""
NAME_CHARS_MAX = 226
"""Of a file name, which has at most 255 with what stands around and behind it."""
BATCHING_DEFAULTS = {"max_size": 100, "max_delay_ms": 50, "max_bytes": 1_000_000}
"""The README's; they hold as soon as one of them is given."""


def create_rpc_client(
    parent_url: str,
    child_id: str,
    *,
    batching: Mapping[str, int] | None = None,
    dedup: Mapping[str, int] | DedupConfig | None = DEFAULT_DEDUP_CONFIG,
    config: ChildConfig = DEFAULT_CHILD_CONFIG,
    **options: Any,
) -> LakehouseRpcClient:
    """A client whose outbox is `evodb-outbox-<child id>.sqlite3` in the working folder when none is given.

    `batching` is a mapping of max_size, max_delay_ms, max_bytes; `dedup` one of window_ms, max_entries_per_source and
    max_sources, or None to compare nothing. `on_...` are handlers (rpc.handlers); all else goes to LakehouseRpcClient.
    Raises TypeError for a name nobody knows.
    """
    options.setdefault("outbox", f"evodb-outbox-{_file_name(str(child_id))}.sqlite3")
    if any(name.startswith("on_") for name in options):
        if "handlers" in options:
            raise TypeError("handlers and on_... were given; put all of them into one")
        options["handlers"] = Handlers.taken_from(options)
    if unknown := sorted(set(options) - KNOWN):
        raise TypeError(_unknown(unknown[0]))
    if batching is not None:
        config = replace(config, **_batching(batching))
    if dedup is not None and not isinstance(dedup, DedupConfig):
        dedup = DedupConfig(**_known("dedup", dedup, DedupConfig.__dataclass_fields__))
    return LakehouseRpcClient(parent_url, child_id, config=config, dedup=dedup, **options)


def _unknown(name: str) -> str:
    if name in ChildConfig.__dataclass_fields__:
        return f"create_rpc_client has no {name!r}; it is a field of the config: config=ChildConfig({name}=...)"
    if name.startswith("on_"):
        return f"there is no handler {name!r}, known are {', '.join(Handlers.__dataclass_fields__)}"
    known = ", ".join(sorted(KNOWN | {"batching", "config", "dedup"}))
    return f"create_rpc_client has no {name!r}, known are {known} and on_..."


def _file_name(child_id: str) -> str:
    """A child id as part of a file name; one that has to be changed for it gets a digest, for no two may share one."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", child_id)[:NAME_CHARS_MAX]
    if plain == child_id:
        return plain
    return f"{plain[:100]}-{blake2b(child_id.encode(errors='replace'), digest_size=4).hexdigest()}"


def _batching(given: Mapping[str, int]) -> dict[str, Any]:
    merged = BATCHING_DEFAULTS | _known("batching", given, BATCHING)
    return {BATCHING[name]: value for name, value in merged.items()}


def _known(group: str, given: Mapping[str, int], names: Mapping[str, Any]) -> dict[str, int]:
    if unknown := sorted(set(given) - set(names)):
        raise TypeError(f"{group} has {unknown[0]!r}, known are {', '.join(names)}")
    return dict(given)
