"""One request, as the operations see it: who asks, for what, over which catalog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from pyiceberg.typedef import IcebergBaseModel

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.rest.problems import bad_request, forbidden
from lakehouse.conf import Settings
from lakehouse.parent.grants import Grant

NAME_CHARS_MAX = 500
"""As long as the database takes them; a namespace is its levels and what separates them."""
Model = TypeVar("Model", bound=IcebergBaseModel)


@dataclass(frozen=True, slots=True)
class Call:
    catalog: DjangoCatalog
    settings: Settings
    grant: Grant
    namespace: tuple[str, ...]
    name: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def identifier(self) -> tuple[str, ...]:
        return (*self.namespace, self.name)

    def document(self) -> dict[str, Any]:
        """The body as an object. Raises Problem."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError as exc:
            raise bad_request(f"the body is no JSON: {exc}") from None
        if not isinstance(found, dict):
            raise bad_request("the body is no JSON object")
        return found

    def check(self, namespace: tuple[str, ...]) -> None:
        """Raises Problem unless the key is for this namespace, whether it exists or not."""
        if not self.sees(namespace):
            raise forbidden(f"the access key is not for the namespace {'.'.join(namespace)[:100]!r}")

    def sees(self, namespace: tuple[str, ...]) -> bool:
        return sees(self.grant, namespace)


def sees(grant: Grant, namespace: tuple[str, ...]) -> bool:
    """Whether a key is for this namespace. Its patterns are compared with the levels joined by dots."""
    return any(grant.allows(scope=scope, namespace=".".join(namespace)) for scope in grant.scopes)


def read(kind: type[Model], document: dict[str, Any]) -> Model:
    """The document as one of pyiceberg's models. Raises Problem.

    Some of their checks take for granted what nobody looked at yet, so that other errors than theirs come out.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in exc.errors()[:3])
        raise bad_request(f"the body cannot be read: {said}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise bad_request(f"the body cannot be read: {exc!r}"[:300]) from None


def check_name(name: str, *, levels: tuple[str, ...] = ()) -> None:
    """Raises Problem for a name that is too long for the database; what else is wrong the catalog says."""
    length = len("\x1f".join(levels) or name)
    if length > NAME_CHARS_MAX:
        raise bad_request(f"found a name of {length} characters, wanted at most {NAME_CHARS_MAX}")
