"""A browser for tests: found, or the test says what to install."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
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
        page = browser.new_page(viewport={"width": width, "height": height})
        try:
            yield page
        finally:  # how it looked at the end, above all where the test failed
            test = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
            page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z0-9]+', '-', test)}.png")
            browser.close()


@contextmanager
def serving(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """The address of a Jupyter server that this command starts, once it answers.

    The token is "reader".
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", "--no-browser", "--IdentityProvider.token=reader"]
    with log.open("w") as file:
        server = subprocess.Popen([*command, *options], env=environment, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token=reader", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise TimeoutError(f"{address} does not answer, see {log}")
        yield address
    finally:
        server.terminate()
        server.wait(20)
