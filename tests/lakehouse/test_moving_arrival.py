"""The new house knows which one moved into it; nobody else comes in meanwhile, and nobody guesses from rows."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections, transaction

from lakehouse.conf import Settings
from lakehouse.models import AccessKey, Parent
from lakehouse.moving import arrival, exclusive, house, old_house, seal
from lakehouse.moving.house import Move as TheMove
from lakehouse.parent import access
from tests.builders import NOW_MS, parent
from tests.lakehouse.moving_site import Leave, leave
from tests.lakehouse.test_moving_house import Move, live_in, move, new, old, places

__all__ = ["leave", "move", "new", "old"]
pytestmark = pytest.mark.django_db(transaction=True)


def said_in_the_old(url: str) -> str:
    with old_house.opened(url) as alias:
        return seal.found(alias)


def test_ctrl_c_after_the_transaction_leaves_the_old_house_closed(
    move: Move, old: Settings, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(old)
    url, noted = leave(), arrival.note

    def interrupt() -> None:
        raise KeyboardInterrupt

    def note_and_end(alias: str, number: str) -> None:
        noted(alias, number)
        transaction.on_commit(interrupt)

    monkeypatch.setattr(arrival, "note", note_and_end)
    with pytest.raises(CommandError, match="everything is in the new database, and the old house stays closed"):
        move(*places(url, old))
    assert "it moves to" in said_in_the_old(url)
    assert "everything was moved before" in move(*places(url, old))
    assert "it moved to" in said_in_the_old(url)


def test_where_nobody_can_tell_whether_it_came_the_old_house_stays_closed_until_the_same_is_typed_again(
    move: Move, old: Settings, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(old)
    url = leave()

    def away(*_: object) -> bool:
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(arrival, "note", away)
        patch.setattr(arrival, "is_noted", away)
        with pytest.raises(CommandError, match="the old house stays closed, type the same again: server closed"):
            move(*places(url, old))
    assert "it moves to" in said_in_the_old(url)
    assert "rows\nstart the programs" in move(*places(url, old))


def test_ctrl_c_before_it_opens_the_old_house_and_says_so_without_a_traceback(
    move: Move, old: Settings, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(old)
    url = leave()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TheMove, "_move_rows", interrupt)
    with pytest.raises(CommandError, match="ended, and nothing was moved; type the same again"):
        move(*places(url, old))
    assert said_in_the_old(url) == ""


def test_a_house_of_keys_alone_is_not_taken_for_moved_by_what_somebody_else_made_in_the_new_one(
    move: Move, leave: Leave
) -> None:
    access.new_key("ann", scopes=access.SCOPES, now_ms=NOW_MS)
    url = leave()
    with old_house.opened(url) as alias, transaction.atomic(alias):
        seal.close(alias, house._here(), seal.MOVES, "0" * 32)
    AccessKey.objects.create(name="of the new house", digest="1")
    with pytest.raises(CommandError, match="found 1 rows of lakehouse_accesskey in the new database"):
        move("--from-database", url)
    AccessKey.objects.all().delete()
    assert "start the programs" in move("--from-database", url)
    assert AccessKey.objects.get().name == "ann"


def test_a_program_that_was_started_on_the_new_house_too_early_does_not_live_among_the_old_rows(
    move: Move, old: Settings, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(old)
    url, files = leave(), TheMove._move_files

    def copy_and_start(one: TheMove, alias: str) -> Any:
        found = files(one, alias)
        parent("early")
        return found

    monkeypatch.setattr(TheMove, "_move_files", copy_and_start)
    with pytest.raises(CommandError, match=r"found 1 rows of lakehouse_parent .*drop this one and make it again"):
        move(*places(url, old))
    assert list(Parent.objects.values_list("name", flat=True)) == ["early"]
    assert said_in_the_old(url) == ""


def test_of_two_moves_of_one_house_the_second_is_told_of_the_first(move: Move, old: Settings, leave: Leave) -> None:
    live_in(old)
    url, held, release = leave(), threading.Event(), threading.Event()

    def first() -> None:
        try:
            with old_house.opened(url) as alias, exclusive.alone(alias):
                held.set()
                release.wait()
        finally:
            held.set()
            connections.close_all()

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    try:
        with pytest.raises(CommandError, match=r"another manage\.py move is at this house; wait for its end"):
            move(*places(url, old))
    finally:
        release.set()
        thread.join()
    assert "start the programs" in move(*places(url, old))


def test_a_note_is_of_one_move_only() -> None:
    with transaction.atomic():
        arrival.note(DEFAULT_DB_ALIAS, "a")
    assert arrival.is_noted(DEFAULT_DB_ALIAS, "a")
    assert not arrival.is_noted(DEFAULT_DB_ALIAS, "b")
