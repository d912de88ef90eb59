"""Access keys. The key itself is shown once and never stored."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models

from lakehouse.key_limits import KeyLimits

PATTERN_CHARS_MAX = 500
PATTERNS_MAX = 100


class KeyState(models.TextChoices):
    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


class KeyPriority(models.TextChoices):
    """Whose batches are still taken when the house sheds load. Granted with a key, never claimed by a child."""

    NORMAL = "normal"
    HIGH = "high"


def patterns_of(text: str) -> tuple[str, ...]:
    """The patterns of a column, which has one in each line: no name it is compared with can hold a line break."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def validate_patterns(text: str) -> None:
    found = patterns_of(text)
    if not 1 <= len(found) <= PATTERNS_MAX:
        raise ValidationError(f"found {len(found)} patterns, wanted 1 to {PATTERNS_MAX}, one in each line; * is any")
    for pattern in found:
        if len(pattern) > PATTERN_CHARS_MAX or not pattern.isprintable():
            raise ValidationError(
                f"pattern {pattern[:60]!r} can fit no name; wanted 1 to {PATTERN_CHARS_MAX} printable characters"
            )


def validate_limits(limits: object) -> None:
    try:
        KeyLimits.of(limits)  # type: ignore[arg-type]  # it says what it wants
    except (TypeError, ValueError) as exc:
        raise ValidationError(str(exc)) from None


class AccessKey(models.Model):
    """`digest` is the SHA-256 of the key in hex; a key has 256 random bits, so a slow hash would add nothing.

    `prefix` is how the key begins: enough to tell keys apart in a list, and 24 of its 256 bits.
    """

    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(max_length=16, default="", editable=False)
    scopes = models.JSONField(default=list, help_text='Any of "ingest", "query", "subscribe", "admin".')
    source_pattern = models.TextField(
        default="*",
        validators=[validate_patterns],
        help_text="Child ids it may write as, one pattern in each line; * matches any text.",
    )
    parents = models.TextField(
        default="*",
        validators=[validate_patterns],
        help_text="Parents it may reach, one pattern in each line. A parent nobody named before begins to exist.",
    )
    namespaces = models.TextField(
        default="*",
        validators=[validate_patterns],
        help_text="Namespaces whose tables it may write and read, one pattern in each line.",
    )
    priority = models.CharField(
        max_length=6,
        choices=KeyPriority.choices,
        default=KeyPriority.NORMAL,
        help_text="high: its batches are taken also when load is shed.",
    )
    limits = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_limits],
        help_text='Its own limits instead of those of the house, such as {"messages_per_second": 100}.',
    )
    created_ms = models.BigIntegerField(default=0, editable=False)
    expires_ms = models.BigIntegerField(null=True, blank=True)
    revoked_ms = models.BigIntegerField(null=True, blank=True)
    last_used_ms = models.BigIntegerField(
        null=True, editable=False, help_text="Exact to a minute; a key in use is noted once a minute."
    )
    rotated_from = models.OneToOneField(
        "self", null=True, editable=False, on_delete=models.PROTECT, related_name="replaced_by"
    )

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})" if self.prefix else self.name

    def state(self, *, now_ms: int) -> KeyState:
        """The moment it expires it is expired."""
        if self.revoked_ms is not None:
            return KeyState.REVOKED
        return KeyState.EXPIRED if self.expires_ms is not None and self.expires_ms <= now_ms else KeyState.LIVE
