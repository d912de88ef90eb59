"""Where messages go: a webhook, a Celery task, a group of Channels. Each says what became of it and raises nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import orjson
from celery import current_app
from channels.layers import get_channel_layer

from lakehouse.conf import Settings
from lakehouse.subscriptions import desk, events, signatures, webhook
from lakehouse.subscriptions.connections import Kept
from lakehouse.subscriptions.models import Subscription, TargetKind
from lakehouse.subscriptions.names import Names
from lakehouse.subscriptions.retries import Outcome

CHANNELS_TYPE = "evodb.message"
"""A consumer hears it in `evodb_message`."""


class _Result(msgspec.Struct, rename="camel"):
    event_id: str
    success: bool = False


class _Results(msgspec.Struct):
    results: list[_Result]


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be delivered, as its rows said it when it was taken."""

    delivery_id: int
    uid: str
    events: bytes
    event_count: int
    attempts_made: int
    created_ms: int
    to: Subscription

    @property
    def message_id(self) -> str:
        return events.message_id(self.uid)


async def deliver(
    message: Message, settings: Settings, kept: Kept, names: Names, *, now_ms: Callable[[], int]
) -> Outcome:
    if message.to.target_kind == TargetKind.WEBHOOK:
        return await _post(message, settings, kept, names, now_ms())
    give = _to_celery if message.to.target_kind == TargetKind.CELERY else _to_channels
    try:
        async with asyncio.timeout(settings.webhook_timeout_ms / 1000):
            await give(message)
    except Exception as exc:
        return Outcome(False, error=f"{type(exc).__name__}: {exc}"[: webhook.ERROR_CHARS_MAX])
    return Outcome(True)


async def _post(message: Message, settings: Settings, kept: Kept, names: Names, now_ms: int) -> Outcome:
    is_batch = message.to.batch_events > 1 or message.event_count > 1
    body = events.body_of(message.message_id, message.events, is_batch=is_batch)
    headers = signatures.headers(message.to.secret, message.message_id, now_ms // 1000, body)
    outcome, answer = await webhook.post(
        message.to.target,
        [("content-type", "application/json"), *headers],
        body,
        networks=desk.allowed().networks,
        timeout_ms=settings.webhook_timeout_ms,
        now_ms=now_ms,
        resolve=partial(names.resolve, message.to.parent_id),
        kept=kept,
    )
    if not outcome.ok or not is_batch:
        return outcome
    return Outcome(True, outcome.status, delivered=_taken(answer))


async def _to_celery(message: Message) -> None:
    """Asked again whether it is allowed: what an operator takes back holds for subscriptions that are there already."""
    if (complaint := desk.complaints({"target_kind": "celery", "target": message.to.target})) != {}:
        raise webhook.NotAllowed(complaint["target"])
    told = _told(message) | {"events": json.loads(message.events)}  # numbers of any length
    await asyncio.to_thread(current_app.signature(message.to.target, kwargs=told).apply_async)


async def _to_channels(message: Message) -> None:
    layer = get_channel_layer()
    if layer is None:
        raise RuntimeError("there is no channel layer")
    await layer.group_send(desk.target_of(message.to), {"type": CHANNELS_TYPE, **_told(message)})


def _told(message: Message) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "subscription": message.to.name,
        "events": orjson.loads(message.events),
    }


def _taken(answer: bytes) -> frozenset[str] | None:
    """The events a receiver says it took; None when it says nothing of single ones, which means all."""
    try:
        found = msgspec.json.decode(answer, type=_Results)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return frozenset(one.event_id for one in found.results if one.success)
