"""What clients count on the server for: free identifiers, removals of what is not there, branches that begin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lakehouse.rest_site import SCHEMA, Site, main_is, new_table, site_with_a_table, snapshot

pytestmark = pytest.mark.django_db(transaction=True)

WIDER = SCHEMA | {"fields": [*SCHEMA["fields"], {"id": 2, "name": "city", "required": False, "type": "string"}]}
SPEC = {"spec-id": 0, "fields": [{"source-id": 1, "field-id": 1000, "name": "part", "transform": "identity"}]}
ORDER = {
    "order-id": 0,
    "fields": [{"source-id": 1, "transform": "identity", "direction": "asc", "null-order": "nulls-first"}],
}
TABLE = "namespaces/lake/tables/t"


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Site]:
    with site_with_a_table(tmp_path) as found:
        yield found


def commit(lake: Site, *updates: Any, requirements: tuple[Any, ...] = ()) -> dict[str, Any]:
    heard = lake.ask("POST", TABLE, {"requirements": requirements, "updates": updates})
    assert heard.status == 200, heard.body
    found: dict[str, Any] = heard.json["metadata"]
    return found


def test_a_schema_whose_number_is_taken_gets_the_next_and_is_the_last_added(lake: Site) -> None:
    found = commit(lake, {"action": "add-schema", "schema": WIDER}, {"action": "set-current-schema", "schema-id": -1})
    assert [one["schema-id"] for one in found["schemas"]] == [0, 1]
    assert (found["current-schema-id"], found["last-column-id"]) == (1, 2)


def test_a_schema_that_is_there_already_is_taken_up_again(lake: Site) -> None:
    commit(lake, {"action": "add-schema", "schema": WIDER}, {"action": "set-current-schema", "schema-id": -1})
    found = commit(
        lake,
        {"action": "add-schema", "schema": SCHEMA | {"schema-id": 5}},
        {"action": "set-current-schema", "schema-id": -1},
    )
    assert ([one["schema-id"] for one in found["schemas"]], found["current-schema-id"]) == ([0, 1], 0)


def test_specs_and_orders_are_numbered_as_schemas_are(lake: Site) -> None:
    wanted = [
        {"action": "add-spec", "spec": SPEC},
        {"action": "set-default-spec", "spec-id": -1},
        {"action": "add-sort-order", "sort-order": ORDER},
        {"action": "set-default-sort-order", "sort-order-id": -1},
    ]
    for _ in range(2):
        found = commit(lake, *wanted)
        assert [one["spec-id"] for one in found["partition-specs"]] == [0, 1]
        assert [one["order-id"] for one in found["sort-orders"]] == [0, 1]
        assert (found["default-spec-id"], found["default-sort-order-id"]) == (1, 1)


def test_the_fields_of_a_spec_need_no_numbers(lake: Site) -> None:
    part = {"source-id": 1, "name": "part", "transform": "identity"}
    bucket = {"source-id": 1, "name": "bucket", "transform": "bucket[4]"}
    for fields, wanted in (([part], [1000]), ([bucket, part], [1001, 1000])):
        found = commit(
            lake,
            {"action": "add-spec", "spec": {"fields": fields}},
            {"action": "set-default-spec", "spec-id": -1},
        )
        assert [one["field-id"] for one in found["partition-specs"][-1]["fields"]] == wanted
    body = new_table("u", **{"partition-spec": {"fields": [bucket, part]}})
    made = lake.ask("POST", "namespaces/lake/tables", body).json["metadata"]
    assert [one["field-id"] for one in made["partition-specs"][0]["fields"]] == [1000, 1001]


def test_properties_that_are_not_there_are_removed_without_complaint(lake: Site) -> None:
    found = commit(
        lake,
        {"action": "set-properties", "updates": {"a": "1", "b": "2"}},
        {"action": "remove-properties", "removals": ["b", "b", "nothing"]},
    )
    assert found["properties"] == {"a": "1"}


def test_snapshots_and_statistics_somebody_else_removed_first_are_no_mistake(lake: Site) -> None:
    metadata = commit(lake, *snapshot(1, lake.ask("GET", TABLE).json["metadata"]))
    metadata = commit(lake, *snapshot(2, metadata))
    gone = [
        {"action": "remove-snapshots", "snapshot-ids": [1, 1, 9]},
        {"action": "remove-statistics", "snapshot-id": 1},
        {"action": "remove-partition-statistics", "snapshot-id": 1},
    ]
    for _ in range(2):
        assert [one["snapshot-id"] for one in commit(lake, *gone)["snapshots"]] == [2]


def test_a_branch_may_begin_on_a_table_without_snapshots(lake: Site) -> None:
    metadata = lake.ask("GET", TABLE).json["metadata"]
    updates = snapshot(1, metadata)
    updates[1]["ref-name"] = "audit"
    begins = {"type": "assert-ref-snapshot-id", "ref": "audit", "snapshot-id": None}
    found = commit(lake, *updates, requirements=(begins,))
    assert (list(found["refs"]), found.get("current-snapshot-id")) == (["audit"], None)
    again = snapshot(2, found)
    again[1]["ref-name"] = "audit"
    heard = lake.ask("POST", TABLE, {"requirements": [begins], "updates": again})
    assert heard.error == (409, "CommitFailedException")


def test_every_update_of_the_specification_is_applied(lake: Site) -> None:
    metadata = lake.ask("GET", TABLE).json["metadata"]
    folder = metadata["location"]
    statistics = {"snapshot-id": 1, "statistics-path": f"{folder}/metadata/1.stats", "file-size-in-bytes": 9}
    full = statistics | {"file-footer-size-in-bytes": 1, "blob-metadata": []}
    commit(lake, *snapshot(1, metadata), requirements=(main_is(None),))
    commit(lake, {"action": "set-statistics", "snapshot-id": 1, "statistics": full})
    found = commit(lake, {"action": "set-partition-statistics", "partition-statistics": statistics})
    assert (len(found["statistics"]), len(found["partition-statistics"])) == (1, 1)
    found = commit(
        lake,
        {"action": "remove-statistics", "snapshot-id": 1},
        {"action": "remove-partition-statistics", "snapshot-id": 1},
    )
    assert (found["statistics"], found["partition-statistics"]) == ([], [])
    commit(lake, *snapshot(2, found), requirements=(main_is(1),))
    tag = {"action": "set-snapshot-ref", "ref-name": "v1", "type": "tag", "snapshot-id": 1, "max-ref-age-ms": 5}
    assert commit(lake, tag)["refs"]["v1"] == {"snapshot-id": 1, "type": "tag", "max-ref-age-ms": 5}
    found = commit(
        lake,
        {"action": "remove-snapshot-ref", "ref-name": "v1"},
        {"action": "remove-snapshots", "snapshot-ids": [1]},
        {"action": "add-schema", "schema": WIDER},
        {"action": "set-current-schema", "schema-id": -1},
        {"action": "remove-schemas", "schema-ids": [0]},
        {"action": "add-spec", "spec": SPEC},
        {"action": "set-default-spec", "spec-id": -1},
        {"action": "remove-partition-specs", "spec-ids": [0]},
        {"action": "set-location", "location": f"{folder}-moved"},
        {"action": "assign-uuid", "uuid": metadata["table-uuid"]},
        {"action": "upgrade-format-version", "format-version": 2},
    )
    assert [one["snapshot-id"] for one in found["snapshots"]] == [2]
    assert [one["schema-id"] for one in found["schemas"]] == [1]
    assert [one["spec-id"] for one in found["partition-specs"]] == [1]
    assert (found["location"], list(found["refs"])) == (f"{folder}-moved", ["main"])


def test_a_table_is_made_by_a_commit_that_says_the_least(lake: Site) -> None:
    least = [
        {"action": "add-schema", "schema": SCHEMA},
        {"action": "set-current-schema", "schema-id": -1},
        {"action": "add-spec", "spec": {"spec-id": 0, "fields": []}},
        {"action": "set-default-spec", "spec-id": -1},
        {"action": "add-sort-order", "sort-order": {"order-id": 0, "fields": []}},
        {"action": "set-default-sort-order", "sort-order-id": -1},
    ]
    body = {"requirements": [{"type": "assert-create"}], "updates": least}
    heard = lake.ask("POST", "namespaces/lake/tables/new", body)
    assert heard.status == 200, heard.body
    found = heard.json["metadata"]
    assert (found["format-version"], found["location"]) == (2, f"{lake.settings.resolved_warehouse}/lake/new")
    assert lake.pyiceberg().load_table("lake.new").schema().column_names == ["id"]


LONG = {"required": False, "type": "long"}
UNSOUND: list[tuple[str, list[Any]]] = [
    (
        "two fields of one id",
        [{"action": "add-schema", "schema": SCHEMA | {"fields": [*SCHEMA["fields"], {"id": 1, "name": "b", **LONG}]}}],
    ),
    (
        "an id that is no int",
        [{"action": "add-schema", "schema": SCHEMA | {"fields": [{"id": 2**31, "name": "b", **LONG}]}}],
    ),
    (
        "a spec of a field that is nowhere",
        [{"action": "add-spec", "spec": {"fields": [{"source-id": 7, "name": "x", "transform": "identity"}]}}],
    ),
    (
        "a spec with one name twice",
        [{"action": "add-spec", "spec": {"fields": [*SPEC["fields"], SPEC["fields"][0] | {"field-id": 1001}]}}],
    ),
    (
        "an order of a field that is nowhere",
        [
            {
                "action": "add-sort-order",
                "sort-order": {"order-id": 1, "fields": [ORDER["fields"][0] | {"source-id": 7}]},
            }
        ],
    ),
    ("another table", [{"action": "assign-uuid", "uuid": "7bfc6ecb-43a1-4a1f-8d5b-1dd1b9c7e5a4"}]),
]


@pytest.mark.parametrize(("what", "updates"), UNSOUND)
def test_what_nobody_could_read_afterwards_is_refused(lake: Site, what: str, updates: list[Any]) -> None:
    before = lake.ask("GET", TABLE).json["metadata-location"]
    assert lake.ask("POST", TABLE, {"updates": updates}).error == (400, "ValidationException"), what
    assert lake.ask("GET", TABLE).json["metadata-location"] == before


def test_a_table_of_which_main_is_a_tag_or_whose_numbers_end_would_take_no_flush(lake: Site) -> None:
    metadata = lake.ask("GET", TABLE).json["metadata"]
    tag = [*snapshot(1, metadata), {"action": "set-snapshot-ref", "ref-name": "main", "type": "tag", "snapshot-id": 1}]
    for updates in (tag, snapshot(1, metadata, **{"sequence-number": 2**63 - 1})):
        assert lake.ask("POST", TABLE, {"updates": updates}).error == (400, "ValidationException")


def test_with_a_snapshot_its_statistics_of_partitions_are_removed(lake: Site) -> None:
    metadata = lake.ask("GET", TABLE).json["metadata"]
    path = f"{metadata['location']}/metadata/p.parquet"
    file = {"snapshot-id": 1, "statistics-path": path, "file-size-in-bytes": 1}
    found = commit(
        lake,
        *snapshot(1, metadata),
        {"action": "set-partition-statistics", "partition-statistics": file},
        {"action": "remove-snapshots", "snapshot-ids": [1]},
    )
    assert (found["snapshots"], found["partition-statistics"]) == ([], [])
