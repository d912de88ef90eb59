"""Every setting of the parent in one table: name, default, unit, why.

A field `x_y` is read from the environment variable EVODB_X_Y and checked when the process starts; docs/settings.md
must name it, or the build fails. What may differ from parent to parent (thresholds, buffers) is
`rpc.config.ParentConfig` and lives in the Parent row. The limits of a child stand in `lakehouse.limits.config`,
those of a query in `lakehouse.query.config`, those of events in `lakehouse.events.config`, those of subscriptions
in `lakehouse.subscribing`, those of the object store in `lakehouse.storing`, and those of the database in
`lakehouse.database_choice`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from lakehouse import catalog_choice, rewrite_choice, storing
from lakehouse.database_choice import DatabaseConfig
from lakehouse.events import config as events
from lakehouse.events.config import EventsConfig
from lakehouse.keeping import UpkeepConfig
from lakehouse.query.config import QueryConfig
from lakehouse.setting import at_least, between, broker, hosts, largest, secret, setting, share, url_of
from lakehouse.storing import StoreConfig
from lakehouse.subscribing import SubscriptionConfig

MIB = 1024 * 1024
PREFIX = "EVODB_"
NOT_ABOVE = (
    ("max_event_size", "max_payload_size"),
    ("base_retry_delay_ms", "max_retry_delay_ms"),
    ("load_elevated", "load_high"),
    ("load_high", "load_critical"),
)


class SettingError(ValueError):
    """A setting has a value that cannot work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(DatabaseConfig, StoreConfig, QueryConfig, UpkeepConfig, EventsConfig, SubscriptionConfig):
    data_dir: Path = setting(  # noqa: RUF009 - a Path does not change
        Path("data"),
        unit="path",
        why="Database, lake, broker and keys of a laptop live here when nothing else is said.",
    )
    catalog: str = setting(
        "",
        unit="name",
        why="Whose Iceberg catalog holds the tables. Empty: ours, in the database; else a type of pyiceberg "
        "(docs/external-catalogs.md).",
        **catalog_choice.types(),
    )
    catalog_properties: str = setting(
        "",
        unit="JSON",
        why='What that catalog is reached with, in the words of pyiceberg: {"uri": "...", "warehouse": "...", '
        '"token": "..."}.',
    )
    catalog_token_ms: int = setting(
        3_600_000,
        unit="ms",
        why="A token of the catalog (OAuth2) opens for so long; its access key has the last word.",
        **at_least(1000),
    )
    broker_url: str = setting(
        "",
        unit="URL",
        why="Celery's broker. Empty: a folder in data_dir; for several machines redis:// or amqp://.",
        **broker(),
    )
    redis_url: str = setting(
        "",
        unit="URL",
        why="Channel layer, counts of connections and rates over HTTP, shared by several processes. Empty: in memory. "
        "Never asked for a frame of a socket.",
        **url_of("redis", "rediss", "unix"),
    )
    secret_key: str = setting(
        "", unit="text", why="Django's secret. Empty: made once and kept in data_dir.", **secret()
    )
    debug: bool = setting(False, unit="yes/no", why="Django's debug pages; never on a public address.")
    allowed_hosts: str = setting(
        "localhost,127.0.0.1,[::1]",
        unit="comma-separated hosts",
        why="Host names the HTTP side answers to.",
        **hosts(),
    )
    cookies_secure: bool = setting(
        False, unit="yes/no", why="Logins of the admin and the dashboard travel by HTTPS only, which a proxy ends."
    )
    open: bool = setting(False, unit="yes/no", why="Accept children without an access key; for closed networks only.")
    grip: bool = setting(
        False,
        unit="yes/no",
        why="Serve sockets that Pushpin holds (WebSocket-over-HTTP); another door, so only with a proxy behind it.",
    )
    grip_key: str = setting(
        "",
        unit="text",
        why="Only requests that the proxy signed are served; its sig_key. Empty: every request is.",
        **secret(),
    )
    parents_max: int = setting(
        1000,
        unit="parents",
        why="While there are fewer, a parent begins to exist when a child names it; more are made in the admin.",
        **at_least(0),
    )
    frame_bytes_max: int = setting(
        16 * MIB,
        unit="bytes",
        why="Largest WebSocket frame `evodb up` lets daphne take; the protocol allows 16 MiB.",
        **between(64 * 1024, 16 * MIB),
    )
    websocket_compression: bool = setting(
        False,
        unit="yes/no",
        why="Let children compress their messages (permessage-deflate of daphne); 21 KiB more for each socket.",
    )
    group_batches_max: int = setting(
        512, unit="batches", why="At most so many batches share one journal transaction and one fsync.", **at_least(1)
    )
    group_bytes_max: int = setting(
        16 * MIB, unit="bytes", why="At most so many bytes share one journal transaction.", **at_least(1)
    )
    intake_bytes_max: int = setting(
        64 * MIB,
        unit="bytes",
        why="Bytes of a process accepted and not journalled yet; beyond it a batch is told when to come back.",
        **at_least(1 * MIB),
    )
    window_batches_max: int = setting(
        1000, unit="batches", why="Unanswered batches of one connection; daphne never pauses reading.", **at_least(1)
    )
    lease_ms: int = setting(
        60_000, unit="ms", why="A worker that flushes a parent and goes silent loses it after this.", **at_least(1000)
    )
    flush_entries_max: int = setting(
        250_000, unit="entries", why="One flush takes at most so many; bounds a worker's memory.", **at_least(1)
    )
    flush_bytes_max: int = setting(
        24 * MIB,
        unit="bytes",
        why="One flush takes at most so many payload bytes; a worker needs six times as much beside its 200 MiB.",
        **at_least(1 * MIB),
    )
    commit_attempts_max: int = setting(
        5, unit="attempts", why="How often a flush stages anew when another writer moved the same table.", **at_least(1)
    )
    breaker_failures_max: int = setting(
        3,
        unit="failures",
        why="So many flushes in a row that cannot reach the object store open the breaker: no flush asks it any more.",
        **at_least(1),
    )
    breaker_open_ms: int = setting(
        30_000, unit="ms", why="Then one flush tries, all others go to the fallback meanwhile.", **at_least(1)
    )
    fallback_bytes_max: int = setting(
        1024 * MIB,
        unit="bytes",
        why="What the fallback of one parent may hold; beyond it batches wait in the journal. 0: no fallback.",
        **at_least(0),
    )
    history_days: int = setting(
        7,
        unit="days",
        why="Persisted batches stay as history without their payload for so long, and for the dedup window at least.",
        **at_least(0),
    )
    dead_letter_days: int = setting(
        0, unit="days", why="Dead letters are deleted when they are so old. 0: never.", **at_least(0)
    )
    fuse_letters_in_row: int = setting(
        100, unit="entries", why="More unreadable entries in a row stop the flushes of their parent.", **at_least(1)
    )
    fuse_share: float = setting(
        0.5, unit="share", why="So does a flush of which a larger share is unreadable. 1: never.", **share()
    )
    fuse_window_entries: int = setting(
        1000, unit="entries", why="A flush of fewer entries has no share.", **at_least(1)
    )
    hibernate_after_ms: int = setting(
        10_000,
        unit="ms",
        why="A silent connection keeps at most 2 KiB from then on and wakes with its next batch. 0: never.",
        **at_least(0),
    )
    presence_interval_ms: int = setting(
        10_000, unit="ms", why="Who is here, and when it was heard of, is written so often.", **at_least(10)
    )
    drain_ms: int = setting(
        10_000,
        unit="ms",
        why="A stopping process answers what it accepted and closes sockets within this.",
        **at_least(100),
    )
    up_host: str = setting("127.0.0.1", unit="address", why="Where `evodb up` listens.")
    up_port: int = setting(8800, unit="port", why="Where `evodb up` listens.", **between(1, 65_535))

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve()}/evodb.sqlite3"

    @property
    def resolved_warehouse(self) -> str:
        if "://" in self.warehouse:
            return self.warehouse.rstrip("/")
        return str((Path(self.warehouse) if self.warehouse else self.data_dir / "lake").resolve())

    @property
    def resolved_catalog_properties(self) -> dict[str, Any]:
        """Raises ValueError."""
        return catalog_choice.properties_of(self.catalog_properties)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def load(environ: Mapping[str, str]) -> Settings:
    """The settings of this environment. Raises SettingError, naming the variable, what it held and what it wants."""
    kinds = get_type_hints(Settings)
    values: dict[str, Any] = {}
    for row in dataclasses.fields(Settings):
        text = environ.get(variable(row.name))
        if text is not None:
            values[row.name] = _parse(row, text, kinds[row.name])
    settings = Settings(**values)
    _check_together(settings)
    if complaint := (
        storing.complaint(settings)
        or events.complaint(settings)
        or catalog_choice.complaint(settings.catalog, settings.catalog_properties, environ)
        or rewrite_choice.complaint(settings.rewrite_engine)
    ):
        raise SettingError(complaint)
    return settings


def _check_together(settings: Settings) -> None:
    """Bounds know one another: what is taken at once has to fit what may wait."""
    for name, what in (("group_bytes_max", "a group"), ("frame_bytes_max", "a frame")):
        if getattr(settings, name) > settings.intake_bytes_max:
            raise SettingError(
                f"{variable(name)} is {getattr(settings, name)}, more than EVODB_INTAKE_BYTES_MAX "
                f"({settings.intake_bytes_max}); {what} has to fit what waits"
            )
    for low, high in NOT_ABOVE:
        if getattr(settings, low) > getattr(settings, high):
            raise SettingError(
                f"{variable(low)} is {getattr(settings, low)}, more than {variable(high)} ({getattr(settings, high)})"
            )


def _parse(row: dataclasses.Field[Any], text: str, kind: type) -> Any:
    name = variable(row.name)
    try:
        value = PARSERS[kind](text)
    except ValueError:
        wanted = WANTED[kind]
        raise SettingError(f"{name} is {_shown(text)}, wanted {wanted} ({row.metadata['unit']})") from None
    check, unit = row.metadata["check"], row.metadata["unit"]
    if kind is int and value > largest(unit):
        raise SettingError(f"{name} is {_shown(text)}, wanted at most {largest(unit)} ({unit})")
    if check is not None and not check(value):
        found = f"a text of {len(text)} characters" if unit == "text" else _shown(text)
        raise SettingError(f"{name} is {found}, wanted {row.metadata['wanted']} ({unit})")
    return value


def _shown(text: str) -> str:
    """What was found, without the password a URL may hold."""
    return repr(re.sub(r":[^:@/]*@", ":***@", text))


def _yes_or_no(text: str) -> bool:
    answers = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "": False}
    try:
        return answers[text.strip().lower()]
    except KeyError:
        raise ValueError(text) from None


def _path(text: str) -> Path:
    if not text:
        raise ValueError(text)
    return Path(text)


PARSERS: dict[type, Callable[[str], Any]] = {bool: _yes_or_no, float: float, int: int, Path: _path, str: str}
WANTED = {bool: "yes or no", float: "a number", int: "a whole number", Path: "the path of a folder"}
