"""The ack of the batch after which a parent has something to flush."""

import pytest

from tests.lakehouse.test_consumer import home
from tests.lakehouse.test_nacks import batch, child

pytestmark = pytest.mark.django_db(transaction=True)


async def test_the_first_ack_of_a_child_says_when_what_it_brought_is_flushed():
    """It said 0: the ack was made before anybody heard of the commit."""
    async with home(), child() as shop:
        ack = await shop.ask(batch("dolake", 1))
        assert 0 < ack["details"]["timeUntilFlush"] <= 60_000
