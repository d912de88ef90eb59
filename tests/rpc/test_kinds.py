from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from rpc import kinds
from rpc.kinds import RpcMessageType
from rpc.messages import AckStatus, AnyRpcMessage, FlushResult, NackReason, ParentState, RpcMessage

CLASSES = get_args(AnyRpcMessage)
FIELDS: dict[str, Any] = {
    "timestamp": 1, "source_do_id": "s", "entries": [], "sequence_number": 1, "status": AckStatus.OK,
    "reason": NackReason.BUFFER_FULL, "error_message": "", "should_retry": False, "state": ParentState.IDLE,
    "buffer": None, "connected_children": 0, "server_time": 1, "result": FlushResult(success=True),
}  # fmt: skip
EXAMPLES = {
    cls: cls(**{field.name: FIELDS[field.name] for field in msgspec.structs.fields(cls) if field.required})
    for cls in CLASSES
}


@pytest.mark.parametrize("cls", CLASSES)
def test_a_message_is_of_its_kind_and_of_no_other(cls: type[RpcMessage]) -> None:
    message = EXAMPLES[cls]
    questions = {kind: getattr(kinds, f"is_{kind.value}_message") for kind in RpcMessageType}
    assert [kind for kind, ask in questions.items() if ask(message)] == [RpcMessageType(cls.type)]


def test_every_type_has_a_message() -> None:
    assert {cls.type for cls in CLASSES} == set(RpcMessageType)
