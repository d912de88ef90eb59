"""LakehouseParent: one parent in the hands of a script, a shell or Django code. Blocking, as the ORM is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings as django_settings
from django.db import transaction
from msgspec import UNSET

from lakehouse import clock
from lakehouse.environment import LakehouseParentEnv
from lakehouse.fallback.config import DEFAULT_RECOVERY_CONFIG, RecoveryConfig
from lakehouse.fallback.recovery import FallbackRecoveryManager, Write
from lakehouse.fallback.rows import DatabaseStorage
from lakehouse.fallback.storage import FallbackStorage
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import rows
from lakehouse.http.rows import Picture
from lakehouse.models import Parent
from lakehouse.parent import arrivals, greeting
from lakehouse.parent.greeting import DEFAULT_PARENT
from lakehouse.parent_options import FallbackOptions, merged, overrides_of
from lakehouse.tasks import flush_parent
from rpc.config import ParentConfig
from rpc.errors import LakehouseRpcError
from rpc.messages import StatusMessage

__all__ = ["LakehouseParent", "ParentBufferStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentBufferStats:
    """What is durable and in no table yet."""

    entries: int
    bytes: int
    oldest_entry_age: int
    """In ms; 0 when nothing waits."""
    child_connections: int


class LakehouseParent:
    """The parent of this name. Its row is made when it is first used, and the settings given here are applied then.

    `config` has fields of ParentConfig, `buffer` the README's max_bytes, max_entries and flush_threshold; both are
    stored with the parent. `fallback` has enabled, max_local_bytes and
    recovery_interval_ms, and counts for what this object hands out.
    """

    def __init__(
        self,
        name: str = DEFAULT_PARENT,
        *,
        config: Mapping[str, Any] | None = None,
        buffer: Mapping[str, Any] | None = None,
        fallback: Mapping[str, Any] | None = None,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        if arrivals.PARENT.match(name) is None:
            raise ValueError(f"parent is {name!r}, wanted letters, digits, dots, dashes and underscores, at most 100")
        self.name = name
        self._overrides = overrides_of(config, buffer)
        self._fallback = FallbackOptions.of(fallback or {})
        self._now_ms = now_ms
        self._id: int | None = None

    @property
    def env(self) -> LakehouseParentEnv:
        """What this process is bound to."""
        return LakehouseParentEnv.of(django_settings.EVODB)

    @property
    def parent_id(self) -> int:
        """Of the row, which exists from now on with the settings this object was given."""
        if self._id is None:
            self._id = self._store(self._overrides).pk
        return self._id

    def apply_config(self, *, buffer: Mapping[str, Any] | None = None, **config: Any) -> ParentConfig:
        """Store more settings with the parent, and return all of them as they hold now.

        Raises TypeError or ValueError when one of them is unknown or they cannot work together; none is stored then.
        """
        overrides = self._overrides | overrides_of(config, buffer)
        row = self._store(overrides)
        self._overrides, self._id = overrides, row.pk
        return row.settings

    def get_buffer_stats(self) -> ParentBufferStats:
        seen = self._picture()
        held = seen.held
        return ParentBufferStats(
            entries=held.entries,
            bytes=held.size_bytes,
            oldest_entry_age=0 if held.oldest_ms is None else max(0, self._now_ms() - held.oldest_ms),
            child_connections=seen.counts["connected"],
        )

    def status(self) -> StatusMessage:
        """As a child hears it."""
        seen = self._picture()
        return StatusMessage(
            timestamp=self._now_ms(),
            state=seen.state,
            buffer=greeting.buffer(seen.held),
            connected_children=seen.counts["connected"],
            last_flush_time=seen.held.last_flush_ms or UNSET,
            next_flush_time=UNSET if seen.next_flush_ms is None else seen.next_flush_ms,
        )

    def flush(self) -> int:
        """Move what waits into tables now, in this process; returns the entries.

        Nothing is moved, and 0 returned, while a worker is at it. When a flush fails, what waits goes on waiting.
        """
        return flush_parent(self.parent_id, FlushTrigger.MANUAL.value)

    def fallback_storage(self) -> FallbackStorage:
        """Where rows wait for an object store that is away. Raises LakehouseRpcError when it is not enabled."""
        if not self._fallback.enabled:
            raise LakehouseRpcError(f"the fallback of parent {self.name} is off; say fallback={{'enabled': True}}")
        storage = DatabaseStorage(self.parent_id)
        return FallbackStorage(storage, max_bytes=self._fallback.max_local_bytes, now_ms=self._now_ms)

    def recovery(self, write: Write, config: RecoveryConfig = DEFAULT_RECOVERY_CONFIG) -> FallbackRecoveryManager:
        """What brings those rows to their tables by `write`."""
        return FallbackRecoveryManager(
            self.fallback_storage(),
            write,
            config,
            now_ms=self._now_ms,
            interval_ms=self._fallback.recovery_interval_ms,
        )

    def _picture(self) -> Picture:
        assert self.parent_id
        seen = rows.picture(self.name, default=self.name, sources_max=0, now_ms=self._now_ms())
        assert seen is not None, f"the row of parent {self.name} was there"
        return seen

    def _store(self, overrides: Mapping[str, Any]) -> Parent:
        with transaction.atomic():
            row, _ = Parent.objects.select_for_update().get_or_create(
                name=self.name, defaults={"created_ms": self._now_ms()}
            )
            wanted = merged(row.config, overrides)
            if wanted != row.config:
                row.config = wanted
                row.save(update_fields=["config"])
        return row
