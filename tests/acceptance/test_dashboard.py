"""The dashboard as an operator has it: a real browser walks through it, at a house that daphne serves."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from lakehouse.clock import now_ms
from lakehouse.events.event import shown
from tests.acceptance import browser
from tests.acceptance.processes import House, until
from tests.acceptance.pushpin import listens
from tests.services import free_port

SHOTS = os.environ.get("EVODB_TEST_SHOTS")
"""A folder for pictures of the pages, for whoever wants to look at them."""
FILL = """
import django
django.setup()
from django.contrib.auth import get_user_model
from lakehouse.models import Parent
from lakehouse.subscriptions.models import Delivery, Subscription
get_user_model().objects.create_superuser("operator", password="a good password")
parent = Parent.objects.get(name="events.shop")
common = {"parent": parent, "target_kind": "webhook", "pattern": "collection.*"}
Subscription.objects.create(name="warehouse", target="https://example.com/stock", state="paused", **common)
hook = Subscription.objects.create(name="invoices", target="https://example.com/hook", **common)
Delivery.objects.create(subscription=hook, commit_number=1, events=b'[{"type": "collection.insert"}]', state="dead",
    dead_ms=1_790_000_000_000, attempts_made=5, reason="max_retries_exceeded", last_error="answered 500: try later")
"""
ENDLESS = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
EXPECTED = ("/favicon.ico", "htmx:sendAbort", "htmx:afterRequest")
"""The admin has no icon, and htmx tells of a query that was cancelled."""
TYPES = ("rpc.call", "collection.insert", "collection.update", "ws.connect", "webhook.github.push")


@pytest.fixture
def chromium() -> str:
    return browser.program()


@pytest.fixture
def house(chromium: str, tmp_path: Path) -> Iterator[House]:
    with House(tmp_path, up_port=free_port(), open=True) as house:
        house.prepare()
        house.daphne.start()
        until(lambda: listens(house.settings.up_port), "daphne listens", house.daphne)
        yield house


def address(house: House, path: str) -> str:
    return f"http://127.0.0.1:{house.settings.up_port}{path}"


def send(house: House, *events: dict[str, Any]) -> None:
    body = json.dumps({"events": events}).encode()
    with urlopen(Request(address(house, "/ingest?namespace=shop"), body)) as answer:
        assert json.loads(answer.read())["received"] == len(events)


def some(count: int, *, age_ms: int) -> list[dict[str, Any]]:
    return [
        {
            "type": TYPES[number % len(TYPES) * (number % 3) // 2],
            "ts": shown(now_ms() - age_ms - number % 7 * 180_000),
            "do": {"id": f"shop-{number % 4}"},
            "collection": "orders",
            "docId": f"order-{number}",
            "doc": {"total": number},
        }
        for number in range(count)
    ]


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def test_an_operator_walks_through_the_dashboard(house: House, chromium: str) -> None:
    send(house, *some(120, age_ms=600_000))
    house.manage("flush_buffers", "--wait")
    house.run([sys.executable, "-c", FILL])
    with browser.page(chromium, *EXPECTED) as page:
        page.goto(address(house, "/dashboard/?namespace=shop"))
        log_in(page)
        see_the_chart(page)
        first_commit = ask_in_sql(page)
        send(house, *some(10, age_ms=1000))
        house.manage("flush_buffers", "--wait")
        ask_as_of(page, first_commit)
        cancel(page)
        see_an_event_arrive(page, house)
        resume_a_subscription(page)
        retry_a_dead_letter(page)
        if SHOTS:
            see_it_on_a_phone_in_the_dark(page)


def log_in(page: Page) -> None:
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill("a good password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Overview of shop")).to_be_visible()


def see_the_chart(page: Page) -> None:
    expect(page.locator("figure.chart canvas").first).to_be_visible()
    expect(page.locator("#events-title ~ .beside")).to_contain_text("rpc.call")
    expect(page.locator(".card").first).to_contain_text("120")
    shoot(page, "overview")


def ask_in_sql(page: Page) -> str:
    """Returns the moment of the first commit, which the page offers."""
    page.get_by_role("link", name="SQL").click()
    page.locator("details", has=page.get_by_label("Insert the table events")).locator("summary > span").click()
    page.get_by_label("One SELECT").fill("SELECT , count(*) AS events FROM events GROUP BY 1 ORDER BY 1")
    page.get_by_label("One SELECT").evaluate("editor => editor.setSelectionRange(7, 7)")
    page.get_by_label("Insert the column type", exact=True).click()
    expect(page.get_by_label("One SELECT")).to_have_value(
        "SELECT type, count(*) AS events FROM events GROUP BY 1 ORDER BY 1"
    )
    page.get_by_label("One SELECT").press("Control+Enter")
    result = page.locator("#result")
    expect(result.get_by_role("cell", name="collection.insert")).to_be_visible()
    shoot(page, "sql-table")
    result.get_by_role("tab", name="Chart").click()
    expect(result.locator("canvas")).to_be_visible()
    expect(result.get_by_role("cell", name="collection.insert")).to_be_hidden()
    shoot(page, "sql-chart")
    return str(page.locator("#commits option").first.get_attribute("value"))


def ask_as_of(page: Page, moment: str) -> None:
    page.get_by_label("One SELECT").fill("SELECT count(*) AS events FROM events")
    page.get_by_role("button", name="Run", exact=True).click()
    result = page.locator("#result")
    expect(result.get_by_role("cell", name="130")).to_be_visible()
    page.get_by_label("As of").fill(moment)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(result.get_by_role("cell", name="120")).to_be_visible()
    page.get_by_label("As of").fill("yesterday")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(result.get_by_role("alert")).to_contain_text("yesterday")
    shoot(page, "sql-problem")
    page.get_by_label("As of").fill("")


def cancel(page: Page) -> None:
    page.get_by_label("One SELECT").fill(ENDLESS)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#result")).to_contain_text("Cancelled.")
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()


def see_an_event_arrive(page: Page, house: House) -> None:
    page.get_by_role("link", name="Live tail").click()
    expect(page.get_by_role("listitem").filter(has_text="order-1").first).to_be_visible()
    evil = "<img src=x onerror=alert(1)>"
    send(house, {"type": "custom.hello", "ts": shown(now_ms()), "data": evil}, {"type": "track", "ts": shown(now_ms())})
    arrived = page.get_by_role("listitem").filter(has_text="custom.hello")
    expect(arrived).to_have_count(1)
    expect(arrived).to_contain_text(evil)
    shoot(page, "tail")
    page.get_by_label("Type").fill("custom.*")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("listitem")).to_have_count(1)


def resume_a_subscription(page: Page) -> None:
    page.get_by_role("link", name="Subscriptions").click()
    shoot(page, "subscriptions")
    page.get_by_role("button", name="Resume warehouse").click()
    expect(page.get_by_role("button", name="Pause warehouse")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("warehouse goes on")
    page.get_by_role("link", name="invoices").click()
    expect(page.get_by_role("heading", name=re.compile("invoices"))).to_be_visible()
    shoot(page, "log")


def retry_a_dead_letter(page: Page) -> None:
    page.get_by_role("link", name="Dead letters").click()
    expect(page.get_by_text("answered 500: try later")).to_be_visible()
    shoot(page, "letters")
    page.get_by_role("button", name=re.compile("Retry message")).click()
    expect(page.get_by_text("tried again")).to_be_visible()


def see_it_on_a_phone_in_the_dark(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    for name in ("Overview", "SQL", "Live tail", "Subscriptions", "Dead letters"):
        page.get_by_role("navigation").get_by_role("link", name=name).click()
        page.wait_for_load_state("networkidle") if name == "SQL" else page.wait_for_timeout(1500)
        shoot(page, f"phone-{name.lower().replace(' ', '-')}")
