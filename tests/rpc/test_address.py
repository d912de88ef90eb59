import pytest

from rpc.address import Address, shown
from rpc.errors import AccessDeniedError

URL = "ws://127.0.0.1:8800/ws"


@pytest.mark.parametrize("name", ["shop ", " shop", " "])
def test_two_children_whose_names_differ_by_a_blank_stay_two(name):
    # A header loses the blanks around its text, and the parent believes the header.
    assert Address(URL, name, None).headers() == {}


@pytest.mark.parametrize("name", ["", "a\tb", "x" * 501, "\ufffd", "\xa0x"])
def test_a_name_no_parent_stores_is_said_before_anybody_is_called(name):
    with pytest.raises(AccessDeniedError, match=r"child is .*, wanted 1 to 500 printable characters"):
        Address(URL, name, None).headers()


def test_half_a_character_is_no_name():
    with pytest.raises(AccessDeniedError, match="wanted 1 to 500 printable characters"):
        Address(URL, chr(0xD800), None).headers()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ws://ann:secret@host:1/ws", "ws://host:1/ws"),
        ("ann:secret@host/ws", "host/ws"),
        ("ws://host/ws?token=secret", "ws://host/ws"),
        ("ws://host/ws#secret", "ws://host/ws"),
        ("ws://host/at@home", "ws://host/at@home"),
        ("ws://[::1]:8800/ws", "ws://[::1]:8800/ws"),
    ],
)
def test_a_password_in_the_address_is_in_no_text(url, text):
    assert shown(url) == text


def test_a_login_in_the_address_would_go_instead_of_the_token_and_is_refused():
    address = Address("ws://ann:secret@host:1/ws", "shop-1", "evodb_key")
    with pytest.raises(AccessDeniedError, match=r"ws://host:1/ws has a name or password before its @") as told:
        address.headers()
    assert "secret" not in str(told.value)
    assert Address(address.url, "shop-1", None).headers() == {"X-Client-ID": "shop-1"}


def test_an_address_from_a_file_with_its_newline_works():
    assert Address(f" {URL}\n", "shop-1", None).url == URL


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ((None, "shop-1", None), "parent_url is None, wanted text"),
        ((URL, 7, None), "child_id is 7, wanted text"),
        ((URL, "shop-1", b"evodb_key"), "token is of type bytes, wanted text"),
    ],
)
def test_what_is_no_text_is_said_when_the_client_is_made(given, complaint):
    with pytest.raises(TypeError, match=complaint) as told:
        Address(*given)
    assert "evodb_key" not in str(told.value)
