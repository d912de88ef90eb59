"""Subscriptions, and the messages they cause, positioned by the commit number of a parent."""

from __future__ import annotations

import base64
import secrets
import uuid

from django.db import models

from lakehouse.models import Parent

SECRET_PREFIX = "whsec_"  # noqa: S105 - how a secret begins, as Standard Webhooks has it
SECRET_BYTES = 32


class TargetKind(models.TextChoices):
    WEBHOOK = "webhook"
    CELERY = "celery"
    CHANNELS = "channels"


class SubscriptionState(models.TextChoices):
    ACTIVE = "active"
    PAUSED = "paused"
    """It keeps its place, and nothing is sent."""
    DISABLED = "disabled"
    """It has no place any more: unsubscribed, refused for good by its target, or left too far behind."""


class DeliveryState(models.TextChoices):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def new_uid() -> str:
    return uuid.uuid4().hex


class Subscription(models.Model):
    """Events of `parent` whose type matches `pattern` go to `target`.

    Its place: all of the commits up to `commit_number` became messages, and of the next one the batches before
    `batch_id` and of that batch the first `batch_entries` entries.
    """

    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="subscriptions")
    name = models.CharField(max_length=100)
    pattern = models.CharField(max_length=256, help_text="Of the event's type: * within a segment, ** for any number.")
    table = models.CharField(max_length=500, default="", blank=True, help_text="Only of this table. Empty: of all.")
    target_kind = models.CharField(max_length=8, choices=TargetKind.choices)
    target = models.CharField(max_length=2000, help_text="A URL, the name of a Celery task, or a Channels group.")
    secret = models.CharField(max_length=200, default=new_secret, editable=False)
    state = models.CharField(max_length=8, choices=SubscriptionState.choices, default=SubscriptionState.ACTIVE)
    state_reason = models.TextField(default="", blank=True, editable=False)
    attempts_max = models.PositiveSmallIntegerField(default=5)
    batch_events = models.PositiveSmallIntegerField(default=1, help_text="At most so many events in one message.")
    batch_ms = models.PositiveIntegerField(default=1000, help_text="A message that is not full waits so long.")
    # Its place, moved in the transaction that makes the messages.
    commit_number = models.PositiveBigIntegerField(default=0, editable=False)
    batch_id = models.BigIntegerField(default=0, editable=False)
    batch_entries = models.PositiveIntegerField(default=0, editable=False)
    from_ms = models.BigIntegerField(default=0, editable=False, help_text="What was received before is not for it.")
    # The lease: a process that is silent for so long loses it, and whoever takes it goes on from the rows.
    lease_owner = models.CharField(max_length=200, default="", editable=False)
    lease_until_ms = models.BigIntegerField(default=0, editable=False)
    delivered_events = models.PositiveBigIntegerField(default=0, editable=False)
    dead_events = models.PositiveBigIntegerField(default=0, editable=False)
    last_delivered_ms = models.BigIntegerField(null=True, editable=False)
    created_ms = models.BigIntegerField(default=0, editable=False)

    class Meta:
        indexes = [models.Index(fields=["parent", "state"], name="subscription_by_state")]

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    """A message: one event, or several of a subscription that wants batches. `uid` is the same at every attempt.

    A dead letter is one with `dead_ms`; it stays one while it is tried again, until it is delivered.
    """

    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="deliveries")
    uid = models.CharField(max_length=32, default=new_uid, unique=True, help_text="The webhook-id, without msg_.")
    commit_number = models.PositiveBigIntegerField(help_text="Of its last event; 0 for a test.")
    events = models.BinaryField(default=b"", help_text="A JSON list; empty when it is delivered.")
    event_count = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=9, choices=DeliveryState.choices, default=DeliveryState.PENDING)
    is_open = models.BooleanField(default=False, help_text="More events may join it; it was never sent.")
    attempts_made = models.PositiveSmallIntegerField(default=0, help_text="Since it was queued, or queued again.")
    next_attempt_ms = models.BigIntegerField(default=0)
    created_ms = models.BigIntegerField(default=0)
    finished_ms = models.BigIntegerField(null=True)
    dead_ms = models.BigIntegerField(null=True)
    reason = models.CharField(max_length=40, default="", blank=True)
    last_error = models.TextField(default="", blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(fields=["subscription", "state", "next_attempt_ms"], name="delivery_of_subscription"),
            models.Index(fields=["state", "next_attempt_ms"], name="delivery_due"),
            models.Index(fields=["subscription", "dead_ms"], name="delivery_dead"),
            models.Index(fields=["finished_ms"], name="delivery_finished"),
        ]

    def __str__(self) -> str:
        return f"delivery {self.pk}"


class Attempt(models.Model):
    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempts")
    started_ms = models.BigIntegerField()
    duration_ms = models.PositiveIntegerField()
    status = models.PositiveSmallIntegerField(null=True, help_text="HTTP status, when there was an answer.")
    error = models.TextField(default="", blank=True)

    def __str__(self) -> str:
        return f"attempt {self.pk}"


class DeliveryTotal(models.Model):
    """What the deliveries to the subscriptions of a parent added up to, those that are forgotten included."""

    parent = models.OneToOneField(Parent, on_delete=models.CASCADE, primary_key=True, related_name="delivery_total")
    delivered_events = models.PositiveBigIntegerField(default=0)
    dead_events = models.PositiveBigIntegerField(default=0)
    failed_attempts = models.PositiveBigIntegerField(default=0)
    durations = models.JSONField(default=list, help_text="How many messages took how long, in the metrics' buckets.")
    took_ms = models.PositiveBigIntegerField(default=0, help_text="All together.")

    def __str__(self) -> str:
        return f"deliveries of {self.parent_id}"
