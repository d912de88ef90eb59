"""Handshakes that ask for the same at once, and what must not be remembered."""

import pytest

from lakehouse.conf import Settings
from lakehouse.models import AccessKey, Parent
from lakehouse.parent import access
from lakehouse.parent.admissions import KNOWN_MS, PARENTS_KNOWN_MAX, Admissions
from lakehouse.parent.arrivals import Admitted, Knock
from lakehouse.parent.grants import Refused
from tests.builders import NOW_MS
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)


class Clock:
    now_ms = NOW_MS

    def __call__(self):
        return self.now_ms


@pytest.fixture
def clock():
    return Clock()


def admissions(clock, **settings):
    return Admissions(in_thread, Settings(**({"open": True} | settings)), now_ms=clock)


def knock(parent="home", *, token="", child="shop-1", shard=None):
    return Knock(parent, token, child, shard)


async def test_a_second_child_of_the_same_parent_is_let_in_without_the_database(clock):
    house = admissions(clock)
    assert house.known(knock()) is None
    first = await house.judge(knock())
    assert first.parent_id == await in_thread(lambda: Parent.objects.get().pk)
    assert house.known(knock(child="shop-2", shard="eu")) == first
    assert house.known(knock(parent="elsewhere")) is None


async def test_what_was_found_counts_for_a_second(clock):
    house = admissions(clock)
    await house.judge(knock())
    clock.now_ms += KNOWN_MS - 1
    assert house.known(knock())
    clock.now_ms += 1
    assert house.known(knock()) is None


async def test_a_name_that_cannot_be_stored_is_refused_also_at_a_known_parent(clock):
    house = admissions(clock)
    await house.judge(knock())
    for bad in (knock(child="a\0b"), knock(shard="x" * 501)):
        assert house.known(bad) is None
        assert isinstance(await house.judge(bad), Refused)


async def test_a_key_is_looked_up_every_time_so_a_revoked_one_lets_nobody_in(clock):
    house = admissions(clock, open=False)
    row, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    assert isinstance(await house.judge(knock(token=token)), Admitted)
    assert house.known(knock(token=token)) is None
    await in_thread(lambda: AccessKey.objects.filter(pk=row.pk).update(revoked_ms=NOW_MS))
    assert isinstance(await house.judge(knock(token=token)), Refused)


async def test_so_many_parents_are_remembered_and_no_more(clock):
    house = admissions(clock)
    house._known = {str(number): (clock() + 1, Admitted(1, None)) for number in range(PARENTS_KNOWN_MAX)}
    await house.judge(knock())
    assert len(house._known) == 1
