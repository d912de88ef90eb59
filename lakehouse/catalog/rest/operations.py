"""Every operation of the specification, and what does it. Loaded by the first request: it brings pyiceberg along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from pyiceberg.catalog import WAREHOUSE_LOCATION

from lakehouse.catalog import storage
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.rest import commits, drops, namespaces, tables
from lakehouse.catalog.rest.calls import Call
from lakehouse.catalog.rest.errors import problem_of
from lakehouse.catalog.rest.problems import Answer, Problem, answer
from lakehouse.catalog.rest.routes import Operation, Route, endpoints
from lakehouse.conf import Settings
from lakehouse.parent.grants import Grant

NAME = "evodb"


def perform(
    route: Route, *, settings: Settings, grant: Grant, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
) -> Answer:
    """Whatever is asked, this answers. Blocks: for a thread."""
    try:
        call = Call(catalog_of(settings), settings, grant, route.namespace, route.name, query, headers, body)
        if route.namespace:
            call.check(route.namespace)
        return OPERATIONS[route.operation](call)
    except Exception as exc:
        return problem_of(exc).answer


@lru_cache(maxsize=4)
def catalog_of(settings: Settings) -> DjangoCatalog:
    return storage.from_settings(settings)


def config(call: Call) -> Answer:
    """There is one warehouse. It is called by the name of the catalog, by its location, or not at all."""
    asked = call.query.get("warehouse", "")
    location = call.catalog.properties[WAREHOUSE_LOCATION]
    if asked.rstrip("/") not in {"", NAME, location}:
        text = f"found warehouse {asked[:100]!r}, wanted none, {NAME} or {location}"
        raise Problem(404, "NoSuchWarehouseException", text)
    return answer({"defaults": {}, "overrides": {}, "endpoints": endpoints()})


def views(call: Call) -> Answer:
    call.catalog.load_namespace_properties(call.namespace)
    return answer({"identifiers": [], "next-page-token": None})


def view(call: Call) -> Answer:
    raise Problem(404, "NoSuchViewException", f"View does not exist: {'.'.join(call.identifier)}")


def no_view(call: Call) -> Answer:
    raise Problem(406, "UnsupportedOperationException", "this catalog keeps no views")


OPERATIONS: dict[Operation, Callable[[Call], Answer]] = {
    Operation.CONFIG: config,
    Operation.LIST_NAMESPACES: namespaces.listed,
    Operation.CREATE_NAMESPACE: namespaces.create,
    Operation.LOAD_NAMESPACE: namespaces.load,
    Operation.NAMESPACE_EXISTS: namespaces.exists,
    Operation.DROP_NAMESPACE: namespaces.drop,
    Operation.UPDATE_NAMESPACE: namespaces.update,
    Operation.LIST_TABLES: tables.listed,
    Operation.CREATE_TABLE: tables.create,
    Operation.REGISTER_TABLE: tables.register,
    Operation.LOAD_TABLE: tables.load,
    Operation.TABLE_EXISTS: tables.exists,
    Operation.COMMIT_TABLE: commits.one,
    Operation.DROP_TABLE: drops.drop,
    Operation.LOAD_CREDENTIALS: tables.credentials_of,
    Operation.REPORT_METRICS: tables.report,
    Operation.RENAME_TABLE: tables.rename,
    Operation.COMMIT_TRANSACTION: commits.several,
    Operation.LIST_VIEWS: views,
    Operation.LOAD_VIEW: view,
    Operation.CHANGE_VIEW: no_view,
}
