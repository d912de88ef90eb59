from __future__ import annotations

import pytest

from rpc import replies
from rpc.errors import ProtocolError
from rpc.messages import UNSET, AckMessage, AckStatus, NackMessage, NackReason
from rpc.protocol import decode_message, encode_message


def ack(**fields: object) -> AckMessage:
    return AckMessage(**({"timestamp": 1, "sequence_number": 2**64 - 1, "status": AckStatus.OK} | fields))  # type: ignore[arg-type]


def nack(**fields: object) -> NackMessage:
    made = {"timestamp": 1, "sequence_number": 7, "reason": NackReason.BUFFER_FULL, "error_message": "full"}
    return NackMessage(**(made | {"should_retry": True} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", list(AckStatus))
@pytest.mark.parametrize("correlation_id", [UNSET, "c-1", "x" * 65_535])
def test_an_ack_comes_back(status: AckStatus, correlation_id: str) -> None:
    message = ack(status=status, correlation_id=correlation_id)
    assert decode_message(replies.encode_ack(message)) == message


def test_an_ack_without_correlation_has_25_bytes_and_a_nack_32_and_its_text() -> None:
    assert len(encode_message(ack())) == 25
    assert len(encode_message(nack())) == 32 + len("full")


@pytest.mark.parametrize("reason", list(NackReason))
@pytest.mark.parametrize("text", ["", "zu voll: ü", "x" * 65_535])
def test_a_nack_comes_back(reason: NackReason, text: str) -> None:
    message = nack(reason=reason, error_message=text, retry_delay_ms=2**32 - 1, correlation_id="ü")
    assert decode_message(replies.encode_nack(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        ack(correlation_id="x" * 65_536),
        ack(correlation_id="\ud800"),
        ack(sequence_number=2**64),
        nack(error_message="x" * 65_536),
        nack(retry_delay_ms=2**32),
    ],
)
def test_what_does_not_fit_is_an_error_in_the_sender(message: AckMessage | NackMessage) -> None:
    with pytest.raises(ProtocolError):
        encode_message(message)


def test_half_a_surrogate_pair_in_an_error_text_does_not_stop_the_nack() -> None:
    found = decode_message(encode_message(nack(error_message="bad \ud800")))
    assert isinstance(found, NackMessage)
    assert found.error_message == "bad ?"


@pytest.mark.parametrize("message", [ack(correlation_id="c-1"), nack(correlation_id="c-1")])
def test_an_answer_cut_off_or_too_long_is_a_protocol_error(message: AckMessage | NackMessage) -> None:
    data = encode_message(message)
    assert isinstance(data, bytes)
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_message(data[:end])
    with pytest.raises(ProtocolError, match="its header says"):
        decode_message(data + b"x")


def test_codes_nobody_knows_are_a_protocol_error() -> None:
    for data, at, said in (
        (encode_message(ack()), 24, "ack status: 5"),
        (encode_message(nack()), 24, "nack reason: 6"),
    ):
        assert isinstance(data, bytes)
        with pytest.raises(ProtocolError, match=f"Unknown {said}"):
            decode_message(data[:at] + bytes([5 if "ack status" in said else 6]) + data[at + 1 :])
