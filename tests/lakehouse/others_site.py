"""What other writers do to a table of ours: by their library, and where it says no, in the metadata itself."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyiceberg.table import Table

from lakehouse.catalog import pointers
from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings

Document = dict[str, Any]


def table(settings: Settings, name: str = "orders", namespace: str = "lake") -> Table:
    return from_settings(settings).load_table((namespace, name))


def schema(settings: Settings, change: Callable[[Any], object], name: str = "orders") -> None:
    with table(settings, name).update_schema(allow_incompatible_changes=True) as update:
        change(update)


def partitions(settings: Settings, change: Callable[[Any], object], name: str = "orders") -> None:
    with table(settings, name).update_spec() as update:
        change(update)


def metadata(settings: Settings, change: Callable[[Document], object], name: str = "orders") -> None:
    """As a catalog has it that checks nothing."""
    location = pointers.find("lake", name)
    assert location is not None
    document = json.loads(Path(location).read_text())
    change(document)
    number = int(Path(location).name.partition("-")[0]) + 1
    new = Path(location).with_name(f"{number:05d}-{uuid.uuid4()}.metadata.json")
    new.write_text(json.dumps(document))
    assert pointers.move("lake", name, expected=location, location=str(new))


def without_column(name: str) -> Callable[[Document], None]:
    """Whatever the table is partitioned by."""

    def drop(document: Document) -> None:
        newest = next(one for one in document["schemas"] if one["schema-id"] == document["current-schema-id"])
        number = 1 + max(one["schema-id"] for one in document["schemas"])
        fields = [field for field in newest["fields"] if field["name"] != name]
        document["schemas"].append({**newest, "schema-id": number, "fields": fields})
        document["current-schema-id"] = number

    return drop


def version_3(document: Document) -> None:
    document.update({"format-version": 3, "next-row-id": 0})


def partitioned_by_nobody_knows_what(document: Document) -> None:
    field = {"source-id": 1, "field-id": 1001, "transform": "zorder[3]", "name": "z"}
    document["partition-specs"].append({"spec-id": 1, "fields": [field]})
    document.update({"default-spec-id": 1, "last-partition-id": 1001})
