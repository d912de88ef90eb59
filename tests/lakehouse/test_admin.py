"""The admin: every row can be looked at, nothing that happened can be edited, and a key is seen once."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

import evodb_site.urls  # noqa: F401 - what the admin shows is loaded with the URLs
from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.admin.shown import moment_text
from lakehouse.models import (
    AccessKey,
    Batch,
    BatchPayload,
    Child,
    ChildTable,
    CurrentSource,
    CurrentTable,
    DeadLetter,
    DriftField,
    EventExport,
    EventHour,
    EventId,
    EventSchema,
    FallbackBatch,
    Flush,
    FlushTable,
    ForeignCommit,
    ForgottenSnapshot,
    IcebergTable,
    Installation,
    NamedQuery,
    Namespace,
    Parent,
    StoreBreaker,
    TableSchema,
    TableToMake,
    TableUpkeep,
)
from lakehouse.models.parents import Holder, PastFlushes
from lakehouse.parent import access
from lakehouse.subscriptions.models import Attempt, Delivery, DeliveryTotal, Subscription

pytestmark = pytest.mark.django_db

NOW_MS = 1_700_000_000_000
MODELS = [model for app in ("lakehouse", "subscriptions") for model in apps.get_app_config(app).get_models()]
READ_ONLY = [model for model in MODELS if isinstance(admin.site._registry.get(model), ReadOnlyAdmin)]
EDITABLE = [model for model in MODELS if model not in READ_ONLY]


@pytest.fixture
def admin_client(client: Client) -> Client:
    """Logged in as an operator who has no password: hashing one costs 0.2 s a test."""
    operator = get_user_model().objects.create(username="operator", is_staff=True, is_superuser=True)
    client.force_login(operator)
    return client


def everything(number: int, *, payload: bytes = b"\x01\x02") -> dict[type[Model], Model]:
    """One row of every model, belonging together."""
    parent = Parent.objects.create(name=f"parent-{number}", last_flush_ms=NOW_MS)
    child = Child.objects.create(parent=parent, name=f"child-{number}", last_seen_ms=NOW_MS)
    flush = Flush.objects.create(parent=parent, trigger="age", lease_epoch=1, started_ms=NOW_MS)
    files = {"rows": 3, "files": 1, "size_bytes": 900}
    numbers = {"epoch": 1, "sequence": 1, "entry_sequence_first": 1, "entry_sequence_last": 3, "entries": 3}
    batch = Batch.objects.create(
        parent=parent,
        child=child,
        flush=flush,
        digest=b"d",
        encoding="columns",
        size_bytes=9,
        received_ms=NOW_MS,
        **numbers,
    )
    namespace = Namespace.objects.create(name=f"lake-{number}")
    subscription = Subscription.objects.create(parent=parent, name="hook", pattern="*", target_kind="webhook")
    delivery = Delivery.objects.create(subscription=subscription, commit_number=1, events=b"[{}]")
    table = IcebergTable.objects.create(namespace=namespace, name="orders", metadata_location="lake/orders/1.json")
    rows: list[Model] = [
        parent,
        child,
        flush,
        batch,
        namespace,
        subscription,
        delivery,
        BatchPayload.objects.create(batch=batch, payload=payload),
        FlushTable.objects.create(flush=flush, namespace="lake", table="orders", snapshot_id=1, **files),
        ForeignCommit.objects.create(flush=flush, namespace="lake", table="orders", snapshot_id=1, **files),
        Installation.objects.create(),
        table,
        ForgottenSnapshot.objects.create(table=table, snapshot_id=1, manifest_list="lake/1", forgotten_ms=NOW_MS),
        TableUpkeep.objects.create(table=table, looked_ms=NOW_MS),
        TableToMake.objects.create(namespace=namespace.name, name="orders", table=table),
        FallbackBatch.objects.create(parent=parent, table="orders", rows=3, payload=payload, created_ms=NOW_MS),
        DeadLetter.objects.create(
            parent=parent, child=child, batch=batch, payload=payload, reason="no JSON", created_ms=NOW_MS
        ),
        Attempt.objects.create(delivery=delivery, started_ms=NOW_MS, duration_ms=7),
        DeliveryTotal.objects.create(parent=parent),
        StoreBreaker.objects.create(),
        TableSchema.objects.create(parent=parent, table="orders", mode="inbox"),
        DriftField.objects.create(parent=parent, table="orders", field="x", first_ms=NOW_MS, last_ms=NOW_MS),
        ChildTable.objects.create(
            child=child, epoch=1, table="orders", entries=3, entry_sequence_first=1, entry_sequence_last=3
        ),
        EventExport.objects.create(parent=parent, commit_number=7),
        EventHour.objects.create(parent=parent, hour="2026/01/31/10", due_ms=7),
        EventId.objects.create(parent=parent, digest=f"event-{number}".encode(), received_ms=NOW_MS),
        EventSchema.objects.create(parent=parent, type="custom.paid", schema='{"type": "object"}', changed_ms=NOW_MS),
        current := CurrentTable.objects.create(namespace="lake", table=f"orders-{number}", refreshed_ms=NOW_MS),
        CurrentSource.objects.create(current=current, source="shop", epoch=1, seq=7),
        Holder.objects.create(name=f"host-{number}", lease_until_ms=NOW_MS),
        NamedQuery.objects.create(name=f"report-{number} of key 1", until_ms=NOW_MS),
        PastFlushes.objects.create(parent=parent, commit_number=1, took_ms=7),
        access.new_key("laptop", scopes=["ingest"], source_pattern="*", now_ms=NOW_MS)[0],
    ]
    return {type(row): row for row in rows}


def url(model: type[Model], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def text_of(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def sentences(model: type[Model]) -> str:
    return model.__name__


def test_every_model_is_registered() -> None:
    assert [model.__name__ for model in MODELS if model not in admin.site._registry] == []


def test_what_an_operator_may_edit_is_this_and_no_more() -> None:
    assert set(EDITABLE) == {Parent, Namespace, AccessKey, Subscription, TableSchema}


def test_the_admin_passes_the_checks() -> None:
    call_command("check", fail_level="WARNING")


@pytest.mark.parametrize("model", MODELS, ids=sentences)
def test_the_list_and_the_page_of_a_row_open(model: type[Model], admin_client: Client) -> None:
    row = everything(1)[model]
    change = url(model, "change", row.pk)
    assert change in text_of(admin_client, url(model, "changelist"))
    text_of(admin_client, change)


@pytest.mark.parametrize("model", MODELS, ids=sentences)
def test_the_list_can_be_searched(model: type[Model], admin_client: Client) -> None:
    everything(1)
    text_of(admin_client, url(model, "changelist") + "?q=7")


@pytest.mark.once
@pytest.mark.parametrize("model", MODELS, ids=sentences)
def test_a_longer_list_asks_no_more_questions(model: type[Model], admin_client: Client) -> None:
    everything(1)
    asked = []
    for number in (2, 3):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            text_of(admin_client, url(model, "changelist"))
        asked.append(len(queries))
        everything(number)
    assert asked[0] == asked[1]


@pytest.mark.once
@pytest.mark.parametrize("model", READ_ONLY, ids=sentences)
def test_a_record_of_what_happened_cannot_be_touched(model: type[Model], admin_client: Client) -> None:
    row = everything(1)[model]
    before = model._default_manager.values().get(pk=row.pk)
    refused = [
        admin_client.post(url(model, "change", row.pk), {"state": "persisted", "rows": 0, "name": "other"}),
        admin_client.post(url(model, "delete", row.pk), {"post": "yes"}),
        admin_client.post(url(model, "add"), {}),
    ]
    assert [response.status_code for response in refused] == [403, 403, 403]
    assert model._default_manager.values().get(pk=row.pk) == before


@pytest.mark.once
@pytest.mark.parametrize("model", READ_ONLY, ids=sentences)
def test_a_record_of_what_happened_has_no_actions(model: type[Model], admin_client: Client) -> None:
    row = everything(1)[model]
    admin_client.post(
        url(model, "changelist"), {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    )
    assert model._default_manager.filter(pk=row.pk).exists()


def test_who_may_only_look_sees_every_list_its_filters_and_every_row_and_can_do_nothing(client: Client) -> None:
    rows = everything(1)
    looker = get_user_model().objects.create(username="looker", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(looker)
    text_of(client, reverse("admin:index"))
    for model, row in rows.items():
        before = model._default_manager.values().get(pk=row.pk)
        page = text_of(client, url(model, "changelist"))
        assert 'name="action"' not in page, model
        for query in set(re.findall(r'<a href="(\?[^"]+)"', page)):
            text_of(client, url(model, "changelist") + html.unescape(query))
        page = text_of(client, url(model, "change", row.pk))
        assert 'type="submit" value' not in page, model
        text_of(client, url(model, "history", row.pk))
        refused = [
            client.post(url(model, "change", row.pk), {"name": "other"}).status_code,
            client.post(url(model, "delete", row.pk), {"post": "yes"}).status_code,
            client.get(url(model, "add")).status_code,
        ]
        assert refused == [403, 403, 403], model
        for name in admin.site._registry[model].actions or ():
            action = name if isinstance(name, str) else name.__name__
            client.post(url(model, "changelist"), {"action": action, "_selected_action": [row.pk]})
        assert model._default_manager.values().get(pk=row.pk) == before, model


@pytest.mark.parametrize("model", [BatchPayload, DeadLetter, FallbackBatch], ids=sentences)
def test_a_payload_is_shown_by_size_and_first_bytes_and_never_loaded(model: type[Model], admin_client: Client) -> None:
    row = everything(1, payload=b"\xab" * 100_000)[model]
    for address in (url(model, "changelist"), url(model, "change", row.pk)):
        with CaptureQueriesContext(connection) as queries:
            text = text_of(admin_client, address)
        assert "97.7\xa0KB: " + "ab " * 31 + "ab …" in text
        assert "ab " * 32 + "ab" not in text
        column = f'"{model._meta.db_table}"."payload"'
        asked = " ".join(query["sql"] for query in queries)
        assert column in asked
        assert re.search(rf"(?<!\(){re.escape(column)}(?!,? ?1)", asked) is None


def test_times_are_moments_with_their_age(admin_client: Client) -> None:
    row = everything(1)[Batch]
    assert "2023-11-14\xa022:13:20\xa0UTC (" in text_of(admin_client, url(Batch, "changelist"))
    assert "2023-11-14\xa022:13:20\xa0UTC (" in text_of(admin_client, url(Batch, "change", row.pk))


@pytest.mark.once
@pytest.mark.parametrize(
    ("value_ms", "text"),
    [
        (None, "-"),
        (0, "-"),
        (NOW_MS, "2023-11-14 22:13:20 UTC (0 s ago)"),
        (NOW_MS - 59_000, "2023-11-14 22:12:21 UTC (59 s ago)"),
        (NOW_MS - 3 * 60_000, "2023-11-14 22:10:20 UTC (3 min ago)"),
        (NOW_MS - 5 * 3_600_000, "2023-11-14 17:13:20 UTC (5 h ago)"),
        (NOW_MS + 2 * 86_400_000, "2023-11-16 22:13:20 UTC (in 2 d)"),
        (2**62, f"{2**62} ms"),
    ],
)
def test_a_moment_reads(value_ms: int | None, text: str) -> None:
    assert moment_text(value_ms, now_ms=NOW_MS) == text


def test_a_parent_is_made_and_tuned(admin_client: Client) -> None:
    form = {"name": "shop", "namespace": "lake", "config": '{"flush_threshold_ms": 5000}'}
    assert admin_client.post(url(Parent, "add"), form).status_code == 302
    parent = Parent.objects.get(name="shop")
    assert parent.settings.flush_threshold_ms == 5000
    assert parent.created_ms > NOW_MS


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"flush_treshold_ms": 5000}', "unknown parent setting flush_treshold_ms"),
        ('{"flush_threshold_ms": "soon"}', "flush_threshold_ms is"),
        ("[1]", "found list, wanted an object of parent settings"),
    ],
)
def test_a_parent_config_that_cannot_work_is_refused_with_words(admin_client: Client, config: str, said: str) -> None:
    parent = Parent.objects.create(name="shop")
    form = {"name": "shop", "namespace": "lake", "config": config}
    response = admin_client.post(url(Parent, "change", parent.pk), form)
    assert said in response.content.decode()
    parent.refresh_from_db()
    assert parent.config == {}


@pytest.mark.parametrize("name", ["../../escape", "a b", ""])
def test_a_parent_name_that_cannot_be_an_address_is_refused(admin_client: Client, name: str) -> None:
    form = {"name": name, "namespace": "lake", "config": "{}"}
    assert admin_client.post(url(Parent, "add"), form).status_code == 200
    assert not Parent.objects.exists()


def test_a_parent_of_events_is_in_the_namespace_of_its_name(admin_client: Client) -> None:
    form = {"name": "events.acme", "namespace": "lake", "config": "{}"}
    said = admin_client.post(url(Parent, "add"), form).content.decode()
    assert "parent events.acme takes events, and is in the namespace acme" in said
    assert admin_client.post(url(Parent, "add"), form | {"namespace": "acme"}).status_code == 302


@pytest.mark.parametrize("namespace", ["a/b", "eu..north", "..", "a\\b", "eu. "])
def test_a_namespace_that_no_flush_could_write_into_is_refused_when_it_is_typed(
    admin_client: Client, namespace: str
) -> None:
    form = {"name": "shop", "namespace": namespace, "config": "{}"}
    said = admin_client.post(url(Parent, "add"), form).content.decode()
    assert "wanted names that folders can have" in said
    assert not Parent.objects.exists()


@pytest.mark.parametrize(("commits", "status"), [(0, 302), (1, 200)])
def test_a_parent_that_has_rows_in_a_namespace_keeps_it_for_they_would_be_missing_in_the_other(
    admin_client: Client, commits: int, status: int
) -> None:
    parent = Parent.objects.create(name="shop", namespace="eu", commit_number=commits)
    form = {"name": "shop", "namespace": "us", "config": '{"flush_threshold_ms": 5000}'}
    response = admin_client.post(url(Parent, "change", parent.pk), form)
    assert response.status_code == status
    assert (b"its rows are in eu and stay there; make another parent" in response.content) == bool(commits)
    assert admin_client.post(url(Parent, "change", parent.pk), form | {"namespace": "eu"}).status_code == 302


def test_an_emptied_config_means_the_defaults(admin_client: Client) -> None:
    parent = Parent.objects.create(name="shop", config={"flush_threshold_ms": 5000})
    form = {"name": "shop", "namespace": "lake", "config": ""}
    response = admin_client.post(url(Parent, "change", parent.pk), form)
    assert response.status_code == 302, response.content.decode()
    parent.refresh_from_db()
    assert parent.config == {}


def test_tuning_a_parent_leaves_the_counters_alone_that_moved_meanwhile(admin_client: Client) -> None:
    parent = Parent.objects.create(name="shop", pending_entries=1)
    form = {"name": "shop", "namespace": "other", "config": "{}", "pending_entries": 0, "lease_epoch": 0}
    with CaptureQueriesContext(connection) as queries:
        assert admin_client.post(url(Parent, "change", parent.pk), form).status_code == 302
    update = next(query["sql"] for query in queries if query["sql"].startswith('UPDATE "lakehouse_parent"'))
    assert '"namespace"' in update
    assert "pending" not in update
    assert "lease" not in update


@pytest.mark.parametrize("model", [Parent, AccessKey, Subscription], ids=sentences)
def test_what_others_refer_to_is_not_deleted_here(model: type[Model], admin_client: Client) -> None:
    row = everything(1)[model]
    assert admin_client.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert model._default_manager.filter(pk=row.pk).exists()


def new_key_form(**fields: Any) -> dict[str, Any]:
    return {"name": "laptop", "scopes": ["ingest"], "source_pattern": "edge-*", **fields}


def test_a_new_key_is_shown_once_and_opens_the_door(admin_client: Client) -> None:
    response = admin_client.post(url(AccessKey, "add"), new_key_form(), follow=True)
    found = re.findall(r"evodb_[\w-]{43}", response.content.decode())
    assert len(found) == 1
    key = access.find(found[0], now_ms=NOW_MS)
    assert key is not None
    assert (key.name, key.scopes, key.source_pattern, key.expires_ms) == ("laptop", ["ingest"], "edge-*", None)
    for address in (url(AccessKey, "changelist"), url(AccessKey, "change", key.pk), reverse("admin:index")):
        again = text_of(admin_client, address)
        assert found[0] not in again
        assert key.digest not in again


@pytest.mark.parametrize(
    "fields", [{"scopes": []}, {"scopes": ["fly"]}, {"name": ""}, {"expires_0": "2001-01-01", "expires_1": "00:00"}]
)
def test_a_key_that_could_open_nothing_is_not_made(admin_client: Client, fields: dict[str, Any]) -> None:
    assert admin_client.post(url(AccessKey, "add"), new_key_form(**fields)).status_code == 200
    assert not AccessKey.objects.exists()


def test_a_key_expires_when_the_form_says(admin_client: Client) -> None:
    form = new_key_form(expires_0="2100-01-01", expires_1="00:00:00")
    assert admin_client.post(url(AccessKey, "add"), form).status_code == 302
    key = AccessKey.objects.get()
    assert key.expires_ms == 4_102_444_800_000
    assert "2100-01-01" in text_of(admin_client, url(AccessKey, "change", key.pk))


def test_narrowing_a_key_keeps_the_key(admin_client: Client) -> None:
    key, text = access.new_key("laptop", scopes=["ingest"], source_pattern="*", now_ms=NOW_MS)
    assert admin_client.post(url(AccessKey, "change", key.pk), new_key_form()).status_code == 302
    found = access.find(text, now_ms=NOW_MS)
    assert found is not None
    assert found.source_pattern == "edge-*"


def test_a_revoked_key_opens_nothing(admin_client: Client) -> None:
    key, text = access.new_key("laptop", scopes=["ingest"], source_pattern="*", now_ms=NOW_MS)
    admin_client.post(url(AccessKey, "changelist"), {"action": "revoke", "_selected_action": [key.pk]})
    assert access.find(text, now_ms=NOW_MS) is None
