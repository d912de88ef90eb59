"""The door of the catalog: when it is closed, full, or nobody asked for what lies behind it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lakehouse.catalog.rest import entrance
from tests.lakehouse.http_site import ask, home

pytestmark = pytest.mark.django_db(transaction=True)


def error_of(heard):
    return heard.json["error"]["code"], heard.json["error"]["type"]


async def test_a_process_that_stops_answers_questions_and_takes_no_commits():
    async with home() as (opened, _):
        opened.is_closing = True
        assert (await ask("GET", "/iceberg/v1/config")).status == 200
        heard = await ask("POST", "/iceberg/v1/transactions/commit", {"table-changes": []})
        assert (heard.status, error_of(heard)) == (503, (503, "ServiceUnavailableException"))
        assert heard.headers["retry-after"] == "1"


async def test_who_finds_no_seat_and_no_place_to_wait_comes_back(monkeypatch):
    monkeypatch.setattr(entrance, "WAITING_MAX", 0)
    async with home():
        assert error_of(await ask("GET", "/v1/config")) == (503, "ServiceUnavailableException")


async def test_who_asks_here_for_tables_that_another_catalog_keeps_hears_where_they_are():
    async with home(catalog="sql", catalog_properties='{"uri": "sqlite://"}'):
        heard = await ask("GET", "/iceberg/v1/namespaces")
        assert error_of(heard) == (404, "NotFoundException")
        assert "are in the sql catalog of EVODB_CATALOG" in heard.json["error"]["message"]


async def test_a_path_that_only_begins_like_ours_is_not_ours():
    async with home():
        for path in ("/iceberg", "/v2/config", "/xv1/config", "/iceberg/v2/config"):
            assert (await ask("GET", path)).status == 404


@pytest.mark.once
def test_a_process_that_nobody_asks_for_tables_never_loads_the_libraries_of_the_lake():
    program = "import sys, evodb_site.asgi; print({'pyiceberg', 'pyarrow', 'duckdb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
