"""Commits that meet: of two clients, of a client and a flush, of several tables, and those nobody heard of."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from django.db import OperationalError, connection, transaction
from pyiceberg.exceptions import CommitFailedException

from lakehouse.catalog import pointers, tables
from lakehouse.catalog.rest import swaps
from lakehouse.catalog.storage import from_settings
from lakehouse.errors import CommitConflict
from tests.lakehouse.rest_site import Site, main_is, new_table, site, snapshot
from tests.lakehouse.staging import stage_rows

pytestmark = pytest.mark.django_db(transaction=True)

TABLE = "namespaces/lake/tables/t"
TO_BE = {"requirements": [], "updates": [{"action": "set-properties", "updates": {"a": "1"}}]}


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as found:
        found.ask("POST", "namespaces", {"namespace": ["lake"]})
        for name in "tu":
            assert found.ask("POST", "namespaces/lake/tables", new_table(name)).status == 200
        yield found


def rows(first: int, last: int) -> pa.Table:
    return pa.table({"id": list(range(first, last + 1))})


def metadata_of(lake: Site, name: str = "t") -> dict[str, Any]:
    found: dict[str, Any] = lake.ask("GET", f"namespaces/lake/tables/{name}").json["metadata"]
    return found


def change_of(name: str, updates: list[Any], *requirements: Any) -> dict[str, Any]:
    identifier = {"namespace": ["lake"], "name": name}
    return {"identifier": identifier, "requirements": list(requirements), "updates": updates}


def files_of(lake: Site) -> set[Path]:
    return set(Path(lake.settings.resolved_warehouse).rglob("*.metadata.json"))


def in_thread_of_its_own(work: Any) -> Any:
    def run() -> Any:
        try:
            return work()
        finally:
            connection.close()

    return run


def test_of_two_committers_nothing_is_lost_and_nothing_doubled(lake: Site) -> None:
    appends = 5

    def committer(number: int) -> int:
        table, refused = lake.pyiceberg().load_table("lake.t"), 0
        for turn in range(appends):
            value = number * 1000 + turn
            while True:
                try:
                    table.append(rows(value, value))
                    break
                except CommitFailedException:
                    refused += 1
                    table.refresh()
        return refused

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(committer, (1, 2)))
    found = lake.pyiceberg().load_table("lake.t")
    wanted = sorted(number * 1000 + turn for number in (1, 2) for turn in range(appends))
    assert sorted(found.scan().to_arrow()["id"].to_pylist()) == wanted
    assert len(found.snapshots()) == 2 * appends


def test_several_tables_commit_together_or_not_at_all(lake: Site) -> None:
    before = {name: metadata_of(lake, name) for name in "tu"}
    files = files_of(lake)
    good = change_of("t", snapshot(1, before["t"]), main_is(None))
    bad = change_of("u", snapshot(2, before["u"]), main_is(7))
    for changes in ([good, bad], [bad, good]):
        heard = lake.ask("POST", "transactions/commit", {"table-changes": changes})
        assert heard.error == (409, "CommitFailedException")
    assert {name: metadata_of(lake, name) for name in "tu"} == before
    assert files_of(lake) == files
    bad["requirements"] = [main_is(None)]
    assert lake.ask("POST", "transactions/commit", {"table-changes": [good, bad]}).status == 204
    assert [metadata_of(lake, name)["current-snapshot-id"] for name in "tu"] == [1, 2]


def test_a_table_moved_between_the_check_and_the_swap_leaves_the_others_untouched(
    lake: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = metadata_of(lake)
    files = files_of(lake)
    swap, moved = swaps._swap, []

    def late(*arguments: Any) -> None:
        if not moved:
            moved.append(pointers.find("lake", "u"))
            assert lake.ask("POST", "namespaces/lake/tables/u", change_of("u", snapshot(9, metadata_of(lake, "u"))))
        swap(*arguments)

    monkeypatch.setattr(swaps, "_swap", late)
    changes = [
        change_of("t", snapshot(1, before), main_is(None)),
        change_of("u", snapshot(2, metadata_of(lake, "u")), main_is(None)),
    ]
    heard = lake.ask("POST", "transactions/commit", {"table-changes": changes})
    assert heard.error == (409, "CommitFailedException")
    assert metadata_of(lake) == before
    assert len(files_of(lake) - files) == 1


def test_a_change_whose_requirements_still_hold_gets_through_beside_another(
    lake: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap, turns = swaps._swap, []

    def late(*arguments: Any) -> None:
        turns.append(1)
        if len(turns) == 1:
            assert lake.ask("POST", TABLE, {"updates": snapshot(9, metadata_of(lake))}).status == 200
        swap(*arguments)

    monkeypatch.setattr(swaps, "_swap", late)
    assert lake.ask("POST", TABLE, TO_BE).status == 200
    found = metadata_of(lake)
    assert (found["current-snapshot-id"], found["properties"], len(turns)) == (9, {"a": "1"}, 3)


def test_a_commit_that_comes_again_is_answered_as_made(lake: Site) -> None:
    body = {"requirements": [main_is(None)], "updates": snapshot(1, metadata_of(lake))}
    first = lake.ask("POST", TABLE, body)
    second = lake.ask("POST", TABLE, body)
    assert (second.status, second.json) == (200, first.json)
    both = {"table-changes": [change_of("t", body["updates"], main_is(None))]}
    assert lake.ask("POST", "transactions/commit", both).status == 204
    other = {"requirements": [main_is(None)], "updates": snapshot(2, metadata_of(lake))}
    assert lake.ask("POST", TABLE, other).status == 409
    assert [one["snapshot-id"] for one in metadata_of(lake)["snapshots"]] == [1]


def test_a_creation_that_comes_again_is_answered_as_made(lake: Site) -> None:
    staged = lake.ask("POST", "namespaces/lake/tables", new_table("new", **{"stage-create": True})).json
    assert "metadata-location" not in staged
    body = change_of("new", creation_of(staged["metadata"]), {"type": "assert-create"})
    first = lake.ask("POST", "namespaces/lake/tables/new", body)
    assert (first.status, first.json["metadata"]["table-uuid"]) == (200, staged["metadata"]["table-uuid"])
    assert lake.ask("POST", "namespaces/lake/tables/new", body).json == first.json
    body["updates"][0]["uuid"] = "7bfc6ecb-43a1-4a1f-8d5b-1dd1b9c7e5a4"
    assert lake.ask("POST", "namespaces/lake/tables/new", body).error == (409, "CommitFailedException")


def creation_of(metadata: dict[str, Any]) -> list[Any]:
    return [
        {"action": "assign-uuid", "uuid": metadata["table-uuid"]},
        {"action": "add-schema", "schema": metadata["schemas"][0]},
        {"action": "set-current-schema", "schema-id": -1},
        {"action": "add-spec", "spec": metadata["partition-specs"][0]},
        {"action": "set-default-spec", "spec-id": -1},
        {"action": "add-sort-order", "sort-order": metadata["sort-orders"][0]},
        {"action": "set-default-sort-order", "sort-order-id": -1},
    ]


@pytest.mark.parametrize("is_made", [True, False])
def test_when_the_database_does_not_say_how_a_commit_ended_it_is_asked(
    lake: Site, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    swap = swaps._swap

    def cut_off(*arguments: Any) -> None:
        if is_made:
            swap(*arguments)
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(swaps, "_swap", cut_off)
    heard = lake.ask("POST", TABLE, TO_BE)
    if is_made:
        assert (heard.status, metadata_of(lake)["properties"]) == (200, {"a": "1"})
    else:
        assert (heard.error, metadata_of(lake)["properties"]) == ((503, "ServiceUnavailableException"), {})


def test_when_the_database_cannot_be_asked_the_client_hears_that_nobody_knows(
    lake: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: Any) -> None:
        monkeypatch.setattr(pointers, "find", away)
        raise OperationalError("no route to host")

    monkeypatch.setattr(swaps, "_swap", away)
    assert lake.ask("POST", TABLE, TO_BE).error == (500, "CommitStateUnknownException")


def test_a_flush_and_a_client_that_commit_to_one_table_both_get_through(lake: Site) -> None:
    inside = from_settings(lake.settings)
    turns = 6

    def flush() -> None:
        for turn in range(turns):
            while True:
                staged = stage_rows(inside, "lake", "t", rows(turn, turn), flush_id=turn, parquet={})
                try:
                    with transaction.atomic():
                        tables.swap([staged])
                    break
                except CommitConflict:
                    continue

    def client() -> None:
        table = lake.pyiceberg().load_table("lake.t")
        for turn in range(100, 100 + turns):
            while True:
                try:
                    table.append(rows(turn, turn))
                    break
                except CommitFailedException:
                    table.refresh()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(in_thread_of_its_own(flush)), threads.submit(client)]:
            done.result()
    found = lake.pyiceberg().load_table("lake.t").scan().to_arrow()["id"].to_pylist()
    assert sorted(found) == [*range(turns), *range(100, 100 + turns)]


def test_metadata_a_client_has_already_is_not_sent_again(lake: Site) -> None:
    first = lake.ask("GET", TABLE)
    mark = first.headers["etag"]
    for known in (mark, f'W/{mark}, "x"'):
        again = lake.ask("GET", TABLE, If_None_Match=known)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", mark)
    assert lake.ask("GET", f"{TABLE}?snapshots=refs", If_None_Match=mark).status == 200
    assert lake.ask("POST", TABLE, TO_BE).status == 200
    assert lake.ask("GET", TABLE, If_None_Match=mark).json["metadata"]["properties"] == {"a": "1"}


def test_nothing_to_do_is_done_without_a_new_file(lake: Site) -> None:
    files = files_of(lake)
    assert lake.ask("POST", TABLE, {"requirements": [], "updates": []}).status == 200
    assert lake.ask("POST", "transactions/commit", {"table-changes": []}).status == 204
    assert files_of(lake) == files
