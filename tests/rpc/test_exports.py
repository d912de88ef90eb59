"""What is promised can be imported: the names of the package, and every row of docs/api-map.md."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import rpc
from rpc.config import DEFAULT_CHILD_CONFIG, DEFAULT_PARENT_CONFIG, EventEmitterConfig
from rpc.messages import DEFAULT_CLIENT_CAPABILITIES

ROOT = Path(__file__).resolve().parent.parent.parent

PROMISED = [
    "LakehouseRpcClient",
    "create_rpc_client",
    "ClientState",
    "ClientStats",
    "ParentConfig",
    "DEFAULT_PARENT_CONFIG",
    "ChildConfig",
    "DEFAULT_CHILD_CONFIG",
    "ClientCapabilities",
    "DEFAULT_CLIENT_CAPABILITIES",
    "ProtocolCodec",
    "get_codec",
    "encode_message",
    "decode_message",
    "is_binary_encoded",
    "encode_frame",
    "decode_frame",
    "encode_batch",
    "decode_batch",
    "CapabilityFlags",
    "encode_capabilities",
    "decode_capabilities",
    "WalEntry",
    "WalOperation",
    "WalOperationCode",
    "ConnectMessage",
    "CDCBatchMessage",
    "HeartbeatMessage",
    "FlushRequestMessage",
    "DisconnectMessage",
    "AckMessage",
    "AckDetails",
    "NackMessage",
    "StatusMessage",
    "PongMessage",
    "FlushResponseMessage",
    "RpcMessage",
    "RpcMessageType",
    "ClientRpcMessage",
    "ServerRpcMessage",
    "AnyRpcMessage",
    "AckStatus",
    "NackReason",
    "ParentState",
    "FlushTrigger",
    "FlushResult",
    "BufferedBatch",
    "BufferStats",
    "ChildConnectionState",
    "BufferSnapshot",
    "DedupConfig",
    "DEFAULT_DEDUP_CONFIG",
    "DedupStats",
    "DeduplicationTracker",
    "WebSocketAttachment",
    "is_cdc_batch_message",
    "is_ack_message",
    "is_nack_message",
    "is_connect_message",
    "is_heartbeat_message",
    "is_flush_request_message",
    "is_disconnect_message",
    "is_status_message",
    "is_pong_message",
    "is_flush_response_message",
    "generate_batch_id",
    "generate_correlation_id",
    "CircuitBreaker",
    "CircuitState",
    "CircuitBreakerOptions",
    "CircuitBreakerStats",
    "CircuitBreakerError",
    "MonotonicTimeProvider",
    "CircuitBreakerRpcClient",
    "create_circuit_breaker_rpc_client",
    "DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS",
    "CircuitBreakerRpcConfig",
    "CircuitBreakerRpcStats",
    "EventEmitterConfig",
    "OnHandlerErrorCallback",
    "RpcSendResult",
    "LakehouseRpcError",
    "ConnectionError",
    "BufferOverflowError",
    "FlushError",
    "ProtocolError",
]

ROW = re.compile(r"\| (\w+) \| `(\w+)` \| `([\w.]+)` \|")
ROWS = ROW.findall((ROOT / "docs" / "api-map.md").read_text())


def test_every_promised_name_is_exported() -> None:
    assert set(PROMISED) - set(rpc.__all__) == set()


def test_what_is_exported_is_there_once() -> None:
    assert [name for name in rpc.__all__ if not hasattr(rpc, name)] == []
    assert sorted(set(rpc.__all__)) == sorted(rpc.__all__)


def test_readers_of_types_see_the_same_rooms() -> None:
    typed = {
        alias.name: node.module
        for node in ast.walk(ast.parse(Path(rpc.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rpc.")
        for alias in node.names
    }
    assert typed == rpc._ROOM_OF
    assert set(typed) == set(rpc.__all__) <= set(dir(rpc))


def test_a_name_is_what_its_room_has() -> None:
    assert [
        name for name in rpc.__all__ if getattr(rpc, name) is not getattr(import_module(rpc._ROOM_OF[name]), name)
    ] == []


def test_a_name_nobody_knows_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rpc' has no attribute 'LakehouseRpcServer'"):
        rpc.LakehouseRpcServer  # noqa: B018


@pytest.mark.parametrize(("old", "name", "room"), ROWS, ids=[row[0] for row in ROWS])
def test_every_row_of_the_map_leads_somewhere(old: str, name: str, room: str) -> None:
    assert hasattr(import_module(room), name)
    assert old.replace("_", "").lower().removesuffix("do") == name.replace("_", "").lower()


def test_the_map_has_every_name_that_is_there() -> None:
    mapped = {name for _, name, _ in ROWS}
    assert set(PROMISED) <= mapped
    assert len(mapped) == len(ROWS)


def test_the_defaults_are_those_of_the_contract() -> None:
    child, parent = DEFAULT_CHILD_CONFIG, DEFAULT_PARENT_CONFIG
    assert (child.max_batch_size, child.max_batch_bytes, child.max_retries) == (1000, 4 * 2**20, 3)
    assert (parent.flush_threshold_entries, parent.flush_threshold_bytes) == (10_000, 50 * 2**20)
    capabilities = DEFAULT_CLIENT_CAPABILITIES
    assert (capabilities.binary_protocol, capabilities.compression, capabilities.batching) == (True, False, True)
    assert (capabilities.max_batch_size, capabilities.max_message_size) == (1000, 4 * 2**20)


def test_an_emitter_without_an_address_is_refused() -> None:
    config = EventEmitterConfig(endpoint="https://lake/e", api_key="evodb_secret")
    assert (config.batch_size, config.flush_interval_ms, config.max_retry_queue_size) == (100, 1000, 10_000)
    assert "evodb_secret" not in repr(config)
    with pytest.raises(ValueError, match="endpoint is 'lake/e', wanted a URL"):
        EventEmitterConfig(endpoint="lake/e")
