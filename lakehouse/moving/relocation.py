"""From where to where files of a lake go, and what their names become. Pure.

Three places: the tables say in all their files that they lie in `recorded`; the files are in `source`, which is another
place when somebody copied them; they are wanted in `target`. What lies in none of them stays where it is.

A file that is written anew, for it names others, gets a name of its own: nothing that exists is overwritten, and who
begins again after a death writes the same names.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from pyiceberg.io.pyarrow import PyArrowFileIO

from lakehouse.catalog.neighbours import SPELT

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


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
        """Where the file that the tables call `path` will be; the same path when it stays."""
        below = _below(path, self.recorded)
        return path if below is None else self.target + below

    def now(self, path: str) -> str:
        """Where the file that the tables call `path` is."""
        below = _below(path, self.recorded)
        return path if below is None else self.source + below

    def moves(self, path: str) -> bool:
        """Whether the tables say that it lies in the place that is left."""
        return _below(path, self.recorded) is not None

    def is_new(self, path: str) -> bool:
        """Whether it lies in the new place already."""
        return _below(path, plain_place(self.target)) is not None

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
    scheme, _, path = PyArrowFileIO.parse_location(location.rstrip("/"))
    return path if scheme == "file" else f"{SPELT.get(scheme, scheme)}://{path}"


def _below(path: str, place: str) -> str | None:
    found = plain_place(path)
    return found[len(place) :] if found == place or found.startswith(f"{place}/") else None
