"""What a query would touch, by its syntax tree: refused, or a list of the tables it names. Pure.

The tree is the one DuckDB would plan (`json_serialize_sql`, which knows SELECT and nothing else). Kinds of table
reference, query and table function that are not listed here are refused, so a new one of DuckDB is closed until
somebody opened it. What a scalar function can do is listed the other way round, for they read no files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lakehouse.errors import ForbiddenQuery, InvalidQuery

QUERIES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
REFERENCES = {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "SHOW_REF"}
TABLE_FUNCTIONS = {"range", "generate_series", "unnest", "json_each", "json_tree", "repeat"}
NO_FUNCTIONS = {
    *("current_setting", "getvariable", "getenv", "nextval", "currval", "write_log", "parse_duckdb_log_message"),
    *("json_serialize_plan", "json_execute_serialized_sql", "pg_get_viewdef", "iceberg_verify_equality_deletes"),
    *("combine", "finalize", "variant_bytes_to_variant"),
}
"""They tell or change what is not the query's: settings, sequences, logs, plans, the memory of an aggregate."""
NO_SCHEMAS = {"pg_catalog", "information_schema"}
MOMENT_FUNCTIONS = {
    *("+", "-", "now", "current_timestamp", "get_current_timestamp", "transaction_timestamp", "today", "current_date"),
    *("date_trunc", "make_date", "make_timestamp", "make_timestamptz", "trunc", "to_seconds", "to_minutes"),
    *("to_hours", "to_days", "to_weeks", "to_months", "to_years"),
}
"""What the expression in AT (...) may be made of."""


@dataclass(slots=True)
class Reference:
    """A table where it is named; `node` is its place in the tree."""

    namespace: str
    """Empty: the one of the query."""
    table: str
    node: dict[str, Any]

    @property
    def at(self) -> dict[str, Any] | None:
        """`unit` (TIMESTAMP or VERSION) and `expr`."""
        found: dict[str, Any] | None = self.node["at_clause"]
        return found

    def rename(self, namespace: str, table: str) -> None:
        """Let the query name another table here and see no difference."""
        self.node.update(
            # Without an alias columns may be called by their namespace, too.
            alias=self.node["alias"] or ("" if table == self.table else self.table),
            catalog_name="",
            schema_name=namespace,
            table_name=table,
            at_clause=None,
        )


def references(tree: dict[str, Any]) -> list[Reference]:
    """Every table that is not one of the query's own (WITH). Raises InvalidQuery and ForbiddenQuery."""
    if tree.get("error"):
        raise InvalidQuery(_syntax_error(tree))
    statements = tree["statements"]
    if len(statements) != 1:
        raise InvalidQuery(f"found {len(statements)} statements, wanted one SELECT")
    return list(_walk(statements[0], frozenset()))


def check_moment(expression: dict[str, Any]) -> None:
    """Refuse what cannot be computed without a table. Raises InvalidQuery."""
    for node in _nodes(expression):
        kind = node.get("class")
        is_known = kind in ("CONSTANT", "CAST") or (kind == "FUNCTION" and node["function_name"] in MOMENT_FUNCTIONS)
        if kind is not None and not is_known:
            what = node.get("function_name") or str(kind).lower()
            raise InvalidQuery(
                f"AT (...) has {what}, wanted a constant such as TIMESTAMP '2026-01-31 12:00:00' or now() - "
                "INTERVAL 1 DAY; "
                "a value of your own goes into asOf"
            )


def without_places(value: Any) -> Any:
    """The tree without what two spellings of one query differ in."""
    if isinstance(value, dict):
        return {key: without_places(one) for key, one in value.items() if key != "query_location"}
    return [without_places(one) for one in value] if isinstance(value, list) else value


def _walk(value: Any, known: frozenset[str]) -> Iterator[Reference]:
    """`known` are the names of WITH that are visible here."""
    if isinstance(value, list):
        for one in value:
            yield from _walk(one, known)
    elif isinstance(value, dict):
        yield from _visit(value, known)


def _visit(node: dict[str, Any], known: frozenset[str]) -> Iterator[Reference]:
    if "cte_map" in node:
        if node["type"] not in QUERIES:
            raise ForbiddenQuery(f"found {node['type']}, wanted a SELECT")
        for entry in node["cte_map"]["map"]:
            yield from _walk(entry["value"], known)
            known |= {entry["key"].lower()}
        if node["type"] == "RECURSIVE_CTE_NODE":
            yield from _walk(node["left"], known)
            yield from _walk(node["right"], known | {node["cte_name"].lower()})
            node = {key: one for key, one in node.items() if key not in ("left", "right")}
        node = {key: one for key, one in node.items() if key != "cte_map"}
    elif "sample" in node and "class" not in node:
        _check_reference(node)
    if "function_name" in node:
        _check_function(node)
    if node.get("type") == "BASE_TABLE":
        own = not (node["catalog_name"] or node["schema_name"] or node["at_clause"])
        if not (own and node["table_name"].lower() in known):
            yield _reference(node)
        if node["at_clause"]:
            check_moment(node["at_clause"]["expr"])
    for one in node.values():
        yield from _walk(one, known)


def _check_reference(node: dict[str, Any]) -> None:
    kind = node["type"]
    if kind not in REFERENCES:
        raise ForbiddenQuery(f"found {kind} after FROM, wanted a table of the lake")
    if kind == "SHOW_REF" and node.get("query") is None:
        raise ForbiddenQuery(
            "SHOW names no table, wanted DESCRIBE table; an unknown table is answered with those there are"
        )
    if kind == "TABLE_FUNCTION":
        function = node["function"]
        name = str(function.get("function_name", "?"))
        if name.lower() not in TABLE_FUNCTIONS or function.get("schema") or function.get("catalog"):
            raise ForbiddenQuery(
                f"the table function {name[:100]} is not allowed, for a query reads the tables of the lake only; "
                f"allowed are {', '.join(sorted(TABLE_FUNCTIONS))}"
            )


def _check_function(node: dict[str, Any]) -> None:
    name = str(node["function_name"]).lower()
    if name in NO_FUNCTIONS or name.startswith("__internal"):
        raise ForbiddenQuery(f"the function {name[:100]} is not allowed in a query")


def _reference(node: dict[str, Any]) -> Reference:
    namespace = ".".join(level for level in (node["catalog_name"], node["schema_name"]) if level)
    if namespace.lower() in NO_SCHEMAS:
        raise ForbiddenQuery(f"{namespace} is DuckDB's own, wanted a table of the lake")
    return Reference(namespace, node["table_name"], node)


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _nodes(one)


def _syntax_error(tree: dict[str, Any]) -> str:
    text = str(tree.get("error_message", "not SQL"))
    if "Only SELECT" in text:
        return "found another statement, wanted one SELECT"
    place = f" (at character {tree['position']})" if "position" in tree else ""
    return f"{text}{place}"
