"""The settings of events. Every one is a bound."""

from __future__ import annotations

import json
from dataclasses import dataclass

from lakehouse.setting import at_least, one_of, place, setting

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
        **place("s3", empty="nothing, "),
    )


def webhook_secrets(text: str) -> dict[str, dict[str, str]]:
    """By namespace and provider. Raises ValueError, which tells no secret."""
    try:
        found = json.loads(text or "{}")
    except ValueError as exc:
        raise ValueError(f"is no JSON ({exc})") from None
    if not isinstance(found, dict) or not all(isinstance(of, dict) for of in found.values()):
        raise ValueError("is no object of objects")
    if not all(isinstance(secret, str) and secret for of in found.values() for secret in of.values()):
        raise ValueError("has a secret that is no text, or an empty one")
    return found


def complaint(found: EventsConfig) -> str | None:
    try:
        webhook_secrets(found.events_webhook_secrets)
    except ValueError as exc:
        return f'EVODB_EVENTS_WEBHOOK_SECRETS {exc}, wanted {{"<namespace>": {{"<provider>": "<secret>"}}}}'
    return None
