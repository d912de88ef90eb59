"""Whatever else is wrong with a message, its nack finds whoever waits for it."""

from __future__ import annotations

import json

import pytest

from rpc.echo import HEAD_BYTES, Echo, echo_of

WHOLE = Echo(7, "c-7")
HEAD, TAIL = '{"type":"cdc_batch","correlationId":"c-7","entries":[', '],"sequenceNumber":7}'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"sequenceNumber":7,"correlationId":"c-7","timestamp":"?"}', WHOLE),
        ('{"sequenceNumber":"7","correlationId":"c-7"}', Echo(0, "c-7")),
        ('{"sequenceNumber":7,"correlationId":null}', Echo(7, None)),
        ('{"sequenceNumber":-7,"correlationId":["c-7"]}', Echo()),
        ('{"sequenceNumber":7.5,"correlationId":""}', Echo(0, "")),
        ('{"sequenceNumber":18446744073709551615}', Echo(2**64 - 1)),
        ('{"sequenceNumber":18446744073709551616}', Echo()),
        (HEAD + '{"after":NaN}' + TAIL, WHOLE),
        (HEAD + '{"after":[[}' + TAIL, WHOLE),
        (HEAD.replace("entries", "events") + "?" + TAIL, WHOLE),
        (HEAD + '{"after":{"sequenceNumber":9}},?' + TAIL, WHOLE),
        (HEAD + '{"after":[1],"table":', Echo(0, "c-7")),
        (HEAD[:-20], Echo()),
        ("", Echo()),
        ("[]", Echo()),
        ("]", Echo()),
        ("null", Echo()),
        ('{"entries":', Echo()),
    ],
)
def test_what_can_be_read_is_read(text: str, wanted: Echo) -> None:
    assert echo_of(text) == echo_of(text.encode()) == wanted


def test_a_list_that_never_begins_costs_no_search() -> None:
    assert echo_of('{"sequenceNumber":7,"note":"' + "x" * HEAD_BYTES + '","entries":[?]}') == Echo()


def test_text_that_utf8_cannot_hold_is_survived() -> None:
    assert echo_of('{"correlationId":"\ud800","sequenceNumber":7}') == Echo()
    assert echo_of(b'{"correlationId":"\xff","sequenceNumber":7}') == Echo(7)
    assert echo_of(HEAD + json.dumps({"after": "\ud800"}) + TAIL) == WHOLE
