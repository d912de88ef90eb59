"""What a frame of the parent means to its child."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from rpc.messages import AckStatus, FlushResult, NackReason, StatusMessage


class Welcome(NamedTuple):
    """The parent knows this child: every batch up to `resume_sequence` is durable, none above `highest_sequence`.

    A file whose epoch is below `highest_epoch` came back from a backup.
    """

    status: StatusMessage
    resume_sequence: int
    highest_sequence: int
    highest_epoch: int = 0


class Resolved(NamedTuple):
    """A batch is durable."""

    sequence: int
    status: AckStatus
    utilization: float | None


class Refusal(NamedTuple):
    """A batch was not stored; `final` when no retry will help."""

    sequence: int
    reason: NackReason
    text: str
    final: bool


class Persisted(NamedTuple):
    """A batch is in its tables; `path` is the metadata file of one of them."""

    sequence: int
    path: str | None


class Unseen(NamedTuple):
    """The parent cannot say when this batch is in its tables: it does not know it."""

    sequence: int
    text: str


class Flushed(NamedTuple):
    correlation_id: str
    result: FlushResult


Event: TypeAlias = Welcome | Resolved | Refusal | Persisted | Unseen | Flushed
