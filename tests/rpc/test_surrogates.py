"""Half of an emoji, as JSON.stringify writes it, costs a child one character and not its batch."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc import batch, protocol
from rpc.batch import BatchFrame, Dialect
from rpc.errors import ProtocolError
from rpc.surrogates import HALVES_MAX, mended

HALF = "\\ud83d"
ENTRY = {"sequence": 1, "timestamp": 2, "operation": "INSERT", "table": "t", "rowId": "r"}
DIALECTS = {"entries": Dialect.RPC, "events": Dialect.DOLAKE}


def message(word: str, *entries: Any) -> str:
    """HERE stands for what no Python would write."""
    made = {"type": "cdc_batch", "timestamp": 9, "sourceDoId": "s", "sequenceNumber": 4, word: entries}
    return json.dumps(made).replace("HERE", HALF)


def read(text: str | bytes) -> BatchFrame:
    frame = protocol.read(text)
    assert isinstance(frame, BatchFrame)
    return frame


@pytest.mark.parametrize("word", DIALECTS)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_half_an_emoji_costs_one_character_and_not_the_batch(word: str, as_bytes: bool) -> None:
    text = message(word, ENTRY | {"rowId": "aHERE", "after": {"a": "HERE!"}, "metadata": {"m": "HERE"}}, ENTRY)
    frame = read(text.encode() if as_bytes else text)
    assert (frame.dialect, frame.entries) == (DIALECTS[word], 2)
    first, second = batch.raw_entries(frame)
    assert first.row_id == "a\ufffd".encode()
    assert json.loads(first.after) == {"a": "\ufffd!"}
    assert second.row_id == b"r"


def test_the_entry_of_the_readme_keeps_its_row_as_well() -> None:
    [found] = batch.raw_entries(read(message("entries", {"op": "INSERT", "table": "t", "data": {"id": "HERE"}})))
    assert (found.row_id, json.loads(found.after)) == ("\ufffd".encode(), {"id": "\ufffd"})


@pytest.mark.parametrize("word", DIALECTS)
def test_a_batch_that_is_wrong_beside_its_broken_emoji_hears_what_is_wrong(word: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(f"{word}[1]")) as caught:
        read(message(word, ENTRY | {"after": "HERE"}, ENTRY | {"timestamp": "soon"}))
    assert caught.value.sequence_number == 4


def test_a_whole_emoji_stays_as_it_was_written() -> None:
    [found] = batch.raw_entries(read(message("events", ENTRY | {"after": "\U0001f600"})))
    assert found.after == b'"\\ud83d\\ude00"'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"\ude00\ud83d", r"\ufffd\ufffd"),
        (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
        (r"\uD83D\n", r"\ufffd\n"),
        (r"\ud83d\u0041", r"\ufffd\u0041"),
        (r"\\ud83d", r"\\ud83d"),
        (r"\\\ud83d", r"\\\ufffd"),
        (r"\\ud83d\ude00", r"\\ud83d\ufffd"),
        (r"\ud8", r"\ud8"),
    ],
)
def test_only_halves_are_replaced(text: str, wanted: str) -> None:
    assert mended(text) == wanted
    assert mended(text.encode()) == wanted.encode()


@given(st.text(st.characters(codec="utf-16", exclude_categories=[]) | st.sampled_from('\ud83d\ude00\\"u')))
def test_what_was_no_text_is_text_afterwards_and_what_was_is_the_same(text: str) -> None:
    written = json.dumps(text)
    wanted = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    found = mended(written)
    assert json.loads(found) == wanted
    assert len(found) == len(written)
    assert (found is written) == (wanted == text)


def test_a_message_of_nothing_but_halves_is_bounded_work() -> None:
    assert mended(HALF * (HALVES_MAX + 1)) == "\\ufffd" * HALVES_MAX + HALF
    with pytest.raises(ProtocolError, match="not JSON"):
        read(message("events", ENTRY | {"after": "HERE" * (HALVES_MAX + 1)}))
