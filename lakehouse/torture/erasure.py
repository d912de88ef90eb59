"""What somebody asked to be erased: whose rows these are, as `manage.py erase` and as SQL are told."""

from __future__ import annotations

from dataclasses import dataclass

TABLE = "orders"


@dataclass(frozen=True, slots=True)
class Erasure:
    """All changes of a child, all of one order of a child, or all of an order of this number, whoever made it."""

    child: str = ""
    row_id: str = ""

    def __str__(self) -> str:
        what = f"order {self.row_id}" if self.row_id else "everything"
        return f"{what} of {self.child or 'everybody'}"

    @property
    def command(self) -> list[str]:
        rows = ["--table", TABLE, "--row-id", self.row_id] if self.row_id else []
        return ["erase", *rows, *(["--child", self.child] if self.child else [])]

    @property
    def condition(self) -> str:
        """Of the rows of `TABLE` (of a child: of any table), in SQL."""
        terms = {"_source": self.child, "_row_id": self.row_id}
        return " AND ".join(f"{name} = '{value}'" for name, value in terms.items() if value)

    def has(self, child: str, table: str, row_id: str) -> bool:
        is_meant = not self.row_id or (table, row_id) == (TABLE, self.row_id)
        return is_meant and self.child in ("", child)
