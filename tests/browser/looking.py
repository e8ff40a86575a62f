"""What the tests in a browser look at: accessibility, width, and pictures for a person to see."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOOKS = ((1280, False), (380, True))
"""Widths of the window, each with whether it is dark."""


def assert_accessible(page: Any) -> None:
    """Axe-core finds nothing, and nothing is wider than the window."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    told = [
        (one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"]) for one in found
    ]
    assert not told
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{wide} pixels too wide"


def until(page: Any, true: str, seconds: float = 120.0) -> None:
    """Wait until an expression is true; Playwright's own way needs eval, which the pages ban."""
    ends = time.monotonic() + seconds
    while not page.evaluate(true):
        assert time.monotonic() < ends, f"after {seconds:g} s it was not true: {true}"
        page.wait_for_timeout(100)


def picture(page: Any, name: str, **how: Any) -> None:
    """Keep a picture of what the window shows where HYPERASR_PICTURES names a folder for them."""
    folder = os.environ.get("HYPERASR_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", **how)
