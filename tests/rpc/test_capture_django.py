"""Models of a Django project under capture, on both databases: whatever way a row is written, it is sent."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dj_database_url
import psycopg
import pytest
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connections, models, transaction
from django.db.models.signals import post_migrate
from django.test.utils import isolate_apps

from rpc import columns
from rpc.capture import django as captured
from rpc.capture.django import Captured, capture_models, captured_models, keep_captured, outbox, release_models
from rpc.errors import CaptureError

ALIAS = "captured"
MIB = 1024 * 1024
GROUPS = Group.objects.using(ALIAS)
Change = tuple[str, str, str, Any, Any]


@pytest.fixture(params=["sqlite", "postgresql"])
def project(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any
) -> Iterator[None]:
    """A database of a project that has groups and permissions, as the alias `captured`."""
    url = f"sqlite:///{tmp_path}/project.sqlite3"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_url")
        name = f"project_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = server.replace("/postgres?", f"/{name}?")
    with django_db_blocker.unblock():
        given = connections["default"].settings_dict | {"OPTIONS": {}} | dj_database_url.parse(url)
        monkeypatch.setitem(connections.databases, ALIAS, given)
        try:
            migrated()
            yield
        finally:
            connections[ALIAS].close()
            delattr(connections._connections, ALIAS)


@pytest.fixture
def setting(settings: Any) -> Any:
    settings.EVODB_CAPTURE = {"models": ["auth.Group"], "using": ALIAS}
    return settings


def changes() -> list[Change]:
    found: list[Change] = []
    with outbox() as capture:
        while capture.uncut_entries():
            batch = capture.cut(entries_max=1000, bytes_max=MIB)
            assert batch is not None
            for entry in columns.decode(batch.payload).entries():
                before, after = (json.loads(text) if text else None for text in (entry.before, entry.after))
                operation = ("INSERT", "UPDATE", "DELETE")[entry.operation]
                found.append((operation, entry.table.decode(), entry.row_id.decode(), before, after))
            capture.ack(batch.sequence)
    return found


def group(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "name": name}


@pytest.mark.usefixtures("project", "setting")
def test_save_and_every_bulk_operation_are_captured() -> None:
    assert capture_models() == ["auth_group", "auth_group_permissions"]
    assert capture_models() == ["auth_group", "auth_group_permissions"]
    ann = GROUPS.create(name="ann")
    ann.name = "anna"
    ann.save()
    GROUPS.bulk_create([Group(name="bob"), Group(name="cleo")])
    GROUPS.filter(name__lt="c").update(name=models.functions.Upper("name"))
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("UPDATE auth_group SET name = 'raw' WHERE id = %s", [ann.pk])
    GROUPS.filter(name="cleo").delete()
    told = changes()
    bulk = sorted(told[4:6], key=lambda change: change[2])
    assert told[:4] + bulk + told[6:] == [
        ("INSERT", "auth_group", "1", None, group(1, "ann")),
        ("UPDATE", "auth_group", "1", group(1, "ann"), group(1, "anna")),
        ("INSERT", "auth_group", "2", None, group(2, "bob")),
        ("INSERT", "auth_group", "3", None, group(3, "cleo")),
        ("UPDATE", "auth_group", "1", group(1, "anna"), group(1, "ANNA")),
        ("UPDATE", "auth_group", "2", group(2, "bob"), group(2, "BOB")),
        ("UPDATE", "auth_group", "1", group(1, "ANNA"), group(1, "raw")),
        ("DELETE", "auth_group", "3", group(3, "cleo"), None),
    ]


@pytest.mark.usefixtures("project", "setting")
def test_a_change_is_in_the_transaction_of_whoever_makes_it() -> None:
    capture_models()
    with transaction.atomic(ALIAS):
        GROUPS.create(name="never")
        transaction.set_rollback(True, ALIAS)
    with transaction.atomic(ALIAS):
        kept = GROUPS.create(name="kept")
    assert [change[:3] for change in changes()] == [("INSERT", "auth_group", str(kept.pk))]


@pytest.mark.usefixtures("project", "setting")
def test_many_to_many_rows_come_along() -> None:
    capture_models()
    kind = ContentType.objects.using(ALIAS).create(app_label="shop", model="order")
    right = Permission.objects.using(ALIAS).create(name="may", content_type=kind, codename="may")
    GROUPS.create(name="ann").permissions.add(right)
    assert [change[:2] for change in changes()] == [("INSERT", "auth_group"), ("INSERT", "auth_group_permissions")]


@pytest.mark.usefixtures("project")
def test_models_may_be_named_by_hand_and_released_again() -> None:
    assert capture_models(Permission, "contenttypes.ContentType", using=ALIAS) == [
        "auth_permission",
        "django_content_type",
    ]
    ContentType.objects.using(ALIAS).create(app_label="shop", model="order")
    with pytest.raises(CaptureError, match="1 changes"):
        release_models(Permission, using=ALIAS)
    release_models(Permission, using=ALIAS, force=True)
    assert not [name for name in connections[ALIAS].introspection.table_names() if "evodb" in name]
    ContentType.objects.using(ALIAS).create(app_label="shop", model="line")


@pytest.mark.usefixtures("project", "setting")
def test_after_a_migration_the_triggers_follow_the_model() -> None:
    keep_captured()
    try:
        migrated()
        ann = GROUPS.create(name="ann")
        field = models.IntegerField(default=7)
        field.set_attributes_from_name("level")
        with connections[ALIAS].schema_editor() as editor:
            editor.add_field(Group, field)
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("UPDATE auth_group SET level = 8")
        migrated()
        first = changes()
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("UPDATE auth_group SET level = 9")
        second = changes()
    finally:
        post_migrate.disconnect(dispatch_uid="rpc.capture.django")
    assert first[0] == ("INSERT", "auth_group", str(ann.pk), None, group(ann.pk, "ann"))
    assert first[-1][4] == group(ann.pk, "ann") | {"level": 8}
    assert [(change[3]["level"], change[4]["level"]) for change in second] == [(8, 9)]


def migrated() -> None:
    call_command("migrate", "auth", database=ALIAS, verbosity=0)


def test_the_mixin_marks_a_model_and_brings_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    with isolate_apps("tests", attr_name=None) as registry:

        class Place(models.Model):
            class Meta:
                app_label = "tests"

        class Shop(Captured, Place):
            class Meta:
                app_label = "tests"

        class Other(models.Model):
            class Meta:
                app_label = "tests"

        monkeypatch.setattr(captured, "apps", registry)
        assert captured_models() == [Place, Shop]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"models": ["auth.Nobody"]}, "'Nobody' model; name it as 'app_label.Model'"),
        ({"models": ["nonsense"]}, "name it as 'app_label.Model'"),
        ({"model": ["auth.Group"]}, "wanted {'models'"),
        (["auth.Group"], "wanted {'models'"),
        ({}, "no model is named"),
    ],
)
def test_a_setting_that_names_no_model_is_said(settings: Any, value: Any, said: str) -> None:
    settings.EVODB_CAPTURE = value
    with pytest.raises(CaptureError, match=said):
        outbox()


def test_a_database_in_memory_is_refused_and_migrations_pass_it_by(
    settings: Any, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any
) -> None:
    settings.EVODB_CAPTURE = {"models": ["auth.Group"], "using": ALIAS}
    given = connections["default"].settings_dict | {"OPTIONS": {}} | dj_database_url.parse("sqlite://:memory:")
    monkeypatch.setitem(connections.databases, ALIAS, given)
    with django_db_blocker.unblock():
        try:
            with pytest.raises(CaptureError, match="in memory"):
                capture_models()
            keep_captured()
            migrated()
        finally:
            post_migrate.disconnect(dispatch_uid="rpc.capture.django")
            connections[ALIAS].close()
            delattr(connections._connections, ALIAS)
