"""The lake's files as DuckDB may ask for them where it has no client of its own: in Azure and in Google's store.

PyArrow reads them, which also wrote them, with the same settings; DuckDB sees a filesystem of fsspec. It asks for the
same metadata, statistics and columns as anywhere else, and its locks count here too. A store is reached when its first
file is opened, for no connection to it survives a fork.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

from lakehouse.catalog.files import DurableFileIO

SCHEMES = ("abfss", "abfs", "gs", "gcs")
WRITTEN = datetime(2000, 1, 1, tzinfo=UTC)
"""No file of a lake is ever written twice."""


class ArrowFiles(AbstractFileSystem):  # type: ignore[misc]
    """Locations stay whole, as the table's metadata spells them. Reads only."""

    protocol: ClassVar[tuple[str, ...]] = SCHEMES
    cachable = False

    def __init__(self, properties: dict[str, str]) -> None:
        super().__init__()
        self._properties = properties
        self._sizes: dict[str, int] = {}

    @cached_property
    def _io(self) -> DurableFileIO:
        return DurableFileIO(self._properties)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def unstrip_protocol(self, name: str) -> str:
        return name

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """Raises OSError."""
        if mode != "rb":
            raise PermissionError(f"{path} is wanted as {mode!r}, and files are only read here")
        file = self._io.new_input(path).open()
        self._sizes[path] = file.size()  # type: ignore[attr-defined]  # of PyArrow
        return file

    def exists(self, path: str, **_: Any) -> bool:
        return path in self._sizes or self._io.new_input(path).exists()

    def size(self, path: str) -> int:
        if path not in self._sizes:
            self._sizes[path] = len(self._io.new_input(path))
        return self._sizes[path]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self.size(path), "type": "file"}

    def modified(self, path: str) -> datetime:
        return WRITTEN

    def glob(self, path: str, **_: Any) -> Sequence[str]:
        """Nobody asks for more than one file by its name: the metadata of a table names all it has."""
        return [path] if self.exists(path) else []
