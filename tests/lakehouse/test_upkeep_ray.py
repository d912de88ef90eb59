"""The same rewrite on Daft with the Ray runner: the same rows in the same kind of files, or it is done here."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.types import UUIDType

from lakehouse import conf, rewrite_choice
from lakehouse.catalog.upkeep import compaction, engines, rounds
from lakehouse.catalog.upkeep.compaction import Compacted, Terms
from lakehouse.catalog.upkeep.exactly import same
from lakehouse.conf import SettingError, Settings
from lakehouse.errors import NotKept
from lakehouse.query import duck
from tests.lakehouse.upkeep_site import Lake

pytestmark = pytest.mark.django_db(transaction=True)

LOCAL = Terms(target_bytes=2**27, files_min=2, is_tiered=False)
ON_RAY = dataclasses.replace(LOCAL, engine="ray")
MISSING = [name for name in rewrite_choice.PACKAGES if find_spec(name) is None]
needs_ray = pytest.mark.skipif(
    bool(MISSING),
    reason=f"{' and '.join(MISSING)} not installed; type: make test-ray",
)
NAN, NOTHING = float("nan"), None
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), ["", NOTHING, "ü\0🛩"]),
    "whole": (pa.int64(), [2**63 - 1, NOTHING, -(2**63)]),
    "small": (pa.int32(), [1, NOTHING, -1]),
    "real": (pa.float64(), [NAN, NOTHING, -0.0]),
    "half": (pa.float32(), [NAN, 1.5, NOTHING]),
    "yes": (pa.bool_(), [True, NOTHING, False]),
    "money": (pa.decimal128(38, 9), [Decimal("12345678901234567890123456789.000000001"), NOTHING, Decimal("-0.5")]),
    "at": (pa.timestamp("us", tz="UTC"), [datetime(1, 1, 1, tzinfo=UTC), NOTHING, datetime(9999, 12, 31, tzinfo=UTC)]),
    "local_at": (pa.timestamp("us"), [datetime(2026, 11, 21, 1, 2, 3, 4), NOTHING, datetime(1969, 12, 31)]),  # noqa: DTZ001
    "day": (pa.date32(), [date(2026, 11, 21), NOTHING, date(1, 1, 1)]),
    "clock": (pa.time64("us"), [time(23, 59, 59, 999_999), NOTHING, time(0)]),
    "raw": (pa.binary(), [b"\0\xff", NOTHING, b""]),
    "one": (
        pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.decimal128(9, 2))]))]),
        [{"a": 1, "b": {"c": Decimal("1.50")}}, NOTHING, {"a": NOTHING, "b": NOTHING}],
    ),
    "many": (pa.list_(pa.string()), [["x", NOTHING], NOTHING, []]),
    "rows": (pa.list_(pa.struct([("k", pa.string()), ("v", pa.float64())])), [[{"k": "n", "v": NAN}], [NOTHING], []]),
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings(data_dir=tmp_path))


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A Ray of our own on this machine; the engine takes what its process is connected to."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engines.QUIET.items():
            patch.setenv(name, value)
        import ray

        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        yield
        ray.shutdown()


def compact(lake: Lake, terms: Terms, name: str = "flights") -> Compacted:
    with lake.keeper(name=name) as keeper:
        return compaction.compact(keeper, terms)


def twins(lake: Lake) -> None:
    """Two tables with the same rows; the first files know nothing of the columns that came later."""
    for name in ("here", "there"):
        lake.written = 0
        lake.commit(2, each=3, name=name)
        for _ in range(3):
            lake.commit(each=3, name=name, **{key: pa.array(of, kind) for key, (kind, of) in COLUMNS.items()})


def texts(lake: Lake) -> list[str]:
    """The rows of the table as DuckDB shows them: a NaN is no other NaN, and a struct is in no set."""
    with duck.connect(lake.settings) as connection:
        return sorted(map(str, connection.execute(f"FROM {duck.scan(lake.row('there').metadata_location)}").fetchall()))


def files(lake: Lake, name: str) -> list[Any]:
    found = lake.table(name).inspect.files().to_pylist()
    return sorted((pq.read_table(one["file_path"]) for one in found), key=lambda rows: rows["_row_id"][0].as_py())


def ids(rows: Any) -> list[str]:
    return rows["_row_id"].to_pylist()


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_ray_writes_the_files_this_process_would_have_written(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    twins(lake)
    rows = texts(lake)
    with caplog.at_level(logging.INFO, engines.log.name):
        assert [str(compact(lake, ON_RAY, "there"))] == [str(compact(lake, LOCAL, "here"))]
    assert not [one for one in caplog.records if one.name == engines.log.name]
    [here], [there] = files(lake, "here"), files(lake, "there")
    assert same(here, there)
    assert here.schema.equals(there.schema, check_metadata=True)
    assert ids(there) == sorted(ids(there))
    assert texts(lake) == rows
    [one], [other] = (lake.table(name).inspect.files().to_pylist() for name in ("here", "there"))
    assert one["readable_metrics"] == other["readable_metrics"]


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_a_pile_of_many_shares_becomes_files_of_the_target_in_one_order(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lakehouse.catalog.upkeep import on_ray

    lake.commit(6, each=300, noise=[f"{number * 7919 % 100_003:x}" * 40 for number in range(300)])
    rows, table = lake.rows(), lake.table()
    whole = sum(one["file_size_in_bytes"] for one in table.inspect.files().to_pylist())
    monkeypatch.setattr(on_ray, "SHARE_BYTES", whole // 6)
    old = [task.file for task in table.scan().plan_files()]
    new = list(engines.of("ray")(table.metadata, old, table.io, target_bytes=whole // 3))
    assert not [one for one in caplog.records if one.name == engines.log.name]
    assert 2 <= len(new) <= 4
    assert sum(file.record_count for file in new) == rows.total()
    found = [row for file in new for row in ids(pq.read_table(file.file_path))]
    assert found == sorted(found)
    assert {file.file_path.rpartition("/")[0] for file in new} == {old[0].file_path.rpartition("/")[0]}


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_what_daft_does_not_keep_is_rewritten_here(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    lake.commit(2)
    with lake.table().update_schema() as update:
        update.add_column("key", UUIDType())
    lake.commit(2)
    rows = lake.rows()
    with caplog.at_level(logging.INFO, engines.log.name):
        assert compact(lake, ON_RAY).old == 4
    assert "rewritten here: Daft does not keep the type of key" in caplog.text
    assert lake.rows() == rows


@pytest.mark.parametrize(
    ("error", "level", "said"),
    [
        (NotKept("Daft changes rows of a.parquet"), logging.INFO, "rewritten here: Daft changes rows of a.parquet"),
        (ConnectionError("no Ray at 10.0.0.1"), logging.WARNING, "Ray failed: ConnectionError: no Ray at 10.0.0.1"),
    ],
)
def test_a_cluster_that_cannot_do_it_holds_nothing_up(
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    level: int,
    said: str,
) -> None:
    def rewrite(*_: Any, **__: Any) -> None:
        raise error

    away = SimpleNamespace(rewrite=rewrite)
    monkeypatch.setitem(sys.modules, "lakehouse.catalog.upkeep.on_ray", away)
    monkeypatch.setattr("lakehouse.catalog.upkeep.on_ray", away, raising=False)
    lake.commit(4)
    rows = lake.rows()
    with caplog.at_level(logging.INFO, engines.log.name):
        assert compact(lake, ON_RAY).old == 4
    [record] = [one for one in caplog.records if one.name == engines.log.name]
    assert (record.levelno, lake.rows()) == (level, rows)
    assert said in caplog.text


def test_who_asks_for_ray_and_has_none_hears_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite_choice, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"daft and ray cannot be imported; type: pip install 'evodb\[server,ray\]'"):
        conf.load({"EVODB_REWRITE_ENGINE": "ray"})
    assert conf.load({}).rewrite_engine == "local"
    with pytest.raises(SettingError, match="wanted local or ray"):
        conf.load({"EVODB_REWRITE_ENGINE": "spark"})


def test_the_setting_is_what_upkeep_does() -> None:
    assert rounds.terms_of(Settings(rewrite_engine="ray")).engine == "ray"


@pytest.mark.parametrize("name", COLUMNS)
def test_a_changed_value_is_seen(name: str) -> None:
    kind, values = COLUMNS[name]
    column = pa.table({name: pa.array(values, kind)})
    assert same(column, pa.table({name: pa.array(values, kind)}))
    for other in ([values[1], values[0], values[2]], [values[0], values[1], values[1]]):
        assert not same(column, pa.table({name: pa.array(other, kind)}))


def test_what_compares_as_equal_and_is_another_value_is_seen() -> None:
    for one, other, kind in [
        ([0.0], [-0.0], pa.float64()),
        ([[0.0]], [[-0.0]], pa.list_(pa.float32())),
        ([{"a": None}], [None], pa.struct([("a", pa.int8())])),
        ([[("a", 0.0)]], [[("a", -0.0)]], pa.map_(pa.string(), pa.float64())),
        ([[], ["x"]], [["x"], []], pa.list_(pa.string())),
    ]:
        assert not same(pa.table({"it": pa.array(one, kind)}), pa.table({"it": pa.array(other, kind)}))
