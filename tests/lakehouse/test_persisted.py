"""Who waits for a batch to be in its tables."""

import asyncio

import pytest

from lakehouse.parent.persisted import PersistedWatch
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_child_that_asked_for_a_forgotten_batch_stopped_its_whole_parent():
    watch, heard = PersistedWatch(in_thread), asyncio.get_running_loop().create_future()
    assert watch.watch(0, "shop-1", 7, lambda sequence, path: heard.set_result((sequence, path)))
    assert await heard == (7, "")
    assert not watch.waiting
