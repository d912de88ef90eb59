import asyncio

import pytest
from celery import Celery
from django.db import connection

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import flushes
from lakehouse.parent.house import ask_worker, move_in, open_house
from tests.builders import NOW_MS
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_http_cdc import events, post

pytestmark = pytest.mark.django_db(transaction=True)


def working_house(tmp_path):
    """A house whose worker is in the thread that asks it."""
    settings = Settings(data_dir=tmp_path, open=True)
    flusher = Flusher("w", settings, chosen(settings), lambda: NOW_MS)

    def work(parent_id, trigger):
        flusher.run(parent_id, trigger=trigger)
        connection.close()

    return move_in(open_house(settings, ask=work))


async def test_what_is_durable_is_in_its_table_when_the_answer_comes(tmp_path):
    opened = working_house(tmp_path)
    await post({"events": events()})
    heard = await ask("POST", "/flush")
    assert heard.status == 200
    found = heard.json
    assert (found["success"], found["batchesFlushed"], found["eventsFlushed"]) == (True, 1, 3)
    assert (found["usedFallback"], "error" in found) == (False, False)
    assert found["bytesWritten"] > 0
    assert found["paths"][0].endswith(".metadata.json")
    again = (await ask("POST", "/flush")).json
    assert (again["success"], again["eventsFlushed"], again["paths"]) == (True, 0, [])
    await opened.close()


async def test_nothing_there_is_flushed_with_success_and_no_worker_is_asked():
    async with home() as (_, asked):
        heard = await ask("POST", "/flush")
        assert (heard.status, heard.json["success"], heard.json["batchesFlushed"]) == (200, True, 0)
        assert asked == []


async def test_no_worker_is_503_and_the_events_stay_durable(monkeypatch):
    monkeypatch.setattr(flushes, "WAIT_MS_MAX", 50)
    async with home() as (_, asked):
        await post({"events": events()})
        heard = await ask("POST", "/flush")
        assert (heard.status, heard.json["success"], heard.headers["retry-after"]) == (503, False, "5")
        assert "is a worker running?" in heard.json["error"]
        assert [trigger for _, trigger in asked] == [FlushTrigger.MANUAL]
        assert (await ask("GET", "/status")).json["buffer"]["eventCount"] == 3


@pytest.fixture(params=["redis", "folder"])
def no_broker(request, tmp_path, monkeypatch):
    """A Celery application whose broker is away: nobody listens, or its folder is gone."""
    made = Celery("alone", broker="redis://127.0.0.1:1/0", set_as_current=False)
    if request.param == "folder":
        gone = dict.fromkeys(("data_folder_in", "data_folder_out", "processed_folder"), str(tmp_path / "gone"))
        made.conf.update(
            broker_url="folder://localhost", broker_transport_options=gone | {"control_folder": str(tmp_path)}
        )
    monkeypatch.setattr("celery._state.default_app", made)
    monkeypatch.setattr("celery._state._tls.current_app", None)
    return made


async def test_a_broker_that_is_away_is_503_with_a_sentence_long_before_the_wait_is_over(no_broker, tmp_path):
    opened = move_in(open_house(Settings(data_dir=tmp_path, open=True), ask=ask_worker))
    await post({"events": events()})
    heard = await ask("POST", "/flush")
    assert (heard.status, heard.json["success"], heard.headers["retry-after"]) == (503, False, "5")
    assert heard.json["error"] == (
        "no worker can be asked, for the broker is away; the entries are durable and go in with the next flush"
    )
    assert (await ask("GET", "/status")).json["buffer"]["eventCount"] == 3
    await opened.close()


async def test_only_so_many_requests_wait_at_once(monkeypatch):
    monkeypatch.setattr(flushes, "WAITING_MAX", 1)
    monkeypatch.setattr(flushes, "WAIT_MS_MAX", 1000)
    async with home() as (_, asked):
        await post({"events": events()})
        first = asyncio.create_task(ask("POST", "/flush"))
        while not asked:
            await asyncio.sleep(0.005)
        heard = await ask("POST", "/flush")
        assert (heard.status, heard.headers["retry-after"]) == (503, "5")
        assert heard.json["error"] == "1 requests wait for a flush already; come back later"
        assert "is a worker running?" in (await first).json["error"]
