"""The floors of the house: imports go down only, decisions are pure, rooms stay small.

A module's floor is the first row of FLOORS with a pattern that fits its name. Everything is read from the source,
imports inside functions included, so nothing has to be importable for a violation to be seen.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the roof to the ground. A module may import its own floor and those below it.
FLOORS = {
    "site": ["evodb_site", "evodb_site.*"],
    "shell": [
        "lakehouse",
        "lakehouse.admin",
        "lakehouse.admin.*",
        "lakehouse.apps",
        "lakehouse.beat",
        "lakehouse.catalog.rest.entrance",
        "lakehouse.dashboard.gate",
        "lakehouse.dashboard.letters",
        "lakehouse.dashboard.overview",
        "lakehouse.dashboard.sql",
        "lakehouse.dashboard.subscriptions",
        "lakehouse.dashboard.tail",
        "lakehouse.dashboard.urls",
        "lakehouse.events.api",
        "lakehouse.events.callers",
        "lakehouse.events.documents",
        "lakehouse.events.ingest",
        "lakehouse.events.openapi",
        "lakehouse.events.quota",
        "lakehouse.events.reading",
        "lakehouse.events.schema_book",
        "lakehouse.events.schemas",
        "lakehouse.events.webhooks",
        "lakehouse.http.api",
        "lakehouse.http.cdc",
        "lakehouse.http.documents",
        "lakehouse.http.flushes",
        "lakehouse.http.front",
        "lakehouse.http.handler",
        "lakehouse.http.keys",
        "lakehouse.http.missing",
        "lakehouse.http.named_queries",
        "lakehouse.http.openapi",
        "lakehouse.http.pages",
        "lakehouse.http.queries",
        "lakehouse.http.readiness",
        "lakehouse.http.scrape",
        "lakehouse.http.status",
        "lakehouse.http.unstorable",
        "lakehouse.http.verification",
        "lakehouse.http.visits",
        "lakehouse.log_redaction",
        "lakehouse.limits.channel",
        "lakehouse.limits.deflate",
        "lakehouse.limits.handshake",
        "lakehouse.limits.lag",
        "lakehouse.management.asking",
        "lakehouse.management.letters",
        "lakehouse.management.operation",
        "lakehouse.management.unprepared",
        "lakehouse.management.commands.*",
        "lakehouse.parent.admissions",
        "lakehouse.parent.alarm",
        "lakehouse.parent.ballast",
        "lakehouse.parent.connection",
        "lakehouse.parent.consumer",
        "lakehouse.parent.door",
        "lakehouse.parent.edge",
        "lakehouse.parent.edge_turn",
        "lakehouse.parent.footprint",
        "lakehouse.parent.hibernation",
        "lakehouse.parent.presence",
        "lakehouse.parent.teller",
        "lakehouse.parent.flush_requests",
        "lakehouse.parent.flush_watch",
        "lakehouse.parent.farewell",
        "lakehouse.parent.greeting",
        "lakehouse.parent.house",
        "lakehouse.parent.key_watch",
        "lakehouse.parent.life",
        "lakehouse.parent.inflow",
        "lakehouse.parent.outflow",
        "lakehouse.parent.persisted",
        "lakehouse.parent.shortcut",
        "lakehouse.parent.unfinished",
        "lakehouse.parent_handle",
        "lakehouse.query.forkserver",
        "lakehouse.routing",
        "lakehouse.subscriptions.admin",
        "lakehouse.subscriptions.apps",
        "lakehouse.subscriptions.deliverer",
        "lakehouse.subscriptions.documents",
        "lakehouse.subscriptions.management.commands.*",
        "lakehouse.subscriptions.routes",
        "lakehouse.subscriptions.sending",
        "lakehouse.subscriptions.tasks",
        "lakehouse.subscriptions.visitors",
        "lakehouse.supervisor",
        "lakehouse.torture.*",
        "lakehouse.tasks",
        "lakehouse.up",
        "lakehouse.urls",
    ],
    "flow": [
        "lakehouse.catalog.upkeep.rounds",
        "lakehouse.current.refresh",
        "lakehouse.dashboard.minutes",
        "lakehouse.events.hours",
        "lakehouse.events.jsonl",
        "lakehouse.fallback.recovery",
        "lakehouse.fallback.transfer",
        "lakehouse.flush.flow",
        "lakehouse.journal.intake",
        "lakehouse.moving.house",
        "lakehouse.promotion",
        "lakehouse.limits.colleagues",
        "lakehouse.limits.doorman",
        "lakehouse.query.engine",
        "lakehouse.query.reader",
        "lakehouse.subscriptions.fan_out",
    ],
    "door": [
        "lakehouse.broker",
        "lakehouse.catalog.*",
        "lakehouse.current.columns",
        "lakehouse.current.moment",
        "lakehouse.current.pulling",
        "lakehouse.dashboard.chosen",
        "lakehouse.dashboard.standing",
        "lakehouse.dashboard.tables",
        "lakehouse.fallback.ledger",
        "lakehouse.fallback.rows",
        "lakehouse.fallback.settle",
        "lakehouse.fallback.storage",
        "lakehouse.flush.backlog",
        "lakehouse.flush.breaker_row",
        "lakehouse.flush.claim",
        "lakehouse.flush.crowd",
        "lakehouse.flush.fuse_box",
        "lakehouse.flush.inbox",
        "lakehouse.flush.letters",
        "lakehouse.flush.payloads",
        "lakehouse.allocation",
        "lakehouse.memory",
        "lakehouse.renewal",
        "lakehouse.folder_broker",
        "lakehouse.flush.history",
        "lakehouse.flush.room",
        "lakehouse.flush.table_rules",
        "lakehouse.http.checks",
        "lakehouse.http.past",
        "lakehouse.http.rows",
        "lakehouse.http.samples",
        "lakehouse.http.totals",
        "lakehouse.journal.accept",
        "lakehouse.events.homes",
        "lakehouse.events.schema_rows",
        "lakehouse.events.waiting",
        "lakehouse.journal.child_tables",
        "lakehouse.journal.registry",
        "lakehouse.journal.once",
        "lakehouse.journal.progress",
        "lakehouse.journal.store",
        "lakehouse.limits.scripts",
        "lakehouse.limits.shared",
        "lakehouse.limits.shared_rates",
        "lakehouse.moving.arrival",
        "lakehouse.moving.copying",
        "lakehouse.moving.exclusive",
        "lakehouse.moving.loading",
        "lakehouse.moving.avro_container",
        "lakehouse.moving.naming",
        "lakehouse.moving.old_house",
        "lakehouse.moving.pointers",
        "lakehouse.moving.portions",
        "lakehouse.moving.relocation",
        "lakehouse.moving.rows",
        "lakehouse.moving.seal",
        "lakehouse.moving.tables",
        "lakehouse.parent.access",
        "lakehouse.parent.arrivals",
        "lakehouse.parent.edge_trust",
        "lakehouse.parent.first_key",
        "lakehouse.parent.key_bindings",
        "lakehouse.parent.key_changes",
        "lakehouse.parent.last_used",
        "lakehouse.parent.leases",
        "lakehouse.query.answers",
        "lakehouse.query.arrow_files",
        "lakehouse.query.duck",
        "lakehouse.query.fence",
        "lakehouse.query.forks",
        "lakehouse.query.lake_sums",
        "lakehouse.query.journal_tables",
        "lakehouse.query.lake_tables",
        "lakehouse.query.named",
        "lakehouse.query.ranges",
        "lakehouse.query.time_travel",
        "lakehouse.query.unreadable",
        "lakehouse.query.verify",
        "lakehouse.query.views",
        "lakehouse.subscriptions.counts",
        "lakehouse.subscriptions.desk",
        "lakehouse.subscriptions.forgetting",
        "lakehouse.subscriptions.holding",
        "lakehouse.subscriptions.lake",
        "lakehouse.subscriptions.leases",
        "lakehouse.subscriptions.messages",
        "lakehouse.subscriptions.names",
        "lakehouse.subscriptions.places",
        "lakehouse.subscriptions.rows",
        "lakehouse.subscriptions.settle",
        "lakehouse.subscriptions.stream",
        "lakehouse.subscriptions.targets",
        "lakehouse.subscriptions.terms",
        "lakehouse.subscriptions.connections",
        "lakehouse.subscriptions.totals",
        "lakehouse.subscriptions.webhook",
    ],
    "decision": [
        "lakehouse.buffer_manager",
        "lakehouse.events.answers",
        "lakehouse.events.batch",
        "lakehouse.events.changes",
        "lakehouse.events.columns",
        "lakehouse.events.event",
        "lakehouse.events.json_keywords",
        "lakehouse.events.json_schema",
        "lakehouse.events.namespaces",
        "lakehouse.events.refusals",
        "lakehouse.events.signatures",
        "lakehouse.events.table",
        "lakehouse.events.wanted",
        "lakehouse.events.window",
        "lakehouse.current.names",
        "lakehouse.dashboard.drawing",
        "lakehouse.environment",
        "lakehouse.fallback.config",
        "lakehouse.fallback.objects",
        "lakehouse.parent_options",
        "lakehouse.query.as_of",
        "lakehouse.query.cells",
        "lakehouse.query.json_lines",
        "lakehouse.query.messages",
        "lakehouse.query.quoting",
        "lakehouse.query.snapshots",
        "lakehouse.query.statement",
        "lakehouse.http.answers",
        "lakehouse.http.cdc_request",
        "lakehouse.http.structured",
        "lakehouse.metrics",
        "lakehouse.moving.deletes",
        "lakehouse.moving.postgres_text",
        "lakehouse.flush.breaker",
        "lakehouse.flush.demands",
        "lakehouse.flush.digests",
        "lakehouse.flush.drift",
        "lakehouse.flush.documents",
        "lakehouse.flush.entries",
        "lakehouse.flush.exact",
        "lakehouse.flush.fuse",
        "lakehouse.flush.leftovers",
        "lakehouse.flush.moments",
        "lakehouse.flush.nested",
        "lakehouse.flush.outcome",
        "lakehouse.flush.plans",
        "lakehouse.flush.policy",
        "lakehouse.flush.raw",
        "lakehouse.flush.rules",
        "lakehouse.flush.scalars",
        "lakehouse.flush.shred",
        "lakehouse.flush.structs",
        "lakehouse.flush.typed",
        "lakehouse.flush.unreadable",
        "lakehouse.flush.values",
        "lakehouse.flush.whole",
        "lakehouse.flush.widening",
        "lakehouse.journal.dedup",
        "lakehouse.journal.strict",
        "lakehouse.journal.watermark",
        "lakehouse.limits.addresses",
        "lakehouse.limits.allowance",
        "lakehouse.limits.bucket",
        "lakehouse.limits.gate",
        "lakehouse.limits.households",
        "lakehouse.limits.load",
        "lakehouse.limits.lobby",
        "lakehouse.limits.refusal",
        "lakehouse.parent.attachment",
        "lakehouse.parent.edge_answers",
        "lakehouse.parent.edge_events",
        "lakehouse.parent.framing",
        "lakehouse.parent.grants",
        "lakehouse.subscriptions.events",
        "lakehouse.subscriptions.guard",
        "lakehouse.subscriptions.payloads",
        "lakehouse.subscriptions.pattern_masks",
        "lakehouse.subscriptions.patterns",
        "lakehouse.subscriptions.retries",
        "lakehouse.subscriptions.signatures",
    ],
    "ground": [
        "lakehouse.announcement",
        "lakehouse.catalog_choice",
        "lakehouse.clock",
        "lakehouse.conf",
        "lakehouse.database_choice",
        "lakehouse.declared",
        "lakehouse.errors",
        "lakehouse.flush.names",
        "lakehouse.events.config",
        "lakehouse.keeping",
        "lakehouse.key_limits",
        "lakehouse.limits.config",
        "lakehouse.migrations.*",
        "lakehouse.misspelt",
        "lakehouse.models",
        "lakehouse.models.*",
        "lakehouse.moving",
        "lakehouse.query.config",
        "lakehouse.rewrite_choice",
        "lakehouse.setting",
        "lakehouse.storing",
        "lakehouse.subscribing",
        "lakehouse.subscriptions.migrations.*",
        "lakehouse.subscriptions.models",
    ],
    # The child's half lies below the parent's.
    "child's shell": [
        "rpc",
        "rpc.awaited",
        "rpc.circuit",
        "rpc.circuit_breaker",
        "rpc.cli",
        "rpc.client",
        "rpc.commands.*",
        "rpc.create",
        "rpc.collection",
        "rpc.depot",
        "rpc.dialling",
        "rpc.emitter",
        "rpc.flushing",
        "rpc.forgotten",
        "rpc.guarded",
        "rpc.handlers",
        "rpc.keeper",
        "rpc.ledger",
        "rpc.link",
        "rpc.listener",
        "rpc.one_loop",
        "rpc.report",
        "rpc.sync",
        "rpc.tracing",
        "rpc.unreached",
    ],
    "child's door": [
        "rpc.capture.*",
        "rpc.clock",
        "rpc.event_aside",
        "rpc.event_outbox",
        "rpc.http",
        "rpc.ids",
        "rpc.outbox",
        "rpc.outbox_*",
        "rpc.restored_file",
    ],
    "everywhere": ["rpc.failpoints"],
    "child's decision": [
        "rpc.address",
        "rpc.backoff",
        "rpc.given",
        "rpc.outcome",
        "rpc.retry_after",
        "rpc.documents",
        "rpc.rebuilding",
        "rpc.restoring",
        "rpc.session",
        "rpc.session.*",
        "rpc.shapes",
        "rpc.verification",
        "rpc.water",
    ],
    "language": [
        "rpc.arrow_payload",
        "rpc.arrow_stream",
        "rpc.buffers",
        "rpc.codec",
        "rpc.compression",
        "rpc.deduplication",
        "rpc.kinds",
        "rpc.msgpack_payload",
        "rpc.names",
        "rpc.digits",
        "rpc.surrogates",
        "rpc.negotiation",
        "rpc.batch",
        "rpc.columns",
        "rpc.config",
        "rpc.dialects",
        "rpc.dolake.*",
        "rpc.echo",
        "rpc.entries",
        "rpc.entry_digest",
        "rpc.errors",
        "rpc.frames",
        "rpc.messages",
        "rpc.protocol",
        "rpc.replies",
    ],
}
HEIGHTS = {floor: height for height, floor in enumerate(reversed(FLOORS))}

# What these do depends on their arguments only, so they may use of us what is as pure, and of Python nothing that
# waits, asks the time, throws dice or touches the world.
PURE = {"decision", "child's decision", "language"}
PURE_ON_THE_GROUND = {
    *("lakehouse.conf", "lakehouse.declared", "lakehouse.errors", "lakehouse.flush.names", "lakehouse.key_limits"),
}
IMPURE = {
    *("aiohttp", "asyncio", "celery", "channels", "concurrent", "django", "http", "logging", "multiprocessing"),
    *("os", "pathlib", "pyiceberg", "random", "requests", "secrets", "select", "selectors", "shutil", "signal"),
    *("socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib", "uuid", "websockets"),
}
IMPURE_CALLS = re.compile(r"(open|input|print|globals)|(.*\.)?(now|utcnow|today|now_ms|getenv)")

EXTRAS_OF_THE_CHILD = {
    "rpc.arrow_payload": {"pyarrow"},
    "rpc.arrow_stream": {"pyarrow"},
    "rpc.compression": {"zstandard"},
    "rpc.capture.django": {"django", "psycopg"},
    "rpc.capture.postgres": {"psycopg"},
    "rpc.capture.postgres_digest": {"psycopg"},
    "rpc.capture.postgres_door": {"psycopg"},
    "rpc.commands.rich_screen": {"rich"},
}
"""Modules that use what an extra brings; nobody else imports them at the top."""

MODULE_LINES_MAX = 300
FUNCTION_LINES_MAX = 40


@dataclass(frozen=True)
class Import:
    target: str
    line: int


@dataclass(frozen=True)
class Module:
    """A module as its source says it. `imports` name our modules in full and foreign ones as written."""

    name: str
    lines: int
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def is_empty(self) -> bool:
        """Nothing but a docstring: the `__init__` of a folder, which lies on no floor."""
        return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in self.tree.body)

    @property
    def floor(self) -> str | None:
        return next((floor for floor, names in FLOORS.items() if any(fnmatchcase(self.name, n) for n in names)), None)


House = dict[str, Module]


def house(sources: dict[str, str], *, packages: Iterable[str] = ()) -> House:
    """The modules of these sources by name."""
    read = {}
    for name, source in sources.items():
        tree = ast.parse(source)
        package = name if name in packages else name.rpartition(".")[0]
        imports = tuple(sorted(_imports(tree, package, sources.keys()), key=lambda found: found.line))
        read[name] = Module(name, len(source.splitlines()), tree, imports)
    return read


def _imports(tree: ast.Module, package: str, known: Iterable[str]) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if whole in known else base, node.lineno)


@cache
def our_house() -> House:
    """Read by the tests that ask for it: every process of a run collects this file, one runs it."""
    sources, packages = {}, []
    for package in ("rpc", "lakehouse", "evodb_site"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[name] = path.read_text()
            packages += [name] if parts[-1] == "__init__" else []
    return house(sources, packages=packages)


def without_a_floor(modules: House) -> list[str]:
    return [
        f"{module.name} has no floor; add it to FLOORS in tests/test_architecture.py: a decision needs neither Django "
        "nor waiting, a door touches one foreign system, a flow walks through several, a shell fetches and answers"
        for module in modules.values()
        if module.floor is None and not module.is_empty
    ]


def upward_imports(modules: House) -> list[str]:
    found = []
    for module, imported, target in _inner_imports(modules):
        if HEIGHTS[target.floor or "language"] > HEIGHTS[module.floor or "site"]:
            found.append(
                f"{module.name}:{imported.line} ({module.floor}) imports {target.name} ({target.floor}), "
                "which lies above; take it as an argument, or return what the caller needs"
            )
    return found


def of_the_child_beyond_its_language(modules: House) -> list[str]:
    return [
        f"{module.name}:{imported.line} imports {target.name} ({target.floor}); "
        "the parent shares the child's language and decisions, never its sockets and files"
        for module, imported, target in _inner_imports(modules)
        if module.name.startswith("lakehouse.")
        and not module.name.startswith("lakehouse.torture.")  # it plays the children too
        and target.floor in ("child's shell", "child's door")
        and target.name != "rpc.restored_file"  # a database made anew is the same file, whoever makes it
    ]


def cycles(modules: House) -> list[str]:
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for module, _, target in _inner_imports(modules):
        graph[module.name].add(target.name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return [" imports ".join(reversed(exc.args[1])) + "; one of them has to learn less"]
    return []


def impurities(modules: House) -> list[str]:
    found = []
    for module in modules.values():
        if module.floor not in PURE:
            continue
        found += [f"{module.name}:{line} is a {module.floor} and {does}" for line, does in _impure(module, modules)]
    return found


def _impure(module: Module, modules: House) -> Iterator[tuple[int, str]]:
    for imported in module.imports:
        target = modules.get(imported.target)
        if imported.target.partition(".")[0] in IMPURE:
            yield imported.line, f"imports {imported.target}"
        elif target and not target.is_empty and target.floor not in PURE and target.name not in PURE_ON_THE_GROUND:
            yield imported.line, f"imports {target.name} ({target.floor}), which is not pure"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            yield node.lineno, "waits"
        elif isinstance(node, ast.Call) and IMPURE_CALLS.fullmatch(ast.unparse(node.func)):
            yield node.lineno, f"calls {ast.unparse(node.func)}; take it as an argument"


def foreign_to_the_child(modules: House, allowed: Iterable[str]) -> list[str]:
    known = {*allowed, "rpc", *sys.stdlib_module_names}
    return [
        f"{module.name}:{imported.line} imports {imported.target}, which `pip install evodb` does not bring"
        for module in modules.values()
        if module.name.split(".")[0] == "rpc"
        for imported in module.imports
        if imported.target.split(".")[0] not in known | EXTRAS_OF_THE_CHILD.get(module.name, set())
    ]


def too_large(modules: House) -> list[str]:
    found = []
    for module in modules.values():
        if module.name.startswith("evodb_site") or ".migrations" in module.name:
            continue
        if module.lines > MODULE_LINES_MAX:
            found.append(f"{module.name} has {module.lines} lines, at most {MODULE_LINES_MAX}; look for a second noun")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found.append(
                        f"{module.name}:{node.lineno} {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
                    )
    return found


def naps(modules: House) -> list[str]:
    return [
        f"{module.name}:{node.lineno} sleeps; wait for a condition, with a timeout"
        for module in modules.values()
        if module.floor != "shell"  # a command that watches a database has nobody who would wake it
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    ]


def _inner_imports(modules: House) -> Iterator[tuple[Module, Import, Module]]:
    for module in modules.values():
        for imported in module.imports:
            target = modules.get(imported.target)
            if target is not None and not target.is_empty:
                yield module, imported, target


def base_install() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[^\w]", requirement)[0] for requirement in project["dependencies"]]


def test_every_module_has_a_floor() -> None:
    assert without_a_floor(our_house()) == []


def test_imports_go_down_only() -> None:
    assert upward_imports(our_house()) == []


def test_no_two_modules_need_each_other() -> None:
    assert cycles(our_house()) == []


def test_decisions_are_pure() -> None:
    assert impurities(our_house()) == []


def test_the_parent_shares_the_childs_language_only() -> None:
    assert of_the_child_beyond_its_language(our_house()) == []


def test_the_child_needs_only_the_base_install() -> None:
    assert foreign_to_the_child(our_house(), base_install()) == []


def test_rooms_stay_small() -> None:
    assert too_large(our_house()) == []


def test_nobody_sleeps_where_a_condition_can_be_awaited() -> None:
    assert naps(our_house()) == []


def test_no_pattern_stands_on_two_floors() -> None:
    patterns = [pattern for names in FLOORS.values() for pattern in names]
    assert len(patterns) == len(set(patterns))


# The checks themselves: each sees the violation it is there for.

EMPTY = '"""A folder."""'
WORLD = {
    "evodb_site.settings": "import os",
    "lakehouse": EMPTY,
    "lakehouse.flush": EMPTY,
    "lakehouse.flush.claim": "from lakehouse.flush import policy",
    "lakehouse.flush.flow": "from lakehouse.flush import claim",
    "lakehouse.flush.policy": "from rpc.config import ParentConfig",
    "lakehouse.clock": "import time",
    "lakehouse.models": "from django.db import models",
    "lakehouse.tasks": "from lakehouse.flush.flow import run",
    "rpc.client": "import asyncio",
    "rpc.config": "from dataclasses import dataclass",
}


def world(name: str, source: str) -> House:
    return house(WORLD | {name: source}, packages=[name for name, text in WORLD.items() if text is EMPTY])


def every_check(modules: House) -> list[str]:
    checks = [without_a_floor, upward_imports, of_the_child_beyond_its_language, cycles, impurities, too_large, naps]
    return [line for check in checks for line in check(modules)] + foreign_to_the_child(modules, base_install())


def test_a_proper_house_passes() -> None:
    assert every_check(house(WORLD)) == []


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("lakehouse.parent.novelty", "x = 1", "lakehouse.parent.novelty has no floor; add it to FLOORS"),
        ("lakehouse.flush.claim", "from lakehouse.flush.flow import run", "(flow), which lies above"),
        ("lakehouse.flush.claim", "from . import flow", "imports lakehouse.flush.flow (flow), which lies above"),
        ("lakehouse.flush.claim", "def late():\n    import lakehouse.tasks", "lakehouse.flush.claim:2 (door) imports"),
        ("lakehouse.tasks", "from evodb_site import settings", "imports evodb_site.settings (site), which lies above"),
        ("rpc.config", "from lakehouse.models import Batch", "imports lakehouse.models (ground), which lies above"),
        ("lakehouse.flush.claim", "from rpc.client import connect", "never its sockets and files"),
        ("lakehouse.flush.policy", "from django.conf import settings", "is a decision and imports django.conf"),
        ("lakehouse.flush.policy", "import asyncio", "is a decision and imports asyncio"),
        ("lakehouse.flush.policy", "import sqlite3", "is a decision and imports sqlite3"),
        ("lakehouse.flush.policy", "import time as clock", "is a decision and imports time"),
        (
            "lakehouse.flush.policy",
            "import datetime as d\nd.datetime.now(d.UTC)",
            ":2 is a decision and calls d.datetime.now",
        ),
        ("lakehouse.flush.policy", "from lakehouse.clock import now_ms", "lakehouse.clock (ground), which is not pure"),
        ("lakehouse.flush.policy", "async def later(): ...", "is a decision and waits"),
        ("lakehouse.flush.policy", "x = 1\n" * 301, "has 301 lines, at most 300"),
        ("lakehouse.flush.policy", "def f():\n" + "    x = 1\n" * 40, "f has 41 lines, at most 40"),
        ("rpc.config", "import asyncio", "is a language and imports asyncio"),
        ("rpc.client", "import django", "which `pip install evodb` does not bring"),
        ("rpc.client", "from time import sleep\nsleep(1)", "rpc.client:2 sleeps"),
    ],
)
def test_a_violation_is_seen(name: str, source: str, said: str) -> None:
    found = every_check(world(name, source))
    assert any(said in line for line in found), found


def test_a_circle_on_one_floor_is_seen() -> None:
    circle = {"lakehouse.models.a": "import lakehouse.models.b", "lakehouse.models.b": "import lakehouse.models.a"}
    assert cycles(house(circle)) != []
