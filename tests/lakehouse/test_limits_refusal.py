import json

from lakehouse.limits.allowance import Headroom
from lakehouse.limits.gate import Reason, Refusal
from lakehouse.limits.refusal import response

LEFT = Headroom(100, 0, 1_700_000_001)


def test_a_refusal_is_a_429_in_two_messages():
    start, body = response(Refusal(Reason.RATE_LIMITED, LEFT, 6)).messages()
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    headers = dict(start["headers"])
    assert headers[b"retry-after"] == b"6"
    assert headers[b"content-length"] == b"%d" % len(body["body"])
    assert body["type"] == "websocket.http.response.body"


def test_an_address_nobody_knows_is_not_mentioned():
    body = json.loads(response(Refusal(Reason.CONNECTION_LIMIT, LEFT)).body)
    assert body == {"error": "Too Many Requests", "reason": "connection_limit", "retryAfter": 1}


def test_who_showed_a_key_hears_more():
    refusal = Refusal(Reason.CONNECTION_LIMIT, LEFT, message="the key is full")
    assert json.loads(response(refusal).body)["message"] == "the key is full"
