"""Subscriptions, as rows of the settings' table (lakehouse.conf); docs/subscriptions.md says what they do."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.setting import at_least, between, listed, networks, setting

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class SubscriptionConfig:
    subscriptions_max: int = setting(
        10_000, unit="subscriptions", why="One parent has at most so many, disabled ones not counted.", **at_least(0)
    )
    webhook_networks: str = setting(
        "",
        unit="comma-separated networks",
        why="Webhooks may go there although they are not public. Empty: to public addresses only.",
        **networks(),
    )
    webhook_timeout_ms: int = setting(
        30_000,
        unit="ms",
        why="A webhook that has not answered by then has failed, names and handshakes included.",
        **at_least(1),
    )
    subscription_tasks: str = setting(
        "",
        unit="comma-separated names",
        why="Celery tasks that may be a target, such as shop.tasks.*; never one of ours. Empty: none.",
    )
    subscription_concurrency: int = setting(
        8, unit="messages", why="One subscription has at most so many on their way at once.", **between(1, 100)
    )
    subscription_pending_max: int = setting(
        1000,
        unit="events",
        why="With so many events in messages that are not delivered a subscription waits at its place.",
        **at_least(1),
    )
    subscription_lease_ms: int = setting(
        30_000,
        unit="ms",
        why="A process that delivers and goes silent loses its subscriptions after this.",
        **at_least(1000),
    )
    subscription_backlog_bytes_max: int = setting(
        256 * MIB,
        unit="bytes",
        why="Payloads of one parent stay so long until active subscriptions have them; beyond it the lake is read.",
        **at_least(0),
    )
    subscription_hold_days: int = setting(
        7,
        unit="days",
        why="History stays for a subscription that has not come to it, so much longer than history_days at most.",
        **at_least(0),
    )
    subscription_log_days: int = setting(
        3, unit="days", why="Delivered messages and their attempts are remembered for so long.", **at_least(0)
    )
    subscription_letter_days: int = setting(
        30, unit="days", why="Dead letters of subscriptions are deleted when they are so old.", **at_least(0)
    )

    @property
    def webhook_allowed(self) -> list[str]:
        return listed(self.webhook_networks)
