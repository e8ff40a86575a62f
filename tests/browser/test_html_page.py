"""The page of a transcript in a real browser: words play, choices work, nothing acts or calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperasr.transcription.pipeline import Result
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import render
from hyperasr.types import Edit, Segment, Transcript, Word
from tests.browser.looking import LOOKS, assert_accessible, picture, until

CLIP = sorted((Path(__file__).parents[2] / "hyperasr/assets/demo").glob("01-*.ogg"))[0]
HOSTILE = '</script><img src=x onerror="document.title=1">'
Visit = Callable[..., Any]


def segment(start_s: float, *words: str, edits: tuple[Edit, ...] = (), clean: str = "") -> Segment:
    found = tuple(
        Word(w, 0.3 if w == "light" else 0.9, start_s + 0.4 * i, start_s + 0.4 * i + 0.35)
        for i, w in enumerate(words)
    )
    text = " ".join(words)
    return Segment(start_s, start_s + 0.4 * len(words), text, -0.1, found, edits, clean or text)


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    um = Edit(0, 1, "filler", "um", "", 0.0, 0.4)
    first = segment(0.0, "um", "turn", "on", "the", "light", edits=(um,), clean="turn on the light")
    said = (first, segment(2.0, "and", "wait", HOSTILE, "there"))
    made = Transcript("a", " ".join(s.text for s in said), said, 4.0, clean="turn on")
    base = replace(made, segments=(replace(first, clean=None, edits=()), said[1]))
    path = tmp_path / "page.html"
    result = Result(Recording("session 3.ogg", str(CLIP)), made, base)
    path.write_text(render(result, "html", "verbatim"), encoding="utf-8")
    return path


def playing_from(page: Any, seconds: float) -> None:
    """Wait until the sound plays at or a little behind a time."""
    at = "document.querySelector('audio')"
    until(
        page, f"!{at}.paused && {at}.currentTime >= {seconds} && {at}.currentTime < {seconds + 2}"
    )


def test_a_word_plays_from_its_time(visit: Visit, page_file: Path) -> None:
    page = visit(page_file.as_uri())
    calls: list[str] = []
    page.on("request", lambda request: calls.append(request.url[:5]))
    word = page.locator(".verbatim .word", has_text="wait").last
    word.click()
    playing_from(page, 2.4)
    page.evaluate("document.querySelector('audio').pause()")
    for name in ("on", "there"):
        at = page.locator(".system").last.locator(".verbatim .word", has_text=name).last
        page.evaluate(
            "s => document.querySelector('audio').currentTime = s",
            float(at.get_attribute("data-t") or "nan") + 0.1,
        )
    until(
        page,
        "[...document.querySelectorAll('.now')].every(w => w.textContent == 'there')"
        " && !!document.querySelector('.now')",
    )
    assert page.locator(".now").count() == 4, "in each text: of both systems, verbatim and clean"
    assert page.title() == "session 3.ogg: transcript", "no text of the recording has acted"
    assert set(calls) <= {"data:"}


def test_with_the_keyboard_alone(visit: Visit, page_file: Path) -> None:
    page = visit(page_file.as_uri())
    for _ in range(30):  # past the player, the speed and the choice of text
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('time')"):
            break
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Play from 0:00"
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.textContent") == "wait"
    page.keyboard.press("Enter")
    playing_from(page, 2.4)
    page.keyboard.press("Escape")
    until(page, "document.querySelector('audio').paused")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.segment')") is None, "one stop for all"
    page.get_by_label("Speed").select_option("half")
    assert page.evaluate("document.querySelector('audio').playbackRate") == 0.5


@pytest.mark.parametrize("scripts", [True, False])
def test_verbatim_and_clean(visit: Visit, page_file: Path, scripts: bool) -> None:
    page = visit(page_file.as_uri(), java_script_enabled=scripts)
    ours = page.locator(".system").nth(1)
    assert ours.inner_text().split("\n")[-1].startswith("um turn on the light")
    page.get_by_label("clean", exact=True).check()
    assert ours.inner_text().split("\n")[-1].startswith("turn on the light")
    page.get_by_label("both", exact=True).check()
    assert "um turn" in ours.inner_text()
    assert HOSTILE in page.locator("main").inner_text()
    n_buttons = page.locator("[data-t]").count() if scripts else 0
    assert page.get_by_role("button").count() == n_buttons


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_everyone_can_read_it(visit: Visit, page_file: Path, width: int, dark: bool) -> None:
    page = visit(page_file.as_uri(), width, dark)
    page.evaluate("document.querySelector('audio').currentTime = 1.0")
    page.wait_for_selector(".now")
    assert_accessible(page)
    picture(page, f"transcript-{width}{'-dark' if dark else ''}")
    page.emulate_media(media="print", color_scheme="light")
    assert not page.locator("audio").is_visible()
    assert page.locator(".text").first.is_visible()


def test_doubt_is_told_without_colour(visit: Visit, page_file: Path) -> None:
    page = visit(page_file.as_uri())
    light = page.get_by_role("button", name="light (doubtful)").first
    assert "underline" in light.evaluate("e => getComputedStyle(e).textDecorationLine")
    assert light.locator(".mark").inner_text() == "?"
