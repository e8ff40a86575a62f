"""A real browser, Chromium, for the pages that the package writes.

Where it is absent the tests are skipped; with ``HYPERASR_BROWSER=1`` they fail, so that they cannot
be left out unnoticed where it was installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from hyperasr.audio.reading import load
from tests.browser.looking import NAMES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser hears: a demo clip, over and over, with a pause behind it."""
    clip = sorted((ROOT / "hyperasr" / "assets" / "demo").glob("10-typical*"))[0]
    path = tmp_path_factory.mktemp("microphone") / "clip.wav"
    soundfile.write(path, load(clip), 16_000)
    return path


@pytest.fixture(scope="session")
def browser(microphone: Path) -> Iterator[Any]:
    """A running Chromium (`playwright.sync_api.Browser`) whose microphone plays `microphone`."""
    must = os.environ.get("HYPERASR_BROWSER") == "1"
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if not must:
        pytest.importorskip("playwright")
        if path is None:
            pytest.skip("needs Chromium")
    assert path is not None, f"HYPERASR_BROWSER is 1, but there is none of {', '.join(NAMES)}"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox",  # with its sandbox Chromium refuses to run as root
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        yield chromium
        chromium.close()


TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture(scope="session")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running server with the embedded model, which asks for `TOKEN`."""
    folder = tmp_path_factory.mktemp("server")
    token = folder / "token.txt"
    token.write_text(TOKEN)
    argv = [sys.executable, "-m", "hyperasr.cli", "serve", "--port=0", f"--token-file={token}"]
    (folder / "voices").mkdir()
    argv.append(f"--voices={folder / 'voices'}")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
        process.terminate()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address in a page of its own, and find no complaint of the browser's in the end.

    Call it with the address; `width`, `dark` and what else a context of Playwright takes.
    """
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(address: str, width: int = 1280, dark: bool = False, **how: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            **how,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
