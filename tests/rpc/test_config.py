"""What a child may be configured with: a number that cannot work is said when the config is made."""

import pytest

from rpc.config import COUNT_MAX, MS_MAX, ChildConfig


async def nobody_awaits(error, name):
    pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 2**53),  # the parent would not understand `connect`
        ("max_batch_bytes", "4 MiB"),
        ("heartbeat_timeout_ms", 0),  # every heartbeat would be too late
        ("capture_poll_interval_ms", 0),  # would look without a pause
        ("max_retry_delay_ms", 0),
        ("max_retry_delay_ms", -1),
        ("batch_timeout_ms", -1),
        ("max_retries", -1),
        ("max_reconnect_attempts", -1),
        ("outbox_fsync_within_ms", -1),
        ("outbox_fsync_within_ms", "5"),
        ("outbox_fsync_within_ms", 2**70),  # no thread waits so long, and nothing would be synced any more
        ("max_retries", True),
        ("backoff_multiplier", 0.5),
        ("backoff_multiplier", float("nan")),
        ("backoff_multiplier", float("inf")),
        ("backoff_multiplier", "2"),
        ("high_water", "0.9"),
        ("auto_reconnect", "no"),
        ("on_handler_error", 5),
        ("on_handler_error", nobody_awaits),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=rf"{name} .*wanted"):
        ChildConfig(**{name: value})


def test_zero_means_something_for_some():
    names = ("batch_timeout_ms", "max_retries", "max_reconnect_attempts", "outbox_fsync_within_ms")
    config = ChildConfig(**dict.fromkeys(names, 0))
    assert {getattr(config, name) for name in names} == {0}


def test_the_largest_numbers_are_taken():
    config = ChildConfig(max_batch_size=COUNT_MAX, pending_batch_ttl_ms=MS_MAX, outbox_fsync_within_ms=MS_MAX)
    assert config.max_batch_size == 2**53 - 1
