"""Requests of the specification that pyiceberg, which is a client, has no class for or wants more of."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pyiceberg.catalog.rest import CreateTableRequest, RegisterTableRequest
from pyiceberg.table import CommitTableRequest, TableIdentifier
from pyiceberg.typedef import IcebergBaseModel

from lakehouse.catalog.rest.calls import Call, read
from lakehouse.catalog.rest.problems import bad_request
from lakehouse.catalog.rest.updates import UNNUMBERED


class CreateNamespaceRequest(IcebergBaseModel):
    namespace: tuple[str, ...] = Field(min_length=1)
    properties: dict[str, str] = Field(default_factory=dict)


class UpdateNamespacePropertiesRequest(IcebergBaseModel):
    removals: list[str] = Field(default_factory=list)
    updates: dict[str, str] = Field(default_factory=dict)


class RenameTableRequest(IcebergBaseModel):
    source: TableIdentifier
    destination: TableIdentifier


class CommitTransactionRequest(IcebergBaseModel):
    table_changes: list[CommitTableRequest] = Field(alias="table-changes")


def create_table(call: Call) -> CreateTableRequest:
    document = {"location": None, "partition-spec": None, "write-order": None} | call.document()
    _mark_unnumbered(document["partition-spec"])
    return read(CreateTableRequest, document)


def register_table(call: Call) -> RegisterTableRequest:
    return read(RegisterTableRequest, {"overwrite": False} | call.document())


def commit_table(call: Call) -> CommitTableRequest:
    """The path names the table; a body that names another one is a mistake."""
    document = call.document()
    own: dict[str, Any] = {"namespace": list(call.namespace), "name": call.name}
    _mark_unnumbered_of(document)
    request = read(CommitTableRequest, {"identifier": own} | document)
    if identifier_of(request.identifier) != call.identifier:
        raise bad_request("the body names another table than the path")
    return request


def commit_transaction(call: Call) -> CommitTransactionRequest:
    document = call.document()
    changes = document.get("table-changes")
    for change in changes if isinstance(changes, list) else []:
        _mark_unnumbered_of(change)
    return read(CommitTransactionRequest, document)


def _mark_unnumbered_of(change: Any) -> None:
    updates = change.get("updates") if isinstance(change, dict) else None
    for update in updates if isinstance(updates, list) else []:
        if isinstance(update, dict) and update.get("action") == "add-spec":
            _mark_unnumbered(update.get("spec"))


def _mark_unnumbered(spec: Any) -> None:
    """A field of a spec may come without a number; pyiceberg wants one. What has no fields is for it to refuse."""
    fields = spec.get("fields") if isinstance(spec, dict) else None
    for field in fields if isinstance(fields, list) else []:
        if isinstance(field, dict):
            field.setdefault("field-id", UNNUMBERED)


def identifier_of(found: TableIdentifier) -> tuple[str, ...]:
    levels = tuple(found.namespace.root)
    if not levels or not found.name:
        raise bad_request("found a table without namespace or name, wanted both")
    return (*levels, found.name)
