"""The SDK against the real parent: in a view, a task, a script and a coroutine, the same and not changed for any."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest
from celery import Celery, current_app
from celery.contrib.testing.worker import start_worker
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from lakehouse.models import BatchPayload
from rpc import CDCCollection, EventEmitter, SqliteCollection, columns
from tests.lakehouse.events_application import Application
from tests.lakehouse.events_site import key_of
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)


def stored():
    payloads = BatchPayload.objects.order_by("pk").values_list("payload", flat=True)
    return [json.loads(e.after) for payload in payloads for e in columns.decode(bytes(payload)).entries()]


async def test_what_an_application_emits_is_durable_at_the_parent_once(tmp_path):
    async with serving(open=False) as server:
        options = {
            "endpoint": server.url.replace("ws://", "http://").removesuffix("/ws") + "/ingest",
            "api_key": await key_of("acme"),
            "storage": tmp_path / "events.db",
            "cdc": True,
            "background": False,
        }

        def application():
            with EventEmitter("shop-1", **options) as emitter:
                users = CDCCollection(SqliteCollection(emitter.outbox, "users"), emitter, "users")
                users.put("1", {"name": "Ada"})
                emitter.emit("../bad")
                users.delete("1")
                sent = emitter.flush()
                return sent, emitter.pending_count, [one.reason[:13] for one in emitter.set_aside()]

        assert await asyncio.to_thread(application) == (2, 0, ["INVALID_EVENT"])
    rows = await in_thread(stored)
    assert [(row["ns"], row["type"], row["docId"]) for row in rows] == [
        ("acme", "collection.insert", "1"),
        ("acme", "collection.delete", "1"),
    ]


def in_views(application):
    def view(request):
        application.sign_up("view")
        return HttpResponse("ok")

    async def async_view(request):
        application.sign_up("async view")
        return HttpResponse("ok")

    return path("view", view), path("async", async_view)


def in_a_task(application):
    """A real worker, which takes the task from a broker."""
    ours = current_app._get_current_object()
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="sign_up")
    def task():
        application.sign_up("task")

    try:
        with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
            task.delay().get(timeout=30)
    finally:  # the worker made its own the one of this process
        ours.set_current()
        ours.set_default()


async def in_coroutines(application):
    async def sign_up(number):
        application.sign_up(f"coroutine {number}")

    await asyncio.gather(*(sign_up(number) for number in range(3)))
    await application.events.flush_async()


async def test_the_same_lines_work_in_a_view_a_task_a_script_and_a_coroutine(tmp_path, settings):
    async with serving(open=False) as server:
        endpoint = server.url.replace("ws://", "http://").removesuffix("/ws") + "/ingest"
        options = endpoint, await key_of("acme"), str(tmp_path / "events.db")

        def everywhere():
            application = Application(*options)
            settings.ROOT_URLCONF = in_views(application)
            assert Client().get("/view").content == b"ok"
            assert asyncio.run(AsyncClient().get("/async")).content == b"ok"
            in_a_task(application)
            subprocess.run(
                [sys.executable, "-m", "tests.lakehouse.events_application", *options], check=True, timeout=60
            )
            asyncio.run(in_coroutines(application))
            application.events.close()

        await asyncio.to_thread(everywhere)
    rows = await in_thread(stored)
    names = ["view", "async view", "task", "script", *(f"coroutine {number}" for number in range(3))]
    changes = [row for row in rows if row["type"] == "collection.insert"]
    assert sorted(row["docId"] for row in changes) == sorted(names)
    assert sorted(row["bookmark"] for row in changes) == [f"{number:020}" for number in range(1, 8)]
    calls = [row for row in rows if row["type"] == "rpc.call"]
    assert [(row["method"], row["success"]) for row in calls] == [("sign_up", True)] * 7
    assert len(rows) == 14
