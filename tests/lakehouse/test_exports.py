"""`lakehouse` has the parent's names of the contract, and asking for the package alone loads nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lakehouse

PROMISED = {
    "LakehouseParent",
    "CDCBufferManager",
    "FallbackStorage",
    "FallbackRecoveryManager",
    "RecoveryConfig",
    "DEFAULT_RECOVERY_CONFIG",
    "LakehouseParentEnv",
    "DOStorage",
}


def test_every_promised_name_is_exported_and_nothing_else():
    assert set(lakehouse.__all__) == PROMISED
    assert len(lakehouse.__all__) == len(PROMISED)
    assert set(dir(lakehouse)) >= PROMISED


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_a_name_is_what_its_room_has(name):
    found = getattr(lakehouse, name)
    assert found is getattr(sys.modules[lakehouse._ROOMS[name]], name)


def test_readers_of_types_see_the_same_rooms():
    tree = ast.parse(Path(lakehouse.__file__).read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lakehouse.")
        for alias in node.names
    }
    assert typed == lakehouse._ROOMS


def test_a_name_nobody_knows_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lakehouse' has no attribute 'LakehouseParentDO'"):
        lakehouse.LakehouseParentDO  # noqa: B018


def test_the_package_and_what_is_pure_need_no_django():
    program = """
import sys
import lakehouse
assert not any(name.startswith("lakehouse.") for name in sys.modules)
from lakehouse import CDCBufferManager, DOStorage, FallbackRecoveryManager, FallbackStorage, LakehouseParentEnv
assert "django" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_worker_loads_no_server_and_a_beat_loads_no_lake_either():
    program = """
import sys
import evodb_site.celery
import django
django.setup()
import lakehouse.tasks
others = {"twisted", "pyarrow", "pyiceberg", "websockets", "rpc.client"}
assert others.isdisjoint(sys.modules), f"a beat carries what only others need: {others & set(sys.modules)}"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
