"""Which request is which operation of the specification.

Paths are taken as they were sent: a `%2F` belongs to a name and a `/` does not, and Django's own path has lost the
difference. Levels of a namespace are separated by U+001F.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from lakehouse.catalog.rest.problems import Problem, bad_request

LEVELS = "\x1f"


class Operation(StrEnum):
    CONFIG = "config"
    TOKEN = "token"  # noqa: S105 - the name of an operation
    LIST_NAMESPACES = "list namespaces"
    CREATE_NAMESPACE = "create namespace"
    LOAD_NAMESPACE = "load namespace"
    NAMESPACE_EXISTS = "namespace exists"
    DROP_NAMESPACE = "drop namespace"
    UPDATE_NAMESPACE = "update namespace"
    LIST_TABLES = "list tables"
    CREATE_TABLE = "create table"
    REGISTER_TABLE = "register table"
    LOAD_TABLE = "load table"
    TABLE_EXISTS = "table exists"
    COMMIT_TABLE = "commit table"
    DROP_TABLE = "drop table"
    LOAD_CREDENTIALS = "load credentials"
    REPORT_METRICS = "report metrics"
    RENAME_TABLE = "rename table"
    COMMIT_TRANSACTION = "commit transaction"
    LIST_VIEWS = "list views"
    LOAD_VIEW = "load view"
    CHANGE_VIEW = "change view"


READING = {
    *(Operation.CONFIG, Operation.LIST_NAMESPACES, Operation.LOAD_NAMESPACE, Operation.NAMESPACE_EXISTS),
    *(Operation.LIST_TABLES, Operation.LOAD_TABLE, Operation.TABLE_EXISTS, Operation.LOAD_CREDENTIALS),
    *(Operation.REPORT_METRICS, Operation.LIST_VIEWS, Operation.LOAD_VIEW),
}
"""What changes nothing."""
TABLE = "namespaces/{namespace}/tables/{table}"
VIEW = "namespaces/{namespace}/views/{view}"
ROUTES: dict[str, dict[str, Operation]] = {
    "config": {"GET": Operation.CONFIG},
    "oauth/tokens": {"POST": Operation.TOKEN},
    "namespaces": {"GET": Operation.LIST_NAMESPACES, "POST": Operation.CREATE_NAMESPACE},
    "namespaces/{namespace}": {
        "GET": Operation.LOAD_NAMESPACE,
        "HEAD": Operation.NAMESPACE_EXISTS,
        "DELETE": Operation.DROP_NAMESPACE,
    },
    "namespaces/{namespace}/properties": {"POST": Operation.UPDATE_NAMESPACE},
    "namespaces/{namespace}/tables": {"GET": Operation.LIST_TABLES, "POST": Operation.CREATE_TABLE},
    "namespaces/{namespace}/register": {"POST": Operation.REGISTER_TABLE},
    TABLE: {
        "GET": Operation.LOAD_TABLE,
        "HEAD": Operation.TABLE_EXISTS,
        "POST": Operation.COMMIT_TABLE,
        "DELETE": Operation.DROP_TABLE,
    },
    f"{TABLE}/credentials": {"GET": Operation.LOAD_CREDENTIALS},
    f"{TABLE}/metrics": {"POST": Operation.REPORT_METRICS},
    "tables/rename": {"POST": Operation.RENAME_TABLE},
    "transactions/commit": {"POST": Operation.COMMIT_TRANSACTION},
    "namespaces/{namespace}/views": {"GET": Operation.LIST_VIEWS, "POST": Operation.CHANGE_VIEW},
    "namespaces/{namespace}/register-view": {"POST": Operation.CHANGE_VIEW},
    VIEW: {
        "GET": Operation.LOAD_VIEW,
        "HEAD": Operation.LOAD_VIEW,
        "POST": Operation.LOAD_VIEW,
        "DELETE": Operation.LOAD_VIEW,
    },
    "views/rename": {"POST": Operation.CHANGE_VIEW},
}
UNPREFIXED = {"config", "oauth/tokens"}


@dataclass(frozen=True, slots=True)
class Route:
    operation: Operation
    namespace: tuple[str, ...] = ()
    name: str = ""
    """Of the table, or of the view."""


def find(method: str, raw_path: bytes) -> Route:
    """The operation behind `/v1/` of this path, which is as it was sent. Raises Problem."""
    _, _, rest = raw_path.partition(b"/v1/")
    segments = [_unquoted(segment) for segment in rest.split(b"/")]
    for template, by_method in ROUTES.items():
        names = _fit(template.split("/"), segments)
        if names is None:
            continue
        if method not in by_method:
            allowed = ", ".join(by_method)
            text = f"/v1/{template} answers {allowed}, not {method}"
            raise Problem(405, "UnsupportedOperationException", text, {"allow": allowed})
        namespace = levels(names.get("namespace", ""))
        return Route(by_method[method], namespace, names.get("table", names.get("view", "")))
    raise Problem(404, "NotFoundException", "the catalog has nothing at this path; docs/catalog.md lists its endpoints")


def levels(text: str) -> tuple[str, ...]:
    return tuple(text.split(LEVELS)) if text else ()


def endpoints() -> list[str]:
    """As the answer to `config` names them. Views are answered, but not kept."""
    kept = {template: methods for template, methods in ROUTES.items() if "view" not in template}
    return [
        f"{method} /v1/{{prefix}}/{template}"
        for template, methods in kept.items()
        if template not in UNPREFIXED
        for method in methods
    ]


def _fit(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    """The names a path gives to the places of a template, or None."""
    if len(pattern) != len(segments):
        return None
    names = {}
    for wanted, found in zip(pattern, segments, strict=True):
        if wanted.startswith("{") and found:
            names[wanted[1:-1]] = found
        elif wanted != found:
            return None
    return names


def _unquoted(segment: bytes) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise bad_request("the path is not UTF-8 behind its percent signs") from None
