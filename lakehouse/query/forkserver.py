"""Makes processes for queries: `python -m lakehouse.query.forkserver`, with a socket to the parent as stdin.

DuckDB and its extensions take 0.16 s of CPU to load; a fork of a process that has them takes 10 ms, and no query ever
meets what an earlier one left. It runs nothing of a query itself. Its children are its own to end, so an id never means
another process. When the parent is gone, so are they.

    parent  config (length, JSON), once
            ◀ a byte: ready
            F + a socket       fork, and serve one query there
            K + process id     end that one
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb

from lakehouse.conf import Settings
from lakehouse.query import duck, reader
from lakehouse.query.messages import COMMAND, FORK, KEYS, LENGTH, READY

Serve = Callable[[socket.socket], None]


def main() -> None:
    # DuckDB looks for it with every parameter, and it would bring 85 MiB and half a second that no query needs.
    sys.modules["pandas"] = None  # type: ignore[assignment]
    with socket.socket(fileno=os.dup(0)) as control:
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), 0)
        serve_query = prepared(_config(control))
        control.sendall(READY)
        serve(control, serve_query)


def prepared(config: dict[str, str]) -> Serve:
    """How a child serves its query. What is missing here is said to whoever asks."""
    try:
        connection = _connection(config)
    except Exception as exc:
        said = reader.failure(exc)
        return lambda to: reader.Channel(to).say(said)
    reader.warm(connection)
    return lambda to: reader.serve(reader.Channel(to), connection)


def serve(control: socket.socket, serve_query: Serve) -> None:
    """Until the parent is gone."""
    children: set[int] = set()
    woken, wake = socket.socketpair()
    for one in (woken, wake):
        one.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.freeze()
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ)
        ready.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                elif not _obey(control, children, serve_query):
                    signal.set_wakeup_fd(-1)  # nobody reads there any more
                    _end(children)
                    return
            _reap(children)


def _obey(control: socket.socket, children: set[int], serve_query: Serve) -> bool:
    data, files, _, _ = socket.recv_fds(control, COMMAND.size, 1)
    if len(data) < COMMAND.size:
        return False
    command, pid = COMMAND.unpack(data)
    if command == FORK:
        children.add(_fork(files[0], control, serve_query))
    elif pid in children:
        os.kill(pid, signal.SIGKILL)
    return True


def _fork(file: int, control: socket.socket, serve_query: Serve) -> int:
    pid = os.fork()
    if pid:
        os.close(file)
        return pid
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        with socket.socket(fileno=file) as to:
            serve_query(to)
        os._exit(0)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        os._exit(2)


def _reap(children: set[int]) -> None:
    for pid in list(children):
        if os.waitpid(pid, os.WNOHANG)[0]:
            children.discard(pid)


def _end(children: set[int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _connection(config: dict[str, str]) -> duckdb.DuckDBPyConnection:
    """With one thread, for no other survives a fork. The keys of the environment become a secret, too, before DuckDB
    makes settings of them, which a query could read."""
    key, secret, token = (os.environ.pop(name, "") for name in KEYS)
    settings = Settings(**config)  # type: ignore[arg-type]  # as JSON keeps them
    connection = duck.connect(settings)
    connection.execute("SET threads = 1")
    connection.execute("CREATE TEMP MACRO p95(x) AS quantile_cont(x, 0.95)")
    if key and not settings.s3_access_key_id and settings.resolved_warehouse.startswith("s3://"):
        region = settings.s3_region
        if region == "auto" and not settings.s3_endpoint:
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        keyed = replace(settings, s3_access_key_id=key, s3_secret_access_key=secret, s3_region=region)
        duck.sign_in(connection, keyed, session_token=token)
    return connection


def _config(control: socket.socket) -> dict[str, str]:
    with control.makefile("rb", buffering=0) as file:
        (length,) = LENGTH.unpack(file.read(LENGTH.size))
        data = b""
        while len(data) < length:
            data += file.read(length - len(data))
    found: dict[str, str] = json.loads(data)
    return found


if __name__ == "__main__":
    main()
