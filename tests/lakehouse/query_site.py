"""A lake with something in it, and an engine that is asked without a catalog."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
import pytest_asyncio
from django.db import transaction

from lakehouse.catalog import tables
from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings
from lakehouse.errors import ForbiddenQuery, InvalidQuery
from lakehouse.models import IcebergTable, Namespace
from lakehouse.query.engine import Engine, Query
from lakehouse.query.messages import Answer, Place
from tests.lakehouse.staging import stage_rows

FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 5


def day(number: int) -> pa.Table:
    """24 rows, one for each hour; from the fourth day on there is a column more."""
    hours = [FIRST_DAY + timedelta(days=number, hours=hour) for hour in range(24)]
    late = {"late": pa.array([1.5] * 24)} if number >= 3 else {}
    columns = {"_ts": pa.array(hours, pa.timestamp("us", tz="UTC")), "_seq": pa.array(range(24), pa.int64())}
    return pa.table(columns | {"city": [f"city-{number}"] * 24} | late)


@dataclass
class Lake:
    """Where its tables are, by namespace and name."""

    settings: Settings
    places: dict[tuple[str, str], str] = field(default_factory=dict)

    def commit(self, namespace: str, table: str, rows: pa.Table) -> None:
        staged = stage_rows(from_settings(self.settings), namespace, table, rows, flush_id=1, parquet={})
        with transaction.atomic():
            tables.swap([staged])
        self.places[namespace, table] = staged.metadata_location

    def snapshots(self, table: str = "orders") -> list[tuple[int, int]]:
        """Id and time in ms of each, the oldest first."""
        metadata = json.loads(Path(self.places["lake", table]).read_text())
        return [(one["snapshot-id"], one["timestamp-ms"]) for one in metadata["snapshots"]]

    async def find(self, names: list) -> list[Place]:
        """As a key for the namespace lake hears it."""
        for name in names:
            if name.namespace.lower() != "lake":
                raise ForbiddenQuery(f"not for {name.namespace}")
            if ("lake", name.table) not in self.places:
                raise InvalidQuery(f"there is no table {name.table}")
        return [Place(one.namespace, one.table, self.places["lake", one.table]) for one in names]


def filled(settings: Settings) -> Lake:
    lake = Lake(settings)
    for number in range(DAYS):
        lake.commit("lake", "orders", day(number))
    lake.commit("lake", "items", day(0))
    lake.commit("other", "secret", day(0))
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker) -> Lake:
    """For the tests of a module. Its files are what is asked; the rows of the catalog go again."""
    with django_db_blocker.unblock():
        found = filled(Settings(data_dir=tmp_path_factory.mktemp("lake")))
        IcebergTable.objects.all().delete()
        Namespace.objects.all().delete()
    return found


@dataclass
class Asked:
    engine: Engine
    lake: Lake

    async def answer(self, sql: str, *, caller: str = "", query_id: str = "", **query: object) -> Answer:
        return await self.engine.run(Query(sql=sql, **query), find=self.lake.find, caller=caller, query_id=query_id)

    async def rows(self, sql: str, **query: object) -> list:
        return orjson.loads((await self.answer(sql, **query)).body)

    async def value(self, sql: str, **query: object) -> object:
        ((value,),) = await self.rows(sql, **query)
        return value


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def asked(lake: Lake) -> AsyncIterator[Asked]:
    async with asking(lake) as found:
        yield found


@contextlib.asynccontextmanager
async def asking(lake: Lake, **settings: object) -> AsyncIterator[Asked]:
    engine = Engine(Settings(**{"data_dir": lake.settings.data_dir, **settings}))
    try:
        yield Asked(engine, lake)
    finally:
        await engine.close()


async def hang_up(place: tuple[str, int], request: bytes, engine: Engine) -> None:
    """Asks over a socket, closes it while the query runs, and is back when it runs no more."""
    _, writer = await asyncio.open_connection(*place)
    writer.write(request)
    async with asyncio.timeout(30):
        while not engine._running:
            await asyncio.sleep(0.01)
        writer.close()
        while engine._running:
            await asyncio.sleep(0.01)
