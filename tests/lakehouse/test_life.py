"""What parents and their sockets do becomes events, off unless asked for, and never at the cost of a socket."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Batch, BatchPayload, Parent, TableSchema
from lakehouse.parent import life
from lakehouse.parent.connection import Connection
from lakehouse.parent.edge import Edge
from lakehouse.parent.edge_events import Event, Kind
from rpc import columns
from rpc.messages import AckStatus
from tests.builders import run, wire
from tests.lakehouse.events_site import admin_key, key_of
from tests.lakehouse.http_site import ask
from tests.lakehouse.test_consumer import hello, home, socket
from tests.lakehouse.test_edge import Socket, beneath
from tests.lakehouse.test_hibernation import asleep, drowsy
from tests.lakehouse.test_intake import impatient, in_thread, locked

pytestmark = pytest.mark.django_db(transaction=True)


async def told():
    """What is in the journal of the namespace system."""

    def read():
        found = BatchPayload.objects.filter(batch__parent__name="events.system").order_by("pk")
        payloads = found.values_list("payload", flat=True)
        return [json.loads(one.after) for payload in payloads for one in columns.decode(bytes(payload)).entries()]

    return await in_thread(read)


def short(found):
    return [(one["type"], one.get("source"), one.get("connectionCount"), one.get("code")) for one in found]


async def test_nothing_is_told_unless_it_is_asked_for():
    async with home() as (opened, _), socket() as child:
        await child.ask(hello())
        assert type(opened.life) is life.Life
    assert await in_thread(lambda: list(Parent.objects.values_list("name", flat=True))) == ["default"]


async def test_sockets_and_the_life_of_their_parent_are_told_in_order():
    async with home(events_lifecycle="on"), socket() as first:
        await first.ask(hello())
        async with socket(headers=[(b"x-client-id", b"shop-2")]) as second:
            await second.ask(hello(name="shop-2"))
            ack = await second.ask(wire(1, run(1, 3)))
            assert ack.status is AckStatus.OK
    found = await told()
    assert short(found) == [
        ("do.create", None, None, None),
        ("ws.connect", None, 1, None),
        ("ws.connect", "shop-2", 2, None),
        ("ws.close", "shop-2", 1, 1000),
        ("ws.close", "shop-1", 0, 1000),
        ("do.evict", None, None, None),
    ]
    do = found[0]["do"]
    assert (do["id"], do["class"], bool(do["worker"])) == ("default", "Parent", True)
    assert all(one["do"] == do and one["ns"] == "system" and one["ts"].endswith("Z") for one in found)
    assert (found[0]["reason"], found[-1]["reason"]) == ("first socket", "last socket")
    parent = await in_thread(lambda: Parent.objects.get(name="events.system"))
    assert (parent.namespace, parent.pending_entries) == ("system", 6)


async def test_who_sleeps_is_told_when_all_of_a_parent_do_and_again_after_somebody_woke():
    async with home(events_lifecycle="on", hibernate_after_ms=1000) as (opened, _):
        clock = drowsy(opened)
        async with socket() as one:
            await one.ask(hello())
            async with socket() as other:
                await other.ask(hello(name="shop-2"))
                await asleep(opened, clock, 2)
                await one.ask(wire(1, run(1, 1)))
                await asleep(opened, clock, 2)
    kinds = [one["type"] for one in await told() if one["type"].startswith("do.")]
    assert kinds == ["do.create", "do.hibernate", "do.hibernate", "do.evict"]
    ends = [one for one in short(await told()) if one[0] == "ws.close"]
    assert ends == [("ws.close", "shop-2", 1, 1000), ("ws.close", "shop-1", 0, 1000)]


async def test_an_alarm_says_why_a_flush_was_due():
    async with home(events_lifecycle="on") as (opened, _), socket() as child:
        await child.ask(hello())
        await child.ask(wire(1, run(1, 1)))
        parent_id = await in_thread(lambda: Parent.objects.get(name="default").pk)
        alarm = opened.alarms._alarms[parent_id]
        alarm.waiting = replace(alarm.waiting, oldest_ms=0, last_flush_ms=0)
        opened.alarms._act(parent_id, alarm)
        opened.alarms.on_alarm(parent_id + 1, FlushTrigger.AGE)  # of a parent without sockets here
    assert [one["reason"] for one in await told() if one["type"] == "do.alarm"] == [FlushTrigger.AGE.value]


async def test_messages_are_told_only_when_they_are_asked_for():
    for asked, count in (("on", 0), ("messages", 3)):
        async with home(events_lifecycle=asked), socket() as child:
            await child.ask(hello())
            await child.ask("ping")
            await child.ask(wire(1, run(1, 1)))
        assert [one["type"] for one in await told()].count("ws.message") == count


async def test_a_mistake_of_ours_is_an_error_with_its_kind_and_the_code_the_child_heard(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("of a test")

    monkeypatch.setattr(Connection, "take", fail)
    async with home(events_lifecycle="on"), socket() as child:
        assert await child.ask("ping") == 1011
    (error,) = [one for one in await told() if one["type"] == "ws.error"]
    assert (error["code"], error["reason"]) == (1011, "ZeroDivisionError")


async def test_who_stops_says_that_its_parents_leave():
    async with home(events_lifecycle="on") as (opened, _):
        opened.life.connected(7, "shop", None)
    assert [(one["type"], one.get("reason")) for one in await told()] == [
        ("do.create", "first socket"),
        ("ws.connect", None),
        ("do.evict", "shutdown"),
    ]


async def test_parents_that_hold_events_tell_nothing_of_themselves():
    async with home(events_lifecycle="on"), socket(path="/ws/events.acme") as child:
        await child.ask(hello())
    assert await told() == []


async def test_what_is_too_much_is_lost_and_counted_and_no_socket_notices(monkeypatch, caplog):
    monkeypatch.setattr(life, "WAITING_MAX", 3)
    monkeypatch.setattr(life, "EVERY_S", 3600)
    async with home(events_lifecycle="messages"), socket() as child:
        for _ in range(20):
            assert await child.ask("ping") == "pong"
    assert len(await told()) == 3
    assert "21 events of parents and their sockets are lost: too many at once" in caplog.text


async def test_a_thousand_at_a_time_and_each_once():
    async with home(events_lifecycle="on") as (opened, _):
        for number in range(2100):
            opened.life.note("do.alarm", "shop", reason=str(number))
    assert [one["reason"] for one in await told()] == [str(number) for number in range(2100)]
    sizes = Batch.objects.order_by("pk").values_list("entries", flat=True)
    assert await in_thread(lambda: list(sizes)) == [1000, 1000, 100]


async def test_while_the_journal_is_away_they_wait_and_are_stored_once_when_it_is_back(caplog):
    async with home(events_lifecycle="on") as (opened, _):
        opened.life.note("do.alarm", "shop", reason="1")
        assert await opened.life._tell()
        await opened.intake.run(impatient)
        opened.life.note("do.alarm", "shop", reason="2")
        async with locked(await in_thread(Parent.objects.get)):
            assert not await opened.life._tell()
        opened.life.note("do.alarm", "shop", reason="3")
    assert [one["reason"] for one in await told()] == ["1", "2", "3"]


async def test_a_system_namespace_that_was_deleted_begins_anew():
    async with home(events_lifecycle="on") as (opened, _):
        opened.life.note("do.alarm", "shop", reason="1")
        assert await opened.life._tell()
        await in_thread(forget_everything)
        opened.life.note("do.alarm", "shop", reason="2")
        assert not await opened.life._tell()
        assert await opened.life._tell()
    assert [one["reason"] for one in await told()] == ["2"]


async def test_events_that_the_table_of_the_operator_refuses_are_set_aside_and_block_nobody(caplog):
    """The first batch with one of them was handed in again once a second, and what came behind it was lost."""

    def be_strict():
        columns = dict.fromkeys(("id", "ns", "type", "ts", "reason"), "string")
        parent = Parent.objects.get(name="events.system")
        TableSchema(parent=parent, table="events", mode="strict", fields=columns | {"do": "json", "x": "long"}).save()

    async with home(events_lifecycle="on") as (opened, _):
        opened.life.note("do.alarm", "shop", reason="0")
        assert await opened.life._tell()
        await in_thread(be_strict)
        for number in range(1, 30):
            opened.life.note("do.alarm", "shop", reason=str(number), x="no" if 4 < number < 18 else number)
    assert [one["reason"] for one in await told()] == [str(number) for number in range(30) if not 4 < number < 18]
    assert caplog.text.count("an event of a parent is refused for good and set aside") == life.ASIDE_SHOWN_MAX
    assert "'reason': '5'" in caplog.text
    assert "13 events of parents and their sockets were refused for good and set aside" in caplog.text


async def test_a_reason_with_half_a_pair_blocks_nobody():
    async with home(events_lifecycle="on") as (opened, _):
        opened.life.ended("shop", "till-1", 1011, "half a pair \ud83d")
        opened.life.ended("shop", "till-2", 1000)
    assert [(one["source"], one.get("reason")) for one in await told()] == [
        ("till-1", "half a pair ?"),
        ("till-2", None),
    ]


def forget_everything():
    Batch.objects.all().delete()
    for parent in Parent.objects.all():
        parent.children.all().delete()
        parent.delete()


async def test_a_socket_that_a_proxy_holds_is_told_with_the_code_of_its_end():
    async with home(events_lifecycle="on"):
        edge = Edge(beneath)
        ends = [Event(Kind.CLOSE, (1001).to_bytes(2, "big")), Event(Kind.CLOSE), Event(Kind.DISCONNECT)]
        for number, end in enumerate(ends):
            held = Socket(edge, connection_id=f"c-{number}", path="/ws/shop")
            await held.open()
            await held.ask(hello(name=f"till-{number}"))
            await held.tell(end)
    assert short(await told()) == [
        row
        for number, code in enumerate((1001, 1000, 1006))
        for row in (("ws.connect", None, None, None), ("ws.close", f"till-{number}", None, code))
    ]


async def test_only_an_admin_reads_what_parents_tell():
    async with home(events_lifecycle="on", open=False) as (opened, _):
        opened.life.note("do.alarm", "shop", reason="1")
        assert await opened.life._tell()
        page = (await ask("GET", "/events?namespace=system&type=do.*", token=await admin_key())).json
        assert [one["reason"] for one in page["events"]] == ["1"]
        heard = await ask("GET", "/events?namespace=system", token=await key_of("acme"))
        assert heard.status in (400, 403)
