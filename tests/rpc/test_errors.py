import pytest

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
