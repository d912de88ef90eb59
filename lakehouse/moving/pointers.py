"""Which tables lie in the place that is left, and the rows that say where a table is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyiceberg.catalog import LOCATION

from lakehouse.conf import Settings
from lakehouse.models import ForgottenSnapshot, IcebergTable, Namespace
from lakehouse.moving.old_house import CannotMove
from lakehouse.moving.relocation import Immovable, Relocation, lies_in, plain_place


@dataclass(frozen=True, slots=True)
class Found:
    """Tables by what they do: {row: (name, location)} of those that go, and names of those that lie elsewhere."""

    moving: dict[int, tuple[str, str]]
    staying: list[str]


def find(alias: str, relocation: Relocation) -> Found:
    """Raises CannotMove where tables lie, and none of them in the place that is left."""
    moving, staying, there = dict[int, tuple[str, str]](), list[str](), 0
    for row in IcebergTable.objects.using(alias).select_related("namespace").order_by("pk").iterator(1000):
        if relocation.moves(row.metadata_location):
            moving[row.pk] = (str(row), row.metadata_location)
        elif relocation.is_new(row.metadata_location):
            there += 1
        else:
            staying.append(f"{row} ({row.metadata_location})")
    if staying and not moving and not there:
        raise CannotMove(
            f"no table says that it lies in {relocation.recorded}: {staying[0]}; if the files were copied since, type "
            "where they were with --written-as"
        )
    return Found(moving, staying)


def elsewhere(alias: str, settings: Settings) -> str:
    """What is said of tables that nobody moves, and that do not lie in the lake of the settings."""
    here = plain_place(settings.resolved_warehouse)
    rows = IcebergTable.objects.using(alias).select_related("namespace").order_by("pk").iterator(1000)
    left = [f"{row} ({row.metadata_location})" for row in rows if not lies_in(row.metadata_location, here)]
    if len(left) < 2:
        return "".join(f"{one} stays where it is; --from-warehouse would bring it along" for one in left)
    return f"{left[0]} and {len(left) - 1} more stay where they are; --from-warehouse would bring them along"


def point(alias: str, found: Found, locations: Mapping[int, str], relocation: Relocation) -> None:
    """In a transaction. What a table forgot stays behind. Raises CannotMove when somebody moved a pointer meanwhile."""
    for pk, (name, before) in found.moving.items():
        rows = IcebergTable.objects.using(alias).filter(pk=pk, metadata_location=before)
        if not rows.update(metadata_location=locations[pk], previous_metadata_location=""):
            raise CannotMove(f"{name} was changed meanwhile; stop all programs of this house, and type the same again")
    others = IcebergTable.objects.using(alias).exclude(pk__in=found.moving).select_related("namespace")
    for row in others.iterator(1000):
        if relocation.is_copying and relocation.moves(row.metadata_location):
            raise CannotMove(f"{row} was made meanwhile; stop all programs of this house, and type the same again")
    ForgottenSnapshot.objects.using(alias).filter(table__in=found.moving).delete()
    for namespace in Namespace.objects.using(alias).filter(properties__has_key=LOCATION):
        try:
            namespace.properties[LOCATION] = relocation.new(str(namespace.properties[LOCATION]))
        except Immovable as exc:
            raise CannotMove(f"namespace {namespace} cannot be moved: {exc}") from exc
        namespace.save(using=alias, update_fields=["properties"])
