"""Children that are made without end, and what those hear who find no room."""

from __future__ import annotations

import pytest

from lakehouse.models import Child, Parent
from lakehouse.parent import arrivals
from lakehouse.parent.arrivals import Admitted, Arrival, NoRoom
from tests.builders import NOW_MS, parent, run, wire
from tests.lakehouse.http_site import DOORS
from tests.lakehouse.http_site import home as http_home
from tests.lakehouse.test_consumer import Socket, hello, home, socket
from tests.lakehouse.test_http_cdc import events, post
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)
TEXT = "this parent takes no more than 2 children"


def arrive(home: Parent, name: str) -> Arrival | NoRoom | None:
    return arrivals.arrive(Admitted(home.pk, None, home.name), name, shard=None, epoch=1, now_ms=NOW_MS)


def names() -> list[str]:
    return list(Child.objects.order_by("pk").values_list("name", flat=True))


def test_one_key_made_children_without_end(caplog: pytest.LogCaptureFixture) -> None:
    home = parent("eu", children_max=2)
    for name in ("a", "b"):
        assert isinstance(arrive(home, name), Arrival)
    refused = arrive(home, "c")
    assert isinstance(refused, NoRoom)
    assert refused.text == TEXT
    assert isinstance(arrive(home, "a"), Arrival)
    assert isinstance(arrive(parent("us", children_max=2), "c"), Arrival)
    assert names() == ["a", "b", "c"]
    assert "child 'c' was refused: parent 'eu' has its 2 children" in caplog.text


@pytest.mark.parametrize("door", sorted(DOORS))
async def test_each_request_could_name_a_new_child(door: str) -> None:
    await in_thread(lambda: parent(children_max=2))
    async with http_home():
        heard = [await post({"sourceDoId": name, "events": events()}, door=door) for name in ("a", "b", "c", "a")]
    assert [one.status for one in heard] == [200, 200, 403, 200]
    assert heard[2].json == {"error": TEXT}
    await in_thread(lambda: _same(names(), ["a", "b"]))


async def test_a_child_without_room_is_sent_away_and_those_there_are_go_on() -> None:
    await in_thread(lambda: parent(children_max=1))
    async with home(), socket() as child:
        await child.ask(hello())
        stranger = Socket()
        assert await stranger.open()
        assert await stranger.ask(hello(name="shop-2")) == 1008
        await stranger.wait(5)
        assert (await child.ask(wire(1, run(1, 1)))).sequence_number == 1


def _same(found: object, wanted: object) -> None:
    assert found == wanted
