"""What a client hears that asks for something wrong: status and type of the specification, and nothing half done."""

from __future__ import annotations

import gzip
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse.catalog.rest import entrance
from lakehouse.models import IcebergTable, Namespace
from tests.lakehouse.rest_site import SCHEMA, Site, main_is, new_table, site, snapshot

pytestmark = pytest.mark.django_db(transaction=True)

UUID = "7bfc6ecb-43a1-4a1f-8d5b-1dd1b9c7e5a4"
DEEP: dict[str, Any] = {"type": "list", "element-id": 2, "element": "long", "element-required": False}
for _ in range(500):
    DEEP = {"type": "list", "element-id": 2, "element": DEEP, "element-required": False}


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as found:
        assert found.ask("POST", "namespaces", {"namespace": ["lake"]}).status == 200
        assert found.ask("POST", "namespaces/lake/tables", new_table("t")).status == 200
        yield found


ROWS: list[tuple[str, str, Any, int, str]] = [
    # Paths.
    ("GET", "nothing", None, 404, "NotFoundException"),
    ("GET", "", None, 404, "NotFoundException"),
    ("GET", "namespaces/lake/tables/t/x", None, 404, "NotFoundException"),
    ("GET", "namespaces//tables", None, 404, "NotFoundException"),
    ("GET", "namespaces/%ff", None, 400, "BadRequestException"),
    ("PUT", "namespaces/lake", None, 405, "UnsupportedOperationException"),
    ("GET", "transactions/commit", None, 405, "UnsupportedOperationException"),
    ("GET", "config?warehouse=other", None, 404, "NoSuchWarehouseException"),
    # Namespaces.
    ("GET", "namespaces/nowhere", None, 404, "NoSuchNamespaceException"),
    ("GET", "namespaces/a%2Fb", None, 404, "NoSuchNamespaceException"),
    ("GET", "namespaces/%2e%2e", None, 404, "NoSuchNamespaceException"),
    ("GET", "namespaces?parent=nowhere", None, 404, "NoSuchNamespaceException"),
    ("GET", "namespaces?pageSize=0", None, 400, "BadRequestException"),
    ("GET", "namespaces?pageSize=-1", None, 400, "BadRequestException"),
    ("GET", "namespaces?pageSize=many", None, 400, "BadRequestException"),
    ("GET", "namespaces?pageToken=%25", None, 400, "BadRequestException"),
    ("POST", "namespaces", b"{", 400, "BadRequestException"),
    ("POST", "namespaces", b"", 400, "BadRequestException"),
    ("POST", "namespaces", b"[1]", 400, "BadRequestException"),
    ("POST", "namespaces", b"\xff", 400, "BadRequestException"),
    ("POST", "namespaces", b"[" * 100_000, 400, "BadRequestException"),
    ("POST", "namespaces", {}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": []}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": "lake"}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": ["a", ""]}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": ["a/b"]}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": [".."]}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": ["a\x1fb"]}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": ["a\nb"]}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": ["x" * 501]}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": ["x"], "properties": {"a": 1}}, 400, "BadRequestException"),
    ("POST", "namespaces", {"namespace": ["lake"]}, 409, "AlreadyExistsException"),
    ("DELETE", "namespaces/lake", None, 409, "NamespaceNotEmptyException"),
    ("DELETE", "namespaces/nowhere", None, 404, "NoSuchNamespaceException"),
    ("POST", "namespaces/nowhere/properties", {"updates": {"a": "1"}}, 404, "NoSuchNamespaceException"),
    (
        "POST",
        "namespaces/lake/properties",
        {"updates": {"a": "1"}, "removals": ["a"]},
        422,
        "UnprocessableEntityException",
    ),
    # Tables.
    ("GET", "namespaces/nowhere/tables", None, 404, "NoSuchNamespaceException"),
    ("GET", "namespaces/lake/tables?pageToken=!", None, 400, "BadRequestException"),
    ("GET", "namespaces/lake/tables/nothing", None, 404, "NoSuchTableException"),
    ("GET", "namespaces/lake/tables/t%2Fx", None, 404, "NoSuchTableException"),
    ("GET", "namespaces/lake/tables/nothing/credentials", None, 404, "NoSuchTableException"),
    ("DELETE", "namespaces/lake/tables/nothing", None, 404, "NoSuchTableException"),
    ("DELETE", "namespaces/lake/tables/t?purgeRequested=maybe", None, 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables", new_table("t"), 409, "AlreadyExistsException"),
    ("POST", "namespaces/lake/tables", new_table("t", **{"stage-create": True}), 409, "AlreadyExistsException"),
    ("POST", "namespaces/nowhere/tables", new_table("u"), 404, "NoSuchNamespaceException"),
    ("POST", "namespaces/lake/tables", new_table("a/b"), 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables", new_table(".."), 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables", new_table(""), 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables", new_table("x" * 501), 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables", {"name": "u"}, 400, "BadRequestException"),
    (
        "POST",
        "namespaces/lake/tables",
        new_table("u", schema={"type": "struct", "fields": [{"id": 1}]}),
        400,
        "BadRequestException",
    ),
    (
        "POST",
        "namespaces/lake/tables",
        new_table("u", schema=SCHEMA | {"fields": [{"id": 1, "name": "x", "required": False, "type": DEEP}]}),
        400,
        "BadRequestException",
    ),
    (
        "POST",
        "namespaces/lake/tables",
        new_table("u", schema=SCHEMA | {"fields": [{"id": 1, "name": "x", "required": False, "type": "float128"}]}),
        400,
        "BadRequestException",
    ),
    (
        "POST",
        "namespaces/lake/tables",
        new_table(
            "u", **{"partition-spec": {"spec-id": 0, "fields": [{"source-id": 9, "name": "x", "transform": "day"}]}}
        ),
        400,
        "ValidationException",
    ),
    (
        "POST",
        "namespaces/lake/tables",
        new_table("u", properties={"format-version": "3"}),
        406,
        "UnsupportedOperationException",
    ),
    ("POST", "namespaces/lake/tables", new_table("u", properties={"format-version": "x"}), 400, "ValidationException"),
    ("POST", "namespaces/lake/register", {"name": "u"}, 400, "BadRequestException"),
    ("POST", "tables/rename", {"source": {"namespace": ["lake"], "name": "t"}}, 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables/t/metrics", {"x": 1}, 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables/nothing/metrics", {"report-type": "x"}, 404, "NoSuchTableException"),
    # Commits.
    ("POST", "namespaces/lake/tables/nothing", {"requirements": [], "updates": []}, 404, "NoSuchTableException"),
    ("POST", "namespaces/lake/tables/t", {"updates": [{"action": "explode"}]}, 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables/t", {"updates": [{"action": "set-statistics"}]}, 400, "BadRequestException"),
    ("POST", "namespaces/lake/tables/t", {"requirements": [{"type": "assert-luck"}]}, 400, "BadRequestException"),
    (
        "POST",
        "namespaces/lake/tables/t",
        {"identifier": {"namespace": ["lake"], "name": "u"}, "updates": []},
        400,
        "BadRequestException",
    ),
    (
        "POST",
        "namespaces/lake/tables/t",
        {"updates": [{"action": "set-current-schema", "schema-id": 7}]},
        400,
        "ValidationException",
    ),
    (
        "POST",
        "namespaces/lake/tables/t",
        {"updates": [{"action": "upgrade-format-version", "format-version": 3}]},
        400,
        "ValidationException",
    ),
    ("POST", "transactions/commit", {}, 400, "BadRequestException"),
    ("POST", "transactions/commit", {"table-changes": [{"updates": []}]}, 400, "BadRequestException"),
    (
        "POST",
        "transactions/commit",
        {"table-changes": [{"identifier": {"namespace": ["lake"], "name": "t"}, "updates": []}] * 2},
        400,
        "BadRequestException",
    ),
    # Views.
    ("GET", "namespaces/nowhere/views", None, 404, "NoSuchNamespaceException"),
    ("GET", "namespaces/lake/views/v", None, 404, "NoSuchViewException"),
    ("POST", "namespaces/lake/views", {}, 406, "UnsupportedOperationException"),
    ("POST", "views/rename", {}, 406, "UnsupportedOperationException"),
]
REQUIREMENTS = [
    {"type": "assert-create"},
    {"type": "assert-table-uuid", "uuid": UUID},
    main_is(7),
    {"type": "assert-last-assigned-field-id", "last-assigned-field-id": 7},
    {"type": "assert-current-schema-id", "current-schema-id": 7},
    {"type": "assert-last-assigned-partition-id", "last-assigned-partition-id": 7},
    {"type": "assert-default-spec-id", "default-spec-id": 7},
    {"type": "assert-default-sort-order-id", "default-sort-order-id": 7},
]


def pointers() -> dict[str, str]:
    return dict(IcebergTable.objects.values_list("name", "metadata_location"))


def test_everything_wrong_has_its_status_and_type_and_changes_nothing(lake: Site) -> None:
    before = pointers(), set(Namespace.objects.values_list("name", flat=True))
    for method, path, body, status, kind in ROWS:
        assert (method, path, str(body)[:200], lake.ask(method, path, body).error) == (
            *(method, path, str(body)[:200]),
            (status, kind),
        )
    assert (pointers(), set(Namespace.objects.values_list("name", flat=True))) == before


def test_a_requirement_that_does_not_hold_is_a_failed_commit_and_writes_nothing(lake: Site) -> None:
    before, files = pointers(), sorted((Path(lake.settings.resolved_warehouse)).rglob("*.json"))
    for requirement in REQUIREMENTS:
        body = {"requirements": [requirement], "updates": [{"action": "set-properties", "updates": {"a": "1"}}]}
        heard = lake.ask("POST", "namespaces/lake/tables/t", body)
        assert heard.error == (409, "CommitFailedException"), requirement
    assert pointers() == before
    assert sorted((Path(lake.settings.resolved_warehouse)).rglob("*.json")) == files


def test_the_methods_of_a_path_are_named_when_another_comes(lake: Site) -> None:
    assert lake.ask("PATCH", "namespaces/lake").headers["allow"] == "GET, HEAD, DELETE"


def test_whether_something_is_there_is_told_without_a_body(lake: Site) -> None:
    for path, status in (
        ("namespaces/lake", 204),
        ("namespaces/x", 404),
        ("namespaces/lake/tables/t", 204),
        ("namespaces/lake/tables/x", 404),
        ("namespaces/lake/views/t", 404),
    ):
        heard = lake.ask("HEAD", path)
        assert (heard.status, heard.body) == (status, b""), path
        assert status != 204 or "content-type" not in {name.lower() for name in heard.headers}


def test_it_is_served_without_the_prefix_as_well(lake: Site) -> None:
    with urllib.request.urlopen(f"{lake.root}/v1/config") as found:
        assert found.status == 200


def test_a_body_too_large_is_not_read(lake: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "BODY_BYTES_MAX", 100)
    heard = lake.ask("POST", "namespaces", {"namespace": ["x"], "properties": {"a": "x" * 100}})
    assert heard.error == (413, "BadRequestException")


def test_a_metrics_report_is_taken(lake: Site) -> None:
    body = {"report-type": "scan-report", "table-name": "t", "snapshot-id": 1, "metrics": {}}
    assert lake.ask("POST", "namespaces/lake/tables/t/metrics", body).status == 204


def test_a_warehouse_that_cannot_be_reached_is_503_and_one_that_lost_a_file_500(
    lake: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(pointers()["t"])
    kept = file.read_bytes()
    file.unlink()
    assert lake.ask("GET", "namespaces/lake/tables/t").error == (500, "InternalServerError")
    file.mkdir()
    heard = lake.ask("GET", "namespaces/lake/tables/t")
    assert (heard.error, heard.headers["retry-after"]) == ((503, "ServiceUnavailableException"), "1")
    file.rmdir()
    file.write_bytes(kept)
    assert lake.ask("GET", "namespaces/lake/tables/t").status == 200


def test_a_snapshot_whose_turn_is_over_has_to_be_made_anew(lake: Site) -> None:
    metadata = lake.ask("GET", "namespaces/lake/tables/t").json["metadata"]
    first = lake.ask("POST", "namespaces/lake/tables/t", {"updates": snapshot(1, metadata)})
    assert first.status == 200
    on_a_branch = snapshot(2, metadata)
    on_a_branch[1]["ref-name"] = "b"
    stale = {"requirements": [main_is(1)], "updates": on_a_branch}
    assert lake.ask("POST", "namespaces/lake/tables/t", stale).error == (409, "CommitFailedException")


def test_what_only_the_database_knows_it_cannot_take_is_no_reason_to_come_back(lake: Site) -> None:
    for method, path, body in (
        ("POST", "namespaces", {"namespace": ["x"], "properties": {"a": "\0"}}),
        ("POST", "namespaces/lake/properties", {"updates": {"\0": "1"}}),
        ("GET", "namespaces/lake/tables/t%00", None),
    ):
        assert lake.ask(method, path, body).status < 500, path


def test_a_table_is_renamed_into_a_level_above_a_namespace_as_it_could_be_made_there(lake: Site) -> None:
    lake.ask("POST", "namespaces", {"namespace": ["above", "below"]})
    body = {"source": {"namespace": ["lake"], "name": "t"}, "destination": {"namespace": ["above"], "name": "t"}}
    assert lake.ask("POST", "tables/rename", body).status == 204
    assert lake.ask("HEAD", "namespaces/above/tables/t").status == 204


def test_a_table_of_version_3_is_not_registered_either(lake: Site) -> None:
    file = Path(pointers()["t"])
    third = file.with_name("00001-third.metadata.json")
    third.write_text(json.dumps(json.loads(file.read_text()) | {"format-version": 3, "next-row-id": 0}))
    body = {"name": "third", "metadata-location": str(third)}
    assert lake.ask("POST", "namespaces/lake/register", body).error == (406, "UnsupportedOperationException")


def test_a_metadata_file_that_is_torn_is_no_reason_to_come_back(lake: Site) -> None:
    folder = Path(pointers()["t"]).parent
    whole = gzip.compress(Path(pointers()["t"]).read_bytes())
    for name, written in {"a": b"xx", "b": whole[:-20], "c": whole[:10] + b"\xff" * 20, "d": b""}.items():
        file = folder / f"{name}.gz.metadata.json"
        file.write_bytes(written)
        body = {"name": name, "metadata-location": str(file)}
        assert lake.ask("POST", "namespaces/lake/register", body).error == (400, "BadRequestException"), name
