"""How often and how patiently recovery tries. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_RECOVERY_CONFIG", "RecoveryConfig"]

EXPONENT_MAX = 64
MULTIPLIER_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    max_retries: int = 10
    """Attempts with the same rows; after so many they wait until somebody resets them."""
    retry_delay_ms: int = 1000
    backoff_multiplier: float = 2.0
    max_delay_ms: int = 60_000

    def __post_init__(self) -> None:
        for name in ("max_retries", "retry_delay_ms", "max_delay_ms"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, wanted a whole number of at least 1")
        if not 1 <= self.backoff_multiplier <= MULTIPLIER_MAX:
            raise ValueError(f"backoff_multiplier is {self.backoff_multiplier}, wanted 1 to {MULTIPLIER_MAX}")

    def delay_ms(self, attempts: int) -> int:
        """How long to wait after so many attempts."""
        grown = self.retry_delay_ms * self.backoff_multiplier ** min(attempts - 1, EXPONENT_MAX)
        return int(min(grown, self.max_delay_ms))


DEFAULT_RECOVERY_CONFIG = RecoveryConfig()
