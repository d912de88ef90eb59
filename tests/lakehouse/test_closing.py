"""A house that closes: nobody writes into it any more, and none of its tasks goes on."""

import asyncio

import pytest
from django.db import OperationalError

from lakehouse.journal.accept import Refused
from lakehouse.models import Batch
from lakehouse.parent.house import announce_move_out, house, move_out
from rpc.messages import NackReason
from tests.builders import frame, parent, run, source, wire
from tests.lakehouse.http_site import DOORS, ask, home
from tests.lakehouse.test_consumer import hello, socket
from tests.lakehouse.test_ends import persisted_request
from tests.lakehouse.test_http_cdc import events, post
from tests.lakehouse.test_intake import Desk, in_thread

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=sorted(DOORS))
def door(request):
    return request.param


@pytest.mark.parametrize(("method", "path"), [("POST", "/cdc"), ("POST", "/flush")])
async def test_a_write_to_a_process_that_stops_is_503_and_names_the_second_to_come_back(method, path, door):
    async with home() as (opened, asked):
        await post({"events": events()}, door=door)
        announce_move_out()
        assert opened.is_closing
        heard = await ask(method, path, {"events": events()}, door=door)
        assert (heard.status, heard.json["reason"], heard.headers["retry-after"]) == (503, "shutting_down", "1")
        assert heard.json["retryDelayMs"] == 1000
        assert await in_thread(Batch.objects.count) == 1
        assert asked == []


async def test_whoever_comes_after_the_house_was_left_finds_no_new_one(door):
    async with home() as (opened, _):
        await move_out()
        assert house() is opened
        heard = await post({"events": events()}, door=door)
        assert (heard.status, heard.json["reason"]) == (503, "shutting_down")


async def test_a_body_that_was_read_when_the_process_stopped_is_refused_and_not_waited_for_ten_seconds(door):
    async with home() as (opened, _):
        await post({"events": events()}, door=door)
        await opened.intake.stop()
        heard = await post({"events": events(4, 6)}, door=door)
        assert (heard.status, heard.json["reason"], heard.headers["retry-after"]) == (503, "shutting_down", "1")
        heard = await post({"sourceDoId": "new", "events": events()}, door=door)
        assert (heard.status, heard.json["reason"], heard.headers["retry-after"]) == (503, "internal_error", "1")
        assert await in_thread(Batch.objects.count) == 1


async def test_a_stopped_journal_answers_who_comes_late():
    shop = await in_thread(lambda: source(parent()))
    opened = Desk()
    opened.offer(shop, frame(1, run(1, 1)))
    await opened.intake.stop()
    opened.offer(shop, frame(2, run(2, 2)))
    with pytest.raises(OperationalError, match="this process stops"):
        await opened.intake.run(Batch.objects.count)
    late = opened.answers["shop-1", 2]
    assert isinstance(late, Refused)
    assert late.reason is NackReason.SHUTTING_DOWN
    assert opened.intake.waiting_bytes == 0


async def test_a_closed_house_looks_for_nobodys_batches_and_puts_nobody_to_sleep():
    before = asyncio.all_tasks()
    async with home() as (opened, _), socket() as child:
        await child.ask(hello())
        await child.ask(wire(1, run(1, 1)))
        await child.say(persisted_request(1))
        while not opened.persisted.waiting:
            await asyncio.sleep(0)
        opened.dormitory.up(awake := Owl())
        assert {"_look_until_told", "_look_until_all_sleep"} <= names_of(asyncio.all_tasks() - before)
        await opened.close()
        assert not {"_look_until_told", "_look_until_all_sleep"} & names_of(asyncio.all_tasks())
        assert opened.persisted.waiting == 0
        opened.dormitory.gone(awake)
        opened.dormitory.up(awake)
        assert not opened.persisted.watch(1, self_made := object(), 1, print)
        assert not opened.persisted.is_watched_by(self_made)
        assert "_look_until_all_sleep" not in names_of(asyncio.all_tasks())
        opened.dormitory.gone(awake)


class Owl:
    """Never asleep."""

    idle_since_ms = 0
    kept_bytes = 0

    def fall_asleep(self):
        return False


def names_of(tasks):
    return {task.get_coro().__name__ for task in tasks}
