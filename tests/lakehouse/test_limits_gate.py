import dataclasses

import pytest

from lakehouse.conf import Settings
from lakehouse.limits.addresses import Address, AddressBook
from lakehouse.limits.gate import Gate, Guest, Lane, Reason, Refusal
from tests.builders import NOW_MS
from tests.repetition import LONG

CROWD = {"connections_per_second": 1_000_000, "max_connections": 1_000_000}


class Street:
    """A gate with a clock that stands still until it is moved."""

    def __init__(self, **settings):
        self.settings = Settings(**settings)
        self.book = AddressBook(self.settings)
        self.gate = Gate(self.settings)
        self.now_ms = NOW_MS

    def enter(self, ip="203.0.113.7", times=1):
        """What the last of so many hears."""
        for _ in range(times):
            heard = self.gate.enter(self.book.of(ip), now_ms=self.now_ms)
        return heard

    def reason(self, ip="203.0.113.7"):
        heard = self.enter(ip)
        return heard.reason if isinstance(heard, Refusal) else None

    def show_wrong_key(self, ip="203.0.113.7", times=1):
        for _ in range(times):
            guest = self.enter(ip)
            self.gate.key_failed(guest, now_ms=self.now_ms)
            self.gate.leave(guest)

    @property
    def is_empty(self):
        gate = self.gate
        return not (gate.guests or gate.by_ip or gate.by_subnet or gate.by_source)


def test_the_eleventh_connection_of_an_address_is_refused_until_one_leaves():
    street = Street()
    first = street.enter()
    street.enter(times=9)
    refusal = street.enter()
    assert (refusal.reason, refusal.retry_after_s, refusal.client_ip) == (Reason.IP_LIMIT, 1, "203.0.113.xxx")
    assert street.reason("203.0.113.8") is None
    street.gate.leave(first)
    assert street.reason() is None
    assert street.reason() is Reason.IP_LIMIT


def test_a_mapped_address_and_the_address_are_one():
    street = Street()
    street.enter(times=5)
    street.enter("::ffff:203.0.113.7", times=5)
    assert street.reason() is Reason.IP_LIMIT


@pytest.mark.parametrize("pattern", ["203.0.113.{}", "2001:db8:1:2::{:x}"])
def test_the_101st_connection_of_a_network_is_refused_however_many_addresses_it_has(pattern):
    street = Street(connections_per_second=1000)
    heard = [street.reason(pattern.format(number)) for number in range(1, 102)]
    assert heard == [None] * 100 + [Reason.IP_LIMIT]
    assert street.reason("2001:db8:1:3::1") is None


def test_connections_of_a_second_are_counted_for_all_addresses_together():
    street = Street()
    heard = [street.reason(f"198.51.{number}.1") for number in range(101)]
    assert heard == [None] * 100 + [Reason.RATE_LIMITED]
    street.now_ms += 10
    assert street.reason() is None
    assert street.reason() is Reason.RATE_LIMITED


def test_who_is_refused_by_address_costs_the_others_nothing():
    street = Street(connections_per_second=20)
    street.enter(times=1000)
    assert street.enter("198.51.100.1").headroom.remaining == 9


def test_the_whitelist_exempts_from_the_counts_by_address():
    street = Street(connections_per_second=1000)
    assert isinstance(street.enter("192.168.1.1", times=500), Guest)
    assert not street.gate.by_ip
    street.show_wrong_key("192.168.1.1", times=30)
    assert street.reason("192.168.1.1") is None


def test_the_whitelist_exempts_from_nothing_else():
    street = Street()
    assert street.enter("127.0.0.1", times=101).reason is Reason.RATE_LIMITED
    street.now_ms += 1000
    guests = [street.enter("127.0.0.1") for _ in range(6)]
    for guest in guests:
        street.gate.claim(guest, "1/shop")
    assert street.gate.surplus("1/shop") == guests[:1]


def test_who_has_no_address_is_counted_by_none():
    street = Street(connections_per_second=1000)
    heard = [street.gate.enter(None, now_ms=NOW_MS) for _ in range(200)]
    assert all(isinstance(guest, Guest) for guest in heard)


def test_a_process_holds_so_many_connections_and_no_more():
    street = Street(max_connections=3)
    guests = [street.enter("127.0.0.1") for _ in range(3)]
    assert street.reason("127.0.0.1") is Reason.CONNECTION_LIMIT
    street.gate.leave(guests[0])
    assert street.reason("127.0.0.1") is None


def test_after_ten_wrong_keys_in_a_minute_no_key_of_that_address_is_looked_up():
    street = Street()
    street.show_wrong_key(times=10)
    refusal = street.enter()
    assert (refusal.reason, refusal.retry_after_s) == (Reason.RATE_LIMITED, 6)
    assert street.reason("203.0.113.8") is None
    street.now_ms += 6000
    street.show_wrong_key()
    assert street.reason() is Reason.RATE_LIMITED
    street.now_ms += 60_000
    street.show_wrong_key(times=10)
    assert street.reason() is Reason.RATE_LIMITED


def test_a_household_with_many_addresses_of_ipv6_has_ten_wrong_keys_as_well():
    street = Street()
    for number in range(10):
        street.show_wrong_key(f"2001:db8::{number + 1:x}")
    assert street.reason("2001:db8::ffff:1:2:3") is Reason.RATE_LIMITED


def test_a_stranger_without_a_key_at_full_speed_keeps_no_child_out():
    street = Street()
    for _ in range(60_000):
        street.now_ms += 1
        heard = [street.enter() for _ in range(20 if LONG else 2)]
        for guest in heard:
            if isinstance(guest, Guest):
                street.gate.key_failed(guest, now_ms=street.now_ms)
                street.gate.leave(guest)
        assert street.gate.arrivals[Lane.CONNECTIONS].everybody.remaining(street.now_ms) >= 90
    assert street.reason("198.51.100.1") is None


def test_one_household_has_half_of_the_connections_of_a_second_whatever_it_shows():
    street = Street()
    heard = []
    for number in range(100):
        guest = street.enter(f"2001:db8::{number:x}")
        heard.append(isinstance(guest, Guest))
        if heard[-1]:
            street.gate.leave(guest)
    assert heard == [True] * 50 + [False] * 50
    assert street.enter("198.51.100.1").headroom.remaining == 49
    street.now_ms += 20
    assert [street.reason("2001:db8::1") for _ in range(2)] == [None, Reason.RATE_LIMITED]


def test_requests_of_a_second_take_no_connection_of_a_child():
    street = Street(requests_per_second=30)
    address = street.book.of("127.0.0.1")
    heard = [street.gate.enter(address, now_ms=NOW_MS, lane=Lane.REQUESTS) for _ in range(31)]
    assert [isinstance(one, Guest) for one in heard] == [True] * 30 + [False]
    assert (heard[-1].reason, heard[-1].headroom.limit) == (Reason.RATE_LIMITED, 30)
    assert street.enter("198.51.100.1").headroom.remaining == 99


def test_households_that_came_lately_are_remembered_so_far_and_no_further():
    street = Street(tracked_addresses_max=100)
    households = street.gate.arrivals[Lane.CONNECTIONS].households
    for number in range(1000):
        street.now_ms += 10
        street.gate.leave(street.enter(f"198.51.{number % 250}.{number // 250}"))
        assert len(households) <= 100
    street.now_ms += 1000
    street.enter("203.0.113.9")
    assert list(households) == ["203.0.113.9"]


def test_the_oldest_connections_of_a_child_are_surplus_and_never_the_new_one():
    street = Street()
    guests = [street.enter("127.0.0.1") for _ in range(7)]
    for guest in guests:
        street.gate.claim(guest, "1/shop")
    assert street.gate.surplus("1/shop") == guests[:2]
    assert street.gate.surplus("1/other") == []


def test_leaving_twice_counts_once():
    street = Street()
    first, second = street.enter(), street.enter()
    assert [street.gate.leave(first), street.gate.leave(first)] == [True, False]
    assert street.gate.by_ip == {"203.0.113.7": 1}
    assert list(street.gate.guests.values()) == [second]


def test_a_connection_that_left_cannot_become_a_child():
    street = Street()
    guest = street.enter()
    street.gate.leave(guest)
    street.gate.claim(guest, "1/shop")
    assert street.is_empty


def test_a_child_that_reconnects_a_thousand_times_leaves_nothing_behind():
    street = Street(**CROWD)
    for _ in range(1000):
        guest = street.enter()
        street.gate.claim(guest, "1/shop")
        street.gate.leave(guest)
    assert street.is_empty
    assert street.gate.tally.peak_connections == 1


def test_a_child_whose_thousand_sockets_do_not_know_that_they_are_dead_is_never_locked_out():
    street = Street(**CROWD)
    for _ in range(1000):
        guest = street.enter()
        assert isinstance(guest, Guest)
        street.gate.claim(guest, "1/shop")
        for oldest in street.gate.surplus("1/shop"):
            street.gate.leave(oldest)
    assert len(street.gate.guests) == 5


def shown(street, key_id, child):
    guest = street.enter("127.0.0.1")
    street.gate.show_key(guest, key_id, child)
    return guest


def test_the_oldest_connections_of_the_same_child_with_the_same_key_are_in_the_way():
    street = Street()
    shops = [shown(street, 7, "1/shop") for _ in range(3)]
    shown(street, 7, "1/bank"), shown(street, 8, "1/shop"), shown(street, 7, None)
    newest = shown(street, 7, "1/shop")
    heard = [street.gate.in_the_way(newest, connections_max) for connections_max in (6, 5, 4, 3, 2)]
    assert heard == [[], shops[:1], shops[:2], shops, None]


def test_nobody_is_in_the_way_of_who_does_not_say_which_child_he_is():
    street = Street()
    shown(street, 7, None)
    assert street.gate.in_the_way(shown(street, 7, None), 1) is None


def test_a_connection_that_left_holds_no_key():
    street = Street()
    guest = shown(street, 7, "1/shop")
    street.gate.leave(guest)
    street.gate.leave(guest)
    street.gate.show_key(guest, 7, "1/shop")
    assert not street.gate.by_key


def test_many_thousand_addresses_leave_no_more_behind_than_the_setting_allows():
    street = Street(**CROWD, tracked_addresses_max=1000)
    for number in range(1_000_000 if LONG else 50_000):
        ip = f"{number:x}"
        guest = street.gate.enter(Address(ip, ip, ip, False, ip), now_ms=NOW_MS + number // 1000)
        street.gate.key_failed(guest, now_ms=NOW_MS + number // 1000)
        street.gate.leave(guest)
    assert street.is_empty
    assert len(street.gate.failures) == 1000


def test_a_storm_of_addresses_is_counted_no_further_than_connections_may_be_open():
    street = Street(connections_per_second=1_000_000, max_connections=50)
    for number in range(1000):
        street.enter(f"198.{number // 250}.{number % 250}.1")
    assert len(street.gate.by_ip) == len(street.gate.by_subnet) == len(street.gate.guests) == 50


def test_an_address_whose_wrong_keys_are_a_minute_old_is_forgotten():
    street = Street()
    street.show_wrong_key("203.0.113.1", times=10)
    street.now_ms += 60_000
    street.show_wrong_key("203.0.113.2")
    assert list(street.gate.failures) == ["203.0.113.2"]


def test_a_clock_that_goes_back_locks_nobody_out():
    street = Street()
    street.enter("127.0.0.1", times=100)
    street.now_ms -= 3_600_000
    assert street.reason() is Reason.RATE_LIMITED
    street.now_ms += 10
    assert street.reason() is None


def test_what_was_refused_is_counted_by_reason():
    street = Street(max_connections_per_ip=1, connections_per_second=1)
    street.enter(times=3)
    street.enter("198.51.100.1", times=2)
    tally = dataclasses.asdict(street.gate.tally)
    assert (tally["ip_rejections"], tally["connections_rate_limited"], tally["peak_connections"]) == (2, 2, 1)


def test_the_headroom_says_what_is_left_of_this_second():
    street = Street()
    assert street.enter().headroom.remaining == 99
    refusal = street.enter(times=11)
    assert (refusal.headroom.limit, refusal.headroom.remaining) == (100, 0)
    assert refusal.headroom.reset_at_s == NOW_MS // 1000 + 1
