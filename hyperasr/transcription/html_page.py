"""Write a transcript as one page that holds its sound: a word that is chosen plays from its time.

The page needs no network and no other file, and its Content-Security-Policy forbids both. Without
JavaScript it is plain text below a player.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path

from hyperasr import __version__
from hyperasr.audio.writing import OPUS_TYPE, opus
from hyperasr.errors import HyperASRError
from hyperasr.transcription.disfluency import pieces
from hyperasr.transcription.recordings import Recording, samples_of
from hyperasr.types import DOUBTFUL, Segment, Transcript, Word

_ASSETS = Path(__file__).parents[1] / "assets"
# Characters that would not be shown but act: controls, halves of surrogate pairs, and the marks
# that turn the order of writing, which could make a text read as another one. XML takes none of
# the first two, nor the last two.
_ACTING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_DOUBT = '<sup class="mark" role="img" aria-label=" (doubtful)">?</sup>'


def html_page(
    recording: Recording, transcript: Transcript, base: Transcript | None, mode: str
) -> str:
    """Return a page of HTML with the words and, as Ogg Opus, the sound of a recording.

    The recording is read once more. Where that fails, or where there is only a transcript, the page
    says so and has no player.

    Args:
        recording: which the sound, the name and what was said are taken of.
        transcript: of it.
        base: the unadapted backbone's, where there was a comparison.
        mode: what is shown at first, where there is verbatim and clean text.
    """
    sound, silent_because = _sound(recording)
    said = [] if recording.reference is None else [f"What was said: {recording.reference}"]
    notes = [*silent_because, *said, *transcript.warnings]
    style, script = _asset("transcript.css"), _asset("transcript.js")
    name = _escaped(bare_name(recording))
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"media-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="hyperasr {__version__}">',
        f"<title>{name}: transcript</title>\n<style>{style}</style>\n</head>\n<body>",
        f"<header>\n<h1><bdi>{name}</bdi></h1>\n{_about(transcript)}",
        *(f'<p class="note">{_escaped(note)}</p>' for note in notes),
        "</header>",
        _controls(sound, transcript.clean is not None, mode),
        f"<main>\n{_legend(transcript, bool(sound))}",
        *_segments(transcript, base),
        f"</main>\n<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def bare_name(recording: Recording) -> str:
    """Return the name of the file alone: where it lies is nobody's business who gets the page."""
    is_path = recording.path is not None and Path(recording.path) == Path(recording.id)
    return Path(recording.id).name if is_path else recording.id


def _sound(recording: Recording) -> tuple[bytes, list[str]]:
    """Return the sound as Ogg Opus, and why it is empty where it is."""
    if recording.path is None and recording.waveform is None and recording.content is None:
        return b"", ["This page has no sound: the recording was not kept with the text."]
    try:
        return opus(samples_of(recording, lambda _: None)), []
    except HyperASRError as error:
        reason = str(error).replace(str(recording.path), bare_name(recording))
        return b"", [f"This page has no sound: {reason}"]


@cache
def _asset(name: str) -> str:
    return "\n" + (_ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy calls a text that may act."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def printable(text: str) -> str:
    """Return text in which nothing acts but is not shown: controls and the like become �."""
    return _ACTING.sub("\ufffd", text)


def _escaped(text: str) -> str:
    """Return printable text as it stands in a page, also in an attribute."""
    return html.escape(printable(text))


def _about(transcript: Transcript) -> str:
    words = transcript.words
    n_doubtful = sum(word.doubtful for word in words)
    facts = [f"{_clock(transcript.duration_s)} long", f"{len(words):,} words"]
    facts += [f"{n_doubtful:,} of them doubtful"] if n_doubtful else []
    return (
        f'<p class="facts">{", ".join(facts)}. Written by hyperasr {__version__}; '
        "no person has checked it.</p>"
    )


def _controls(sound: bytes, has_clean: bool, mode: str) -> str:
    """Return the player and the choice of a text; nothing where neither is needed."""
    player = (
        '<audio controls preload="auto" aria-label="The recording" '
        f'src="data:{OPUS_TYPE};base64,{base64.b64encode(sound).decode()}"></audio>\n'
        '<label class="speed" hidden>Speed <select>'
        '<option value="0.5">half</option><option value="0.75">three quarters</option>'
        '<option value="1" selected>as spoken</option></select></label>\n'
    )
    chosen = {name: " checked" if name == mode else "" for name in ("verbatim", "clean", "both")}
    choice = "".join(
        f'<label><input type="radio" name="mode" id="show-{name}"{checked}> {name}</label>'
        for name, checked in chosen.items()
    )
    choice = f'<fieldset class="choice"><legend>Text</legend>{choice}</fieldset>\n'
    if not (sound or has_clean):
        return ""
    shown = (player if sound else "") + (choice if has_clean else "")
    return f'<div class="controls" role="region" aria-label="Player">\n{shown}</div>'


def _legend(transcript: Transcript, has_sound: bool) -> str:
    sure = "calibrated" if transcript.calibrated else "not calibrated, mostly too sure"
    doubt = (
        f'<p class="legend"><span class="doubtful">Words marked like this{_DOUBT}</span> are '
        f"doubtful: their probability is under {DOUBTFUL:.0%} ({sure}).</p>"
    )
    keys = (
        '<p class="legend" id="keys" hidden>Choose a word to hear it from there. With the '
        "keyboard: arrow keys go from word to word, Enter plays, Escape stops.</p>"
    )
    found = [doubt] if any(word.doubtful for word in transcript.words) else []
    return "\n".join([*found, keys] if has_sound else found)


def _segments(transcript: Transcript, base: Transcript | None) -> Iterator[str]:
    """Yield each segment: its time, and its texts beside each other."""
    systems = [transcript] if base is None else [base, transcript]
    names = [""] if base is None else ["unadapted", "personalised"]
    if not any(one.segments for one in systems):
        yield f'<p class="text" dir="auto">{_escaped(transcript.text)}</p>'
        return
    # Both systems hear the same segments.
    for row in zip_longest(*(one.segments for one in systems)):
        first = next(segment for segment in row if segment is not None)
        texts = [
            _system(segment, name, one.language)
            for segment, name, one in zip(row, names, systems, strict=True)
            if segment is not None
        ]
        yield (
            f'<section class="segment">\n<p class="time" data-t="{first.start_s:.2f}">'
            f"{_clock(first.start_s)}</p>\n{''.join(texts)}</section>"
        )


def _system(segment: Segment, name: str, language: str) -> str:
    """Return the texts of one system: verbatim, and clean where there is one."""
    modes = ["verbatim"] if segment.clean is None else ["verbatim", "clean"]
    texts = []
    for mode in modes:
        label = ", ".join(part for part in (name, mode if len(modes) > 1 else "") if part)
        texts.append(
            f'<div class="{mode}">'
            + (f'<p class="label">{label}</p>' if label else "")
            + f'<p class="text" dir="auto" lang="{_escaped(language)}">{_words(segment, mode)}</p>'
            "</div>\n"
        )
    unclear = "".join(
        f'<p class="note">{_clock(u.start_s)} unclear: {_escaped(u.reason)}</p>\n'
        for u in segment.unclear
    )
    return f'<div class="system">\n{"".join(texts)}{unclear}</div>\n'


def _words(segment: Segment, mode: str) -> str:
    return "".join(
        _escaped(part) if word is None else _word(part, word)
        for part, word in pieces(segment, mode)
    )


def _word(text: str, word: Word) -> str:
    times = (
        f' data-t="{word.start:.2f}" data-e="{word.end:.2f}"'
        if word.start is not None and word.end is not None
        else ""
    )
    if not word.doubtful:
        return f'<span class="word"{times}>{_escaped(text)}</span>'
    sure = f"{word.probability:.0%} sure"
    if word.uncertainty is not None:
        sure += f", {word.uncertainty:.0%} of the samples say something else"
    return f'<span class="word doubtful" title="{sure}"{times}>{_escaped(text)}{_DOUBT}</span>'


def _clock(seconds: float) -> str:
    """Return 1:02:03, or 2:03 under an hour."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
