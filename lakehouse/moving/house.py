"""A house moves: closed, its files brought to the new lake, its rows to the new database, and opened there.

    nobody is in ─ close the old one ─ files ─ one transaction: rows, counters, pointers ─ the new one is open

Before that transaction the new house is empty; with it comes a note of which house moved, and the old one stays closed.
After a death the same is typed again, and what fails opens the old one again. Where the database stays there is nothing
to close: files are copied, and then all pointers move in one transaction, if nobody moved one of them meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from django.template.defaultfilters import filesizeformat

from lakehouse import database_choice
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings
from lakehouse.errors import DamagedTable
from lakehouse.models import IcebergTable
from lakehouse.moving import arrival, exclusive, old_house, pointers, rows, seal
from lakehouse.moving.old_house import CannotMove
from lakehouse.moving.pointers import Found
from lakehouse.moving.relocation import Immovable, Relocation
from lakehouse.moving.tables import Moved, TableMove
from rpc.failpoints import Failpoint, reach

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """`database` is the URL of the old one; empty and None stay as they are."""

    database: str
    relocation: Relocation | None


class Move:
    """Of one house, once."""

    def __init__(self, plan: Plan, settings: Settings, *, now_ms: int, say: Say) -> None:
        self._plan, self._settings, self._now_ms, self._say = plan, settings, now_ms, say
        self._io = DurableFileIO(from_settings(settings).properties)

    def run(self) -> None:
        """Raises CannotMove."""
        if not self._plan.database:
            self._move_the_lake()
            return
        call_command("migrate", verbosity=0)
        with old_house.opened(self._plan.database) as alias, exclusive.alone(alias):
            if self._is_done(alias):
                self._say("everything was moved before")
            else:
                rows.check_is_empty(DEFAULT_DB_ALIAS)
                self._move_all(alias)
            self._note_the_end(alias)

    def ahead(self) -> None:
        """Only files that hold rows, while the old house is open. Raises CannotMove."""
        assert self._plan.relocation is not None
        database = self._plan.database
        with old_house.opened(database) if database else nullcontext(DEFAULT_DB_ALIAS) as alias:
            found = pointers.find(alias, self._plan.relocation)
            for name, location in found.moving.values():
                self._tell(name, self._of_table(name, location, TableMove.copy_data))

    def _is_done(self, alias: str) -> bool:
        """Whether a death came between the transaction and the last note."""
        said = seal.found(alias)
        if seal.is_on_its_way(said) and arrival.is_noted(DEFAULT_DB_ALIAS, seal.number_of(alias)):
            return True
        if said and not seal.is_said(said, _here(), seal.MOVES):
            raise CannotMove(said)
        return False

    def _move_all(self, alias: str) -> None:
        if self._settings.catalog and (count := IcebergTable.objects.using(alias).count()):
            raise CannotMove(f"{count} tables are in the catalog of the old house, which EVODB_CATALOG replaces")
        old_house.check_nobody_is_in(alias, now_ms=self._now_ms)
        number = uuid.uuid4().hex
        self._close(alias, seal.MOVES, number)
        try:
            reach(Failpoint.MOVE_CLOSED)
            found, locations = self._move_files(alias)
            with rows.as_they_are(alias), transaction.atomic():
                self._move_rows(alias)
                self._point(found, locations)
                arrival.note(DEFAULT_DB_ALIAS, number)
                reach(Failpoint.MOVE_WRITTEN)
        except BaseException:
            self._open_again(alias, number)
            raise
        reach(Failpoint.MOVE_COMMITTED)

    def _move_rows(self, alias: str) -> None:
        arrival.take(DEFAULT_DB_ALIAS, rows.tables())
        rows.check_is_empty(DEFAULT_DB_ALIAS)
        self._say(f"{rows.copy(alias, DEFAULT_DB_ALIAS)} rows")
        rows.copy_counters(alias, DEFAULT_DB_ALIAS)

    def _open_again(self, alias: str, number: str) -> None:
        """Unless everything is there, or nobody can tell: the answer to a COMMIT may be lost. Raises CannotMove."""
        connections[DEFAULT_DB_ALIAS].close()
        try:
            is_there = arrival.is_noted(DEFAULT_DB_ALIAS, number)
            if not is_there:
                _open(alias, number)
        except DatabaseError as exc:
            raise CannotMove(f"the old house stays closed, type the same again: {' '.join(str(exc).split())}") from exc
        if is_there:
            raise CannotMove("everything is in the new database, and the old house stays closed; type the same again")

    def _move_the_lake(self) -> None:
        old_house.check_nobody_is_in(DEFAULT_DB_ALIAS, now_ms=self._now_ms)
        found, locations = self._move_files(DEFAULT_DB_ALIAS)
        with transaction.atomic():
            self._point(found, locations)

    def _note_the_end(self, alias: str) -> None:
        try:
            self._close(alias, seal.MOVED, seal.number_of(alias))
        except (CannotMove, DatabaseError) as exc:
            raise CannotMove(
                f"everything was moved, only the old house does not say so yet; type the same again ({exc})"
            ) from exc

    def _close(self, alias: str, verb: str, number: str) -> None:
        try:
            seal.firmly(alias, lambda: seal.close(alias, _here(), verb, number))
        except DatabaseError as exc:
            said = " ".join(str(exc).split())
            work = "; a program is at work there, stop it and type the same again" if "lock" in said else ""
            raise CannotMove(f"the old house cannot be closed: {said}{work}") from exc

    def _move_files(self, alias: str) -> tuple[Found, dict[int, str]]:
        if self._plan.relocation is None:
            if left := pointers.elsewhere(alias, self._settings):
                self._say(left)
            return Found({}, []), {}
        found, locations = pointers.find(alias, self._plan.relocation), dict[int, str]()
        for pk, (name, location) in found.moving.items():
            moved = self._of_table(name, location, TableMove.run)
            locations[pk] = moved.location
            self._tell(name, moved)
        for name in found.staying:
            self._say(f"{name} stays where it is")
        reach(Failpoint.MOVE_COPIED)
        return found, locations

    def _of_table(self, name: str, location: str, work: Callable[[TableMove, str], Moved]) -> Moved:
        assert self._plan.relocation is not None
        try:
            return work(TableMove(self._io.fresh(), self._plan.relocation), location)
        except (Immovable, DamagedTable, OSError) as exc:
            raise CannotMove(f"{name} cannot be moved: {exc}") from exc
        except (KeyError, TypeError, AttributeError) as exc:  # fields that somebody left out, or of another type
            raise CannotMove(
                f"{name} cannot be moved: its files lack what the format wants: {type(exc).__name__}: {exc}"
            ) from exc

    def _point(self, found: Found, locations: dict[int, str]) -> None:
        if self._plan.relocation is not None:
            pointers.point(DEFAULT_DB_ALIAS, found, locations, self._plan.relocation)

    def _tell(self, name: str, moved: Moved) -> None:
        data = moved.data
        self._say(f"{name}: {data.files} files, {filesizeformat(data.size_bytes)}".replace("\xa0", " "))
        if data.staying:
            self._say(f"{name}: {data.staying} files stay where they are, as {data.one_that_stays}")


def _open(alias: str, number: str) -> None:
    """If it is closed as we closed it. Its connection keeps others out, so only one that is lost is given up."""
    if (connection := connections[alias]).connection is not None and not connection.is_usable():
        connection.close()

    def change() -> None:
        if seal.number_of(alias) == number:
            seal.open_again(alias)

    seal.firmly(alias, change)


def _here() -> str:
    """The database of the settings."""
    return database_choice.shown(connections.databases[DEFAULT_DB_ALIAS])
