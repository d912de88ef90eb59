"""What a nack needs of a message that is wrong otherwise, so that it reaches whoever waits for it. Pure."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from rpc.entries import U64_MAX

HEAD_BYTES = 16 * 1024
"""The list of a batch begins within this: what stands before it are a few names and ids."""
LIST = re.compile(rb'"(?:events|entries)"\s*:')


class Echo(NamedTuple):
    sequence_number: int = 0
    correlation_id: str | None = None


class Fields(msgspec.Struct, rename="camel"):
    sequence_number: Raw | UnsetType = UNSET
    correlation_id: Raw | UnsetType = UNSET


_fields_json = msgspec.json.Decoder(Fields)
_sequence_json = msgspec.json.Decoder(Annotated[int, Meta(ge=0)])
_text_json = msgspec.json.Decoder(str)
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def echo_of(data: str | bytes) -> Echo:
    """The sequence and the correlation id, each as far as it can be read; 0.3 ms for 1 MiB."""
    fields = _fields(data)
    if fields is None:
        text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        fields = next(filter(None, map(_fields, _around_the_list(text))), Fields())
    return Echo(_sequence(fields.sequence_number), _text(fields.correlation_id))


def _around_the_list(text: bytes) -> list[bytes]:
    """A batch without its list, in which most mistakes are; or without its end, too, if it has none."""
    begin = LIST.search(text, 0, HEAD_BYTES)
    if begin is None:
        return []
    head = text[: begin.start()] + b'"":0'
    return [head + text[text.rfind(b"]") + 1 :], head + b"}"]


def _fields(text: str | bytes) -> Fields | None:
    try:
        return _fields_json.decode(text)
    except _UNREADABLE:
        return None


def _sequence(raw: Raw | UnsetType) -> int:
    try:
        sequence = 0 if raw is UNSET else _sequence_json.decode(raw)
    except _UNREADABLE:
        return 0
    return sequence if sequence <= U64_MAX else 0


def _text(raw: Raw | UnsetType) -> str | None:
    try:
        return None if raw is UNSET else _text_json.decode(raw)
    except _UNREADABLE:
        return None
