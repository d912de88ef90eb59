"""`manage.py move`: who is asked, what is refused, and what becomes of the house that is left."""

from __future__ import annotations

import dataclasses
import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from django.db.migrations.recorder import MigrationRecorder

from lakehouse.catalog.lakes import chosen
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import checks
from lakehouse.journal.accept import accept
from lakehouse.management import unprepared
from lakehouse.models import Batch, BatchState, IcebergTable, Namespace, Parent
from lakehouse.models.parents import Holder
from lakehouse.moving import old_house, seal
from lakehouse.moving.old_house import CannotMove
from lakehouse.moving.tables import TableMove
from rpc.failpoints import FailpointFailed, arm
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.moving_site import Leave, leave

__all__ = ["leave"]
pytestmark = pytest.mark.django_db(transaction=True)

Move = Callable[..., str]


@pytest.fixture
def old(tmp_path: Path) -> Settings:
    """Its folder; its database is that of the run, until it is left."""
    return Settings(data_dir=tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path, settings: Any) -> Settings:
    settings.EVODB = dataclasses.replace(settings.EVODB, data_dir=tmp_path / "new", warehouse="")
    return settings.EVODB


@pytest.fixture
def move(new: Settings) -> Move:
    def move(*arguments: str) -> str:
        said = io.StringIO()
        call_command("move", *arguments, stdout=said)
        return said.getvalue()

    return move


def live_in(old: Settings) -> None:
    """One batch is in its table, and one waits."""
    shop = source(parent())
    accept([(shop, frame(1, run(1, 10)))], now_ms=NOW_MS)
    Flusher("worker-1", old, chosen(old), lambda: NOW_MS).run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    accept([(shop, frame(2, run(11, 20)))], now_ms=NOW_MS)


def places(url: str, old: Settings) -> list[str]:
    return ["--from-database", url, "--from-warehouse", old.resolved_warehouse]


def test_a_house_that_moved_flushes_there_what_waited_and_is_closed_where_it_was(
    move: Move, old: Settings, new: Settings, leave: Leave
) -> None:
    live_in(old)
    url = leave()
    said = move(*places(url, old))
    assert said.startswith("lake.orders: 1 files, ")
    assert said.endswith("rows\nstart the programs\n")
    shop = source(Parent.objects.get())
    accept([(shop, frame(2, run(11, 20)))], now_ms=NOW_MS)
    assert Batch.objects.count() == 2, "what was acked before is known"
    Flusher("worker-2", new, chosen(new), lambda: NOW_MS).run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert set(Batch.objects.values_list("state", flat=True)) == {BatchState.PERSISTED}
    with old_house.opened(url) as alias:
        with pytest.raises(DatabaseError) as caught, transaction.atomic(alias):
            Parent.objects.using(alias).update(pending_bytes=1)
        assert unprepared.sentence(caught.value).startswith("this house is closed, it moved to ")
    with pytest.raises(CommandError, match=r"this house is closed, it moved to .*manage.py move --undo"):
        move(*places(url, old))


def test_a_closed_house_takes_nothing_and_is_not_ready_until_it_is_opened_again(move: Move) -> None:
    shop = source(parent())
    with transaction.atomic():
        seal.close(DEFAULT_DB_ALIAS, "evodb at db:5432", seal.MOVED, uuid.uuid4().hex)
    try:
        for change in (
            lambda: accept([(shop, frame(1, run(1, 10)))], now_ms=NOW_MS),
            lambda: Parent.objects.create(name="another"),
            lambda: Parent.objects.filter(pk=shop.parent_id)._raw_delete(DEFAULT_DB_ALIAS),
        ):
            with pytest.raises(
                DatabaseError, match=r"this house is closed, it moved to evodb at db:5432; manage.py move"
            ):
                change()
        with pytest.raises(checks.HouseMoved, match="this house is closed"):
            checks.database()
    finally:
        assert "this house is open again" in move("--undo")
    checks.database()
    assert accept([(shop, frame(1, run(1, 10)))], now_ms=NOW_MS)
    with pytest.raises(CommandError, match="this house is open"):
        move("--undo")


def test_a_move_that_fails_opens_the_old_house_again_and_leaves_the_new_one_empty(
    move: Move, old: Settings, leave: Leave
) -> None:
    live_in(old)
    url = leave()
    for data in Path(old.resolved_warehouse).rglob("*.parquet"):
        data.rename(data.with_suffix(".away"))
    with pytest.raises(CommandError, match=r"lake\.orders cannot be moved: .*parquet"):
        move(*places(url, old))
    arm("move_copied=fail")
    try:
        for data in Path(old.resolved_warehouse).rglob("*.away"):
            data.rename(data.with_suffix(".parquet"))
        with pytest.raises(FailpointFailed):
            move(*places(url, old))
    finally:
        arm("")
    assert not Parent.objects.exists()
    with old_house.opened(url) as alias:
        assert seal.found(alias) == ""
        assert Parent.objects.using(alias).update(pending_bytes=1) == 1
    assert "start the programs" in move(*places(url, old))


def test_a_folder_that_was_moved_and_is_linked_under_its_old_name_is_found_by_that_name(
    move: Move, old: Settings, new: Settings
) -> None:
    live_in(old)
    written_as = old.resolved_warehouse
    old.data_dir.rename(new.data_dir)
    old.data_dir.symlink_to(new.data_dir)
    said = move("--from-warehouse", new.resolved_warehouse, "--written-as", written_as)
    assert said.endswith("start the programs\n")
    assert IcebergTable.objects.get().metadata_location.startswith(new.resolved_warehouse)


def test_a_namespace_whose_folder_no_bucket_can_have_is_named(
    move: Move, old: Settings, new: Settings, settings: Any
) -> None:
    settings.EVODB = dataclasses.replace(new, warehouse="s3://bucket/lake")
    Namespace.objects.create(name="sales", properties={"location": f"{old.resolved_warehouse}/sales#1"})
    with pytest.raises(CommandError, match=r"namespace sales cannot be moved: .* cannot be called so in a bucket"):
        move("--from-warehouse", old.resolved_warehouse)


def test_a_house_that_is_open_is_not_moved(move: Move, old: Settings, leave: Leave) -> None:
    live_in(old)
    Holder.objects.create(name="laptop:17:abc", lease_until_ms=now_ms() + 35_000)
    with pytest.raises(CommandError, match=r"the old house is open, in laptop:17:abc; stop all its programs.* in 35 s"):
        move(*places(leave(), old))


def test_a_database_on_which_something_was_started_is_not_moved_into(move: Move, old: Settings, leave: Leave) -> None:
    live_in(old)
    url = leave()
    parent("default")
    with pytest.raises(CommandError, match="found 1 rows of lakehouse_parent in the new database, wanted an empty one"):
        move(*places(url, old))
    with old_house.opened(url) as alias:
        assert seal.found(alias) == ""


def test_an_old_database_of_an_older_version_says_what_to_type(move: Move, old: Settings, leave: Leave) -> None:
    live_in(old)
    url = leave()
    with old_house.opened(url) as alias:
        recorder = MigrationRecorder(connections[alias])
        newest = max(name for app, name in recorder.applied_migrations() if app == "lakehouse")
        recorder.record_unapplied("lakehouse", newest)
    with pytest.raises(
        CommandError, match=rf"is older than this version \(lakehouse.{newest}.* type manage.py migrate"
    ):
        move(*places(url, old))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing moves: database and lake of the settings are those that are left; say in EVODB_DATABASE_URL"),
        (["--from", "/nowhere"], r"there is no database /nowhere/evodb\.sqlite3; type the folder of the old house"),
        (["--from-database", "mysql://x/y"], "mysql://x/y names no database|there is no"),
        (["--from-database", "nonsense"], "nonsense names no database: .*wanted postgresql://"),
        (["--from-warehouse", "{new}/lake"], "nothing moves"),
        (["--from-warehouse", "{new}/lake/below"], "lie in each other, wanted places apart"),
        (["--ahead"], "nothing moves"),
        (["--from-database", "sqlite:////nowhere/x", "--ahead"], "no lake moves, so there is nothing to copy ahead"),
        (["--written-as", "/home/ann/lake"], "--written-as /home/ann/lake is of files; say with --from-warehouse"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(move: Move, new: Settings, arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        move(*(one.replace("{new}", str(new.data_dir)) for one in arguments))


def test_tables_of_another_catalog_stay_there(
    move: Move, old: Settings, new: Settings, settings: Any, leave: Leave
) -> None:
    live_in(old)
    url = leave()
    settings.EVODB = dataclasses.replace(new, catalog="rest")
    with pytest.raises(CommandError, match="type the same without --from-warehouse"):
        move(*places(url, old))
    with pytest.raises(
        CommandError, match="1 tables are in the catalog of the old house, which EVODB_CATALOG replaces"
    ):
        move("--from-database", url)


def test_who_died_after_everything_was_there_only_notes_it(
    move: Move, old: Settings, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(old)
    url = leave()
    arm("move_committed=fail")
    try:
        with pytest.raises(FailpointFailed):
            move(*places(url, old))
    finally:
        arm("")
    monkeypatch.delattr(TableMove, "run")
    assert "everything was moved before" in move(*places(url, old))
    with pytest.raises(CannotMove, match="moved to"), old_house.opened(url) as alias:
        raise CannotMove(seal.found(alias))
