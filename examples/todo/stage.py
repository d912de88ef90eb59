"""What plays: a parent (`evodb up`), the todo app and the receiver, each a process of its own in a folder of its own.

    todo app ── events ──▶ parent ── webhooks ──▶ receiver
    todo.sqlite3           lake                    heard.sqlite3

A parent posts to public addresses only, so that no subscriber can make it knock at doors inside its network. This
receiver is at 127.0.0.1, so EVODB_WEBHOOK_NETWORKS allows that network here. Never allow more than you need.
"""

from __future__ import annotations

import json
import random
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lakehouse.torture.process import Process, environment, until
from lakehouse.torture.services import listens

HERE = Path(__file__).resolve().parent
PARENT = "events.todo"
"""The parent of the namespace `todo`, where its events go."""
TIMEOUT_S = 60
PREPARE = """
import django, sys
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from lakehouse.models import Parent
call_command("migrate", verbosity=0)
User.objects.create_superuser("demo", password=sys.argv[1])
Parent.objects.create(name=sys.argv[2], namespace="todo")
call_command("accesskey", "create", "--name", "todo", "--scope", "ingest,query,subscribe", "--events", "todo")
"""


class Stage:
    """`key` writes, reads and subscribes to the events of the namespace `todo`, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parent_url, self.app_url, self.receiver_url = (f"http://127.0.0.1:{port}" for port in _free_ports(3))
        self.password = secrets.token_hex(4)
        self.key = ""
        self._parent_env = environment(
            {"data_dir": folder / "lake", "up_port": _port(self.parent_url), "webhook_networks": "127.0.0.0/8"}
        )
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """The parent and the app, side by side; returns when both answer."""
        self.key = self._prepared()
        self.parent = self._started("parent", [str(Path(sys.executable).with_name("evodb")), "up"], self._parent_env)
        self.app = self._started(
            "app",
            [sys.executable, str(HERE / "manage.py"), "runserver", "--noreload", "--skip-checks", _at(self.app_url)],
            environment(
                {},
                DJANGO_SETTINGS_MODULE="todo.settings",
                TODO_DATABASE=str(self.folder / "todo.sqlite3"),
                TODO_LAKE_URL=self.parent_url,
                TODO_LAKE_KEY=self.key,
            ),
        )
        self._until_it_listens(self.parent, self.parent_url)
        self._until_it_listens(self.app, self.app_url)

    def start_receiver(self, secret: str) -> None:
        heard = str(self.folder / "heard.sqlite3")
        argv = [sys.executable, str(HERE / "receiver.py"), str(_port(self.receiver_url)), heard]
        self.receiver = self._started("receiver", argv, environment({}, WEBHOOK_SECRET=secret))
        self._until_it_listens(self.receiver, self.receiver_url)

    def stop_receiver(self) -> None:
        self.receiver.end(signal.SIGTERM)

    def stop_parent(self) -> int:
        """As Ctrl-C does: it answers, flushes, and ends with 0."""
        return self.parent.end(signal.SIGINT, within_s=TIMEOUT_S)

    def ask_app(self, method: str, path: str, body: Any = None) -> Any:
        return ask(method, self.app_url + path, body)

    def ask_parent(self, method: str, path: str, body: Any = None) -> Any:
        return ask(method, self.parent_url + path, body, Authorization=f"Bearer {self.key}")

    def heard(self) -> Any:
        return ask("GET", self.receiver_url + "/heard")

    def _prepared(self) -> str:
        """A database, a login for the admin, and the key of the app."""
        argv = [sys.executable, "-c", PREPARE, self.password, PARENT]
        done = subprocess.run(argv, env=self._parent_env, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the parent's database could not be made:\n{done.stderr}")
        return done.stdout.strip()

    def _started(self, name: str, argv: list[str], env: dict[str, str]) -> Process:
        process = Process(name, argv, env, self.folder / name)
        process.start()
        self._stack.callback(process.clean_up)
        return process

    def _until_it_listens(self, process: Process, url: str) -> None:
        until(
            lambda: listens(_port(url)) or not process.is_running,
            f"{process.name} listens at {url}",
            process,
            within_s=TIMEOUT_S,
        )
        if not process.is_running:
            raise RuntimeError(f"{process.name} ended right after its start:\n{process.said}")


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


def ask(method: str, url: str, body: Any = None, **headers: str) -> Any:
    """The JSON of the answer. Bytes are sent as they are. Raises Refused."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            text = answer.read()
            return json.loads(text) if text else None
    except urllib.error.HTTPError as exc:
        with exc:
            raise Refused(exc.code, exc.read().decode(errors="replace")) from None


def _free_ports(count: int) -> list[int]:
    """Below those that systems give to outgoing connections: one of them might take the receiver's while it is away."""
    return [port for port in random.sample(range(10_000, 30_000), 100) if not listens(port)][:count]


def _at(url: str) -> str:
    return url.removeprefix("http://")


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
