"""The broker, when somebody waits for it: it takes what a worker is told, or is away, and then one hears so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kombu.exceptions import OperationalError

from lakehouse.errors import LakehouseError


class BrokerAway(LakehouseError):
    """No worker can be asked, for the broker is away or takes nothing."""

    code = "BROKER_AWAY"
    retryable = True


@contextmanager
def asked() -> Iterator[None]:
    """Raises BrokerAway for what a broker says that is away, or full, or somebody else's."""
    try:
        yield
    except (OperationalError, OSError) as exc:
        said = " ".join(str(exc).split()) or type(exc).__name__
        raise BrokerAway(f"no worker can be asked, for the broker is away or takes nothing ({said})") from exc
