"""The parent's half of EvoDB: what children stream here becomes rows of Iceberg tables, exactly once.

A name is loaded when it is asked for: Django imports this package before its models may be imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakehouse.buffer_manager import CDCBufferManager
    from lakehouse.environment import LakehouseParentEnv
    from lakehouse.fallback.config import DEFAULT_RECOVERY_CONFIG, RecoveryConfig
    from lakehouse.fallback.objects import DOStorage
    from lakehouse.fallback.recovery import FallbackRecoveryManager
    from lakehouse.fallback.storage import FallbackStorage
    from lakehouse.parent_handle import LakehouseParent

__all__ = [
    "DEFAULT_RECOVERY_CONFIG",
    "CDCBufferManager",
    "DOStorage",
    "FallbackRecoveryManager",
    "FallbackStorage",
    "LakehouseParent",
    "LakehouseParentEnv",
    "RecoveryConfig",
]

_ROOMS = {
    "CDCBufferManager": "lakehouse.buffer_manager",
    "DEFAULT_RECOVERY_CONFIG": "lakehouse.fallback.config",
    "DOStorage": "lakehouse.fallback.objects",
    "FallbackRecoveryManager": "lakehouse.fallback.recovery",
    "FallbackStorage": "lakehouse.fallback.storage",
    "LakehouseParent": "lakehouse.parent_handle",
    "LakehouseParentEnv": "lakehouse.environment",
    "RecoveryConfig": "lakehouse.fallback.config",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
