"""From where to where files of a lake go, and what their names become. Pure.

Three places: the tables say in all their files that they lie in `recorded`; the files are in `source`, which is another
place when somebody copied them; they are wanted in `target`. What lies in none of them stays where it is, and so does
a path that climbs (`..`): whoever may write to a table may write one, and the move would read or write it with the
rights of an operator.

A file that is written anew, for it names others, gets a name of its own: nothing that exists is overwritten, and who
begins again after a death writes the same names.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from lakehouse.catalog.folders import STRANGE, shown
from lakehouse.catalog.neighbours import SPELT
from lakehouse.errors import LakehouseError

CLIMBING = {".", ".."}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Immovable(LakehouseError):
    """The table cannot be brought to another place."""

    code = "IMMOVABLE"


@dataclass(frozen=True, slots=True)
class Relocation:
    """`recorded` as `plain_place` has it, the others as they are spelt."""

    recorded: str
    source: str
    target: str

    @property
    def is_copying(self) -> bool:
        """Files go from one place to another; otherwise they are there already, under names of before."""
        return plain_place(self.source) != plain_place(self.target)

    def new(self, path: str) -> str:
        """Where the file that the tables call `path` will be; the same path when it stays. Raises Immovable."""
        below = _below(path, self.recorded)
        if below is not None and "://" in self.target and STRANGE.search(below):
            raise Immovable(f"it has a file that cannot be called so in a bucket: {shown(path)}")
        return path if below is None else self.target + below

    def now(self, path: str) -> str:
        """Where the file that the tables call `path` is."""
        below = _below(path, self.recorded)
        return path if below is None else self.source + below

    def moves(self, path: str) -> bool:
        """Whether the tables say that it lies in the place that is left."""
        return lies_in(path, self.recorded)

    def is_new(self, path: str) -> bool:
        """Whether it lies in the new place already."""
        return lies_in(path, plain_place(self.target))

    def rewritten(self, path: str) -> str:
        """Where the file that takes the place of `path` is written."""
        folder, _, name = self.new(path).rpartition("/")
        own = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{folder}/{name}"))
        found = list(UUID.finditer(name))
        if not found:
            return f"{folder}/{own}-{name}"
        return f"{folder}/{name[: found[-1].start()]}{own}{name[found[-1].end() :]}"


def plain_place(location: str) -> str:
    """One spelling of a folder, a bucket or a file, without a slash at its end."""
    scheme, separator, path = location.rstrip("/").partition("://")
    known = scheme.lower()
    if separator and "/" not in scheme and known != "file":
        return f"{SPELT.get(known, known)}://{path}"
    return re.sub("/+", "/", path if separator and known == "file" else location.rstrip("/").removeprefix("file:"))


def lies_in(path: str, place: str) -> bool:
    """Whether a file is in this place, as `plain_place` has it, or below it."""
    return _below(path, place) is not None


def _below(path: str, place: str) -> str | None:
    found = plain_place(path)
    if found != place and not found.startswith(f"{place}/"):
        return None
    below = found[len(place) :]
    return None if CLIMBING.intersection(below.split("/")) else below
