"""The golden bytes of @evodb/rpc: every vector, byte for byte; JSON text is compared by value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rpc import frames, protocol
from rpc.errors import ProtocolError
from rpc.messages import AnyRpcMessage, CDCBatchMessage, ClientCapabilities, WalEntry

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "rpc_wire.json").read_text())
UNDEFINED = {"$undefined": True}


def named(group: str, *apis: str) -> list[Any]:
    rows = [row for row in VECTORS[group] if row["api"] in apis]
    assert rows
    return [pytest.param(row, id=row["name"]) for row in rows]


def without_undefined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_undefined(item) for key, item in value.items() if item != UNDEFINED}
    return [without_undefined(item) for item in value] if isinstance(value, list) else value


def message_of(row: dict[str, Any]) -> AnyRpcMessage:
    value = without_undefined(row["message"])
    if value["type"] == "cdc_batch":
        entries = [msgspec.convert(entry, WalEntry) for entry in value["entries"]]
        return msgspec.structs.replace(msgspec.convert(value | {"entries": []}, CDCBatchMessage), entries=entries)
    return msgspec.convert(value, AnyRpcMessage)


def as_json(message: AnyRpcMessage) -> Any:
    return json.loads(protocol.encode_message(message, binary=False))


def bytes_of(row: dict[str, Any]) -> str | bytes:
    given = row["input"]
    return bytes.fromhex(given["hex"]) if "hex" in given else str(given["text"])


@pytest.mark.parametrize("row", named("messages", "encodeMessage"))
def test_a_message_encodes_to_the_golden_bytes(row: dict[str, Any]) -> None:
    encoded = protocol.encode_message(message_of(row), binary=row["binary"])
    if "hex" in row:
        assert isinstance(encoded, bytes)
        assert encoded.hex() == row["hex"]
        assert len(encoded) == row["length"]
    else:
        assert json.loads(encoded) == json.loads(row["text"])


@pytest.mark.parametrize("row", named("messages", "encodeMessage"))
def test_the_golden_bytes_decode_to_the_message(row: dict[str, Any]) -> None:
    data = bytes.fromhex(row["hex"]) if "hex" in row else row["text"]
    assert as_json(protocol.decode_message(data)) == without_undefined(row["decoded"])


@pytest.mark.parametrize("row", named("decode", "decodeMessage"))
def test_foreign_bytes_decode_as_recorded(row: dict[str, Any]) -> None:
    assert as_json(protocol.decode_message(bytes_of(row))) == without_undefined(row["decoded"])


@pytest.mark.parametrize("row", named("decode", "isBinaryEncoded"))
def test_binary_is_told_from_text(row: dict[str, Any]) -> None:
    assert protocol.is_binary_encoded(bytes_of(row)) is row["decoded"]


@pytest.mark.parametrize("row", named("messages", "encodeFrame"))
def test_an_event_frame_is_the_golden_bytes_both_ways(row: dict[str, Any]) -> None:
    assert frames.encode_frame(row["message"]).hex() == row["hex"]
    assert frames.decode_frame(bytes.fromhex(row["hex"])) == row["decoded"]


@pytest.mark.parametrize("row", named("messages", "encodeBatch"))
def test_an_event_batch_is_the_golden_bytes_both_ways(row: dict[str, Any]) -> None:
    assert frames.encode_batch(row["message"]).hex() == row["hex"]
    assert frames.decode_batch(bytes.fromhex(row["hex"])) == row["message"]


@pytest.mark.parametrize("row", named("decode", "decodeFrame"))
def test_a_recorded_event_frame_decodes(row: dict[str, Any]) -> None:
    data = bytes_of(row)
    assert isinstance(data, bytes)
    assert frames.decode_frame(data) == row["decoded"]


@pytest.mark.parametrize("row", named("messages", "encodeCapabilities"))
def test_capabilities_encode_to_flags(row: dict[str, Any]) -> None:
    assert frames.encode_capabilities(msgspec.convert(row["message"], ClientCapabilities)) == row["flags"]


@pytest.mark.parametrize("row", named("messages", "decodeCapabilities"))
def test_flags_decode_to_capabilities(row: dict[str, Any]) -> None:
    found = msgspec.to_builtins(frames.decode_capabilities(row["flags"]))
    assert found | row["message"] == found


@pytest.mark.parametrize("row", named("errors", "decodeMessage", "decodeFrame"))
def test_malformed_bytes_are_a_protocol_error(row: dict[str, Any]) -> None:
    decode = {"decodeMessage": protocol.decode_message, "decodeFrame": frames.decode_frame}[row["api"]]
    with pytest.raises(ProtocolError) as caught:
        decode(bytes_of(row))  # type: ignore[operator]
    assert row.get("message_contains", "") in str(caught.value)
