import re
from pathlib import Path

import pytest

import rpc
from rpc.errors import ConnectionError, LakehouseRpcError, ProtocolError, as_ours


def test_an_error_without_words_says_in_one_line_what_it_is():
    assert str(ProtocolError()) == "These bytes are not an EvoDB message."


def test_what_is_ours_already_stays_as_it_is():
    error = ConnectionError("gone")
    assert as_ours(error) is error


@pytest.mark.parametrize("exc", [KeyError("name"), ImportError("no such library")])
def test_what_is_not_ours_is_named_and_kept_as_the_cause(exc):
    ours = as_ours(exc)
    assert type(ours) is LakehouseRpcError
    assert str(ours) == f"the client stopped: {type(exc).__name__}: {exc}"
    assert ours.__cause__ is exc


def test_the_table_of_errors_has_every_one_that_is_exported_as_it_is():
    text = (Path(__file__).resolve().parent.parent.parent / "docs" / "child.md").read_text()
    told = {name: (code, again) for name, code, again in re.findall(r"\| `(\w+)` \| `(\w+)` \| (yes|no) \|", text)}
    exported = [getattr(rpc, name) for name in rpc.__all__ if name.endswith("Error")]
    assert told == {
        error.__name__: (error.code, "yes" if error.retryable else "no")
        for error in exported
        if error is not LakehouseRpcError
    }
    assert all(issubclass(error, LakehouseRpcError) for error in exported)
