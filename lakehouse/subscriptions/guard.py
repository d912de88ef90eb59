"""Where a webhook may go: to addresses of the public Internet, and to networks the operator allowed. Pure.

What counts is the address that is connected to, so this is asked of what a name was resolved to, every time, and the
connection goes to the very address that was asked about. An IPv4 address within an IPv6 address is what it hides.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAT64, COMPATIBLE = ip_network("64:ff9b::/96"), ip_network("::/96")
KNOWN_MAX = 1000
"""Answers that are remembered: they depend on nothing but the question, and each message asks."""
LOW_32_BITS = 0xFFFF_FFFF


def networks(items: Iterable[str]) -> tuple[Network, ...]:
    return _networks(tuple(items))


@lru_cache(KNOWN_MAX)
def _networks(items: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(item, strict=False) for item in items)


def is_address(text: str) -> bool:
    try:
        _read(text)
    except ValueError:
        return False
    return True


@lru_cache(KNOWN_MAX)
def is_allowed(text: str, allowed: tuple[Network, ...] = ()) -> bool:
    """Whether this address may be connected to. What is no address may not."""
    if not is_address(text):
        return False
    address = _read(text)
    return all(_is_public(one) or any(one in network for network in allowed) for one in _hidden(address))


def how_to_allow(text: str) -> str:
    """What an operator types, for an address that is none of the public."""
    if not is_address(text):
        return "an operator allows networks by EVODB_WEBHOOK_NETWORKS"
    found = _hidden(_read(text))[0]
    network = "127.0.0.0/8" if found.version == 4 and found.is_loopback else found
    return f"an operator allows it by EVODB_WEBHOOK_NETWORKS={network}"


def _read(text: str) -> Address:
    """Raises ValueError. Behind a % is the link of an IPv6 address; 192.0.2.1%x is a name that somebody looks up."""
    return ip_address(text.partition("%")[0] if ":" in text else text)


def _hidden(address: Address) -> list[Address]:
    """The IPv4 address that this one stands for, or itself; both when it is a tunnel to it."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in NAT64 or (address in COMPATIBLE and int(address) > 1):
        return [IPv4Address(int(address) & LOW_32_BITS)]
    if address.sixtofour is not None:
        return [address.sixtofour]
    return [address, *(address.teredo or ())]


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False  # given up in 2004 and still routed inside of some houses; Python calls it global
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
