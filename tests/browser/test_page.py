"""The server's page in a real browser: speak, see text, correct it, keep it, download it."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperasr.audio.reading import duration_s
from hyperasr.cohorts.manifest import read_manifest
from tests.browser.conftest import ROOT, TOKEN
from tests.browser.looking import LOOKS, assert_accessible, picture, until

CLIP = sorted((ROOT / "hyperasr" / "assets" / "demo").glob("10-typical*"))[0]
N_CARDS = "document.querySelectorAll('#said .actions:not([hidden])').length"
Visit = Callable[..., Any]

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(visit: Visit, server: str) -> Visit:
    """Open the page as somebody who has given the token."""

    def open_page(**how: Any) -> Any:
        page = visit(server, permissions=["microphone"], **how)
        page.evaluate(f"sessionStorage.setItem('token', {json.dumps(TOKEN)})")
        return page

    return open_page


def saved(page: Any, button: Any, folder: Path) -> Path:
    with page.expect_download() as download:
        button.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_speak_correct_keep_and_download(opened: Visit, tmp_path: Path) -> None:
    page = opened()
    talk = page.locator("#talk")
    talk.click()
    until(page, "document.getElementById('loudness-word').textContent == 'good'")
    assert talk.get_attribute("aria-pressed") == "true"
    until(page, "document.getElementById('partial').textContent.includes('indecision')")
    picture(page, "speaking", clip={"x": 150, "y": 0, "width": 980, "height": 420})
    talk.click()
    until(page, f"{N_CARDS} == 1")
    card = page.locator("#said .card")
    assert "indecision" in card.locator(".verbatim").first.inner_text()
    card.get_by_role("button", name="No, correct it").click()
    field = card.get_by_label("What was said")
    assert "indecision" in field.input_value(), "what was heard is there to be corrected"
    said = "Alas, he walked with no less indecision than Cosette."
    field.fill(said)
    card.get_by_role("button", name="Keep this").click()
    page.locator("#kept .card").wait_for()
    page.reload()
    assert "Cosette" in page.locator("#kept .card").inner_text(), "it outlasts the page"
    assert page.locator("#said .card").count() == 0
    path = saved(page, page.get_by_role("button", name="Download all"), tmp_path)
    zipfile.ZipFile(path).extractall(tmp_path)
    (row,) = read_manifest(tmp_path / "manifest.jsonl")
    assert (row.text, row.split) == (
        "Alas, he walked with no less indecision than Cosette.",
        "train",
    )
    assert 1.0 < duration_s(row.path) < 60.0
    page.get_by_role("button", name="Delete: Alas").click()
    until(page, "document.querySelectorAll('#kept .card').length == 0")


def test_texts_that_come_late_and_after_an_error_are_shown(opened: Visit) -> None:
    page = opened()
    sockets: list[Any] = []
    left: list[int | None] = []

    def answering(socket: Any) -> None:
        def take(message: str | bytes) -> None:
            if isinstance(message, str) and "pause" in message:
                sockets.append(socket)
                send({"type": "ready"})

        socket.on_message(take)
        socket.on_close(lambda code, reason: left.append(code))

    def send(event: dict[str, Any]) -> None:
        sockets[0].send(json.dumps(event))

    def final(number: int) -> dict[str, Any]:
        segment = {"start_s": 0.0, "end_s": 0.2, "text": "go", "words": []}
        made = {"text": "go", "duration_s": 0.2, "segments": [segment], "warnings": []}
        return {"type": "final", "utterance": number, "start_s": 0.0, "text": "go"} | {
            "transcript": made
        }

    page.route_web_socket("**/live", answering)
    page.clock.install()
    page.reload()
    page.locator("#talk").click()
    until(page, "document.getElementById('loudness-word').textContent == 'good'")
    send({"type": "error", "utterance": 1, "error": {"message": "it is full"}})
    page.get_by_text("It did not work: it is full").wait_for()
    assert page.locator("#talk").get_attribute("aria-pressed") == "true", "it still listens"
    page.locator("#talk").click()
    until(page, "document.getElementById('status').textContent == 'Writing …'")
    page.clock.run_for(1000)
    for number in (2, 3):
        send(final(number))
        until(page, f"{N_CARDS} == {number - 1}")
        page.clock.run_for(30_000)
    assert left == []
    send({"type": "answered"})
    ends = time.monotonic() + 10
    while not left and time.monotonic() < ends:
        page.wait_for_timeout(50)
    assert left


def test_the_microphone_stays_open_for_a_minute_after_its_last_use(opened: Visit) -> None:
    page = opened()
    page.clock.install()
    page.evaluate(
        "async () => { const { Microphone } = await import('/live.js');"
        "window.one = new Microphone(); one.context = { close() {} };"
        "one.closeSoon(); one.closeSoon(); await one.open(); }"
    )
    page.clock.run_for(90_000)
    assert page.evaluate("one.context !== null"), "it is in use"
    page.evaluate("one.closeSoon()")
    page.clock.run_for(90_000)
    assert page.evaluate("one.context === null")


@pytest.mark.parametrize(
    ("verbatim", "edit", "clean", "index", "text", "changed"),
    [
        ("see the dog, um.", (2, 4, "dog."), "see the dog.", 2, "cat", "see the cat."),
        ("Um, the dog", (0, 2, "The"), "The dog", 1, "a", "A dog"),
        ("a-a-and go", (0, 1, "and"), "and go", 0, "then", "then go"),
    ],
)
def test_a_changed_word_is_changed_in_the_clean_text_as_well(
    opened: Visit, verbatim: str, edit: Any, clean: str, index: int, text: str, changed: str
) -> None:
    words = [{"word": word, "probability": 0.9, "doubtful": False} for word in verbatim.split()]
    edits = [dict(zip(("first", "last", "replacement"), edit, strict=True))]
    segment = {"text": verbatim, "clean": clean, "words": words, "edits": edits}
    transcript = {"text": verbatim, "clean": clean, "segments": [segment]}
    found = opened().evaluate(
        "async ([transcript, index, text]) => {"
        "const { replaceWord, show } = await import('/texts.js');"
        "const place = document.createElement('div');"
        "replaceWord(transcript, transcript.segments[0], index, 'first');"
        "replaceWord(transcript, transcript.segments[0], index, text);"
        "show(place, transcript, () => {});"
        "const words = place.querySelectorAll(`.clean [data-index='${index}']`);"
        "return [transcript.clean, words.length]; }",
        [transcript, index, text],
    )
    assert found == [changed, 1]


def test_hold_to_talk_with_keys_alone(opened: Visit) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "talk"
    page.keyboard.press("Tab")
    page.keyboard.type("when I let")  # as one chooses in a list
    assert page.locator("#talk").inner_text() == "Hold to talk"
    page.keyboard.press("Shift+Tab")
    page.keyboard.down("Space")
    until(page, "document.getElementById('partial').textContent.includes('walked')")
    page.keyboard.up("Space")
    assert page.locator("#talk").get_attribute("aria-pressed") == "false"
    until(page, f"{N_CARDS} == 1")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#said .text') !== null"):
            break
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.index") == "1"
    page.keyboard.press("Enter")
    assert page.locator("#word-dialog").is_visible()
    page.keyboard.type("she")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.textContent == 'she'")
    assert page.evaluate("document.activeElement.dataset.index") == "1", "back at the word"
    page.evaluate("localStorage.clear()")


def test_recordings_become_files_with_the_changes(opened: Visit, tmp_path: Path) -> None:
    page = opened()
    page.get_by_label("also as the unadapted").check()
    page.set_input_files("#files", [CLIP])
    until(page, f"{N_CARDS} == 1")
    card = page.locator("#said .card")
    assert "unadapted" in card.inner_text()
    ours = card.locator(".system").last.locator(".verbatim [role=button]")
    ours.first.click()
    page.get_by_label("Another word").fill("<b>Alack,</b>")
    page.get_by_role("button", name="Use it", exact=True).click()
    from playwright.sync_api import expect

    expect(card.locator(".verbatim [role=button]").first).to_have_text("<b>Alack,</b>")
    for form, beginning in (
        ("text", "unadapted: "),
        ("subtitles (srt)", "1\n00:00:0"),
        ("subtitles (vtt)", "WEBVTT"),
        ("Praat (TextGrid)", "File type"),
        ("TalkBank (CHAT)", "@UTF8"),
        ("Word (docx)", "PK"),
        ("page with sound", "<!doctype html>"),
    ):
        card.get_by_label("Format").select_option(form)
        button = card.get_by_role("button", name="Download", exact=True)
        text = saved(page, button, tmp_path).read_bytes().decode(errors="replace")
        assert re.match(beginning, text)
    assert "data:audio/ogg;base64,T2dnUw" in text, "the sound is inside"
    assert "&lt;b&gt;Alack,&lt;/b&gt;" in text


def test_a_doubtful_word_gives_others(opened: Visit, visit: Visit, tmp_path: Path) -> None:
    page = opened()
    page.set_input_files("#files", [CLIP])
    until(page, f"{N_CARDS} == 1")
    word = page.locator("#said .verbatim .doubtful").last
    doubtful = word.inner_text()
    word.click()
    page.get_by_text("Or was it:").wait_for()
    other = page.locator("#word-others button").first
    text = other.inner_text()
    assert text not in doubtful
    picture(page, "other-words", clip={"x": 150, "y": 180, "width": 980, "height": 620})
    other.click()
    assert not page.locator("#word-dialog").is_visible()
    changed = page.locator("#said .verbatim [role=button]").last
    assert changed.inner_text() == text, "and no mark of doubt"
    page.get_by_role("button", name="Yes, keep it").click()
    assert text in page.locator("#kept .card").inner_text()
    page.get_by_label("Format").select_option("page with sound")
    file = saved(page, page.get_by_role("button", name="Download", exact=True), tmp_path)
    made = visit(file.as_uri())
    made.get_by_role("button", name="indecision").click()
    until(made, "document.querySelector('.now')?.textContent == 'indecision'")
    picture(made, "transcript", clip={"x": 0, "y": 0, "width": 1280, "height": 400})


def test_a_model_of_ones_own_voice(opened: Visit) -> None:
    page = opened()
    page.reload()  # with the token
    page.set_input_files("#files", [CLIP])
    until(page, f"{N_CARDS} == 1")
    page.get_by_role("button", name="Yes, keep it").click()
    page.get_by_label("Name, of small letters").fill("anna")
    page.get_by_role("button", name="Train it").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_text("anna is used from now on").wait_for(timeout=240_000)
    assert page.locator("#voice").input_value() == "anna"
    assert_accessible(page)
    page.evaluate(
        "() => { const append = FormData.prototype.append; window.sent = [];"
        "FormData.prototype.append = function (...all) {"
        "sent.push(all.slice(0, 2).join('=')); append.apply(this, all); } }"
    )
    page.set_input_files("#files", [CLIP])
    until(page, f"{N_CARDS} == 2")
    assert "model=anna" in page.evaluate("window.sent")
    page.reload()
    until(page, "document.getElementById('voice').value == 'anna'")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete the voice anna").click()
    page.get_by_text("anna is deleted").wait_for()
    until(page, "document.getElementById('voice-row').hidden")


def test_what_does_not_work_is_said(visit: Visit, server: str, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(server)
    text = [{"name": "a.wav", "mimeType": "audio/wav", "buffer": b"no sound at all, but a text\n"}]
    page.set_input_files("#files", text)
    page.get_by_text("the token is missing or wrong").wait_for()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Use it").first.click()
    page.set_input_files("#files", text)
    page.get_by_text("a.wav is text, whatever its name says").wait_for()
    context.clear_permissions()
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = () => Promise.reject("
        "new DOMException('', 'NotAllowedError')) }"
    )
    page.locator("#talk").click()
    page.get_by_text("There is no microphone: allow this page to use it").wait_for()
    context.close()


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_everyone_can_use_it(opened: Visit, width: int, dark: bool) -> None:
    page = opened(width=width, dark=dark)
    name = f"page-{width}{'-dark' if dark else ''}"
    assert_accessible(page)
    page.set_input_files("#files", [CLIP])
    until(page, f"{N_CARDS} == 1")
    page.get_by_label("both", exact=True).check()
    page.get_by_role("button", name="Yes, keep it").click()
    page.locator("#kept .card").wait_for()
    assert_accessible(page)
    picture(page, name, full_page=True)
    page.locator("#said .doubtful:visible").last.click()
    assert_accessible(page)
    picture(page, f"{name}-word")
