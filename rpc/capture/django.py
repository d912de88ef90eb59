"""Capture for the models of a Django project: triggers in its database, and the outbox they fill.

    EVODB_CAPTURE = {"models": ["shop.Order", "shop.Line"]}      in the settings, or
    class Order(Captured): ...                                   in the model

    keep_captured()            in AppConfig.ready(): after every `migrate` the triggers follow the models
    capture_models()           the same at once, without migrating
    outbox()                   what a client streams: create_sync_rpc_client(url, "shop", outbox=outbox())

A database trigger writes the change, in the transaction of whoever makes it: `save()`, `bulk_create()`, `update()`, raw
SQL and `psql` alike. SQLite and PostgreSQL. This is the one module of `rpc` that knows Django; nothing else imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from django.apps import apps
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models.signals import post_migrate

from rpc.capture.postgres import PostgresCapture
from rpc.capture.sqlite import SqliteCapture
from rpc.errors import CaptureError

__all__ = ["Captured", "capture_models", "captured_models", "keep_captured", "outbox", "release_models"]

SETTING = "EVODB_CAPTURE"
KNOWN = {"models", "using"}
OF_DJANGO = {"cursor_factory", "context", "prepare_threshold", "client_encoding", "autocommit"}

Model = type[models.Model]


class Captured(models.Model):
    """A mixin: the changes of this model are captured."""

    class Meta:
        abstract = True


def captured_models(named: Sequence[Model | str] = ()) -> list[Model]:
    """The models that are named here, in the setting, or by the mixin, with what else their rows lie in.

    That is: the tables of parents they inherit from, and those of many-to-many fields that have no model of their own.
    """
    chosen = [*named] or [*_setting().get("models", ()), *(m for m in apps.get_models() if issubclass(m, Captured))]
    found: dict[str, Model] = {}
    for model in map(_model, chosen):
        for part in _parts(model):
            found.setdefault(part._meta.db_table, part)
    return list(found.values())


def outbox(*named: Model | str, using: str | None = None) -> SqliteCapture | PostgresCapture:
    """The outbox of these models (else of the setting's and the mixin's), attached. Whoever opens it closes it.

    It has a connection of its own: do not call this within a transaction.
    """
    capture = _capture(named, using)
    try:
        capture.attach()
    except BaseException:
        capture.close()
        raise
    return capture


def capture_models(*named: Model | str, using: str | None = None) -> list[str]:
    """Capture the tables of these models from now on, and return their names. Calling it again changes nothing."""
    with _capture(named, using) as capture:
        return capture.attach()


def release_models(*named: Model | str, using: str | None = None, force: bool = False) -> None:
    """Remove capture from the database. Raises CaptureError while changes wait, unless `force` drops them."""
    with _capture(named, using) as capture:
        capture.detach(force=force)


def keep_captured() -> None:
    """From now on each `migrate` ends with the triggers as the models want them.

    Altering a table of SQLite makes it anew and loses its triggers; what is written until then is noticed and sent.
    """
    post_migrate.connect(_after_migrate, dispatch_uid="rpc.capture.django")


def _capture(named: Sequence[Model | str], using: str | None) -> SqliteCapture | PostgresCapture:
    alias = using or _setting().get("using", DEFAULT_DB_ALIAS)
    tables = [model._meta.db_table for model in captured_models(named)]
    if not tables:
        raise CaptureError(f"no model is named; set {SETTING} = {{'models': ['app.Model']}} or inherit from Captured")
    connection = connections[alias]
    if connection.vendor == "sqlite":
        return SqliteCapture(_file(connection), tables=tables)
    if connection.vendor == "postgresql":
        return PostgresCapture(lambda: psycopg.connect(**_parameters(connection)), tables=tables)
    raise CaptureError(f"database {alias!r} is {connection.vendor}; captured are SQLite and PostgreSQL")


def _after_migrate(*, using: str, app_config: Any, **_: Any) -> None:
    """Once per app that was migrated; the tables of the later ones may not be there yet."""
    connection = connections[using]
    if using != _setting().get("using", DEFAULT_DB_ALIAS) or _is_in_memory(connection):
        return
    present = set(connection.introspection.table_names())
    wanted = {model._meta.db_table for model in captured_models()}
    if wanted and wanted <= present:
        capture_models(using=using)


def _setting() -> dict[str, Any]:
    found = getattr(settings, SETTING, {})
    if not isinstance(found, dict) or set(found) - KNOWN:
        raise CaptureError(f"{SETTING} is {found!r}, wanted {{'models': ['app.Model', ...], 'using': 'default'}}")
    return found


def _model(named: Model | str) -> Model:
    if not isinstance(named, str):
        return named
    try:
        return apps.get_model(named)
    except (LookupError, ValueError) as exc:
        why = str(exc).rstrip(".")
        raise CaptureError(f"there is no model {named!r}: {why}; name it as 'app_label.Model'") from None


def _parts(model: Model) -> Iterator[Model]:
    meta = (model._meta.concrete_model or model)._meta
    yield from (parent for parent in meta.get_parent_list())
    yield meta.model
    for field in meta.many_to_many:
        through = field.remote_field.through
        if through is not None and through._meta.auto_created:
            yield through


def _is_in_memory(connection: Any) -> bool:
    return bool(connection.vendor == "sqlite" and connection.is_in_memory_db())


def _file(connection: Any) -> str:
    name = str(connection.settings_dict["NAME"])
    if _is_in_memory(connection):
        raise CaptureError(f"the database is {name!r}, in memory; capture wants a file that others can open")
    return name.removeprefix("file:").partition("?")[0] if name.startswith("file:") else name


def _parameters(connection: Any) -> dict[str, Any]:
    """What Django would open its own connection with, without what only Django understands."""
    given = connection.get_connection_params()
    return {name: value for name, value in given.items() if name not in OF_DJANGO}
