"""`manage.py move --from data`: a house goes on in the database and the lake of the settings, with all it has."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings as site
from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, DatabaseError

from lakehouse.catalog.folders import overlap
from lakehouse.catalog_choice import elsewhere
from lakehouse.clock import now_ms
from lakehouse.management import unprepared
from lakehouse.management.operation import Operation, printable
from lakehouse.moving import exclusive, old_house, seal
from lakehouse.moving.house import Move, Plan
from lakehouse.moving.old_house import CannotMove
from lakehouse.moving.relocation import Relocation, plain_place

DATABASE, LAKE = "evodb.sqlite3", "lake"


class Command(Operation):
    help = "Bring a house into the database and the lake of the settings, with all it has (docs/moving.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--from", dest="folder", metavar="FOLDER", help="the EVODB_DATA_DIR that is left")
        parser.add_argument("--from-database", metavar="URL", help="the database that is left, if it is another one")
        parser.add_argument("--from-warehouse", metavar="PLACE", help="the lake that is left, if it is another one")
        parser.add_argument("--written-as", metavar="PLACE", help="where that lake was, if its files were copied since")
        parser.add_argument("--ahead", action="store_true", help="only copy files, while the old house is open still")
        parser.add_argument("--undo", action="store_true", help="open this house again, which was closed by a move")

    def handle(self, *, ahead: bool, undo: bool, **options: Any) -> None:
        try:
            if undo:
                self._undo()
            else:
                self._move(ahead=ahead, **options)
        except CannotMove as exc:
            raise CommandError(printable(str(exc))) from None
        except DatabaseError as exc:
            said = unprepared.sentence(exc) or f"a database said {' '.join(str(exc).split())}"
            raise CommandError(printable(f"{said}; nothing was moved, type the same again")) from exc
        except KeyboardInterrupt:
            raise CommandError("ended, and nothing was moved; type the same again", returncode=130) from None

    def _move(self, *, ahead: bool, **options: Any) -> None:
        plan = self._plan(**options)
        if ahead and plan.relocation is None:
            raise CannotMove(
                "no lake moves, so there is nothing to copy ahead; stop the old house, and type it without"
            )
        move = Move(plan, site.EVODB, now_ms=now_ms(), say=self.stdout.write)
        move.ahead() if ahead else move.run()
        self.stdout.write("stop the old house, and type the same without --ahead" if ahead else "start the programs")

    def _plan(
        self,
        folder: str | None,
        from_database: str | None,
        from_warehouse: str | None,
        written_as: str | None,
        **options: Any,
    ) -> Plan:
        """Raises CannotMove."""
        database = from_database or (f"sqlite:///{Path(folder).resolve()}/{DATABASE}" if folder else "")
        if database and old_house.is_default(database):
            database = ""
        warehouse = from_warehouse or (_lake_of(Path(folder)) if folder else "")
        if written_as and not warehouse:
            raise CannotMove(f"--written-as {written_as} is of files; say with --from-warehouse where they are now")
        if site.EVODB.catalog and from_warehouse:
            raise CannotMove(f"{elsewhere(site.EVODB.catalog)}; type the same without --from-warehouse")
        relocation = None if site.EVODB.catalog or not warehouse else _relocation(warehouse, written_as)
        if not database and relocation is None:
            raise CannotMove(
                "nothing moves: database and lake of the settings are those that are left; say in EVODB_DATABASE_URL "
                "and EVODB_WAREHOUSE where the house goes, and with --from FOLDER what it leaves"
            )
        return Plan(database, relocation)

    def _undo(self) -> None:
        said = seal.found(DEFAULT_DB_ALIAS)
        if not said:
            raise CommandError("this house is open; type it with the settings of the one that was left")
        with exclusive.alone(DEFAULT_DB_ALIAS):
            seal.firmly(DEFAULT_DB_ALIAS, lambda: seal.open_again(DEFAULT_DB_ALIAS))
        self.stdout.write("this house is open again; what it moved to may not be used beside it")


def _lake_of(folder: Path) -> str:
    """Nothing when there is none, for the lake is in a bucket."""
    return str(folder / LAKE) if (folder / LAKE).is_dir() else ""


def _relocation(warehouse: str, written_as: str | None) -> Relocation | None:
    """None when the lake stays. Raises CannotMove."""
    source, target = _place(warehouse), site.EVODB.resolved_warehouse
    recorded = _written(written_as) if written_as else source
    if plain_place(source) != plain_place(target) and overlap(plain_place(source), plain_place(target)):
        raise CannotMove(f"{source} and {target} lie in each other, wanted places apart")
    found = Relocation(plain_place(recorded), source, target)
    return found if found.is_copying or plain_place(recorded) != plain_place(target) else None


def _written(text: str) -> str:
    """A link that is there today says nothing about where the files were."""
    return text.rstrip("/") if "://" in text else str(Path(text).absolute())


def _place(text: str) -> str:
    return text.rstrip("/") if "://" in text else str(Path(text).resolve())
