"""`evodb up`: the whole house on one machine, in one process tree.

    supervisor ─┬─ daphne   sockets and admin
                ├─ worker   Celery, over a broker of plain files
                ├─ beat     asks for flushes that are due; apart, for inside a worker it would outlive a kill
                └─ deliver  tells subscriptions what was committed; apart, for a slow target must not hold up a flush

A process that dies is started again; the journal knows what it was at. One that cannot stay up ends the house with 1,
and its last lines are told. Ctrl-C walks the street to its end: answer what was accepted, close sockets with 1001,
flush, stop the worker.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import errno
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lakehouse import misspelt
from lakehouse.conf import SettingError, Settings, load, variable
from lakehouse.supervisor import Program, Supervisor

READY_S = 60
PING_S = 40
CELERY = (sys.executable, "-W", "ignore:You're running the worker", "-m", "celery", "-q", "-A", "evodb_site")


class Unprepared(Exception):
    """The database cannot be brought up to date."""


def command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="evodb up", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--host", help="address to listen on (EVODB_UP_HOST)")
    parser.add_argument("--port", help="port to listen on (EVODB_UP_PORT)")
    options = parser.parse_args(argv)
    for name in ("host", "port"):
        if getattr(options, name) is not None:
            os.environ[f"EVODB_UP_{name.upper()}"] = getattr(options, name)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")
    try:
        settings = load(os.environ)
    except SettingError as exc:
        sys.stderr.write(f"evodb up: {_as_typed(str(exc), options)}\n")
        return 2
    known = [variable(row.name) for row in dataclasses.fields(Settings)]
    for said in misspelt.sentences(os.environ, known):
        sys.stderr.write(f"evodb up: {said}\n")
    if complaint := _complaint(settings.up_host, settings.up_port):
        sys.stderr.write(f"evodb up: {complaint}\n")
        return 1
    return run(settings)


def _as_typed(complaint: str, options: argparse.Namespace) -> str:
    """Whoever typed an option is told of that, and not of the variable it stands for."""
    for name, value in vars(options).items():
        if value is not None:
            complaint = complaint.replace(f"EVODB_UP_{name.upper()}", f"--{name}")
    return complaint


def run(settings: Settings) -> int:
    """Until a signal; 1 when daphne did not come up, or when a program cannot stay up."""
    try:
        token = _prepare(settings)
    except Unprepared as exc:
        sys.stderr.write(f"evodb up: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("evodb up: ended before anything was started\n")
        return 130
    supervisor = Supervisor([daphne(settings), worker(), beat(), deliverer()], say=_say)
    with _stop_signals(supervisor):
        _say("EvoDB is starting; what follows within a minute says where it is")
        supervisor.start()
        late = _late(settings, supervisor)
        came_up = "daphne" not in [program.name for program in late]
        if not came_up:
            _say(f"daphne did not listen on port {settings.up_port} within {READY_S} s; what it printed says why")
        elif not supervisor.stopping:
            _say(banner(settings, token) + _unready(settings) + "".join(map(lateness, late)))
            _watch(supervisor, late)
    if supervisor.gave_up is not None:
        sys.stderr.write(obituary(supervisor.gave_up))
    _say("stopping: answering what was accepted, closing sockets")
    supervisor.stop("daphne", within_s=settings.drain_ms / 1000 + 5)
    _say("stopping: flushing")
    flushed = _flush()
    supervisor.stop("beat", within_s=5)
    supervisor.stop("worker", within_s=settings.lease_ms / 1000)
    supervisor.stop("deliverer", within_s=settings.drain_ms / 1000 + 5)
    _say("stopped; everything acknowledged is in the lake" if flushed else "stopped; what waits is flushed next time")
    return 0 if came_up and supervisor.gave_up is None else 1


def daphne(settings: Settings) -> Program:
    frame = str(settings.frame_bytes_max)
    return Program(
        "daphne",
        [
            *(sys.executable, "-m", "daphne", "-v", "0", "-b", settings.up_host, "-p", str(settings.up_port)),
            *("--websocket-max-message-size", frame, "--websocket-max-frame-size", frame),
            # A day-long socket is a healthy one; the default closes it. Who beats every 30 s needs no ping before.
            *("--websocket_timeout", "-1", "--ping-interval", str(PING_S), "evodb_site.asgi:application"),
        ],
    )


def worker() -> Program:
    options = ("--pool", "solo", "--loglevel", "WARNING", "--without-gossip", "--without-mingle")
    return Program("worker", [*CELERY, "worker", *options])


def beat() -> Program:
    return Program("beat", [*CELERY, "beat", "--loglevel", "WARNING", "--pidfile", ""])


def deliverer() -> Program:
    return Program("deliverer", [sys.executable, "-m", "django", "subscriptions", "deliver"])


def banner(settings: Settings, token: str | None) -> str:
    address = f"{settings.up_host}:{settings.up_port}"
    access = "open to everybody (EVODB_OPEN)" if settings.open else token or "a key you made (manage.py accesskey list)"
    lake = f"the {settings.catalog} catalog of EVODB_CATALOG" if settings.catalog else settings.resolved_warehouse
    return (
        "EvoDB is up. Ctrl-C stops it.\n"
        f"  children   ws://{address}/ws\n"
        f"  token      {access}\n"
        f"  admin      http://{address}/admin/   (make a login: .venv/bin/python manage.py createsuperuser)\n"
        f"  lake       {lake}\n"
        f"  dashboard  http://{address}/dashboard/\n"
    )


def obituary(program: Program) -> str:
    """Why a house stops whose program dies again and again."""
    assert program.process is not None
    return (
        f"evodb up: {program.name} died {program.deaths} times in a row right after its start, at last with "
        f"{program.process.returncode}. Its last lines:\n{_last_lines(program)}"
        "What was acknowledged is durable and goes into its tables when it runs. Mend what the lines say, then type:\n"
        f"    evodb up\nor, to see {program.name} alone:\n    {shlex.join(program.argv)}\n"
    )


def _unready(settings: Settings) -> str:
    """What /ready would find not well, as a line of the banner.

    It is not asked, for it would load all endpoints: 25 MiB that a house needs with its first request, and not before.
    """
    from lakehouse.clock import now_ms
    from lakehouse.http.checks import checks_of
    from lakehouse.http.readiness import Readiness

    checks = checks_of(settings)
    del checks["broker"]  # through it worker and beat came up
    found = asyncio.run(Readiness(checks, now_ms=now_ms).look())
    bad = [f"{name} ({one.error})" for name, one in found.items() if not one.ok]
    return f"  not ready  {', '.join(bad)}; what the log says of it has more\n" if bad else ""


def lateness(program: Program) -> str:
    """What a house lacks that is up but for this program, and why."""
    return (
        f"But {program.name} is not up after {READY_S} s: what it does waits, and what is acknowledged is durable. "
        f"Its last lines:\n{_last_lines(program)}"
    )


def _last_lines(program: Program) -> str:
    lines = program.words.lines() if program.words is not None else []
    return "".join(f"    {line}\n" for line in lines) or "    (nothing)\n"


def _prepare(settings: Settings) -> str | None:
    """Bring the database up to date; returns the token of a first key, made when there is none. Raises Unprepared."""
    import django

    django.setup()
    from django.core.management import CommandError, call_command
    from django.db import DatabaseError, connection

    from lakehouse.clock import now_ms
    from lakehouse.management import unprepared
    from lakehouse.parent import first_key

    try:
        call_command("migrate", verbosity=0)
        return None if settings.open else first_key.ensure(settings.data_dir, now_ms=now_ms())
    except CommandError as exc:  # a house that moved
        raise Unprepared(str(exc)) from exc
    except DatabaseError as exc:
        if said := unprepared.sentence(exc):
            raise Unprepared(said) from exc
        raise
    except OSError as exc:
        raise Unprepared(f"{exc.filename} cannot be used: {exc.strerror}; give the folder to this user") from exc
    finally:
        connection.close()


def _flush() -> bool:
    from django.core.management import call_command
    from django.db import DatabaseError, connection

    from lakehouse.management import unprepared

    try:
        call_command("flush_buffers", wait=True)
    except Exception as exc:
        said = unprepared.sentence(exc) if isinstance(exc, DatabaseError) else None
        why = said or f"{type(exc).__name__}: {exc}"
        sys.stderr.write(f"evodb up: the last flush failed, nothing is lost: {why}\n")
        return False
    finally:
        connection.close()
    return True


@contextmanager
def _stop_signals(supervisor: Supervisor) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: supervisor.ask_to_stop())
    try:
        yield
    finally:
        # A second Ctrl-C while stopping must not interrupt the last flush.
        for number in before:
            signal.signal(number, signal.SIG_IGN)


def _late(settings: Settings, supervisor: Supervisor) -> list[Program]:
    """Wait until all is up or somebody asks to stop; gives what is not up in time."""
    deadline = time.monotonic() + READY_S
    while not supervisor.stopping:
        supervisor.look(wait_s=0.1)
        late = [program for program in supervisor.programs if not _is_up(program, settings)]
        if not late or time.monotonic() > deadline:
            return late
    return []


def _is_up(program: Program, settings: Settings) -> bool:
    """Daphne says nothing, but listens."""
    return _is_taken(settings.up_host, settings.up_port) if program.name == "daphne" else program.is_up


def _watch(supervisor: Supervisor, late: list[Program]) -> None:
    """Until somebody asks to stop, or a program is given up; tells when what was late is up after all."""
    while not supervisor.stopping:
        supervisor.look(wait_s=0.2)
        for program in [one for one in late if one.is_up]:
            _say(f"{program.name} is up now")
            late.remove(program)


def _is_taken(host: str, port: int) -> bool:
    with socket.socket(_family(host)) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host if host != "0.0.0.0" else "127.0.0.1", port)) == 0  # noqa: S104 - compared only


def _complaint(host: str, port: int) -> str | None:
    """Why nobody can listen there, or None."""
    try:
        with socket.socket(_family(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return None
    except socket.gaierror as exc:
        return f"{host} (EVODB_UP_HOST) is no address of this machine: {exc.strerror}"
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return f"port {port} of {host} is taken; stop what listens there or pass --port"
        if exc.errno == errno.EADDRNOTAVAIL:
            return f"{host} (EVODB_UP_HOST) is no address of this machine, wanted one, such as 127.0.0.1 or 0.0.0.0"
        return f"nobody may listen at port {port} of {host}: {exc.strerror}; pass --port with one above 1023"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _say(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()
