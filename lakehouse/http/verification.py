"""GET /verify: what the journal counted of one child, for the child to compare with what it had acknowledged."""

from __future__ import annotations

from typing import Any

from ninja import Schema
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from lakehouse.http.documents import NOW_MS, ParentQuery
from lakehouse.journal import child_tables
from lakehouse.models import Batch, BatchState, Child, ChildTable
from rpc.entry_digest import Sum, Sums
from rpc.names import is_name

SUMMED_ENTRIES_MAX = 20_000
"""So many waiting entries are summed up for an answer, 1 µs each; of more only the number is told."""


class VerifyQuery(ParentQuery):
    child: str = Field(min_length=1, max_length=500, description="The child.")


class TableSum(Schema):
    """Entries of one table in one epoch."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    epoch: int = Field(description="One the child keeps; 0 stands for all the parent counted.")
    table: str
    entries: int
    digest: str = Field(description="The sum of their xxh3-64 digests modulo 2^64, in hex.")
    unreadable: int = Field(0, description="Dead letters, which are not among the entries.")
    unreadable_digest: str = "0" * 16


class Verification(Schema):
    """A child as its parent's journal knows it, at one moment."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        json_schema_extra={
            "examples": [
                {
                    "parent": "default",
                    "child": "shop-1",
                    "timestamp": NOW_MS,
                    "epoch": NOW_MS,
                    "sequence": 12,
                    "islands": [],
                    "entries": 1200,
                    "committed": [{"epoch": NOW_MS, "table": "orders", "entries": 1100, "digest": "6e057091a81a69a9"}],
                    "waitingEntries": 100,
                    "waiting": [{"epoch": NOW_MS, "table": "orders", "entries": 100, "digest": "00c2a7d54e6a1b38"}],
                    "fallbackEntries": 0,
                }
            ]
        },
    )
    parent: str
    child: str
    timestamp: int
    epoch: int = Field(description="The newest one; 0 when the child keeps none.")
    sequence: int = Field(description="Every batch of the epoch up to this one is durable.")
    islands: list[list[int]] = Field(description="Further ranges of batches that are.")
    entries: int = Field(description="All that were ever stored of it.")
    committed: list[TableSum] = Field(description="What is in tables, or a dead letter.")
    waiting_entries: int = Field(description="Durable, and taken by no flush yet.")
    waiting: list[TableSum] | None = Field(description="Their sums; null when they are too many to be summed up.")
    fallback_entries: int = Field(description="Of batches that wait for the object store, at most so many.")


def verification(parent: str, name: str, *, now_ms: int) -> Verification | None:
    """None when the parent has no such child."""
    if not is_name(name):  # PostgreSQL takes no NUL
        return None
    with child_tables.one_moment():
        child = Child.objects.filter(parent__name=parent, name=name).first()
        if child is None:
            return None
        count, waiting = child_tables.waiting(child.pk, entries_max=SUMMED_ENTRIES_MAX)
        kept = Batch.objects.filter(child=child, state=BatchState.FALLBACK)
        return Verification(
            parent=parent,
            child=name,
            timestamp=now_ms,
            epoch=child.epoch if child.epoch_is_own else child_tables.COUNTED_EPOCH,
            sequence=max(0, child.sequence),
            islands=child.islands,
            entries=child.entries,
            committed=[_committed(one) for one in ChildTable.objects.filter(child=child).order_by("epoch", "table")],
            waiting_entries=count,
            waiting=None if waiting is None else _sums(waiting),
            fallback_entries=sum(kept.values_list("entries", flat=True)),
        )


def _committed(one: ChildTable) -> TableSum:
    sums: dict[str, Any] = {"unreadable": one.unreadable, "unreadable_digest": one.unreadable_digest}
    return TableSum(epoch=one.epoch, table=one.table, entries=one.entries, digest=one.digest, **sums)


def _sums(found: dict[int, Sums]) -> list[TableSum]:
    return [_sum(epoch, table, one) for epoch, sums in sorted(found.items()) for table, one in sorted(sums.items())]


def _sum(epoch: int, table: str, one: Sum) -> TableSum:
    return TableSum(epoch=epoch, table=table, entries=one.entries, digest=one.hex, unreadable=0)
