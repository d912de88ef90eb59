"""The text of /metrics, read back with Prometheus's own library."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lakehouse.metrics import FLUSH_SECONDS, SERIES, Sample, histogram, text

PROMISED = {
    *("buffer_events", "buffer_bytes", "buffer_utilization", "connected_sources", "dedup_checks", "dedup_duplicates"),
    *("rate_limited_total", "payload_rejections", "event_size_rejections", "connections_rate_limited"),
    *("ip_rejections", "load_shedding_events", "active_connections", "peak_connections"),
}


def test_the_names_of_the_integration_guide_are_there_as_it_writes_them():
    assert {f"dolake_{name}" for name in PROMISED} <= {series.name for series in SERIES}


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_every_series_says_what_it_is_and_has_no_label_without_a_bound(series):
    assert re.fullmatch(r"dolake_[a-z_]+", series.name)
    assert series.kind in ("gauge", "counter", "histogram")
    assert series.help.endswith(".")
    assert set(series.labels) <= {"parent", "table"}


def test_a_series_without_a_value_still_says_what_it_is():
    lines = text([]).splitlines()
    assert len(lines) == 2 * len(SERIES)
    assert "# TYPE dolake_dedup_checks counter" in lines


def test_what_is_written_is_what_is_read():
    samples = [
        Sample("dolake_buffer_events", ("default",), 3),
        Sample("dolake_buffer_utilization", ("eu",), 0.25),
        Sample("dolake_table_rows_total", ("eu", 'a"b\\c\nd'), 2**60),
        Sample("dolake_active_connections", (), 7),
        *histogram("dolake_flush_seconds", ("eu",), [1] * (len(FLUSH_SECONDS) + 1), 2.5),
    ]
    read = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text(samples))
        for sample in family.samples
    }
    assert read["dolake_buffer_events", ("parent", "default")] == 3
    assert read["dolake_buffer_utilization", ("parent", "eu")] == 0.25
    assert read["dolake_table_rows_total", ("parent", "eu"), ("table", 'a"b\\c\nd')] == 2**60
    assert read["dolake_active_connections",] == 7
    assert read["dolake_flush_seconds_bucket", ("le", "0.25"), ("parent", "eu")] == 2
    assert read["dolake_flush_seconds_bucket", ("le", "+Inf"), ("parent", "eu")] == 12
    assert read["dolake_flush_seconds_count", ("parent", "eu")] == 12
    assert read["dolake_flush_seconds_sum", ("parent", "eu")] == 2.5
    assert len(read) == 4 + 12 + 2


def test_a_name_nobody_declared_is_an_error():
    with pytest.raises(KeyError):
        text([Sample("dolake_surprise", (), 1)])
