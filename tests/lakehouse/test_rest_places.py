"""Where tables may lie: inside the warehouse, whatever a client calls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse.catalog.folders import folder_of, is_within, join, overlap, plain
from lakehouse.models import IcebergTable
from tests.lakehouse.rest_site import Site, new_table, site_with_a_table, snapshot

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Site]:
    with site_with_a_table(tmp_path) as found:
        yield found


def outside(lake: Site) -> list[str]:
    inside = lake.settings.resolved_warehouse
    return [
        "file:///etc",
        "/etc/passwd",
        "relative/path",
        "",
        "/",
        inside,
        f"{inside}x/t",
        f"{inside}/../t",
        f"{inside}/lake/./t",
        f"{inside}//t",
        f"file://{inside}/../../etc",
        f"file://host{inside}/t",
        f"{inside}/t?x=1",
        f"{inside}/t#x",
        f"{inside}/t\\x",
        f"{inside}/t\x00",
        "s3://bucket/t",
        "http://127.0.0.1:1/t",
        "hdfs://host/t",
        "file:///file:///etc",
    ]


@pytest.mark.once
def test_no_way_leads_out_of_the_warehouse(lake: Site) -> None:
    metadata = lake.ask("GET", "namespaces/lake/tables/t").json["metadata"]
    before = IcebergTable.objects.get().metadata_location
    for place in outside(lake):
        statistics = {
            "snapshot-id": 1,
            "statistics-path": place,
            "file-size-in-bytes": 1,
            "file-footer-size-in-bytes": 1,
            "blob-metadata": [],
        }
        bodies = {
            "namespaces": {"namespace": ["x"], "properties": {"location": place}},
            "namespaces/lake/properties": {"updates": {"location": place}},
            "namespaces/lake/register": {"name": "u", "metadata-location": place},
        }
        if place:
            bodies["namespaces/lake/tables"] = new_table("u", location=place)
        updates = [
            [{"action": "set-location", "location": place}],
            [{"action": "set-properties", "updates": {"write.metadata.path": place}}],
            [{"action": "set-statistics", "statistics": statistics}],
            snapshot(1, metadata, **{"manifest-list": place}),
        ]
        for path, body in bodies.items():
            assert lake.ask("POST", path, body).error == (400, "BadRequestException"), (path, place)
        for update in updates:
            heard = lake.ask("POST", "namespaces/lake/tables/t", {"updates": update})
            assert heard.error == (400, "BadRequestException"), (update, place)
    assert IcebergTable.objects.get().metadata_location == before


def test_a_registered_file_names_nothing_outside_either(lake: Site) -> None:
    location = Path(IcebergTable.objects.get().metadata_location)
    copy = location.with_name("00009-7bfc6ecb-43a1-4a1f-8d5b-1dd1b9c7e5a4.metadata.json")
    for found, wanted in [
        (f'"location":"{lake.settings.resolved_warehouse}/lake/t"', '"location":"/etc"'),
        ('"metadata-log":[]', '"metadata-log":[{"metadata-file":"/etc/passwd","timestamp-ms":1}]'),
        ('"properties":{}', '"properties":{"write.metadata.path":"/etc"}'),
        ("{", "no json"),
        ("{", '{"x":'),
    ]:
        text = location.read_text()
        assert found in text
        copy.write_text(text.replace(found, wanted, 1))
        heard = lake.ask("POST", "namespaces/lake/register", {"name": "u", "metadata-location": str(copy)})
        assert heard.error == (400, "BadRequestException"), wanted
    copy.write_text(location.read_text())
    for place in (copy.with_name("nothing.metadata.json"), copy.parent):
        heard = lake.ask("POST", "namespaces/lake/register", {"name": "u", "metadata-location": str(place)})
        assert heard.status in {400, 503}
    body = {"name": "u", "metadata-location": f"file://{copy}"}
    heard = lake.ask("POST", "namespaces/lake/register", body)
    assert heard.error == (409, "AlreadyExistsException")
    assert "lake.t lies in" in heard.json["error"]["message"]
    assert "register this one again" in heard.json["error"]["message"]
    IcebergTable.objects.all().delete()
    heard = lake.ask("POST", "namespaces/lake/register", body)
    assert (heard.status, heard.json["metadata-location"]) == (200, str(copy))


def test_a_location_in_the_warehouse_is_kept_in_its_plain_form(lake: Site) -> None:
    wanted = f"{lake.settings.resolved_warehouse}/elsewhere/u"
    heard = lake.ask("POST", "namespaces/lake/tables", new_table("u", location=f"file://{wanted}/"))
    assert heard.json["metadata"]["location"] == wanted
    moved = {"updates": [{"action": "set-location", "location": f"file://{wanted}2"}]}
    found = lake.ask("POST", "namespaces/lake/tables/u", moved).json
    assert (found["metadata"]["location"], found["metadata-location"].startswith(f"{wanted}2/metadata/")) == (
        f"{wanted}2",
        True,
    )


def test_the_folder_of_an_ordinary_name_is_the_name_and_every_folder_can_be_one() -> None:
    names = ["orders", "with.dot", "Zürich", "a b", "what?", "50%", "x" * 300, "☃" * 100, "a:b", "what#"]
    folders = [folder_of(name) for name in names]
    assert folders[:4] == names[:4]
    assert len(set(folders)) == len(names)
    assert all(len(folder.encode()) <= 255 for folder in folders)
    for folder in folders:
        assert plain(join("s3://bucket", ["lake", folder])) == f"s3://bucket/lake/{folder}"


def test_a_path_is_within_a_folder_by_whole_levels() -> None:
    assert is_within("/a/b", "/a/b")
    assert is_within("/a/b/c", "/a/b")
    assert not is_within("/a/bc", "/a/b")
    assert overlap("/a", "/a/b")
    assert overlap("/a/b", "/a")
    assert not overlap("/a/b", "/a/c")
