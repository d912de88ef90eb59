import time

import jwt
import pytest

from lakehouse.parent import edge_trust
from lakehouse.parent.attachment import Attachment
from lakehouse.parent.edge_trust import SEALED_CHARS_MAX, Kept, NotOurs

KEY = "a key of at least thirty-two characters"
KEPT = Kept(
    Attachment(parent_id=1, key_id=2, child_id=3, epoch=7, own_epoch=True, dialect="rpc", allowance=b"", checked_ms=0),
    5,
)


def token(key=KEY, algorithm="HS256", **claims):
    return jwt.encode({"iss": "pushpin", "exp": int(time.time()) + 3600} | claims, key, algorithm=algorithm)


def test_what_was_sealed_for_a_connection_is_had_again():
    assert edge_trust.unseal(edge_trust.seal(KEPT, "c-1"), "c-1") == KEPT


def test_a_seal_is_good_for_one_connection_only():
    with pytest.raises(NotOurs):
        edge_trust.unseal(edge_trust.seal(KEPT, "c-1"), "c-2")


def test_a_seal_of_another_house_is_not_ours(settings):
    sealed = edge_trust.seal(KEPT, "c-1")
    settings.SECRET_KEY = "another house"
    with pytest.raises(NotOurs):
        edge_trust.unseal(sealed, "c-1")


def test_a_new_secret_with_the_old_one_as_fallback_ends_no_connection(settings):
    sealed = edge_trust.seal(KEPT, "c-1")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a new one", [settings.SECRET_KEY]
    assert edge_trust.unseal(sealed, "c-1") == KEPT


def test_no_character_of_a_seal_may_change():
    sealed = edge_trust.seal(KEPT, "c-1")
    for at in range(len(sealed) - 1):  # the last one has bits that mean nothing
        with pytest.raises(NotOurs):
            edge_trust.unseal(sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :], "c-1")


@pytest.mark.parametrize("text", ["", ":", "x", "AAAA:AAAA", "ä:ö", "A" * (SEALED_CHARS_MAX + 1), "\0"])
def test_what_nobody_sealed_is_refused(text):
    with pytest.raises(NotOurs):
        edge_trust.unseal(text, "c-1")


@pytest.mark.parametrize("content", [b"", b"\x05", b"\x05garbage", b"\x05\xc0"])
def test_what_this_house_sealed_and_cannot_read_any_more_is_refused(content):
    """After an upgrade, say, or a downgrade."""
    import base64

    sealed = edge_trust._signer("c-1").sign(base64.urlsafe_b64encode(content).decode())
    with pytest.raises(NotOurs):
        edge_trust.unseal(sealed, "c-1")


def test_the_largest_connection_can_be_unsealed():
    large = Attachment(parent_id=1, key_id=None, source="x" * 2000, dialect="rpc", allowance=b"", checked_ms=0)
    assert edge_trust.unseal(edge_trust.seal(Kept(large, 100), "c-1"), "c-1") == Kept(large, 100)


def test_a_proxy_is_known_by_its_key():
    assert edge_trust.is_signed(token(), KEY)
    assert edge_trust.is_signed(token(key=b"\x00\xff" * 16), "base64:AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8=")


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "garbage",
        "a.b.c",
        token(key="some other key of thirty-two characters"),
        token(algorithm="HS512", key="a key of at least thirty-two characters" * 2),
        token(exp=1),
        jwt.encode({"iss": "pushpin"}, KEY, algorithm="HS256"),
        jwt.encode({"exp": 2**40}, None, algorithm="none"),
    ],
)
def test_nobody_else_is_taken_for_the_proxy(signature):
    assert not edge_trust.is_signed(signature, KEY)
