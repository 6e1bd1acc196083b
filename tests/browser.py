"""A browser for tests: found, or the test says what to install."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome"))), None)
MINUTES = 60_000  # Playwright counts in milliseconds


@contextmanager
def opened(width: int, height: int) -> Iterator[Page]:
    """An empty page in a browser of its own; without one the test is skipped, in CI it fails."""
    if CHROMIUM is None:
        message = "no chromium found: install Debian's package chromium, or Google Chrome"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()
