"""A real Chromium without a window, Debian's, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "apt-get install --no-install-recommends chromium"
WITHIN_MS = 30_000


def program() -> str:
    """Where it is. A run that must be complete fails without it, any other skips the test."""
    found = next((found for name in NAMES if (found := shutil.which(name))), None)
    if found is None:
        refuse = pytest.fail if os.environ.get("EVODB_TEST_COMPLETE") else pytest.skip
        refuse(f"no {' or '.join(NAMES)} is installed; on Debian and Ubuntu: {INSTALL}")
    return found


@contextmanager
def page(chromium: str, *expected: str) -> Iterator[Page]:
    """One page of a fresh profile. What it complains about on its console, but for what is expected, fails the test."""
    complaints: list[str] = []
    with sync_playwright() as driver:
        # Without a sandbox of its own, which needs rights that a container has not; it opens our own pages only.
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            found = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            found.set_default_timeout(WITHIN_MS)
            found.on("console", lambda said: complaints.append(_told(said)) if said.type == "error" else None)
            found.on("pageerror", lambda error: complaints.append(str(error)))
            yield found
        finally:
            browser.close()
    unexpected = [one for one in complaints if not any(text in one for text in expected)]
    assert not unexpected, "\n".join(unexpected)


def _told(said: ConsoleMessage) -> str:
    return f"{said.text} ({said.location['url']})"
