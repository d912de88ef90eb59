from __future__ import annotations

import json

import pytest

from rpc.commands import vector
from tests.rpc.test_cli import run
from tests.rpc.test_vectors import VECTORS

GOLDEN = {row["name"]: row for row in VECTORS["messages"]} | {row["name"]: row["input"] for row in VECTORS["decode"]}


@pytest.mark.parametrize("name", vector.VECTORS)
def test_a_vector_is_the_golden_bytes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["vector", name], capsys)
    assert code == 0
    if "hex" in GOLDEN[name]:
        assert out == GOLDEN[name]["hex"] + "\n"
    else:
        assert json.loads(out) == json.loads(GOLDEN[name]["text"])


def test_for_a_program_a_vector_has_its_name_and_length(capsys: pytest.CaptureFixture[str]) -> None:
    (event,) = run(["vector", "--json", "three_ops"], capsys).events
    golden = GOLDEN["three_ops"]
    assert event == {"event": "vector", "name": "three_ops", "hex": golden["hex"], "length": golden["length"]}


def test_without_a_name_the_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["vector"], capsys).out.split() == list(vector.VECTORS)


def test_an_unknown_vector_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["vector", "nope"], capsys)
    assert code == 2
    assert "type one of batch_min_nocorr" in err
