"""`manage.py travel`: a row's history, a table as it was by the child's clock or by ours, and what came in between."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from itertools import count

import pytest
from django.conf import settings as site
from django.core.management import CommandError, call_command

from lakehouse.catalog.lakes import chosen
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal import progress
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, Flush, Parent
from lakehouse.models.parents import PastFlushes
from lakehouse.moving.house import Move, Plan
from lakehouse.moving.relocation import Relocation
from rpc.entries import RawEntry
from tests.builders import NOW_MS, frame, parent, source

pytestmark = pytest.mark.django_db(transaction=True)

MINUTE_MS = 60_000
INSERT, UPDATE, DELETE = 0, 1, 2


@pytest.fixture
def street(tmp_path, monkeypatch):
    """Writes batches of one child, flushing each; NOW_MS is 2023-11-14 22:13:20."""
    settings = Settings(data_dir=tmp_path)
    monkeypatch.setattr(site, "EVODB", dataclasses.replace(settings))
    flusher = Flusher("worker-1", settings, chosen(settings), lambda: NOW_MS)
    shop, numbers = source(parent()), count(1)

    def write(*changes, table="orders", shop=shop, now_ms=NOW_MS):
        """Each: sequence, operation, row id, value (or the whole document), minute."""
        content = [
            RawEntry(
                sequence,
                NOW_MS + minute * MINUTE_MS,
                operation,
                table.encode(),
                row.encode(),
                b"" if operation == INSERT else b'{"v":0}',
                b"" if operation == DELETE else json.dumps(value if isinstance(value, dict) else {"v": value}).encode(),
            )
            for sequence, operation, row, value, minute in changes
        ]
        accept([(shop, frame(next(numbers), content))], now_ms=now_ms)
        return flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL).commit_number

    return write


@pytest.fixture
def story(street):
    """The third commit brings what came late: it lies between the first two in the order of the child."""
    assert street((1, INSERT, "a", 1, 0), (2, INSERT, "b", 2, 1)) == 1
    assert street((5, DELETE, "b", 0, 4), (6, UPDATE, "a", 6, 5)) == 2
    assert street((3, UPDATE, "a", 3, 2), (4, UPDATE, "b", 4, 3)) == 3


def travel(*args):
    out = io.StringIO()
    call_command("travel", *args, "--format", "json", stdout=out, stderr=io.StringIO())
    found = json.loads(out.getvalue())
    names = [one["name"] for one in found["columns"]]
    return [dict(zip(names, row, strict=True)) for row in found["rows"]]


def values(*args):
    return {row["_row_id"]: row["v"] for row in travel("as-of", "orders", *args)}


def test_the_history_of_a_row_is_in_the_order_it_was_made_whatever_came_late(story):
    found = travel("history", "orders", "--row-id", "b")
    assert [(row["_seq"], row["_op"]) for row in found] == [(2, "INSERT"), (4, "UPDATE"), (5, "DELETE")]
    assert [row["_seq"] for row in travel("history", "orders", "--row-id", "b", "--bookmark", "2")] == [2, 5]


def test_a_table_as_of_a_time_is_as_its_child_had_it_then(story):
    assert values() == {"a": 6}
    assert values("--as-of", "2023-11-14 22:13:20") == {"a": 1}
    assert values("--as-of", "2023-11-14 22:16:59+00") == {"a": 3, "b": 4}
    assert values("--as-of", "2023-11-14 22:16:59+00", "--row-id", "b") == {"b": 4}
    assert values("--as-of", "2023-11-14 22:17:20+00", "--row-id", "b") == {}
    assert values("--as-of", "2020-01-01") == {}


def test_a_table_as_of_a_bookmark_is_what_was_known_then(story):
    assert values("--bookmark", "0") == {}
    assert values("--bookmark", "1") == {"a": 1, "b": 2}
    assert values("--bookmark", "2") == {"a": 6}
    assert values("--bookmark", "2", "--as-of", "2023-11-14 22:16:59+00") == {"a": 1, "b": 2}


def test_a_clock_that_went_back_takes_nothing_out_of_the_middle(street):
    street((1, INSERT, "a", 1, 0), (2, INSERT, "b", 2, 60), (3, INSERT, "c", 3, 1))
    assert values("--as-of", "2023-11-14 22:15:00") == {"a": 1, "b": 2, "c": 3}
    assert values("--as-of", "2023-11-14 22:15:00", "--row-id", "b") == {"b": 2}


def test_the_history_of_a_row_lacks_nothing_in_the_middle_when_the_clock_went_back(street):
    street((1, INSERT, "a", 1, 0), (2, INSERT, "b", 2, 60), (3, INSERT, "c", 3, 1), (4, UPDATE, "b", 4, 2))
    found = travel("history", "orders", "--row-id", "b", "--as-of", "2023-11-14 22:15:00")
    assert [row["_seq"] for row in found] == [2]


def test_a_table_has_a_past_whatever_its_columns_are_called(street):
    names = ("last", "stood", "told", "bookmark", "flush", "parent", "committed_at", "epoch", "seq", "commits")
    street((1, INSERT, "a", dict.fromkeys(names, 7), 0))
    for args in (["--as-of", "2030-01-01"], ["--bookmark", "1"], ["--as-of", "2030-01-01", "--bookmark", "1"]):
        (row,) = travel("as-of", "orders", *args)
        assert [row[name] for name in names] == [7] * len(names)
    (row,) = travel("changes", "orders")
    assert (row["bookmark"], row["bookmark_1"]) == (1, 7)


def test_children_that_have_tables_called_watermarks_and_commits_take_away_nobodys_past(street):
    street((1, INSERT, "a", 1, 0))
    street((2, INSERT, "a", 2, 0), table="commits")
    street((3, INSERT, "a", 3, 0), table="watermarks")
    street((4, UPDATE, "a", 4, 0))
    assert values("--bookmark", "1") == {"a": 1}
    assert [row["bookmark"] for row in travel("changes", "orders", "--after", "1")] == [4]
    assert [row["v"] for row in travel("as-of", "commits")] == [2]
    out = io.StringIO()
    call_command("query", 'SELECT table_name FROM "$watermarks" ORDER BY 1', "--format", "csv", stdout=out)
    assert out.getvalue().split() == ["table_name", "commits", "orders", "watermarks"]


def test_a_bookmark_says_what_was_known_of_other_parents_too_when_its_own_commit_is_no_longer_told(story, street):
    """Of bookmark 0 there never was a commit."""
    other = source(parent("other"), "shop-2")
    street((1, INSERT, "z", 26, 0), shop=other)
    Flush.objects.filter(parent=other.parent_id).update(finished_ms=NOW_MS + 1)
    assert values("--bookmark", "0") == {}
    Batch.objects.filter(flush__commit_number=1, parent__name="default").delete()
    Flush.objects.filter(commit_number=1, parent__name="default").delete()
    PastFlushes.objects.create(parent=Parent.objects.get(name="default"), commit_number=1)
    assert values("--bookmark", "1") == {"a": 1, "b": 2}


@pytest.mark.parametrize("namespace", ["temp", "system"])
def test_a_namespace_may_be_called_as_something_of_duckdbs(street, namespace):
    home = Parent.objects.create(name="p", namespace=namespace)
    street((1, INSERT, "a", 26, 0), shop=source(home))
    args = ("as-of", "orders", "--namespace", namespace, "--parent", "p", "--bookmark", "1")
    assert [row["v"] for row in travel(*args)] == [26]
    out = io.StringIO()
    sql = f"SELECT (FROM orders SELECT max(v)), (FROM {namespace}.orders SELECT max(v)), (FROM commits SELECT count(*))"
    call_command("query", sql, "--namespace", namespace, "--format", "csv", stdout=out)
    assert out.getvalue().splitlines()[1] == "26,26,1"


def test_a_bookmark_of_a_parent_that_writes_elsewhere_is_an_error_and_not_the_table_of_now(story):
    Parent.objects.create(name="eu", namespace="eu")
    with pytest.raises(CommandError, match="the bookmarks of eu are of eu, where it writes; type --namespace eu"):
        travel("as-of", "orders", "--parent", "eu", "--bookmark", "0")


def test_a_bookmark_behind_more_commits_than_are_told_is_an_error_and_not_the_table_of_now(story, monkeypatch):
    monkeypatch.setattr(progress, "COMMITS_MAX", 1)
    assert values("--bookmark", "2") == {"a": 6}
    for asked in (["as-of", "orders", "--bookmark", "1"], ["changes", "orders", "--after", "1"]):
        with pytest.raises(CommandError, match="the bookmark is 1, and lake had more than 1 commits since"):
            travel(*asked)


def test_a_table_as_of_a_snapshot_is_what_that_snapshot_had(story):
    (first, *_), *_ = _snapshots()
    assert values("--snapshot", str(first)) == {"a": 1, "b": 2}


def test_changes_between_two_bookmarks_are_told_with_the_commit_that_brought_them(story):
    def told(*args):
        return [(row["bookmark"], row["_seq"]) for row in travel("changes", "orders", *args)]

    assert told() == [(1, 1), (1, 2), (2, 5), (2, 6), (3, 3), (3, 4)]
    assert told("--after", "1", "--until", "2") == [(2, 5), (2, 6)]
    assert told("--after", "2", "--row-id", "a") == [(3, 3)]
    assert told("--after", "3") == []


def test_the_past_is_as_it_was_where_a_lake_moved_to(story, tmp_path):
    asked = [
        ("as-of", "orders", "--as-of", "2023-11-14 22:16:59+00"),
        *(("as-of", "orders", "--snapshot", str(number)) for number, *_ in _snapshots()),
        *(("as-of", "orders", "--bookmark", str(number)) for number in range(4)),
        ("changes", "orders", "--after", "1", "--until", "3"),
        ("history", "orders", "--row-id", "b"),
    ]
    told = [travel(*one) for one in asked]
    old, site.EVODB = site.EVODB, dataclasses.replace(site.EVODB, data_dir=tmp_path / "new")
    places = Relocation(old.resolved_warehouse, old.resolved_warehouse, site.EVODB.resolved_warehouse)
    Move(Plan("", places), site.EVODB, now_ms=now_ms(), say=lambda _: None).run()
    shutil.rmtree(old.resolved_warehouse)
    assert [travel(*one) for one in asked] == told


def test_the_journals_tables_are_read_in_sql_beside_the_lakes(story):
    def asked(sql):
        out = io.StringIO()
        call_command("query", sql, "--format", "json", stdout=out)
        return json.loads(out.getvalue())["rows"]

    assert asked("SELECT child, table_name, epoch, seq, is_complete, received_before FROM lake.watermarks") == [
        ["shop-1", "orders", 1, 6, True, "2023-11-14T22:13:20Z"]
    ]
    joined = "SELECT bookmark, count(*) FROM orders JOIN commits ON _flush = flush GROUP BY 1 ORDER BY 1"
    assert asked(joined) == [[1, 2], [2, 2], [3, 2]]
    assert asked("SELECT count(*) FROM watermarks a, Lake.Watermarks b") == [[1]]
    assert asked("SELECT count(*) FROM commits WHERE committed_at <= now()") == [[3]]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["history", "orders"], "type --row-id ID"),
        (["as-of", "orders", "--bookmark", "4"], "the bookmark is 4, wanted 0 to 3"),
        (["as-of", "orders", "--bookmark", "1", "--parent", "else"], "there is no parent 'else'; .* known are default"),
        (["changes", "orders", "--until", "9"], "the bookmark is 9"),
        (["changes", "orders", "--after", "2", "--until", "1"], r"--until is 1, wanted 2 \(--after\) to 3"),
        (["as-of", ""], "argument table: is '', wanted a name"),
        (["as-of", "orders", "--namespace", " "], "argument --namespace: is ' ', wanted a name"),
        (["as-of", "orders", "--as-of", "31.1.2026"], "^--as-of is '31.1.2026', wanted a time such as '2026-01-31"),
        (["history", "orders", "--row-id", "a", "--as-of", "never"], "^--as-of is 'never', wanted a time"),
        (["as-of", "orders", "--as-of", "infinity"], "^--as-of is 'infinity', wanted a time"),
        (["as-of", "ordrs"], "in lake there is orders"),
        (["as-of", "orders", "--snapshot", "5"], "orders has no snapshot 5"),
    ],
)
def test_what_cannot_be_answered_says_what_to_type(story, args, said):
    with pytest.raises(CommandError, match=said):
        travel(*args)


def test_a_bookmark_that_the_journal_has_forgotten_is_an_error_and_never_another_one(story):
    PastFlushes.objects.create(parent=Parent.objects.get(), commit_number=2)
    assert values("--bookmark", "2") == {"a": 6}
    with pytest.raises(CommandError, match="commits up to 2 are forgotten"):
        values("--bookmark", "1")


def test_the_journals_tables_have_no_past(story):
    with pytest.raises(CommandError, match="watermarks tells of now only"):
        call_command("query", "FROM watermarks", "--as-of", "2023-11-14")


def _snapshots():
    from pathlib import Path

    from lakehouse.models import IcebergTable

    metadata = json.loads(Path(IcebergTable.objects.get().metadata_location).read_text())
    return [(one["snapshot-id"],) for one in metadata["snapshots"]]
