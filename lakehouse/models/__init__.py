"""The rows the parent lives by. State changes only by a conditional UPDATE whose count is checked.

Times are whole milliseconds since 1970 (`*_ms`), as on the wire.
"""

from lakehouse.models.access import AccessKey
from lakehouse.models.batches import Batch, BatchPayload, BatchState
from lakehouse.models.breaker import StoreBreaker
from lakehouse.models.catalog import IcebergTable, Namespace, TableToMake
from lakehouse.models.child_tables import ChildTable
from lakehouse.models.current import CurrentSource, CurrentTable
from lakehouse.models.events import EventExport, EventHour, EventId, EventSchema
from lakehouse.models.flushes import Flush, FlushState, FlushTable
from lakehouse.models.foreign import ForeignCommit, Installation
from lakehouse.models.parents import Child, ConnectionState, Parent
from lakehouse.models.queries import NamedQuery
from lakehouse.models.schemas import DriftField, DriftKind, NestedValues, SchemaMode, TableSchema
from lakehouse.models.upkeep import ForgottenSnapshot, TableUpkeep
from lakehouse.models.waiting import DeadLetter, DeadLetterState, FallbackBatch

__all__ = [
    "AccessKey",
    "Batch",
    "BatchPayload",
    "BatchState",
    "Child",
    "ChildTable",
    "ConnectionState",
    "CurrentSource",
    "CurrentTable",
    "DeadLetter",
    "DeadLetterState",
    "DriftField",
    "DriftKind",
    "EventExport",
    "EventHour",
    "EventId",
    "EventSchema",
    "FallbackBatch",
    "Flush",
    "FlushState",
    "FlushTable",
    "ForeignCommit",
    "ForgottenSnapshot",
    "IcebergTable",
    "Installation",
    "NamedQuery",
    "Namespace",
    "NestedValues",
    "Parent",
    "SchemaMode",
    "StoreBreaker",
    "TableSchema",
    "TableToMake",
    "TableUpkeep",
]
