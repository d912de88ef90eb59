"""A house that is closed: what its children, its commands and its programs are told, whoever comes with a change."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator

import django
import pytest
from django.core.management import CommandError, call_command
from django.db import DEFAULT_DB_ALIAS, OperationalError, transaction
from psycopg.errors import DeadlockDetected

from lakehouse import up
from lakehouse.conf import Settings
from lakehouse.management import unprepared
from lakehouse.models import IcebergTable, Namespace, Parent
from lakehouse.moving import seal
from lakehouse.parent.connection import TRY_AGAIN_LATER
from lakehouse.query import named
from rpc.messages import NackReason
from tests.builders import NOW_MS, run, wire
from tests.lakehouse.test_consumer import Socket, hello, home
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)
NUMBER = uuid.uuid4().hex


def close() -> None:
    with transaction.atomic():
        seal.close(DEFAULT_DB_ALIAS, "evodb at db:5432", seal.MOVED, NUMBER)


def open_again() -> None:
    with transaction.atomic():
        seal.open_again(DEFAULT_DB_ALIAS)


@pytest.fixture
def closed() -> Iterator[None]:
    Parent.objects.create(name="default")
    close()
    yield
    open_again()


async def test_children_of_a_house_that_was_closed_are_asked_to_come_back_and_none_hears_that_it_was_deleted() -> None:
    async with home():
        known, new, old = Socket(), Socket(), Socket()
        for one in (known, new, old):
            assert await one.open()
        assert (await known.ask(hello())).type == "status"
        await in_thread(close)
        try:
            nack = await known.ask(wire(1, run(1, 1)))
            assert (nack.reason, nack.should_retry) == (NackReason.INTERNAL_ERROR, True)
            assert await new.ask(hello()) == TRY_AGAIN_LATER
            nack = await old.ask(wire(1, run(1, 1)))
            assert (nack.reason, nack.should_retry) == (NackReason.INTERNAL_ERROR, True)
        finally:
            await in_thread(open_again)
        await known.leave()
        await old.leave()


def test_what_is_refused_is_never_taken_for_a_row_that_is_there_already(closed: None) -> None:
    with pytest.raises(OperationalError, match="this house is closed"):
        named.begin("q-1", term_ms=1000, now_ms=NOW_MS)
    with pytest.raises(OperationalError) as caught:
        Namespace.objects.get_or_create(name="lake")
    said = str(unprepared.sentence(caught.value))
    assert said.startswith("this house is closed, it moved to evodb at db:5432; manage.py move --undo")
    assert said.endswith("opens it again")
    assert not IcebergTable.objects.exists(), "it can be read"


def test_a_house_whose_programs_are_at_work_is_closed_and_opened_though_one_of_them_was_in_the_way() -> None:
    made = list[str]()

    def change() -> None:
        made.append("once more")
        if len(made) < 3:
            raise OperationalError("deadlock detected") from DeadlockDetected()

    seal.firmly(DEFAULT_DB_ALIAS, change)
    assert made == ["once more"] * 3
    with pytest.raises(OperationalError, match="disk"):
        seal.firmly(DEFAULT_DB_ALIAS, full)


def full() -> None:
    raise OperationalError("the disk is full")


def test_the_number_of_a_seal_is_in_it(closed: None) -> None:
    assert seal.number_of(DEFAULT_DB_ALIAS) == NUMBER
    open_again()
    assert seal.number_of(DEFAULT_DB_ALIAS) == seal.found(DEFAULT_DB_ALIAS) == ""


def test_a_migration_does_not_open_half_of_a_house_that_is_closed(closed: None) -> None:
    with pytest.raises(CommandError, match=r"^this house is closed, it moved to evodb at db:5432; manage.py move"):
        call_command("migrate", verbosity=0)
    call_command("move", undo=True, stdout=io.StringIO())
    call_command("migrate", verbosity=0)


def test_evodb_up_in_a_house_that_is_closed_starts_nothing_and_says_where_it_went(
    closed: None, settings: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(django, "setup", lambda: None)  # it would turn the log of this run to what pytest closes
    given: Settings = settings.EVODB  # type: ignore[attr-defined]
    assert up.run(given) == 1
    assert capsys.readouterr().err.startswith("evodb up: this house is closed, it moved to evodb at db:5432; ")
