"""Programs of tests that begin with their libraries loaded: a fork of a process that has imported them.

What a program does from its first own line on is the same, and it is a process as any other: it has its own session,
environment, folder and streams, is a child of the test run, and is killed as hard. Only imports are saved, two thirds
of the CPU of most programs: a daphne takes 0.21 s to load its application in place of 0.85, `manage.py verify` 0.24 in
place of 0.78. Nothing of the site is loaded before the fork, for it reads its settings when it is imported; of the
child's half what every command loads. Who forks for queries begins from nothing everywhere: what is loaded counts
against the memory that a query may have.

Processes of a run (`-n`) begin so, too, each with a process of its own that forks: loaded once, not six times.

Who has to prove that a program starts from nothing starts it by `subprocess`: `evodb up` and the examples do.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

LIBRARIES = (
    *("django.contrib.messages", "django.core.handlers.asgi", "django.core.management.base", "django.core.serializers"),
    *("django.db.backends.postgresql.base", "django.db.backends.sqlite3.base", "django.db.migrations.executor"),
    *("django.db.models", "django.template.backends.django", "django.urls", "dj_database_url", "whitenoise.middleware"),
    *("autobahn.twisted.websocket", "channels.layers", "twisted.web.http", "twisted.internet.endpoints"),
    *("celery.app.base", "celery.apps.worker", "celery.apps.beat", "celery.bin.celery", "celery.worker.worker"),
    *("kombu.transport.filesystem", "kombu.transport.redis", "channels_redis.core"),
    *("pyarrow.compute", "pyarrow.dataset", "pyarrow.fs", "pyarrow.parquet", "pyiceberg.catalog.sql"),
    *("pyiceberg.io.pyarrow", "pyiceberg.table", "pydantic"),
    *("duckdb", "jsonschema", "jwt", "orjson", "re2", "redis", "rich.live", "rich.progress", "xxhash", "zstandard"),
    *("rpc.capture.sqlite", "rpc.cli", "rpc.client", "rpc.emitter", "rpc.sync"),
    *("rpc.commands.capture", "rpc.commands.ping", "rpc.commands.send", "rpc.commands.tail", "rpc.commands.verify"),
)
NEVER = ("twisted.internet.reactor", "daphne.server", "evodb_site")
"""What would be shared by all that begin here: an event loop, and settings."""
READ_AT_IMPORT = ("EVODB_FAILPOINTS", "EVODB_CLOCK_SHIFT_MS")
"""Of rpc.failpoints; who has one of them imports `rpc` anew."""
ITS_OWN = {"PYTHONUNBUFFERED": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
GIVEN = tuple(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]
BECOME_MY_CHILDREN = 36
"""PR_SET_CHILD_SUBREAPER of prctl: orphans below this process are its own."""
TOLD_BYTES_MAX = 2**20
FORKS = "EVODB_TEST_FORKS"
"""Process id and socket of who forks for the process that has this in its environment."""


class Popen(subprocess.Popen[Any]):
    """As subprocess.Popen; a Python program begins here, unless something has to happen between fork and exec."""

    _server: ClassVar[tuple[int, socket.socket] | None] = None
    _turn: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *given: Any, forks: bool = False, **named: Any) -> None:
        """With `forks` it has a process of its own that forks, and says so in its environment (take_over)."""
        self._forks = forks
        super().__init__(*given, **named)

    @classmethod
    def take_over(cls) -> None:
        """What this process was given to fork, if it was: nobody else is told of it."""
        if told := os.environ.pop(FORKS, None):
            pid, number = map(int, told.split())
            wire = socket.socket(fileno=number)
            atexit.register(os.waitpid, pid, 0)
            atexit.register(wire.close)
            cls._server = (os.getpid(), wire)

    def _execute_child(self, *given: Any) -> None:
        named = dict(zip(GIVEN, given, strict=True))
        env = {**(os.environ if named["env"] is None else named["env"])}
        argv = [os.fspath(word) for word in named["args"]]
        if argv[0] != sys.executable or named["preexec_fn"] is not None:
            super()._execute_child(*given)
            return
        folder = os.fspath(named["cwd"] or Path.cwd())
        ours = (named["p2cread"], named["c2pwrite"], named["errwrite"])
        streams = [usual if one == -1 else one for usual, one in enumerate(ours)]
        how = {"argv": argv, "env": env, "folder": folder, "alone": named["start_new_session"]}
        told = json.dumps(how | {"forks": self._forks})
        try:
            self.pid = self._fork(told.encode(), streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(*(named[name] for name in GIVEN if name.startswith(("p2c", "c2p", "err"))))

    @classmethod
    def _fork(cls, told: bytes, streams: list[int]) -> int:
        with cls._turn:
            if cls._server is None or cls._server[0] != os.getpid():
                cls._server = (os.getpid(), _serving())
            wire = cls._server[1]
            _adopt(True)
            try:
                socket.send_fds(wire, [told], streams)
                pid = int(wire.recv(32))
            finally:
                _adopt(False)
            return pid


class Subprocess:
    """The module `subprocess` with this Popen, for asyncio.unix_events."""

    Popen = Popen

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def ended(argv: Sequence[str | Path], *, within_s: float = 60, **how: Any) -> subprocess.CompletedProcess[str]:
    """As subprocess.run: to its end, with what it said."""
    pipe = subprocess.PIPE
    with Popen(argv, stdout=pipe, stderr=pipe, text=True, **how) as process:
        try:
            out, err = process.communicate(timeout=within_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _adopt(is_on: bool) -> None:
    import ctypes

    assert ctypes.CDLL(None).prctl(BECOME_MY_CHILDREN, int(is_on), 0, 0, 0) == 0


def _serving() -> socket.socket:
    """Start the process that forks; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("EVODB_", "DJANGO_"))}
    root = Path(__file__).resolve().parent.parent
    argv = [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())]
    with theirs:
        server = subprocess.Popen(argv, env=env | ITS_OWN, cwd=root, pass_fds=[theirs.fileno()])
    atexit.register(server.wait)
    atexit.register(ours.close)
    assert ours.recv(32) == b"ready", "the process that forks did not begin; above is why"
    return ours


def serve(wire: socket.socket) -> dict[str, Any]:
    """Fork for each that asks, until nobody can ask any more; returns, in a fork, what it is to become."""
    wire.send(b"ready")
    while True:
        told, streams, _, _ = socket.recv_fds(wire, TOLD_BYTES_MAX, 3)
        if not told:
            sys.exit()
        mine, its = os.pipe()
        if not (between := os.fork()):
            forked_by = os.getpid()
            if not (pid := os.fork()):
                while os.getppid() == forked_by:
                    os.sched_yield()
                for usual, one in enumerate(streams):
                    os.dup2(one, usual)
                wire.close()
                for one in (mine, its, *streams):
                    os.close(one)
                return dict(json.loads(told))
            os.write(its, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)  # now it is a child of who asked
        wire.send(os.read(mine, 32))
        for one in (mine, its, *streams):
            os.close(one)


def become(argv: list[str], env: dict[str, str], folder: str, alone: bool) -> None:
    """The interpreter's part: `python [-W x] -m module | -c program | script`, and its words."""
    if alone:
        os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for name, number, mode, buffering in (("stdin", 0, "rb", -1), ("stdout", 1, "wb", 0), ("stderr", 2, "wb", 0)):
        usual = getattr(sys, name)
        stream: Any = open(number, mode, buffering=buffering, closefd=False)  # noqa: SIM115
        setattr(sys, name, TextIOWrapper(stream, usual.encoding, usual.errors, write_through=mode == "wb"))
    os.chdir(folder)
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ.clear()
    os.environ.update(env)
    installed = [path for path in sys.path if path not in {"", str(Path(__file__).parents[1]), *before}]
    sys.path[:] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path] + installed
    if any(name in env for name in READ_AT_IMPORT):
        for name in [name for name in sys.modules if name.partition(".")[0] == "rpc"]:
            del sys.modules[name]
    words = argv[2:] if argv[1] == "-u" else argv[1:]  # nothing is buffered anyway
    while words[0] == "-W":
        action, _, message = words[1].partition(":")
        warnings.filterwarnings(action, re.escape(message))  # type: ignore[arg-type]
        del words[:2]
    run(words)


def run(words: list[str]) -> None:
    kind, what = words[0], words[1:]
    if kind == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = what
        runpy.run_module(what[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *what[1:]]
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what[0], "<string>", "exec"), module.__dict__)
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv = words
        runpy.run_path(kind, run_name="__main__")


class Ending:
    """Python would free all that was loaded before it ends, 0.1 s of CPU; registered first, this is called last."""

    code = 0

    @classmethod
    def come(cls) -> None:
        sys.stdout.flush()
        if cls.code == -signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(cls.code)

    @classmethod
    def of(cls, program: Callable[[], None]) -> None:
        try:
            program()
        except SystemExit as asked:
            cls.code = int(asked.code or 0) if isinstance(asked.code, int | None) else 1
            raise
        except KeyboardInterrupt:
            cls.code = -signal.SIGINT
            raise
        except BaseException:
            cls.code = 1
            raise


def begin(wire: socket.socket) -> None:
    told = serve(wire)
    if told.pop("forks"):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if pid := os.fork():
            theirs.close()
            assert ours.recv(32) == b"ready"
            told["env"][FORKS] = f"{pid} {ours.detach()}"
        else:
            ours.close()
            nothing = os.open(os.devnull, os.O_RDWR)
            for usual in (0, 1):  # these are for whom it forks
                os.dup2(nothing, usual)
            os.close(nothing)
            told = serve(theirs)
            del told["forks"]
    become(**told)


def main(wire: socket.socket) -> None:
    atexit.register(Ending.come)
    for name in LIBRARIES:
        importlib.import_module(name)
    # DuckDB has a database from its import on, with threads, which no fork has.
    sys.modules["duckdb"].execute("SET threads = 1")
    found = [name for name in NEVER if name in sys.modules]
    assert not found, f"{found} would be shared by all that begin here"
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread does not live on in a fork"
    gc.collect()
    gc.freeze()
    Ending.of(partial(begin, wire))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
