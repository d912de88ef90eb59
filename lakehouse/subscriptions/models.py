"""Subscriptions, and the deliveries they will cause, positioned by the commit number of a parent."""

from __future__ import annotations

from django.db import models

from lakehouse.models import Parent


class TargetKind(models.TextChoices):
    WEBHOOK = "webhook"
    CELERY = "celery"
    CHANNELS = "channels"


class DeliveryState(models.TextChoices):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class Subscription(models.Model):
    """Changes of `parent` whose type matches `pattern` go to `target`; `commit_number` is how far it has come."""

    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="subscriptions")
    name = models.CharField(max_length=100)
    pattern = models.CharField(max_length=256)
    target_kind = models.CharField(max_length=8, choices=TargetKind.choices)
    target = models.CharField(max_length=2000)
    active = models.BooleanField(default=True)
    commit_number = models.PositiveBigIntegerField(default=0)
    created_ms = models.BigIntegerField(default=0, editable=False)

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="deliveries")
    commit_number = models.PositiveBigIntegerField()
    entry_key = models.CharField(max_length=200, help_text="Which change; stable over retries.")
    state = models.CharField(max_length=9, choices=DeliveryState.choices, default=DeliveryState.PENDING)
    next_attempt_ms = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = [models.UniqueConstraint(fields=["subscription", "entry_key"], name="delivery_once")]

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
