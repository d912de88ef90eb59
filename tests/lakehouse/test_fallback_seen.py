"""An outage is seen in /status, /metrics, acks and the admin; recovery can be asked for."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.urls import reverse

from lakehouse import tasks
from lakehouse.clock import now_ms
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import DeadLetter, FallbackBatch, IcebergTable, Parent
from rpc.entries import RawEntry
from tests.builders import frame, parent, run, source
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.outage_site import come_back, go_away
from tests.lakehouse.test_consumer import socket
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

HOUR_MS = 3_600_000


def keep(name="north"):
    shop = source(parent(name))
    accept([(shop, frame(1, run(1, 3)))], now_ms=now_ms())
    go_away(now_ms(), open_ms=HOUR_MS)
    assert tasks.flush_parent(shop.parent_id, FlushTrigger.MANUAL.value) == 0
    return shop


def command(*arguments):
    said = StringIO()
    call_command("recover_fallback", *arguments, stdout=said)
    return said.getvalue().splitlines()


async def test_status_and_metrics_tell_of_the_breaker():
    async with home():
        before = (await ask("GET", "/status")).json
        await in_thread(lambda: go_away(now_ms(), open_ms=HOUR_MS))
        after = (await ask("GET", "/status")).json
        text = (await ask("GET", "/metrics")).body.decode()
    assert (before["circuitBreakerState"], before["degradedMode"]) == ("closed", False)
    assert (after["circuitBreakerState"], after["degradedMode"]) == ("open", True)
    assert "dolake_circuit_breaker 2\n" in text
    assert "dolake_circuit_breaker_opened_total 2\n" in text


async def test_an_old_clients_ack_says_fallback_and_the_real_state_of_the_breaker():
    await in_thread(lambda: go_away(now_ms(), open_ms=HOUR_MS))
    event = {"sequence": 1, "timestamp": 5, "operation": "INSERT", "table": "orders", "rowId": "1", "after": {"id": 1}}
    batch = {"type": "cdc_batch", "timestamp": 5, "sourceDoId": "shop-1", "events": [event], "sequenceNumber": 1}
    async with home(), socket() as child:
        await child.say(json.dumps(batch | {"firstEventSequence": 1, "lastEventSequence": 1}))
        heard = json.loads((await child.receive_output(20))["text"])
    assert (heard["type"], heard["status"]) == ("ack", "fallback")
    assert heard["details"]["circuitBreakerState"] == "open"


def test_the_command_is_not_silent_when_there_is_nothing_to_recover():
    assert command() == ["nothing is kept; every row that was flushed is in its table"]


def test_the_beats_task_waits_for_the_breaker_and_then_recovers_every_parent(worker):
    keep("north"), keep("south")
    assert tasks.recover_fallback() == 0
    assert FallbackBatch.objects.filter(attempts=0).count() == 2
    come_back()
    assert tasks.recover_fallback() == 6
    assert not FallbackBatch.objects.exists()
    assert tasks.recover_fallback() == 0


def test_a_task_for_one_parent_leaves_the_others(worker):
    north, _ = keep("north"), keep("south")
    come_back()
    assert tasks.recover_fallback(north.parent_id) == 3
    assert FallbackBatch.objects.get().parent.name == "south"


def test_recovery_leaves_the_rest_to_its_next_turn_when_its_time_is_over(worker, monkeypatch):
    keep("north"), keep("south")
    come_back()
    begun_ms = now_ms()
    clock = iter([begun_ms, *[begun_ms + 1] * 2, *[begun_ms + tasks.RECOVERY_MS] * 1000])
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "now_ms", lambda: next(clock))
        assert tasks.recover_fallback() == 0
    assert FallbackBatch.objects.filter(attempts=0).count() == 2
    assert tasks.recover_fallback() == 6


def test_children_that_never_pause_do_not_keep_what_is_kept_from_its_table(worker, monkeypatch):
    shop = keep()
    come_back()
    for number in (2, 3):
        accept([(shop, frame(number, run(10 * number, 10 * number)))], now_ms=now_ms())
    monkeypatch.setattr(tasks, "RECOVER_EVERY_MS", 0)
    tasks.flush_parent(shop.parent_id, FlushTrigger.MANUAL.value)
    assert not FallbackBatch.objects.exists()


def test_a_parent_whose_fuse_is_blown_keeps_what_is_kept(worker):
    keep()
    come_back()
    Parent.objects.update(fuse_blown_ms=1)
    assert tasks.recover_fallback() == 0
    assert FallbackBatch.objects.exists()


def test_the_command_leaves_what_a_blown_fuse_holds_up_and_says_what_to_type(worker):
    keep()
    come_back()
    Parent.objects.update(fuse_blown_ms=1)
    [said] = command("--reset")
    assert said.startswith("north: the fuse of parent north is blown")
    assert "manage.py fuse --parent north" in said
    assert FallbackBatch.objects.exists()


def test_the_command_says_why_unreadable_rows_wait_and_makes_dead_letters_of_them_when_told(worker):
    shop = source(parent("north"))
    broken = [RawEntry(number, now_ms(), 0, b"orders", b"r", b"", b"{not json") for number in range(101)]
    accept([(shop, frame(1, broken))], now_ms=now_ms())
    go_away(now_ms())
    tasks.flush_parent(shop.parent_id, FlushTrigger.MANUAL.value)
    come_back()
    done, why = command()
    assert done == "north: 0 rows are in their tables, 1 pieces are still kept"
    assert "101 entries in a row cannot become rows" in why
    assert command("--accept")[-1] == "north: 0 rows are in their tables, 0 pieces are still kept"
    assert DeadLetter.objects.count() == 101


def test_the_command_recovers_and_says_what_is_left(worker):
    keep("north"), keep("south")
    assert command() == [
        "north: nobody asks the store now, it was away; --reset does not wait",
        "south: nobody asks the store now, it was away; --reset does not wait",
    ]
    come_back()
    assert command("--parent", "north") == ["north: 3 rows are in their tables, 0 pieces are still kept"]
    assert FallbackBatch.objects.get().parent.name == "south"
    with pytest.raises(CommandError, match="there is no parent 'east'; known are: north, south"):
        command("--parent", "east")


def test_reset_tries_what_was_tried_too_often_and_does_not_wait_for_the_breaker(worker):
    keep()
    FallbackBatch.objects.update(attempts=10, next_attempt_ms=now_ms() + 3_600_000, last_error="ValueError: cursed")
    come_back()
    assert command()[-1] == (
        "north: lake.orders was tried too often, with --reset it is tried again: ValueError: cursed"
    )
    go_away(now_ms(), open_ms=HOUR_MS)
    assert command("--reset") == [
        "the breaker was open; this is the probe",
        "north: 1 tables are tried again",
        "north: 3 rows are in their tables, 0 pieces are still kept",
    ]
    assert IcebergTable.objects.exists()


def operator(client, **fields):
    client.force_login(get_user_model().objects.create(username="operator", is_staff=True, **fields))
    return client


def test_the_admin_recovers_now(worker, at_once, client):
    keep()
    FallbackBatch.objects.update(attempts=10, next_attempt_ms=now_ms() + 3_600_000)
    asked = {"action": "recover_now", "_selected_action": [FallbackBatch.objects.get().pk]}
    heard = operator(client, is_superuser=True).post(
        reverse("admin:lakehouse_fallbackbatch_changelist"), asked, follow=True
    )
    assert "A worker was asked to recover 1 parents." in heard.content.decode()
    assert not FallbackBatch.objects.exists()


def test_who_may_only_look_recovers_nothing(worker, at_once, client):
    from django.contrib.auth.models import Permission

    keep()
    looking = operator(client)
    user = get_user_model().objects.get()
    user.user_permissions.add(Permission.objects.get(codename="view_fallbackbatch"))
    asked = {"action": "recover_now", "_selected_action": [FallbackBatch.objects.get().pk]}
    page = looking.post(reverse("admin:lakehouse_fallbackbatch_changelist"), asked, follow=True)
    assert page.status_code == 200
    assert FallbackBatch.objects.exists()
