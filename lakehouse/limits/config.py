"""The settings that are limits. `lakehouse.conf.Settings` has them beside its own; decisions read them from there."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.setting import at_least, between, listed, networks, setting, share

MIB = 1024 * 1024
PRIVATE = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,127.0.0.0/8,fc00::/7,::1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitConfig:
    connections_per_second: int = setting(
        100,
        unit="connections/s",
        why="New connections of all children together; so many may come at once.",
        **at_least(1),
    )
    requests_per_second: int = setting(
        100,
        unit="requests/s",
        why="GET /status, GET /metrics, POST /flush and POST /query of everybody together; so many may come at once.",
        **at_least(1),
    )
    catalog_requests_per_second: int = setting(
        500,
        unit="requests/s",
        why="Requests to the Iceberg catalog of everybody together; so many may come at once.",
        **at_least(1),
    )
    household_share: float = setting(
        0.5,
        unit="share",
        why="One address (IPv6: one /64) may have so much of the connections, and of the requests, of a second.",
        **share(),
    )
    max_http_connections: int = setting(
        5000,
        unit="connections",
        why="Connections of a process that are no WebSocket (yet). A new one closes the one that has waited longest "
        "for its request to be complete, or for another one.",
        **at_least(1),
    )
    max_http_connections_per_ip: int = setting(
        64,
        unit="connections",
        why="The same for one address (IPv6: one /64); a browser has six.",
        **at_least(1),
    )
    max_connections: int = setting(
        20_000, unit="connections", why="Open connections of one process; each costs memory and a file.", **at_least(1)
    )
    max_connections_per_ip: int = setting(10, unit="connections", why="Open connections of one address.", **at_least(1))
    max_connections_per_source: int = setting(
        5,
        unit="connections",
        why="Open connections of one child. One more closes the oldest, which may not know that it is dead.",
        **at_least(1),
    )
    subnet_rate_limit_threshold: int = setting(
        100,
        unit="connections",
        why="Open connections of one network: a /24, or the first four groups of IPv6.",
        **at_least(1),
    )
    whitelisted_ips: str = setting(
        PRIVATE,
        unit="comma-separated networks",
        why="Nothing is counted by address here; all other limits hold.",
        **networks(),
    )
    trusted_proxies: str = setting(
        "",
        unit="comma-separated networks",
        why="Whose X-Forwarded-For is believed; `unix` is whoever comes through a Unix socket.",
        **networks("unix"),
    )
    key_failures_per_minute: int = setting(
        10,
        unit="keys/min",
        why="So many requests of one address (IPv6: one /64) with no key, or one that never was, hear 401; then it has "
        "to wait.",
        **at_least(1),
    )
    tracked_addresses_max: int = setting(
        100_000,
        unit="addresses",
        why="So many addresses are remembered that came lately, or without a good key.",
        **at_least(1),
    )
    connection_lease_ms: int = setting(
        15_000,
        unit="ms",
        why="With EVODB_REDIS_URL: the connections of a process that died count for others so long.",
        **at_least(100),
    )
    messages_per_second: int = setting(
        1000, unit="messages/s", why="One connection earns so many.", **between(1, 1_000_000)
    )
    burst_capacity: int = setting(
        50, unit="messages", why="One connection may save up so many.", **between(1, 1_000_000)
    )
    heartbeats_per_second: int = setting(
        20,
        unit="heartbeats/s",
        why="The same for heartbeats, which never compete with batches.",
        **between(1, 1_000_000),
    )
    heartbeat_burst_capacity: int = setting(
        100, unit="heartbeats", why="The same for heartbeats.", **between(1, 1_000_000)
    )
    max_payload_size: int = setting(
        4 * MIB,
        unit="bytes",
        why="Largest batch; an access key may raise it up to 16 MiB.",
        **between(1024, 16 * MIB),
    )
    max_events_per_message: int = setting(10_000, unit="events", why="Events of one batch.", **at_least(1))
    max_event_size: int = setting(1 * MIB, unit="bytes", why="Largest event, as JSON.", **at_least(1))
    max_size_violations: int = setting(
        3, unit="violations", why="So many batches or events that are too large end a connection.", **between(1, 255)
    )
    backpressure_threshold: float = setting(
        0.8, unit="share of the buffer", why="A fuller buffer suggests a pause in its acks.", **share()
    )
    base_retry_delay_ms: int = setting(
        100, unit="ms", why="Doubled with every refusal in a row, then spread by half up and down.", **at_least(1)
    )
    max_retry_delay_ms: int = setting(30_000, unit="ms", why="It is doubled no further.", **at_least(1))
    load_elevated: float = setting(
        0.5,
        unit="share",
        why="The load is the fullest of buffer, intake and event loop; from here it is called elevated.",
        **share(),
    )
    load_high: float = setting(0.8, unit="share", why="From here the load is called high.", **share())
    load_critical: float = setting(
        0.95, unit="share", why="From here batches without high priority are sent away for a moment.", **share()
    )
    load_lag_ms_max: int = setting(1000, unit="ms", why="An event loop that is so late counts as full.", **at_least(1))

    @property
    def whitelisted(self) -> list[str]:
        return listed(self.whitelisted_ips)

    @property
    def trusted(self) -> list[str]:
        return listed(self.trusted_proxies)
