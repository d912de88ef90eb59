"""Numbers and texts that no row is called, in every part of an address that a stranger may write."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from functools import cache

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import DataError, connection
from django.db.models import Model
from django.test import Client

import evodb_site.urls  # noqa: F401 - what the admin shows is loaded with the URLs
from lakehouse.http import unstorable
from lakehouse.http.api import api
from lakehouse.models import Child, Flush
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_admin import leave_out_the_menu, url

pytestmark = pytest.mark.django_db(transaction=True)

LONG = "9" * 23
HOSTILE = [LONG, f"-{LONG}", str(2**63), "9" * 5000, "%00", "a%00b", "%ED%A0%80", "1e400", "null"]
"""2**63 is the first that has no 64 bits with a sign; of 5000 digits Python makes no number."""


EVERYWHERE = [LONG, "%00"]
"""What is tried in every list; the others where there is one of each."""


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(get_user_model().objects.create(username="operator", is_staff=True, is_superuser=True))
    return client


def addresses(model: type[Model], value: str) -> Iterator[str]:
    listing = url(model, "changelist")
    yield from (f"{listing}{value}/{page}/" for page in ("change", "history", "delete"))
    yield from (f"{listing}?{name}={value}" for name in ("q", "o", "p", "all", "_to_field", "id", "pk__in"))
    for one in admin.site.get_model_admin(model).list_filter:
        if isinstance(one, str):
            yield from (f"{listing}?{one}{kind}={value}" for kind in ("__exact", "__id__exact", "__in", "__isnull"))


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: value[:30])
def test_whatever_an_address_of_the_admin_asks_for_is_no_error_of_ours(
    operator: Client, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_the_menu(monkeypatch)
    models = admin.site._registry if value in EVERYWHERE else [Child, Flush]
    asked = [address for model in models for address in addresses(model, value)]
    asked += [f"/admin/r/{value}/1/", f"/admin/r/1/{value}/", f"/admin/{value}/", f"/admin/lakehouse/{value}/"]
    heard = {address: operator.get(address) for address in asked}
    statuses = {address: one.status_code for address, one in heard.items()}
    assert {address: one for address, one in statuses.items() if one not in (200, 302, 400, 403, 404)} == {}
    refused = {address: one.content.decode() for address, one in heard.items() if one.status_code == 400}
    ours = {text for address, text in refused.items() if "_to_field" not in address}  # of that Django says no itself
    assert ours <= {unstorable.NUMBER, unstorable.TEXT}


@pytest.mark.parametrize(
    "address", ["batchpayload/%s/change/", "icebergtable/?namespace__exact=%s", "flush/?parent__exact=%s"]
)
def test_an_id_of_23_digits_in_an_address_of_the_admin_is_said_to_be_none(operator: Client, address: str) -> None:
    heard = operator.get(f"/admin/lakehouse/{address % LONG}")
    if connection.vendor == "sqlite":  # PostgreSQL looks for such a number, and finds nothing
        assert (heard.status_code, heard.content.decode()) == (400, unstorable.NUMBER)
    else:
        assert heard.status_code in (200, 302, 400)


def test_a_row_of_23_digits_that_no_list_can_have_shown_is_chosen_for_no_action(operator: Client) -> None:
    for model, page in admin.site._registry.items():
        for action in page.actions or ():
            sent = {"action": getattr(action, "__name__", action), "_selected_action": LONG}
            assert operator.post(url(model, "changelist"), sent).status_code in (200, 302, 400, 403)


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: value[:30])
def test_whatever_an_address_of_the_dashboard_asks_for_is_no_error_of_ours(operator: Client, value: str) -> None:
    names = {
        "": ["namespace"],
        "sql/": ["namespace", "sql", "as_of"],
        "sql/run/": ["namespace", "sql", "as_of"],
        "sql/columns/": ["of", "table"],
        "tail/": ["namespace", "type"],
        "tail/rows/": ["namespace", "type", "after"],
        "subscriptions/": ["namespace"],
        "letters/": ["namespace"],
    }
    asked = [f"/dashboard/{page}?{name}={value}" for page, known in names.items() for name in known]
    asked.append(f"/dashboard/subscriptions/1/?before={value}")
    asked += [f"/dashboard/subscriptions/{value}/{page}" for page in ("", "pause/", "resume/")]
    asked += [f"/dashboard/letters/{value}/retry/", f"/dashboard/letters/entries/{value}/replay/"]
    for address in asked:
        for heard in (operator.get(address), operator.post(address)):
            assert heard.status_code in (200, 204, 302, 400, 404, 405), address


@pytest.fixture
async def house() -> AsyncIterator[None]:
    async with home(open=True):
        yield


@cache
def endpoints() -> list[tuple[str, str, list[str]]]:
    """Method, path and the names of the parameters of each operation that is documented."""
    return [
        (method.upper(), path, [one["name"] for one in said.get("parameters", ()) if one["in"] == "query"])
        for path, methods in api.get_openapi_schema()["paths"].items()
        for method, said in methods.items()
        if path != "/events/stream"  # it ends with who listens
    ]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: value[:30])
async def test_whatever_an_address_of_the_http_api_asks_for_is_answered_with_a_sentence(
    house: None, value: str
) -> None:
    for method, path, names in endpoints():
        here = re.sub(r"{[^}]*}", value, path)
        for address in {here, *(f"{here}?{name}={value}" for name in names)}:
            heard = await ask(method, address)
            assert heard.status < 500 or address in ("/ready",), (method, address, heard)
            assert heard.status < 400 or heard.json["error"], (method, address, heard)


def test_other_errors_of_the_database_are_no_matter_of_the_address() -> None:
    for exc in (DataError("division by zero"), OverflowError("math range error"), ValueError("x")):
        assert unstorable.complaint(exc) is None
