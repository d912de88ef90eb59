import asyncio
import threading

import pytest
from celery import Celery
from django.db import OperationalError
from django.db.migrations.recorder import MigrationRecorder

from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable
from lakehouse.http import checks
from lakehouse.http.readiness import Readiness, readiness_of
from tests.builders import NOW_MS
from tests.lakehouse.http_site import ask, home
from tests.services import free_port

pytestmark = pytest.mark.django_db(transaction=True)
NAMES = ["database", "broker", "object_store", "catalog", "fuses"]


class Clock:
    def __init__(self):
        self.now_ms = NOW_MS

    def __call__(self):
        return self.now_ms


def counting(asked, name, error=None):
    def check():
        asked.append(name)
        if error is not None:
            raise error

    return check


async def test_a_process_that_reaches_everything_is_ready_without_a_key():
    async with home(open=False):
        heard = await ask("GET", "/ready")
    assert (heard.status, heard.json["ready"]) == (200, True)
    assert list(heard.json["checks"]) == NAMES
    for found in heard.json["checks"].values():
        assert found["ok"]
        assert found["error"] is None
        assert found["latency_ms"] >= 0


async def test_a_process_that_stops_is_not_ready_whatever_it_reaches():
    async with home() as (opened, _):
        assert (await ask("GET", "/ready")).status == 200
        opened.is_closing = True
        heard = await ask("GET", "/ready")
    assert (heard.status, heard.json["ready"]) == (503, False)
    assert all(found["ok"] for found in heard.json["checks"].values())


@pytest.mark.parametrize("name", NAMES)
async def test_one_that_cannot_be_reached_is_503_and_names_it_and_the_kind_of_error(name):
    async with home() as (opened, _):
        readiness_of(opened)._checks = {
            one: counting([], one, OperationalError("host secret-host") if one == name else None) for one in NAMES
        }
        heard = await ask("GET", "/ready")
    assert (heard.status, heard.json["ready"]) == (503, False)
    assert [one for one, found in heard.json["checks"].items() if not found["ok"]] == [name]
    assert heard.json["checks"][name]["error"] == "OperationalError"
    assert "secret-host" not in heard.body.decode()


async def test_many_probes_ask_once_a_second():
    asked, clock = [], Clock()
    readiness = Readiness({"a": counting(asked, "a"), "b": counting(asked, "b")}, now_ms=clock)
    await asyncio.gather(*(readiness.look() for _ in range(50)))
    await readiness.look()
    assert sorted(asked) == ["a", "b"]
    clock.now_ms += 999
    await readiness.look()
    assert len(asked) == 2
    clock.now_ms += 1
    await readiness.look()
    assert len(asked) == 4


async def test_the_checks_run_side_by_side():
    together = threading.Barrier(3)
    readiness = Readiness(dict.fromkeys("abc", lambda: together.wait(10)), now_ms=Clock())
    assert all(found.ok for found in (await readiness.look()).values())


async def test_a_check_that_hangs_is_answered_in_time_and_keeps_one_thread():
    release, asked, clock = threading.Event(), [], Clock()

    def hang():
        asked.append("a")
        release.wait(20)

    readiness = Readiness({"slow": hang, "quick": counting([], "b")}, now_ms=clock, within_ms=50)
    for seconds in range(3):
        clock.now_ms = NOW_MS + 1000 * seconds
        found = await readiness.look()
        assert (found["slow"].ok, found["quick"].ok) == (False, True)
        assert found["slow"].error == f"no answer for {1000 * seconds} ms"
    assert asked == ["a"]
    release.set()
    clock.now_ms += 1000
    while not (found := await readiness.look())["slow"].ok:
        clock.now_ms += 1000
    assert len(asked) <= 2


async def test_a_check_that_raises_a_timeout_is_not_called_silent():
    readiness = Readiness({"a": counting([], "a", TimeoutError("connect"))}, now_ms=Clock())
    assert (await readiness.look())["a"].error == "TimeoutError"


async def test_what_is_wrong_is_logged_once_and_not_at_every_probe(caplog):
    clock = Clock()
    readiness = Readiness({"a": counting([], "a", OperationalError("host x is away"))}, now_ms=clock)
    for _ in range(3):
        await readiness.look()
        clock.now_ms += 1000
    assert [record.getMessage() for record in caplog.records] == ["not ready: a: OperationalError: host x is away"]


async def test_a_database_that_was_not_migrated_is_told_with_what_to_type(caplog):
    error = OperationalError("no such column: lakehouse_parent.of_tomorrow")
    assert not (await Readiness({"a": counting([], "a", error)}, now_ms=Clock()).look())["a"].ok
    [record] = caplog.records
    assert record.getMessage().endswith("the database is empty or older than this version; type manage.py migrate")


@pytest.mark.django_db
def test_a_database_of_an_earlier_version_is_not_ready_though_children_would_be_acked():
    """Every flush failed for want of a table, and /ready said true."""
    checks.database()
    newest = MigrationRecorder.Migration.objects.filter(app="lakehouse").latest("name")
    newest.delete()
    with pytest.raises(checks.NotMigrated, match=f"lakehouse.{newest.name}.*; type manage.py migrate"):
        checks.database()


def test_a_lake_in_a_folder_has_to_take_files_also_before_its_first_flush(tmp_path):
    checks.object_store(Settings(data_dir=tmp_path))
    checks.object_store(Settings(warehouse=str(tmp_path / "not" / "yet")))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="/proc"):
        checks.object_store(Settings(warehouse="/proc/lake"))


def test_a_bucket_has_to_be_there_for_our_keys(rclone_store):
    checks.object_store(Settings(warehouse=f"s3://{rclone_store.bucket}/lake", **rclone_store.settings))
    with pytest.raises(StoreUnavailable, match="bucket nobodys: HTTP 404, it is not there; make it, or name another"):
        checks.object_store(Settings(warehouse="s3://nobodys/lake", **rclone_store.settings))
    stranger = rclone_store.settings | {"s3_secret_access_key": "mistyped"}
    with pytest.raises(StoreUnavailable, match="HTTP 403, it is not for these keys; look at EVODB_S3_ACCESS_KEY_ID"):
        checks.object_store(Settings(warehouse=f"s3://{rclone_store.bucket}/lake", **stranger))


def test_an_object_store_that_does_not_listen_is_an_error():
    settings = Settings(
        warehouse="s3://b/p",
        s3_endpoint=f"http://127.0.0.1:{free_port()}",
        s3_access_key_id="x",
        s3_secret_access_key="y",
    )
    with pytest.raises(Exception, match="Could not connect"):
        checks.object_store(settings)


def test_a_warehouse_nobody_can_look_at_says_what_was_wanted():
    with pytest.raises(ValueError, match="wanted a folder or one of s3, gs, abfss, abfs"):
        checks.object_store(Settings(warehouse="hdfs://bucket/x"))


@pytest.fixture
def celery(monkeypatch):
    def use(**conf):
        app = Celery("t", set_as_current=False)
        app.conf.update(**conf)
        monkeypatch.setattr("celery.current_app", app)

    return use


def test_a_broker_that_answers_is_good(redis_url, celery):
    celery(broker_url=redis_url)
    checks.broker()


def test_a_broker_that_does_not_listen_is_an_error(celery):
    celery(broker_url=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(Exception, match="refused"):
        checks.broker()


def test_a_broker_of_files_has_to_take_files(celery, tmp_path):
    celery(broker_url="folder://", broker_transport_options={"data_folder_out": str(tmp_path)})
    checks.broker()
    celery(broker_url="folder://", broker_transport_options={"data_folder_out": str(tmp_path / "gone")})
    with pytest.raises(FileNotFoundError):
        checks.broker()
