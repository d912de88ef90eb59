"""A parent in processes of its own for a benchmark: its database, its server, its worker, and what they take."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lakehouse import up
from lakehouse.conf import Settings
from lakehouse.conf import load as load_settings

ROOT = Path(__file__).resolve().parent.parent
OPEN = {
    "EVODB_OPEN": "1",
    "EVODB_CONNECTIONS_PER_SECOND": "1000000",
    "EVODB_MAX_CONNECTIONS": "1000000",
    "EVODB_MESSAGES_PER_SECOND": "1000000",
    "EVODB_BURST_CAPACITY": "1000000",
    "EVODB_HEARTBEATS_PER_SECOND": "1000000",
    "EVODB_HEARTBEAT_BURST_CAPACITY": "1000000",
}
"""Everybody may come and say as much as he likes: limits are not what is measured."""
DAPHNE, UVICORN = "daphne", "uvicorn"


@contextmanager
def house(
    *,
    application: str = "evodb_site.asgi:application",
    server: str = DAPHNE,
    working: bool = False,
    config: dict[str, int] | None = None,
    **environment: str,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A parent of its own, with a worker when `working`; gives its address and its server's process."""
    folder = tempfile.mkdtemp(prefix="evodb-bench-")
    for name in [name for name in os.environ if name.startswith("EVODB_")]:
        del os.environ[name]
    os.environ |= {"EVODB_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "evodb_site.settings", "PYTHONPATH": str(ROOT)}
    os.environ |= OPEN | {"EVODB_UP_PORT": str(free_port())} | environment
    settings = load_settings(os.environ)
    manage("migrate", "-v0")
    django(f"from lakehouse.models import Parent; Parent.objects.create(name='default', config={config or {}!r})")
    parent = subprocess.Popen(_command(settings, application, server))
    worker = subprocess.Popen(up.worker().argv) if working else None
    try:
        wait_for(settings.up_port)
        yield f"ws://127.0.0.1:{settings.up_port}/ws", parent
    finally:
        for process in (parent, worker):
            if process is not None:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _command(settings: Settings, application: str, server: str) -> list[str]:
    if server == DAPHNE:
        return [*up.daphne(settings).argv[:-1], application]
    options = ["--ws", "websockets-sansio", "--ws-per-message-deflate", "false", "--log-level", "warning"]
    options += ["--host", settings.up_host, "--port", str(settings.up_port)]
    return [sys.executable, "-m", "uvicorn", *options, "--ws-max-size", str(settings.frame_bytes_max), application]


def cpu_us(process: subprocess.Popen[bytes]) -> float:
    """Microseconds of CPU that a process took so far, in all its threads that live."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1000


def private_kib(process: subprocess.Popen[bytes]) -> float:
    """Memory that a process shares with nobody."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def manage(*arguments: str) -> str:
    done = subprocess.run([sys.executable, ROOT / "manage.py", *arguments], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def django(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", f"import django; django.setup(); {program}"], check=True, stdout=subprocess.PIPE
    ).stdout.decode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"the parent did not listen on port {port} within 30 s")
