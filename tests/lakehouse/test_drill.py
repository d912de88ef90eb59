"""A drill: the store seems away for a while, and afterwards somebody says whether all is well."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from lakehouse import tasks
from lakehouse.errors import StoreUnavailable
from lakehouse.fallback import ledger
from lakehouse.fallback.ledger import Held, Left
from lakehouse.flush import breaker_row
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.management.commands import drill
from lakehouse.models import Batch, FallbackBatch, IcebergTable
from lakehouse.query import duck
from tests.builders import NOW_MS, frame, parent, run, source

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Town:
    """Time, a child that writes and a worker that flushes; a turn of it is what happens while the drill sleeps."""

    shop: object
    ms: int = NOW_MS
    turns: int = 0
    interrupt_at: int = 0
    outage_ahead_ms_max: int = 0

    def now_ms(self):
        return self.ms

    def sleep(self, seconds):
        self.turns += 1
        ahead_ms = breaker_row.read().outage_until_ms - self.ms
        self.outage_ahead_ms_max = max(self.outage_ahead_ms_max, ahead_ms)
        self.ms += int(seconds * 1000)
        accept([(self.shop, frame(self.turns, run(3 * self.turns, 3 * self.turns + 2)))], now_ms=self.ms)
        try:
            tasks.flush_parent(self.shop.parent_id, FlushTrigger.MANUAL.value)
        except StoreUnavailable:
            assert breaker_row.read().outage_until_ms
        if self.turns == self.interrupt_at:
            raise KeyboardInterrupt


@pytest.fixture
def town(settings, tmp_path, monkeypatch):
    settings.EVODB = dataclasses.replace(settings.EVODB, data_dir=tmp_path)
    made = Town(source(parent()))
    monkeypatch.setattr(tasks, "now_ms", made.now_ms)
    monkeypatch.setattr(drill.Command, "now_ms", staticmethod(made.now_ms))
    monkeypatch.setattr(drill.Command, "sleep", staticmethod(made.sleep))
    tasks.flusher.cache_clear()
    yield made
    tasks.flusher.cache_clear()


def lead(*arguments):
    said = StringIO()
    call_command("drill", *arguments, stdout=said)
    return said.getvalue().splitlines()


def sequences_in_the_lake(settings):
    with duck.connect(settings.EVODB) as connection:
        scan = duck.scan(IcebergTable.objects.get().metadata_location)
        return sorted(number for (number,) in connection.execute(f"SELECT _seq FROM {scan}").fetchall())


def test_a_drill_fills_the_fallback_and_ends_with_everything_in_its_tables(town, settings):
    said = lead("--minutes", "1")
    assert said[0].startswith("the store is away for 1 min; Ctrl-C ends it")
    filling = [line for line in said if "bytes/s, full in" in line]
    assert len(filling) > 5
    assert all("breaker open, spool" in line for line in filling)
    assert said[-2].startswith("drained in ")
    assert said[-1].startswith("everything that was kept is in its tables: ")
    assert (FallbackBatch.objects.count(), breaker_row.read().state) == (0, "closed")
    assert set(Batch.objects.values_list("state", flat=True)) == {"persisted"}
    assert sequences_in_the_lake(settings) == list(range(3, 3 * town.turns + 3))


def test_ctrl_c_ends_the_outage_too(town):
    town.interrupt_at = 5
    said = lead("--minutes", "60")
    assert "ended early" in said
    assert breaker_row.read().outage_until_ms == 0
    assert said[-1].startswith("everything that was kept is in its tables: ")


def test_a_drill_that_dies_leaves_the_store_away_for_half_a_minute_at_most(town):
    lead("--minutes", "5")
    assert 0 < town.outage_ahead_ms_max <= 30_000


def test_there_is_one_drill_at_a_time_and_a_dead_one_is_in_nobodys_way(town):
    assert breaker_row.begin_outage(until_ms=town.ms + 30_000, now_ms=town.ms)
    with pytest.raises(CommandError, match="there is a drill already"):
        lead()
    town.ms += 30_000
    assert lead("--minutes", "0.1")[-1].startswith("everything")


def test_an_outage_somebody_else_ended_is_not_begun_again(town, monkeypatch):
    sleep = town.sleep

    def end_it(seconds):
        sleep(seconds)
        breaker_row.end_outage()

    monkeypatch.setattr(drill.Command, "sleep", staticmethod(end_it))
    said = lead("--minutes", "60")
    assert "somebody else ended the outage" in said


@pytest.mark.parametrize("minutes", ["0", "-1", "1e9", "nan"])
def test_minutes_that_cannot_work_are_named(minutes):
    with pytest.raises(CommandError, match=r"--minutes is .*, wanted more than 0"):
        lead("--minutes", minutes)


HELD = Held(size_bytes=9, rows=5, pieces=2, batches=3, fullest_bytes=9, last_piece=2, last_batch=3, last_flush=7)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (Left(1, 0, 3, 0), "NOT everything is in its tables: 1 pieces of 0 batches are still kept"),
        (Left(0, 1, 5, 0), "NOT everything is in its tables: 0 pieces of 1 batches are still kept"),
        (Left(0, 0, 4, 0), "NOT everything is in its tables: 5 rows were kept, 4 were recovered"),
        (Left(0, 0, 4, 1), "everything that was kept is in its tables: 4 rows, 1 dead letters"),
    ],
)
def test_the_last_line_says_what_is_missing(left, said):
    is_well, sentence = ledger.verdict(HELD, left)
    assert sentence.startswith(said)
    assert is_well is not sentence.startswith("NOT")


def test_the_time_until_full_is_told_only_while_it_fills():
    assert ledger.full_in_s(100, 200, took_s=5, bytes_max=1200) == 50
    assert ledger.full_in_s(200, 200, took_s=5, bytes_max=1200) is None
    assert ledger.full_in_s(100, 2000, took_s=5, bytes_max=1200) == 0
