"""Every series of GET /metrics in one table, and the text they become. Pure.

The names that DoSQL's integration guide gave are kept as they are, counters without `_total` among them. That is why
the text is written here: Prometheus's own library renames such a counter. What the database says is the same whichever
process is asked, so take `max` over processes; what a process counts for itself says "of this process", and adds up.

No label ever holds a child or an address. `parent` has PARENTS_MAX values, `table` TABLES_MAX and one more, `*`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PARENTS_MAX = 1000
TABLES_MAX = 1000
"""Of all parents together; the rows and bytes of the tables beyond are counted together, table by table unnamed."""
OTHER_TABLES = "*"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the buckets of `dolake_commit_seconds`."""
FLUSH_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the buckets of `dolake_flush_seconds`."""
DELIVERY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the buckets of `dolake_subscription_delivery_seconds`."""


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of the series `name`; `labels` in the order of its labels. `suffix` and `le` are a histogram's."""

    name: str
    labels: tuple[str, ...]
    value: float
    suffix: str = ""
    le: str = ""


class Durations:
    """A histogram that is filled; one thread adds, any may read."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds_s) + 1)
        """Per bucket, the last one for all that took longer."""
        self.total_s = 0.0
        self._bounds_s = bounds_s

    def add(self, took_s: float) -> None:
        self.counts[bisect_left(self._bounds_s, took_s)] += 1
        self.total_s += took_s


OF_PARENT = ("parent",)
OF_TABLE = ("parent", "table")

SERIES = (
    Series("dolake_ingested_events_total", "counter", "Events made durable; what came twice counts once.", OF_PARENT),
    Series("dolake_buffer_events", "gauge", "Events that are durable and in no table yet.", OF_PARENT),
    Series("dolake_buffer_bytes", "gauge", "Payload bytes of those events.", OF_PARENT),
    Series("dolake_buffer_utilization", "gauge", "How full the buffer is, by events or bytes; 1 is full.", OF_PARENT),
    Series("dolake_connected_sources", "gauge", "Children that hold a connection, awake or hibernating.", OF_PARENT),
    Series("dolake_dedup_checks", "counter", "Batches that were compared with what is stored.", OF_PARENT),
    Series("dolake_dedup_duplicates", "counter", "Batches that were stored before.", OF_PARENT),
    Series("dolake_journal_age_seconds", "gauge", "Age of the oldest batch that is in no table yet.", OF_PARENT),
    Series(
        "dolake_freshness_seconds",
        "gauge",
        "From the journal to its table: the oldest batch of the newest flush.",
        OF_PARENT,
    ),
    Series("dolake_flush_seconds", "histogram", "From the claim of a flush to its commit.", OF_PARENT),
    Series(
        "dolake_flushes_abandoned_total",
        "counter",
        "Flushes and recoveries that failed; what they had waits on.",
        OF_PARENT,
    ),
    Series("dolake_table_rows_total", "counter", "Rows committed to a table.", OF_TABLE),
    Series("dolake_table_bytes_total", "counter", "Bytes of the files committed to a table.", OF_TABLE),
    Series("dolake_fallback_bytes", "gauge", "Bytes of rows that wait for the object store.", OF_PARENT),
    Series("dolake_circuit_breaker", "gauge", "Of the object store: 0 closed, 1 half open, 2 open."),
    Series("dolake_circuit_breaker_opened_total", "counter", "How often it was away for so long that it opened."),
    Series("dolake_dead_letters", "gauge", "Events and batches that could not become rows.", OF_PARENT),
    Series("dolake_fuse_blown", "gauge", "1 while so much was unreadable that nothing is flushed.", OF_PARENT),
    Series("dolake_subscriptions", "gauge", "Active subscriptions.", OF_PARENT),
    Series("dolake_subscription_lag_commits", "gauge", "Commits that the slowest of them has not come to.", OF_PARENT),
    Series("dolake_subscription_pending_events", "gauge", "Events in messages that are not delivered.", OF_PARENT),
    Series(
        "dolake_subscription_pending_age_seconds",
        "gauge",
        "Age of the oldest message that is not delivered, of active subscriptions.",
        OF_PARENT,
    ),
    Series("dolake_subscription_dead_letters", "gauge", "Messages that were given up.", OF_PARENT),
    Series("dolake_subscription_delivered_events_total", "counter", "Events that their targets took.", OF_PARENT),
    Series("dolake_subscription_dead_events_total", "counter", "Events in messages that were given up.", OF_PARENT),
    Series("dolake_subscription_failed_attempts_total", "counter", "Attempts to deliver that failed.", OF_PARENT),
    Series(
        "dolake_subscription_delivery_seconds",
        "histogram",
        "From the making of a message, right after its commit, to its delivery.",
        OF_PARENT,
    ),
    Series("dolake_parents", "gauge", "Parents; those beyond the first 1000 have no series of their own."),
    Series("dolake_active_connections", "gauge", "Open connections of this process."),
    Series("dolake_hibernating_connections", "gauge", "Those of them that sleep."),
    Series(
        "dolake_hibernating_connection_bytes",
        "gauge",
        "Mean size of what this process remembers of one that sleeps: its attachment and our objects around it, over "
        "at most 100 of them. The server's own objects, the socket's buffers and zlib's are not in it.",
    ),
    Series("dolake_peak_connections", "gauge", "Most connections of this process at once, since it began."),
    Series("dolake_intake_bytes", "gauge", "Bytes of this process accepted and not journalled yet."),
    Series("dolake_commit_seconds", "histogram", "A group commit of this process, from its first query to durable."),
    Series("dolake_rate_limited_total", "counter", "Messages and requests of this process refused as too many."),
    Series("dolake_payload_rejections", "counter", "Batches of this process refused as too large."),
    Series(
        "dolake_event_size_rejections", "counter", "Batches of this process refused for an event that is too large."
    ),
    Series("dolake_connections_rate_limited", "counter", "Handshakes of this process refused as too many."),
    Series("dolake_ip_rejections", "counter", "Handshakes of this process refused for their address or network."),
    Series("dolake_load_shedding_events", "counter", "Batches of this process sent away because of its load."),
)


def text(samples: Iterable[Sample]) -> str:
    """The exposition format. A series without samples still says what it is."""
    by_name: dict[str, list[Sample]] = {series.name: [] for series in SERIES}
    for sample in samples:
        by_name[sample.name].append(sample)
    lines = []
    for series in SERIES:
        lines += [f"# HELP {series.name} {series.help}", f"# TYPE {series.name} {series.kind}"]
        lines += [_line(series, sample) for sample in by_name[series.name]]
    return "\n".join(lines) + "\n"


def histogram(
    name: str, labels: tuple[str, ...], counts: Sequence[int], total: float, *, bounds: Sequence[float] = FLUSH_SECONDS
) -> list[Sample]:
    """The samples of a histogram; `counts` per bucket, and one for all above the last bound."""
    samples, so_far = [], 0
    for bound, count in zip((*map(_number, bounds), "+Inf"), counts, strict=True):
        so_far += count
        samples.append(Sample(name, labels, so_far, "_bucket", bound))
    return [*samples, Sample(name, labels, total, "_sum"), Sample(name, labels, so_far, "_count")]


def _line(series: Series, sample: Sample) -> str:
    named = [f'{label}="{_escaped(value)}"' for label, value in zip(series.labels, sample.labels, strict=True)]
    if sample.le:
        named.append(f'le="{sample.le}"')
    return f"{sample.name}{sample.suffix}{{{','.join(named)}}} {_number(sample.value)}".replace("{}", "")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
