"""The gate of one process: who may open a connection, and whose is closed when a child has too many. Pure and exact.

Every handshake passes here first, also when Redis counts for several processes: what is too much for one is too much
for all, and when Redis is away nothing has to be learned. What is remembered has a bound: open connections (and their
addresses and children) by `max_connections`, households that came lately or had no key by `tracked_addresses_max`.

Of the connections of a second a household has a share, and who shows no good key ten times a minute is not looked at:
else one stranger takes them all, and no child gets in. Requests that are no child's have a second of their own.

A child with too many connections loses its oldest and never the new one. After a crash its old sockets may look alive
for hours, and whoever refuses the new one locks the child out for as long; the newest is the one that surely lives.
So a child has to be known by its key before it counts as a source. An access key with a limit of its own is full for
everybody but the children that hold it: those give an old connection for the new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from lakehouse.conf import Settings
from lakehouse.limits.addresses import Address
from lakehouse.limits.allowance import Headroom, headroom
from lakehouse.limits.households import Arrivals, Households

SECONDS = 60
"""Of a minute."""
Name = TypeVar("Name", str, int)


class Reason(StrEnum):
    RATE_LIMITED = "rate_limited"
    CONNECTION_LIMIT = "connection_limit"
    IP_LIMIT = "ip_limit"


class Lane(StrEnum):
    """What is counted by the second together."""

    CONNECTIONS = "connections"
    REQUESTS = "requests"
    CATALOG = "catalog"


def per_second(settings: Settings) -> dict[Lane, int]:
    """How much of each a second has."""
    return {
        Lane.CONNECTIONS: settings.connections_per_second,
        Lane.REQUESTS: settings.requests_per_second,
        Lane.CATALOG: settings.catalog_requests_per_second,
    }


@dataclass(frozen=True, slots=True)
class Refusal:
    """A handshake that is sent away."""

    reason: Reason
    headroom: Headroom
    retry_after_s: int = 1
    client_ip: str | None = None
    """Masked."""
    message: str | None = None
    """What the reason does not say, for a caller who showed his key."""


@dataclass(slots=True, eq=False)
class Guest:
    """A connection that came in. `evict` ends it; the headroom is of the moment it came."""

    number: int
    address: Address | None
    opened_ms: int
    headroom: Headroom
    evict: Callable[[], None] = lambda: None
    source: str | None = None
    key_id: int | None = None
    """The access key it showed, if it is counted by one."""
    named: str | None = None
    """The child it said to be with its key, before it is claimed."""

    @property
    def child(self) -> str | None:
        """Whose it is, as far as that is known."""
        return self.source or self.named

    @property
    def child_name(self) -> str | None:
        """The same without its parent."""
        return None if self.child is None else self.child.partition("/")[2]

    @property
    def counted(self) -> Address | None:
        """The address it is counted by, if any."""
        return None if self.address is None or self.address.is_whitelisted else self.address


@dataclass(slots=True)
class Tally:
    """What the limits did since the process began."""

    connections_rate_limited: int = 0
    ip_rejections: int = 0
    connections_evicted: int = 0
    peak_connections: int = 0
    messages_rate_limited: int = 0
    payload_rejections: int = 0
    event_size_rejections: int = 0
    connections_closed: int = 0
    """For what was too large too often."""
    load_shedding_events: int = 0

    def refused(self, refusal: Refusal) -> None:
        if refusal.reason is Reason.IP_LIMIT:
            self.ip_rejections += 1
        else:
            self.connections_rate_limited += 1


@dataclass(slots=True)
class Gate:
    settings: Settings
    tally: Tally = field(default_factory=Tally)
    guests: dict[int, Guest] = field(default_factory=dict)
    """Open connections by number, oldest first."""
    by_ip: Counter[str] = field(default_factory=Counter)
    by_subnet: Counter[str] = field(default_factory=Counter)
    by_source: dict[str, dict[int, Guest]] = field(default_factory=dict)
    by_key: Counter[int] = field(default_factory=Counter)
    failures: Households = field(init=False)
    """Who showed no good key lately."""
    arrivals: dict[Lane, Arrivals] = field(init=False)
    _number: int = 0

    def __post_init__(self) -> None:
        settings = self.settings
        share, tracked_max = settings.household_share, settings.tracked_addresses_max
        self.failures = Households(settings.key_failures_per_minute, tracked_max=tracked_max, slower=SECONDS)
        numbers = per_second(settings)
        self.arrivals = {lane: Arrivals(numbers[lane], share=share, tracked_max=tracked_max) for lane in Lane}

    def enter(self, address: Address | None, *, now_ms: int, lane: Lane = Lane.CONNECTIONS) -> Guest | Refusal:
        """Let a connection in and count it, or say why not. A refused one counts nowhere."""
        arrivals = self.arrivals[lane]
        counted = None if address is None or address.is_whitelisted else address
        reason, retry_after_s = self._full(counted), 1
        if reason is None and counted is not None and (wait_s := self._key_wait_s(counted, now_ms)):
            reason, retry_after_s = Reason.RATE_LIMITED, wait_s
        if reason is None and not arrivals.take(None if counted is None else counted.household, now_ms):
            reason = Reason.RATE_LIMITED
        left = headroom(arrivals.everybody, limit=arrivals.everybody.per_second, now_ms=now_ms)
        if reason is not None:
            return self.refuse(reason, address, left, retry_after_s=retry_after_s)
        return self._welcome(address, left, now_ms)

    def refuse(self, reason: Reason, address: Address | None, left: Headroom, *, retry_after_s: int = 1) -> Refusal:
        masked = None if address is None else address.masked
        refusal = Refusal(reason, replace(left, remaining=0), retry_after_s, masked)
        self.tally.refused(refusal)
        return refusal

    def leave(self, guest: Guest) -> bool:
        """Forget a connection; whether it was still here."""
        if self.guests.pop(guest.number, None) is None:
            return False
        if guest.counted is not None:
            _uncount(self.by_ip, guest.counted.ip)
            _uncount(self.by_subnet, guest.counted.subnet)
        if guest.key_id is not None:
            _uncount(self.by_key, guest.key_id)
        if guest.source is not None:
            siblings = self.by_source[guest.source]
            del siblings[guest.number]
            if not siblings:
                del self.by_source[guest.source]
        return True

    def claim(self, guest: Guest, source: str) -> None:
        """This connection is that child's, once and for all; its key says so."""
        if guest.source is None and guest.number in self.guests:
            guest.source = source = guest.named if guest.named == source else source  # one text is kept, not two
            self.by_source.setdefault(source, {})[guest.number] = guest

    def surplus(self, source: str) -> list[Guest]:
        """The connections a child has too many, its oldest."""
        siblings = self.by_source.get(source, {})
        return list(siblings.values())[: max(0, len(siblings) - self.settings.max_connections_per_source)]

    def show_key(self, guest: Guest, key_id: int, child: str | None) -> None:
        """This connection has that key, once and for all, and says to be that child, as the key allows."""
        if guest.key_id is None and guest.number in self.guests:
            guest.key_id, guest.named = key_id, child
            self.by_key[key_id] += 1

    def in_the_way(self, guest: Guest, connections_max: int) -> list[Guest] | None:
        """The connections that go for this one when so many may have its key; None when it is this one that goes.

        They are the oldest of the same child, so looking for them takes 1.2 ms among 20 000, if the key is full.
        """
        assert guest.key_id is not None
        surplus = self.by_key[guest.key_id] - connections_max
        if surplus <= 0:
            return []
        key_id, child = guest.key_id, guest.child
        if child is None:
            return None
        same_key = (other for other in self.guests.values() if other.key_id == key_id)
        own = [other for other in same_key if other.child == child and other is not guest]
        return own[:surplus] if len(own) >= surplus else None

    def key_failed(self, guest: Guest, *, now_ms: int) -> None:
        """This connection showed no key, or none that is good."""
        if guest.counted is not None:
            self.failures.take(guest.counted.household, now_ms)

    def _full(self, counted: Address | None) -> Reason | None:
        """Which count leaves no room for one more."""
        settings = self.settings
        if len(self.guests) >= settings.max_connections:
            return Reason.CONNECTION_LIMIT
        if counted is None:
            return None
        if self.by_ip[counted.ip] >= settings.max_connections_per_ip:
            return Reason.IP_LIMIT
        return Reason.IP_LIMIT if self.by_subnet[counted.subnet] >= settings.subnet_rate_limit_threshold else None

    def _key_wait_s(self, counted: Address, now_ms: int) -> int:
        """How long until a key of this household is looked up again."""
        return -(-self.failures.wait_ms(counted.household, now_ms) // 1000)

    def _welcome(self, address: Address | None, left: Headroom, now_ms: int) -> Guest:
        self._number += 1
        guest = self.guests[self._number] = Guest(self._number, address, now_ms, left)
        if guest.counted is not None:
            self.by_ip[guest.counted.ip] += 1
            self.by_subnet[guest.counted.subnet] += 1
        self.tally.peak_connections = max(self.tally.peak_connections, len(self.guests))
        return guest


def _uncount(counts: Counter[Name], name: Name) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
