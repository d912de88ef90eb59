"""The limits among the settings; that each is in the docs with its default is test_conf's."""

import dataclasses

import pytest

from lakehouse.conf import SettingError, Settings, load

# docs of the original: RateLimitConfig, in snake_case.
GUIDE = {
    "connections_per_second": 100,
    "messages_per_second": 1000,
    "burst_capacity": 50,
    "max_payload_size": 4 * 1024 * 1024,
    "max_connections_per_ip": 10,
    "max_connections_per_source": 5,
    "subnet_rate_limit_threshold": 100,
    "max_events_per_message": 10_000,
    "max_event_size": 1024 * 1024,
    "max_size_violations": 3,
    "backpressure_threshold": 0.8,
    "base_retry_delay_ms": 100,
    "max_retry_delay_ms": 30_000,
}


@pytest.mark.parametrize(("name", "value"), GUIDE.items())
def test_the_guides_numbers_are_the_defaults(name, value):
    assert getattr(Settings(), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "wanted"),
    [
        ("EVODB_WHITELISTED_IPS", "10.0.0.0/33", "wanted nothing or networks and addresses such as 10.0.0.0/8,::1"),
        ("EVODB_WHITELISTED_IPS", "10.0.0.1/8", "wanted nothing or networks and addresses"),
        ("EVODB_WHITELISTED_IPS", "unix", "wanted nothing or networks and addresses"),
        ("EVODB_TRUSTED_PROXIES", "proxy.example.com", "wanted nothing or unix or networks and addresses"),
        ("EVODB_BACKPRESSURE_THRESHOLD", "80", "wanted a number above 0 and at most 1 (share of the buffer)"),
        ("EVODB_BACKPRESSURE_THRESHOLD", "nan", "wanted a number above 0 and at most 1"),
        ("EVODB_BACKPRESSURE_THRESHOLD", "most", "wanted a number (share of the buffer)"),
        ("EVODB_MAX_PAYLOAD_SIZE", "16777217", "wanted a whole number from 1024 to 16777216 (bytes)"),
        ("EVODB_MAX_CONNECTIONS_PER_IP", "0", "wanted a whole number of at least 1 (connections)"),
    ],
)
def test_a_limit_that_cannot_work_names_the_variable_and_what_was_found_and_wanted(variable, text, wanted):
    with pytest.raises(SettingError) as caught:
        load({variable: text})
    assert str(caught.value).startswith(f"{variable} is {text!r}, {wanted}")


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ({"EVODB_MAX_EVENT_SIZE": "5000000"}, "EVODB_MAX_EVENT_SIZE is 5000000, more than EVODB_MAX_PAYLOAD_SIZE"),
        ({"EVODB_MAX_RETRY_DELAY_MS": "99"}, "EVODB_BASE_RETRY_DELAY_MS is 100, more than EVODB_MAX_RETRY_DELAY_MS"),
        ({"EVODB_LOAD_HIGH": "0.4"}, "EVODB_LOAD_ELEVATED is 0.5, more than EVODB_LOAD_HIGH (0.4)"),
        ({"EVODB_LOAD_CRITICAL": "0.7"}, "EVODB_LOAD_HIGH is 0.8, more than EVODB_LOAD_CRITICAL (0.7)"),
    ],
)
def test_limits_that_contradict_one_another_stop_the_start(low, high):
    with pytest.raises(SettingError) as caught:
        load(low)
    assert str(caught.value).startswith(high)


def test_lists_of_networks_are_read_with_and_without_spaces():
    settings = load({"EVODB_WHITELISTED_IPS": "", "EVODB_TRUSTED_PROXIES": "unix, 10.0.0.0/8,2001:db8::/32 "})
    assert (settings.whitelisted, settings.trusted) == ([], ["unix", "10.0.0.0/8", "2001:db8::/32"])


def test_a_limit_can_be_set_like_any_other_setting():
    settings = load({"EVODB_MAX_CONNECTIONS_PER_IP": "3", "EVODB_LOAD_CRITICAL": "1"})
    assert settings == dataclasses.replace(Settings(), max_connections_per_ip=3, load_critical=1.0)
