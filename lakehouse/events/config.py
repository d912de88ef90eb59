"""The settings of events. Every one is a bound."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.setting import at_least, one_of, setting

LIFECYCLE = OFF, ON, MESSAGES = "off", "on", "messages"


@dataclass(frozen=True, kw_only=True)
class EventsConfig:
    events_requests_per_minute: int = setting(
        1000,
        unit="requests",
        why="Of one access key at /ingest, within any 60 s, for each process, with EVODB_REDIS_URL for all "
        "together; then 429.",
        **at_least(1),
    )
    events_per_minute: int = setting(
        100_000,
        unit="events",
        why="Of one access key at /ingest, within any 60 s, for each process, with EVODB_REDIS_URL for all "
        "together; a batch may have 1000.",
        **at_least(1000),
    )
    events_streams_max: int = setting(
        100,
        unit="streams",
        why="Open GET /events/stream of one process; each asks the journal twice a second.",
        **at_least(0),
    )
    events_webhook_secrets: str = setting(
        "",
        unit="JSON",
        why='What providers sign with, by namespace: {"default": {"github": "..."}}. Empty: no webhook is taken.',
    )
    events_lifecycle: str = setting(
        OFF,
        unit="name",
        why="`on`: parents tell what they and their sockets do (`do.*`, `ws.*`) in the namespace `system`; `messages`: "
        "every frame of a child, too.",
        **one_of(*LIFECYCLE),
    )
    events_jsonl: str = setting(
        "",
        unit="path or URL",
        why="Where events are written as JSON lines, too. Empty: nowhere; else a folder or s3://bucket/prefix.",
    )
