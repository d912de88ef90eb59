"""Parents and their children: who streams, how far they came, and who may flush."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

from rpc.config import ParentConfig

PARENT_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


def validate_config(overrides: object) -> None:
    if not isinstance(overrides, dict):
        raise ValidationError(f"found {type(overrides).__name__}, wanted an object of parent settings")
    try:
        ParentConfig.with_overrides(overrides)
    except (TypeError, ValueError) as exc:
        raise ValidationError(str(exc)) from None


class Parent(models.Model):
    """A named aggregator with its own buffer, thresholds and flush lease."""

    name = models.CharField(max_length=100, unique=True, validators=[RegexValidator(f"^{PARENT_NAME}$")])
    namespace = models.CharField(max_length=200, default="lake", help_text="Iceberg namespace its tables live in.")
    config = models.JSONField(
        default=dict, blank=True, validators=[validate_config], help_text="Overrides of the parent's defaults."
    )
    # The buffer, counted in the transactions that change it.
    pending_batches = models.PositiveBigIntegerField(default=0, editable=False)
    pending_entries = models.PositiveBigIntegerField(default=0, editable=False)
    pending_bytes = models.PositiveBigIntegerField(default=0, editable=False)
    # The lease: whoever holds the highest epoch may commit, however late everybody else wakes up.
    lease_owner = models.CharField(max_length=200, default="", editable=False)
    lease_epoch = models.PositiveBigIntegerField(default=0, editable=False)
    lease_until_ms = models.BigIntegerField(default=0, editable=False)
    commit_number = models.PositiveBigIntegerField(default=0, editable=False)
    last_flush_ms = models.BigIntegerField(default=0, editable=False)
    created_ms = models.BigIntegerField(default=0, editable=False)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """An emptied form field is None; it means the defaults."""
        self.config = self.config or {}

    @property
    def settings(self) -> ParentConfig:
        return ParentConfig.with_overrides(self.config)


class ConnectionState(models.TextChoices):
    AWAKE = "awake"
    HIBERNATING = "hibernating"
    GONE = "gone"


class Child(models.Model):
    """A source under a parent, and how much of it is durable.

    `epoch` is the life its sequences belong to: the child's own, or one the parent counts up per connection of a child
    that keeps none. In a child's own epoch every batch up to `sequence` is durable, and so are the ranges of
    `islands` ([[first, last], ...], ascending) beyond the first gap. In a counted epoch `sequence` is the highest seen.
    `past_epochs` keeps both numbers of earlier own epochs: {epoch: [sequence, islands]}.
    """

    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="children")
    name = models.CharField(max_length=500)
    shard = models.CharField(max_length=500, default="", blank=True)
    epoch = models.BigIntegerField(default=0)
    epoch_is_own = models.BooleanField(default=False)
    sequence = models.BigIntegerField(default=0)
    islands = models.JSONField(default=list)
    past_epochs = models.JSONField(default=dict)
    entry_sequence_max = models.BigIntegerField(default=-1, help_text="Highest entry sequence ever stored.")
    batches = models.PositiveBigIntegerField(default=0)
    entries = models.PositiveBigIntegerField(default=0)
    duplicates = models.PositiveBigIntegerField(default=0)
    state = models.CharField(max_length=12, choices=ConnectionState.choices, default=ConnectionState.GONE)
    attachment = models.BinaryField(max_length=2048, default=b"", blank=True)
    last_seen_ms = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "children"
        constraints = [models.UniqueConstraint(fields=["parent", "name"], name="child_once_per_parent")]

    def __str__(self) -> str:
        return self.name
