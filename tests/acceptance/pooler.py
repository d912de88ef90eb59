"""A real PgBouncer between a house and its PostgreSQL, which gives each transaction another connection."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lakehouse.conf import variable
from lakehouse.torture.services import listens
from tests.acceptance.processes import House, Process, until
from tests.services import free_port

INSTALL = "apt-get install --no-install-recommends pgbouncer"
CONFIGURATION = """
[databases]
{name} = host={socket} dbname={name} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
"""


@contextmanager
def between(house: House) -> Iterator[None]:
    """Its programs and commands go through it; where it is not installed they go as ever."""
    if (program := shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
        if os.environ.get("EVODB_TEST_COMPLETE"):
            pytest.fail(f"pgbouncer not installed; on Debian and Ubuntu: {INSTALL}")
        yield
        return
    direct, port = urlsplit(house.settings.resolved_database_url), free_port()
    folder, name = Path(parse_qs(direct.query)["host"][0]), direct.path.strip("/")
    file = folder / f"{name}.ini"
    file.write_text(CONFIGURATION.format(name=name, socket=folder, port=port))
    # It refuses to be root; who owns the socket may use it.
    user = [] if os.getuid() else ["--user", folder.owner()]
    process = Process("pgbouncer", [program, *user, str(file)], os.environ, house.folder / "pooler")
    process.start()
    try:
        until(lambda: listens(port), "pgbouncer listens", process)
        _lead(house, f"postgresql://postgres@127.0.0.1:{port}/{name}")
        yield
    finally:
        process.clean_up()


def _lead(house: House, url: str) -> None:
    house.given |= {"database_url": url, "database_pooler": True}
    for process in (house.daphne, house.worker, house.beat):
        process.env = {**process.env, variable("database_url"): url, variable("database_pooler"): "yes"}
