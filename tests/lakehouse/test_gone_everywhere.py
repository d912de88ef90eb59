"""A process was killed: wherever its children are shown, they are gone when its lease has run out."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from lakehouse.catalog.lakes import chosen
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import rows, samples
from lakehouse.http.past import LongTotals
from lakehouse.journal.accept import accept
from lakehouse.models import Child, DeadLetter, IcebergTable, Parent
from lakehouse.parent import leases
from tests.builders import NOW_MS, entry, frame, parent, source
from tests.lakehouse.test_consumer import Socket, hello, home, socket
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)
KILLED = "host:1:a"


def killed(at_ms: int = NOW_MS) -> None:
    """Two children of a process whose lease ends at that moment, and one that Pushpin holds."""
    home = parent()
    leases.renew(KILLED, interval_ms=1, now_ms=at_ms - leases.lease_ms(1))
    for name, holder in (("shop-1", KILLED), ("shop-2", KILLED), ("shop-3", leases.of_proxy("a"))):
        Child.objects.create(parent=home, name=name, state="awake", holder=holder)


@pytest.mark.parametrize(("later_ms", "here"), [(-1, 3), (0, 1)])
def test_metrics_count_only_who_is_here(later_ms: int, here: int) -> None:
    killed()
    found = samples.of_parents(LongTotals(), patterns=["*"], now_ms=NOW_MS + later_ms)
    assert [one.value for one in found if one.name == "dolake_connected_sources"] == [here]


@pytest.mark.parametrize(("later_ms", "here"), [(-1, 3), (0, 1)])
def test_status_shows_only_who_is_here(later_ms: int, here: int) -> None:
    killed()
    seen = rows.picture("default", default="default", sources_max=9, now_ms=NOW_MS + later_ms)
    assert seen is not None
    assert (seen.counts["connected"], seen.held.connected) == (here, here)
    assert sum(child.state == "awake" for child in seen.sources) == here


def test_the_admin_shows_and_finds_only_who_is_here(client: Client) -> None:
    killed(now_ms())
    client.force_login(get_user_model().objects.create(username="op", is_staff=True, is_superuser=True))
    page = reverse("admin:lakehouse_child_changelist")
    assert client.get(page).content.decode().count(">awake</td>") == 1
    assert client.get(page, {"state": "gone"}).content.decode().count(">gone</td>") == 2
    row = reverse("admin:lakehouse_child_change", args=[Child.objects.get(name="shop-1").pk])
    assert "gone" in client.get(row).content.decode()


async def test_a_child_without_room_hears_why() -> None:
    await in_thread(lambda: parent(children_max=1))
    async with home(), socket() as child:
        await child.ask(hello())
        stranger = Socket()
        assert await stranger.open()
        await stranger.say(hello(name="shop-2"))
        closed = await stranger.receive_output(5)
        assert (closed["code"], closed["reason"]) == (1008, "this parent takes no more than 1 children")
        await stranger.wait(5)


def test_entries_for_one_table_too_many_are_dead_letters(tmp_path: object) -> None:
    settings = Settings(data_dir=tmp_path)  # type: ignore[arg-type]
    shop = source(parent(tables_max=2))
    entries = [entry(number, table=table) for number, table in enumerate(["a", "b", "c", "a"], 1)]
    accept([(shop, frame(1, entries))], now_ms=NOW_MS)
    Flusher("w", settings, chosen(settings), lambda: NOW_MS).run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert list(IcebergTable.objects.order_by("name").values_list("name", flat=True)) == ["a", "b"]
    assert list(DeadLetter.objects.values_list("table", flat=True)) == ["c"]
    assert Parent.objects.get().commit_number == 1
