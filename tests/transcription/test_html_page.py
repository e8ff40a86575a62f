"""The page of a transcript: it holds its sound, needs nothing else, and obeys no text."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.audio.reading import load
from hyperasr.audio.writing import opus
from hyperasr.transcription.pipeline import Result
from hyperasr.transcription.recordings import Recording, find_recordings
from hyperasr.transcription.transcript import render
from hyperasr.types import Edit, Segment, Transcript, Unclear, Word

CLIP = sorted((Path(__file__).parents[2] / "hyperasr/assets/demo").glob("10-*.ogg"))[0]
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" autofocus onfocus="alert(1)',
    "&lt;b&gt;",
    "\u202egnp.exe\u2066 \x00 \ud800",
    "</title><style>*{display:none}",
)


class Page(HTMLParser):
    """What a page is made of, as a parser of HTML sees it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.said: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag, "what is opened is closed"

    def handle_data(self, data: str) -> None:
        if "script" in self.inside:
            self.scripts.append(data)
        elif "style" not in self.inside:
            self.said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]

    @property
    def sound(self) -> np.ndarray:
        (audio,) = self.all("audio")
        kind, _, coded = str(audio["src"]).partition(";base64,")
        assert kind == "data:audio/ogg"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(coded)), dtype="float32")
        assert rate == 16_000
        return samples


def transcript(*words: str, name: str = "a.wav") -> Transcript:
    found = tuple(Word(w, 0.9 - 0.5 * (i % 2), i, i + 0.5) for i, w in enumerate(words))
    text = " ".join(words)
    return Transcript(name, text, (Segment(0.0, len(words), text, -0.1, found),), len(words))


def page_of(said: Transcript, recording: Recording | None = None, **more: object) -> Page:
    result = Result(recording or Recording(said.id), said)
    return Page(render(replace(result, **more), "html", "both"))


def test_the_sound_is_inside() -> None:
    page = page_of(transcript("turn", "on"), Recording(str(CLIP), str(CLIP)))
    heard, said = page.sound, load(CLIP)
    assert len(heard) == len(said)
    assert np.corrcoef(heard, said)[0, 1] > 0.95, "the same sound at the same time"
    assert opus(iter([said])) == opus(iter([said[:9000], said[9000:]])), "however it is cut"


@pytest.mark.parametrize("kind", ["part", "channel", "array", "pipe"])
def test_it_is_the_sound_that_was_transcribed(kind: str, tmp_path: Path) -> None:
    said = load(CLIP)[:48_000]
    both = tmp_path / "both.wav"
    soundfile.write(both, np.stack([said, -0.1 * said[::-1]], axis=1), 16_000)
    recording, expected = {
        "part": (Recording("u", str(both), start_s=1.0, end_s=2.0, channel=0), said[16_000:32_000]),
        "channel": (Recording("u", str(both), channel=1), -0.1 * said[::-1]),
        "array": (Recording("u", waveform=2 * said / abs(said).max()), None),
        "pipe": (Recording("stdin", content=CLIP.read_bytes()), load(CLIP)),
    }[kind]
    heard = page_of(transcript("so"), recording).sound
    if expected is None:
        assert np.abs(heard).max() < 1.5, "clipped, not wrapped around"
        return
    assert len(heard) == len(expected)
    assert np.corrcoef(heard, expected)[0, 1] > 0.9


def test_a_recording_that_has_gone_leaves_a_page_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "gone.wav"
    page = page_of(transcript("turn", "on"), Recording(str(path), str(path)))
    text = "".join(page.said)
    assert "This page has no sound: there is no file gone.wav" in text
    assert str(tmp_path) not in text, "where it lay is not told"
    assert not page.all("audio")
    assert "the recording was not kept" in "".join(page_of(transcript("so")).said)


def test_nothing_comes_from_elsewhere() -> None:
    page = page_of(transcript("turn", "on"), Recording(str(CLIP), str(CLIP)))
    assert not {"link", "iframe", "img", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    linked = [(a[n] or "")[:20] for _, a in page.tags for n in ("src", "href") if n in a]
    assert linked == ["data:audio/ogg;base64"[:20]]
    (policy,) = [a["content"] or "" for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; ")
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_no_text_acts() -> None:
    said = transcript(*HOSTILE, name=HOSTILE[0])
    warned = replace(said, warnings=HOSTILE, language='en"><script>')
    plain = page_of(transcript(*("x" for _ in HOSTILE)))
    written = render(Result(Recording(HOSTILE[0], reference=HOSTILE[1]), warned), "html")
    page = Page(written)
    added = len(page.tags) - len(plain.tags)
    assert added == len(HOSTILE) + 1, "a note for each warning and the reference, nothing else"
    assert [sorted(a) for a in page.all("span")] == [sorted(a) for a in plain.all("span")]
    assert not [name for _, a in page.tags for name in a if name.startswith("on")]
    assert page.scripts == plain.scripts
    text = "".join(page.said)
    for one in HOSTILE[:4]:
        assert one in text
    assert "\ufffdgnp.exe\ufffd \ufffd \ufffd" in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", written)
    written.encode("utf-8")


def test_words_have_times_and_doubtful_ones_a_mark() -> None:
    page = page_of(transcript("turn", "on", "<light>"))
    assert [(a["data-t"], a["data-e"]) for a in page.of_class("word")] == [
        ("0.00", "0.50"),
        ("1.00", "1.50"),
        ("2.00", "2.50"),
    ]
    (doubtful,) = [a for a in page.of_class("doubtful") if "word" in str(a["class"])]
    assert doubtful["title"] == "40% sure"
    marks = page.of_class("mark")  # in the explanation as well
    assert [(a["role"], a["aria-label"]) for a in marks] == [("img", " (doubtful)")] * 2
    assert "turn on? <light>" in "".join(page.said)
    untimed = replace(transcript("so").segments[0], words=(Word("so", 0.9),))
    page = page_of(Transcript("a", "so", (untimed,), 1.0))
    assert page.of_class("word") == [{"class": "word"}]


def test_verbatim_and_clean_and_what_was_unclear() -> None:
    words = (Word("um", 0.9, 0.0, 0.4), Word("so", 0.9, 0.5, 0.9), Word("[unclear]", 0.0, 1.0, 2.0))
    edit = Edit(0, 1, "filler", "um", "", 0.0, 0.4)
    loop = Unclear(1.0, 2.0, "no end of text", "na na", 2)
    one = Segment(0.0, 2.0, "um so [unclear]", -0.1, words, (edit,), "so [unclear]", (loop,))
    said = Transcript("a", one.text, (one,), 2.0, clean=one.clean)
    page = page_of(said)
    assert [a.get("id") for a in page.all("input") if "checked" in a] == ["show-both"]
    lines = [line for line in "".join(page.said).splitlines() if line.strip()]
    assert lines[-4:] == [
        "0:00",
        "verbatimum so [unclear]",
        "cleanso [unclear]",
        "0:01 unclear: no end of text",
    ]
    assert not page_of(transcript("so")).all("input"), "nothing to choose where nobody asked"


def test_unadapted_beside_personalised() -> None:
    page = page_of(transcript("turn", "on"), base=transcript("turn", "of"), recording=None)
    text = "".join(page.said)
    assert text.index("unadapted") < text.index("turn of") < text.index("personalised")
    assert len(page.of_class("segment")) == 1, "of one segment, beside each other"
    assert len(page.of_class("system")) == 2


def test_silence_and_hours() -> None:
    assert "0:01 long, 0 words." in "".join(page_of(Transcript("s", "", (), 1.0)).said)
    late = replace(transcript("so").segments[0], start_s=3723.4)
    text = "".join(page_of(Transcript("s", "so", (late,), 7384.0)).said)
    assert "2:03:04 long" in text
    assert "1:02:03" in text


def test_a_file_keeps_its_name_and_not_its_folder() -> None:
    (recording,) = find_recordings(str(CLIP))
    text = render(Result(recording, transcript("so")), "html")
    assert f"<title>{CLIP.name}: transcript</title>" in text
    assert str(CLIP.parent) not in text
