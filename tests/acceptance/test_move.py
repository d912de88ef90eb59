"""A laptop's house becomes a large one: `manage.py move` from SQLite and a folder to PostgreSQL and S3, and back again.

While it moves it dies at each of its steps, and is typed again. The shop writes all the time and is never told: it
finds another parent at the same address. Then every change it ever made is in the new lake once.
"""

from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse.torture.process import environment
from rpc.failpoints import VARIABLE, Failpoint
from tests.acceptance.processes import WITHIN_S, Child, House, assert_exactly_once, assert_sums_agree, until
from tests.acceptance.test_street import EAGER, LEASE_MS, new_database
from tests.services import ObjectStore, free_port

STEPS = (Failpoint.MOVE_CLOSED, Failpoint.MOVE_COPIED, Failpoint.MOVE_WRITTEN, Failpoint.MOVE_COMMITTED)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[House]:
    settings: dict[str, Any] = {"open": True, "lease_ms": LEASE_MS, "up_port": free_port()}
    (tmp_path / "small").mkdir()
    with House(tmp_path / "small", presence_interval_ms=100, **settings) as house:
        house.prepare(**EAGER)
        yield house


@pytest.fixture
def large(small: House, tmp_path: Path, postgres_url: str, rclone_store: ObjectStore) -> Iterator[House]:
    """At the same address."""
    settings = small.given | rclone_store.settings
    del settings["data_dir"]
    settings["database_url"] = new_database(postgres_url)
    settings["warehouse"] = f"s3://{rclone_store.bucket}/{uuid.uuid4().hex}"
    (tmp_path / "large").mkdir()
    with House(tmp_path / "large", **settings) as house:
        yield house


def test_a_house_that_moves_to_postgresql_and_s3_and_dies_at_each_step_brings_every_change_along(
    small: House, large: House
) -> None:
    shop = small.child("shop-1", writes_per_s_max=30)
    shop.process.start()
    live_in(small)
    leave(small)
    move = large.command("move", "--from", str(small.settings.data_dir))
    for step in STEPS:
        dies(large, move, step)
    assert "everything was moved before" in large.run(move)
    live_in(large)
    assert_all_is_there(large, shop)
    shop.process.start()
    leave(large)
    move_back(large, small)
    live_in(small)
    assert_all_is_there(small, shop)


def move_back(large: House, small: House) -> None:
    """Into an empty folder, by the same command."""
    small.journal.close()
    small.settings.data_dir.rename(small.folder / "left")
    given, kept = small.given, {name: value for name, value in large.given.items() if name.startswith("s3_")}
    small.given = given | kept
    small.manage("move", "--from-database", large.given["database_url"], "--from-warehouse", large.given["warehouse"])
    small.given = given


def live_in(house: House) -> None:
    before = house.commit_number()
    for process in (house.daphne, house.worker, house.beat):
        process.start()
    until(lambda: house.commit_number() > before + 1, "commits", house.daphne, house.worker, within_s=2 * WITHIN_S)


def leave(house: House) -> None:
    """The worker first, so that something waits in the journal."""
    house.worker.kill()
    house.beat.kill()
    waiting = house.journalled()
    until(lambda: house.journalled() > waiting, "a batch waits in the journal", house.daphne)
    house.daphne.end()


def dies(house: House, command: list[str], step: Failpoint) -> None:
    env = environment(house.given, **{VARIABLE: f"{step}=kill"})
    done = subprocess.run(command, env=env, cwd=house.folder, capture_output=True, text=True, timeout=2 * WITHIN_S)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def assert_all_is_there(house: House, shop: Child) -> None:
    shop.process.end()
    house.children = [shop]
    house.run([*house.command("flush_buffers"), "--wait"])
    assert assert_exactly_once(house, shop)
    assert_sums_agree(house)
