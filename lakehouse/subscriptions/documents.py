"""The JSON of /subscriptions, as OpenAPI shows it. Times are milliseconds since 1970, as everywhere on this API."""

from __future__ import annotations

from typing import Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from lakehouse.parent.greeting import DEFAULT_PARENT
from lakehouse.subscriptions import desk
from lakehouse.subscriptions.models import Attempt, Delivery, DeliveryState, Subscription

ID_MAX = 2**63 - 1
SHOWN_MAX = 1000
NOW_MS = 1_700_000_000_000
_HOOK: dict[str, Any] = {
    "id": 1,
    "parent": DEFAULT_PARENT,
    "name": "orders",
    "pattern": "collection.*",
    "table": "orders",
    "targetKind": "webhook",
    "target": "https://example.com/hook",
    "state": "active",
    "stateReason": "",
    "attemptsMax": 5,
    "batchEvents": 1,
    "batchMs": 1000,
    "commitNumber": 17,
    "createdMs": NOW_MS,
}
_LETTER: dict[str, Any] = {
    "id": 7,
    "subscriptionId": 1,
    "messageId": "msg_0123456789abcdef0123456789abcdef",
    "state": "dead",
    "reason": "max_retries_exceeded",
    "lastError": "answered 500: no",
    "attempts": 5,
    "eventCount": 1,
    "deadMs": NOW_MS,
}
_SENT: dict[str, Any] = {
    "id": 7,
    "messageId": _LETTER["messageId"],
    "state": "pending",
    "attempts": 2,
    "eventCount": 1,
    "commitNumber": 17,
    "createdMs": NOW_MS,
    "nextAttemptMs": NOW_MS + 4000,
    "finishedMs": None,
    "lastError": "answered 500: no",
}
_ATTEMPT = {"startedMs": NOW_MS, "durationMs": 12, "status": 500, "error": "answered 500: no"}


def _like(**example: Any) -> ConfigDict:
    """Our names in JSON, and an example."""
    return ConfigDict(alias_generator=to_camel, populate_by_name=True, json_schema_extra={"examples": [example]})


_CAMEL = ConfigDict(alias_generator=to_camel, populate_by_name=True)
_STRICT = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")
TargetKind = Literal["webhook", "celery", "channels"]
State = Literal["pending", "delivered", "dead"]


class Problem(Schema):
    """What was wrong: in words, as a code, and where there is more to say by field."""

    model_config = _like(error="pattern is 'a..b', which has an empty segment", code="INVALID_REQUEST")
    error: str
    code: str
    details: dict[str, Any] | None = None


class Start(Schema):
    """Now, unless one of the two is given."""

    model_config = _STRICT
    start_at: str | None = Field(None, description="Everything received since: ISO 8601, such as 2026-11-21T08:00:00Z.")
    start_snapshot: int | None = Field(
        None, ge=0, le=ID_MAX, description="Everything committed after the commit of this snapshot."
    )


class Terms(Schema):
    model_config = _STRICT
    table: str = Field("", description="Only events of this table.")
    attempts_max: int = 5
    batch_events: int = Field(1, description="So many events in one message at most, 1 to 1000.")
    batch_ms: int = Field(1000, description="A message that is not full waits so long, 1 to 10 000.")


class NewSubscription(Terms, Start):
    model_config = _STRICT
    parent: str | None = Field(
        None, description=f"Without it a key ns_... means its events, any other {DEFAULT_PARENT}."
    )
    name: str
    pattern: str
    target_kind: TargetKind = "webhook"
    target: str = Field(description="A URL, the name of a Celery task, or a Channels group.")


class Change(Schema):
    """What is not named stays as it is."""

    model_config = _STRICT
    name: str | None = None
    pattern: str | None = None
    table: str | None = None
    target_kind: TargetKind | None = None
    target: str | None = None
    attempts_max: int | None = None
    batch_events: int | None = None
    batch_ms: int | None = None


class Which(Schema):
    model_config = _STRICT
    subscription_id: int = Field(ge=1, le=ID_MAX)


class Shown(Schema):
    model_config = _CAMEL
    id: int
    parent: str
    name: str
    pattern: str
    table: str
    target_kind: str
    target: str
    state: str
    state_reason: str
    attempts_max: int
    batch_events: int
    batch_ms: int
    commit_number: int
    created_ms: int
    group: str | None = Field(None, description="Of a Channels target: the group's name.")
    secret: str | None = Field(None, description="Told once, to who subscribed.")


class Done(Schema):
    model_config = _like(ok=True, subscription=_HOOK)
    ok: bool = True
    subscription: Shown


class Listed(Schema):
    model_config = _like(ok=True, subscriptions=[_HOOK])
    ok: bool = True
    subscriptions: list[Shown]
    next: int | None = Field(None, description="Pass it as `after` for more.")


class Standing(Done):
    """How far it is, and what is on its way."""

    model_config = _like(
        ok=True, subscription=_HOOK, behind=2, pendingEvents=12, deliveredEvents=4711, deadEvents=1, deadLetters=1
    )
    behind: int = Field(description="Commits it has not come to.")
    pending_events: int
    delivered_events: int
    dead_events: int
    dead_letters: int
    last_delivered_ms: int | None = None


class Letter(Schema):
    model_config = _CAMEL
    id: int
    subscription_id: int
    message_id: str
    state: str
    reason: str
    last_error: str
    attempts: int
    event_count: int
    dead_ms: int
    events: list[Any] | None = Field(None, description="Where one letter is asked for.")


class Letters(Schema):
    model_config = _like(ok=True, deadLetters=[_LETTER])
    ok: bool = True
    dead_letters: list[Letter]
    next: int | None = None


class OneLetter(Schema):
    model_config = _like(ok=True, deadLetter=_LETTER)
    ok: bool = True
    dead_letter: Letter


class Sent(Schema):
    """A message: on its way, delivered, or given up."""

    model_config = _CAMEL
    id: int
    message_id: str = Field(description="The webhook-id, the same at every attempt.")
    state: str
    attempts: int = Field(description="Since it was queued, or queued again.")
    event_count: int
    commit_number: int
    created_ms: int
    next_attempt_ms: int | None = Field(None, description="While it is pending.")
    finished_ms: int | None = None
    last_error: str


class Sendings(Schema):
    model_config = _like(ok=True, deliveries=[_SENT])
    ok: bool = True
    deliveries: list[Sent]
    next: int | None = Field(None, description="Pass it as `after` for more.")


class Logged(Schema):
    model_config = _CAMEL
    started_ms: int
    duration_ms: int
    status: int | None
    error: str


class Log(Schema):
    model_config = _like(ok=True, deliveryId=7, messageId=_LETTER["messageId"], state="pending", attempts=[_ATTEMPT])
    ok: bool = True
    delivery_id: int
    message_id: str
    state: str
    attempts: list[Logged]


def shown(one: Subscription, *, secret: bool = False) -> Shown:
    names = [name for name in Shown.model_fields if name not in ("parent", "group", "secret")]
    return Shown(
        parent=one.parent.name,
        group=desk.target_of(one) if one.target_kind == "channels" else None,
        secret=one.secret if secret else None,
        **{name: getattr(one, name) for name in names},
    )


def letter(one: Delivery) -> Letter:
    return Letter(
        id=one.pk,
        subscription_id=one.subscription_id,
        message_id=f"msg_{one.uid}",
        state=one.state,
        reason=one.reason,
        last_error=one.last_error,
        attempts=one.attempts_made,
        event_count=one.event_count,
        dead_ms=one.dead_ms or 0,
        events=None,
    )


def whole_letter(one: Delivery) -> str:
    """OneLetter with its events as they are: a child may nest one deeper than Python reads and writes."""
    head = letter(one).model_dump_json(by_alias=True, exclude={"events"})
    events = bytes(one.events).decode(errors="replace") or "[]"
    return f'{{"ok":true,"deadLetter":{head[:-1]},"events":{events}}}}}'


def sent(one: Delivery) -> Sent:
    names = ("state", "event_count", "commit_number", "created_ms", "finished_ms", "last_error")
    return Sent(
        id=one.pk,
        message_id=f"msg_{one.uid}",
        attempts=one.attempts_made,
        next_attempt_ms=one.next_attempt_ms if one.state == DeliveryState.PENDING else None,
        **{name: getattr(one, name) for name in names},
    )


def logged(one: Attempt) -> Logged:
    return Logged(started_ms=one.started_ms, duration_ms=one.duration_ms, status=one.status, error=one.error)
