"""Text and names as SQL writes them; DuckDB takes no parameters in most of the places where we need them."""

from __future__ import annotations


def quoted(text: str) -> str:
    """The text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """The name of a schema, table or column, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
