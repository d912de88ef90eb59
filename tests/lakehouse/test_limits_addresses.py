import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.conf import Settings
from lakehouse.limits.addresses import AddressBook

PROXY = "10.0.0.1"


def book(trusted="10.0.0.0/8", whitelisted="192.168.0.0/16,fc00::/7,::1"):
    return AddressBook(Settings(trusted_proxies=trusted, whitelisted_ips=whitelisted))


def ip(peer, forwarded="", **settings):
    found = book(**settings).of(peer, forwarded)
    return found and found.ip


def test_what_a_stranger_says_of_itself_is_not_believed():
    assert ip("203.0.113.7", "198.51.100.1") == "203.0.113.7"


def test_without_trusted_proxies_nobody_is_believed():
    assert ip(PROXY, "198.51.100.1", trusted="") == PROXY


@pytest.mark.parametrize(
    "forwarded",
    [
        "203.0.113.7",
        "198.51.100.1, 203.0.113.7",
        "192.168.0.1, ::1, 203.0.113.7 , 10.1.1.1",
        "unknown, 203.0.113.7,10.0.0.9,10.0.0.8",
        "10.0.0.5, 203.0.113.7",
    ],
)
def test_the_right_most_address_that_is_no_proxy_counts_and_what_is_left_of_it_may_be_forged(forwarded):
    assert ip(PROXY, forwarded) == "203.0.113.7"


@pytest.mark.parametrize("forwarded", ["", " ", "203.0.113.7, unknown", "203.0.113.7,", "203.0.113.7, _hidden"])
def test_what_the_nearest_proxy_did_not_say_clearly_counts_as_the_proxy(forwarded):
    assert ip(PROXY, forwarded) == PROXY


def test_when_all_are_proxies_the_first_of_them_counts():
    assert ip(PROXY, "10.0.0.3, 10.0.0.2") == "10.0.0.3"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        ('"203.0.113.7"', "203.0.113.7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:cb00:7107", "203.0.113.7"),
    ],
)
def test_an_address_is_read_however_it_is_written(written, meant):
    assert ip(PROXY, written) == ip(written) == meant


def test_a_proxy_in_ipv6_clothes_is_the_proxy():
    assert ip("::ffff:10.0.0.1", "203.0.113.7") == "203.0.113.7"


def test_a_network_in_ipv6_clothes_is_the_network():
    assert ip(PROXY, "203.0.113.7", trusted="::ffff:10.0.0.0/104") == "203.0.113.7"


@pytest.mark.parametrize("peer", [None, "", "testclient", "/run/evodb.sock"])
def test_who_has_no_address_is_nobody(peer):
    assert book().of(peer, "203.0.113.7") is None


def test_behind_a_trusted_unix_socket_the_proxy_is_believed():
    assert ip(None, "198.51.100.1, 203.0.113.7", trusted="unix") == "203.0.113.7"
    assert ip(None, "", trusted="unix") is None
    assert ip("203.0.113.9", "203.0.113.7", trusted="unix") == "203.0.113.9"


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_the_book(peer, forwarded):
    book().of(peer, forwarded)
    assert book().of(PROXY, forwarded) is not None


@pytest.mark.parametrize(
    ("address", "subnet", "household", "masked"),
    [
        ("203.0.113.7", "203.0.113.0/24", "203.0.113.7", "203.0.113.xxx"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1:2::/64", "2001:db8:1:2::xxxx"),
        ("2001:db8::1", "2001:db8:0:0::/64", "2001:db8:0:0::/64", "2001:db8:0:0::xxxx"),
        ("::ffff:203.0.113.7", "203.0.113.0/24", "203.0.113.7", "203.0.113.xxx"),
    ],
)
def test_an_address_knows_its_network_and_how_it_may_be_shown(address, subnet, household, masked):
    found = book().of(address)
    assert (found.subnet, found.household, found.masked) == (subnet, household, masked)


@pytest.mark.parametrize(
    ("address", "is_whitelisted"),
    [("192.168.1.1", True), ("::ffff:192.168.1.1", True), ("fd00::1", True), ("::1", True), ("::2", False)],
)
def test_a_network_of_the_whitelist_is_known_in_both_families(address, is_whitelisted):
    assert book().of(address).is_whitelisted is is_whitelisted


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "172.16.0.1", "172.31.9.9", "192.168.0.9", "127.0.0.1", "::1", "fd12::1"]
)
def test_private_ranges_and_loopback_are_whitelisted_when_nothing_is_said(address):
    assert AddressBook(Settings()).of(address).is_whitelisted


@pytest.mark.parametrize("address", ["203.0.113.7", "172.32.0.1", "2001:db8::1", "::ffff:8.8.8.8"])
def test_the_public_internet_is_not(address):
    assert not AddressBook(Settings()).of(address).is_whitelisted
