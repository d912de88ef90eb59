"""LakehouseParentEnv: what a parent is bound to outside of itself, which is a part of this process's settings. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from lakehouse.conf import Settings

__all__ = ["LakehouseParentEnv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LakehouseParentEnv:
    """Where tables, rows and shared counts live; set by EVODB_WAREHOUSE, EVODB_DATABASE_URL and EVODB_REDIS_URL."""

    warehouse: str
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    """Empty: nothing is shared with other processes."""

    @classmethod
    def of(cls, settings: Settings) -> LakehouseParentEnv:
        return cls(
            warehouse=settings.resolved_warehouse,
            database_url=settings.resolved_database_url,
            redis_url=settings.redis_url,
        )
