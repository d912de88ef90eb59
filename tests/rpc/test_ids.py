from __future__ import annotations

from rpc.ids import generate_batch_id, generate_correlation_id


def test_a_batch_keeps_its_name_when_it_is_sent_again() -> None:
    assert generate_batch_id("shop-1", 7, 5) == generate_batch_id("shop-1", 7, 5) == "shop-1-7-5"
    assert generate_batch_id("shop-1", 8, 5) != generate_batch_id("shop-1", 7, 5)


def test_correlation_ids_do_not_repeat() -> None:
    found = {generate_correlation_id() for _ in range(1000)}
    assert len(found) == 1000
    assert all(len(one) == 24 and one.isalnum() for one in found)
