"""Parents and their children: who streams, how far they came, and who may flush."""

from __future__ import annotations

import secrets

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

from lakehouse.storing import can_be_a_folder
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
    # The fuse: while it is blown nobody flushes, so that what cannot be read stays in the journal.
    fuse_blown_ms = models.BigIntegerField(null=True, editable=False)
    fuse_reason = models.TextField(default="", editable=False)
    schema_version = models.PositiveBigIntegerField(default=0, editable=False, help_text="0: it has no schemas.")
    fuse_accepted = models.BooleanField(default=False, editable=False, help_text="The next flush may not blow it.")

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """An emptied form field is None; it means the defaults."""
        self.config = self.config or {}
        if complaint := self._of_namespace():
            raise ValidationError({"namespace": complaint})

    def _of_namespace(self) -> str:
        """What is wrong with it, or nothing. Sums, marks and bookmarks of a parent are all of one namespace."""
        if self.namespace and not all(can_be_a_folder(level) for level in self.namespace.split(".")):
            return f"found {self.namespace!r}, wanted names that folders can have, with '.' between levels"
        before = Parent.objects.filter(pk=self.pk, commit_number__gt=0).exclude(namespace=self.namespace).first()
        if before is None:
            return ""
        return (
            f"its rows are in {before.namespace} and stay there; make another parent that writes into {self.namespace}"
        )

    @property
    def settings(self) -> ParentConfig:
        return ParentConfig.with_overrides(self.config)


def schemas_changed(parent_id: int) -> None:
    """The parent's row first, as whoever takes batches locks it. No number comes twice, whatever is restored."""
    Parent.objects.filter(pk=parent_id).update(schema_version=secrets.randbits(62) + 1)


class PastFlushes(models.Model):
    """What the flushes of a parent added up to that are not kept any more: those up to `commit_number`."""

    parent = models.OneToOneField(Parent, on_delete=models.CASCADE, primary_key=True, related_name="past_flushes")
    commit_number = models.PositiveBigIntegerField()
    durations = models.JSONField(default=list, help_text="How many took how long, in the buckets of the metrics.")
    took_ms = models.PositiveBigIntegerField(default=0, help_text="All together.")
    tables = models.JSONField(default=dict, help_text="{table: [rows, bytes]}")

    def __str__(self) -> str:
        return f"flushes up to commit {self.commit_number}"


class Holder(models.Model):
    """A process that holds sockets, as long as its lease runs."""

    name = models.CharField(max_length=64, primary_key=True)
    lease_until_ms = models.BigIntegerField()

    def __str__(self) -> str:
        return self.name


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

    `state` is what the holder of its socket said last; it holds as long as the holder's lease does (parent.leases).
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
    holder = models.CharField(
        max_length=64, default="", blank=True, help_text="The process, or the socket of a proxy, that it reached last."
    )
    attachment = models.BinaryField(max_length=2048, default=b"", blank=True)
    last_seen_ms = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "children"
        constraints = [models.UniqueConstraint(fields=["parent", "name"], name="child_once_per_parent")]

    def __str__(self) -> str:
        return self.name
