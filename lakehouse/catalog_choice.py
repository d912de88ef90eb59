"""What EVODB_CATALOG and EVODB_CATALOG_PROPERTIES may say; nothing here tells what they said, for keys are among it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TYPES = ("rest", "glue", "sql", "hive", "dynamodb", "bigquery")
WITH_URI = ("rest", "sql", "hive")
URI_ELSEWHERE = "PYICEBERG_CATALOG__EVODB__URI"
"""pyiceberg's own variable."""
VARIABLE = "EVODB_CATALOG_PROPERTIES"
OBJECTS = ("auth", "ssl")
"""Of pyiceberg's properties these have some of their own."""


def types() -> Any:
    """The check of the type, as a row of the settings' table has it."""
    check = {"check": lambda value: not value or value in TYPES}
    return check | {"wanted": f"nothing, or one of {', '.join(TYPES)}"}


def properties_of(text: str) -> dict[str, Any]:
    """Texts, and objects of OBJECTS. Raises ValueError."""
    try:
        found = json.loads(text or "{}")
    except ValueError as exc:
        raise ValueError(f"no JSON ({exc})") from None
    if not isinstance(found, dict) or not all(
        isinstance(value, dict if name in OBJECTS else str) for name, value in found.items()
    ):
        raise ValueError(f"no object of texts, with objects as {' and '.join(OBJECTS)}")
    return found


def elsewhere(catalog: str) -> str:
    """What somebody hears who asks here for tables that a catalog of this type keeps."""
    return f"the tables of this house are in the {catalog} catalog of EVODB_CATALOG; ask that one"


def complaint(catalog: str, text: str, environ: Mapping[str, str]) -> str | None:
    """Why these two cannot work together, or None."""
    try:
        found = properties_of(text)
    except ValueError as exc:
        return f"{VARIABLE} is {exc}, wanted such a JSON object"
    if found and not catalog:
        return f"{VARIABLE} is given and EVODB_CATALOG is empty, wanted a type: {', '.join(TYPES)}"
    if "type" in found or "name" in found:
        return f'{VARIABLE} has "type" or "name", wanted neither: the type is EVODB_CATALOG, the name is evodb'
    if catalog in WITH_URI and "uri" not in found and URI_ELSEWHERE not in environ:
        return f'{VARIABLE} has no "uri", wanted the address of the {catalog} catalog'
    return None
