"""Messages: whatever travels is written in docs/protocol.md, for who makes another client."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from rpc import messages
from rpc.messages import RpcMessage

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
NAMED = {messages.WalEntry: "An entry: ", messages.ClientCapabilities: "capabilities: "}
"""Structs of their own, and how their paragraph begins. All others are fields of a message, in its row."""
KINDS = {kind.__struct_config__.tag: kind for kind in get_args(messages.AnyRpcMessage)}


def fields(kind: type[msgspec.Struct]) -> set[str]:
    """The names on the wire, with those of structs within; what every message has is said once."""
    found = set(kind.__struct_encode_fields__) - set(RpcMessage.__struct_encode_fields__)
    for one in msgspec.structs.fields(kind):
        for inner in getattr(one.type, "__args__", (one.type,)):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and inner not in NAMED:
                found |= fields(inner)
    return found


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("tag", KINDS)
def test_every_field_of_a_message_is_in_its_row_of_the_protocol(tag: str) -> None:
    row = re.search(rf"^\| `{tag}`.*$", PROTOCOL, re.MULTILINE)
    assert row is not None, f"docs/protocol.md has no row of {tag}"
    assert fields(KINDS[tag]) - words(row[0]) == set()


@pytest.mark.parametrize("kind", NAMED)
def test_every_field_of_an_entry_and_of_the_capabilities_is_in_its_paragraph(kind: type[msgspec.Struct]) -> None:
    paragraph = PROTOCOL.partition(f"\n{NAMED[kind]}")[2].partition("\n\n")[0]
    assert fields(kind) - words(paragraph) == set()
