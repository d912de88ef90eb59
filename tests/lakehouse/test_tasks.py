import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from celery import beat
from django.db import connection

from evodb_site.celery import app
from lakehouse import tasks
from lakehouse.clock import now_ms
from lakehouse.errors import StoreUnavailable
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, BatchPayload, Flush, FlushState, Parent
from tests.builders import frame, parent, run, source

pytestmark = pytest.mark.django_db(transaction=True)

DAY_MS = 24 * 3600 * 1000
AGE_MS = 60_000


def put(name, *batches, received_ms=None, **config):
    home = Parent.objects.filter(name=name).first() or parent(name, **config)
    shop = source(home, f"{name}-child")
    accept([(shop, batch) for batch in batches], now_ms=now_ms() if received_ms is None else received_ms)
    return home


def batches_of(entries, *, each):
    """`entries` entries in batches of `each`."""
    return [frame(at // each + 1, run(at + 1, at + each)) for at in range(0, entries, each)]


def pending():
    return dict(Parent.objects.values_list("name", "pending_entries"))


def flushes():
    return list(Flush.objects.order_by("pk").values_list("parent__name", "trigger", "entries", "state"))


def test_parents_whose_age_passed_are_flushed_and_no_others(worker, at_once):
    long_ago = now_ms() - AGE_MS
    config = {"flush_threshold_ms": AGE_MS, "flush_interval_ms": 10 * AGE_MS}
    put("old", frame(1, run(1, 3)), received_ms=long_ago, **config)
    put("young", frame(1, run(1, 3)), **config)
    parent("empty", **config)
    assert tasks.flush_due() == 1
    assert flushes() == [("old", FlushTrigger.AGE, 3, FlushState.COMMITTED)]
    assert pending() == {"old": 0, "young": 3, "empty": 0}


def test_a_full_buffer_whose_alarm_died_is_found_by_the_beat(worker, at_once):
    put("full", *batches_of(4, each=2), flush_threshold_entries=4)
    put("half", *batches_of(2, each=2), flush_threshold_entries=4)
    assert tasks.flush_due() == 1
    assert flushes() == [("full", FlushTrigger.ENTRIES, 4, FlushState.COMMITTED)]


def test_nothing_is_due_and_nobody_is_asked(worker, at_once):
    put("young", frame(1, run(1, 3)))
    assert tasks.flush_due() == 0
    assert flushes() == []


def test_a_flush_goes_on_while_its_threshold_is_reached(worker):
    worker(flush_entries_max=4)
    home = put("home", *batches_of(14, each=2), flush_threshold_entries=5)
    assert tasks.flush_parent(home.pk, FlushTrigger.ENTRIES.value) == 12
    assert flushes() == [("home", FlushTrigger.ENTRIES, 4, FlushState.COMMITTED)] * 3
    assert pending() == {"home": 2}


@pytest.mark.parametrize("trigger", tasks.TO_THE_END)
def test_a_flush_somebody_asked_for_goes_on_until_nothing_waits(worker, trigger):
    worker(flush_entries_max=4)
    home = put("home", *batches_of(10, each=2), flush_threshold_entries=100)
    assert tasks.flush_parent(home.pk, trigger.value) == 10
    assert [entries for _, _, entries, _ in flushes()] == [4, 4, 2]
    assert pending() == {"home": 0}


def test_a_threshold_another_worker_has_served_meanwhile_is_not_flushed_again(worker):
    home = put("home", frame(1, run(1, 3)), flush_threshold_entries=100)
    assert tasks.flush_parent(home.pk, FlushTrigger.ENTRIES.value) == 0
    assert flushes() == []


def test_a_parent_somebody_else_is_flushing_is_left_to_them(worker):
    home = put("home", frame(1, run(1, 3)))
    Parent.objects.update(lease_until_ms=now_ms() + 60_000, lease_owner="worker-2")
    assert tasks.flush_parent(home.pk, FlushTrigger.MANUAL.value) == 0
    assert pending() == {"home": 3}


def test_a_task_that_runs_twice_flushes_once(worker):
    home = put("home", frame(1, run(1, 3)))
    assert tasks.flush_parent(home.pk, FlushTrigger.MANUAL.value) == 3
    assert tasks.flush_parent(home.pk, FlushTrigger.MANUAL.value) == 0
    assert Parent.objects.get().commit_number == 1


def test_two_beats_ask_twice_and_two_workers_at_once_flush_once(worker, monkeypatch):
    home = put("home", frame(1, run(1, 3)), flush_threshold_entries=3)
    asked = []
    monkeypatch.setattr(tasks.flush_parent, "delay", lambda *arguments: asked.append(arguments))
    assert [tasks.flush_due() for _ in range(2)] == [1, 1]
    assert asked == [(home.pk, FlushTrigger.ENTRIES.value)] * 2
    together = threading.Barrier(2)

    def work(arguments):
        try:
            together.wait(20)
            return tasks.flush_parent(*arguments)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(work, asked)) == [0, 3]
    assert Parent.objects.get().commit_number == 1
    assert flushes() == [("home", FlushTrigger.ENTRIES, 3, FlushState.COMMITTED)]


def test_history_is_forgotten_when_it_is_old_enough_and_in_its_table(worker):
    worker(history_days=2)
    now = now_ms()
    put("home", frame(1, run(1, 3)), received_ms=now - 2 * DAY_MS - 1)
    put("home", frame(2, run(4, 4)), received_ms=now - DAY_MS)
    tasks.flush_parent(Parent.objects.get().pk, FlushTrigger.MANUAL.value)
    put("home", frame(3, run(5, 5)), received_ms=now - 3 * DAY_MS)
    assert tasks.forget_history() == 1
    assert list(Batch.objects.order_by("pk").values_list("sequence", "state")) == [(2, "persisted"), (3, "pending")]
    assert BatchPayload.objects.count() == 1


def test_the_beat_asks_for_tasks_that_exist():
    app.loader.import_default_modules()
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    ours = ("flush_due", "forget_history", "recover_fallback", "refresh_current", "upkeep")
    assert scheduled >= {f"lakehouse.tasks.{name}" for name in ours}
    assert scheduled <= set(app.tasks)


def test_a_beat_shares_no_file_that_another_one_or_a_dead_one_could_have_broken(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(settings.EVODB.data_dir.rglob("*"))
    program = app.Beat()
    scheduler = beat.Service(app, scheduler_cls=program.scheduler_cls, schedule_filename=program.schedule).scheduler
    assert scheduler.schedule.keys() >= app.conf.beat_schedule.keys()
    scheduler.sync()
    scheduler.close()
    assert not list(tmp_path.iterdir())
    assert set(settings.EVODB.data_dir.rglob("*")) == before


def test_a_store_that_is_away_is_a_line_of_the_workers_log_and_a_mistake_of_ours_has_its_frames(monkeypatch, caplog):
    home = put("away", frame(1, run(1, 1)))

    def fails_with(error):
        monkeypatch.setattr(tasks, "flusher", lambda: SimpleNamespace(run=Mock(side_effect=error)))
        caplog.clear()
        tasks.flush_parent.apply((home.pk, FlushTrigger.MANUAL.value))
        return [record for record in caplog.records if record.levelno >= logging.ERROR]

    [said] = fails_with(StoreUnavailable("the warehouse cannot be read:\nACCESS_DENIED"))
    assert (said.exc_info, said.getMessage()) == (
        None,
        "flush_parent failed: StoreUnavailable: the warehouse cannot be read: ACCESS_DENIED",
    )
    [said] = fails_with(ZeroDivisionError())
    assert said.exc_info
