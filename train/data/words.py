"""Single words and short phrases, cut out of longer recordings of typical speech.

    python -m train.data.words --manifest runs/data/written.jsonl --out runs/data/words.jsonl

Recordings of dysarthric speech are mostly single words, on which a plain Whisper runs away; most
published typical speech is sentences. The rows of the output are pieces of the same recordings, by
start and end: one to `longest` words, with a pause before or after them, where what the unadapted
Whisper wrote and the reference agree, so that the times of the words can be trusted. Times come
from the decoder's cross-attention (`hyperasr.transcription.words`). A piece is written as Whisper
writes a short utterance: a capital first, a full stop last. It has no teacher and takes the
reference.
"""

from __future__ import annotations

import difflib
import json
import logging
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.views import TYPICAL
from hyperasr.model import AdaptedWhisper
from hyperasr.transcription.enrolment import sentence
from hyperasr.transcription.words import attend, fit_to_sound, word_times, words_of
from hyperasr.types import Batch, Utterance
from hyperasr.whisper.backbone import Backbone
from train.data.writing import lines_beside
from train.loop.program import read_config, run_program

SOURCE = "words"
"""Corpus that the rows of all pieces name, so that tables tell them from sentences."""

log = logging.getLogger("train.data.words")
_BATCH = 16
_PAUSE_S = 0.06
"""Silence before and after a piece together, at least: one cut out of running speech begins inside
a sound and ends in another, as nothing does that is said alone; at one end that may be so."""
_ROOM_S = 0.15  # of that silence that stays, at most
_LENGTH_S = (0.25, 4.0)
_CONTENT = 4  # letters of the longest word, at least


@dataclass(frozen=True)
class WordsConfig:
    """What is cut out of what."""

    manifest: Path
    """Manifest that `train.data.writing` wrote, its ``.lines.jsonl`` beside it."""
    out: Path
    """Manifest of the pieces."""
    backbone: str = "tiny.en"
    """The Whisper that finds the words."""
    longest: int = 4
    """Most words of a piece, at least 1; short ones come more often."""
    per_recording: int = 2
    """Most pieces of a recording, at least 1."""
    recordings: int = 0
    """Typical recordings that are cut, drawn at random; 0 for all."""
    seed: int = 0
    """Of what is drawn."""


def agreeing(text: str, hypothesis: str) -> list[bool]:
    """Return for each word of a text whether a hypothesis has it in the same place."""
    keys = [
        [re.sub(r"\W", "", word.lower()) for word in side.split()] for side in (text, hypothesis)
    ]
    same = [False] * len(keys[0])
    matcher = difflib.SequenceMatcher(a=keys[0], b=keys[1], autojunk=False)
    for block in matcher.get_matching_blocks():
        same[block.a : block.a + block.size] = [True] * block.size
    return same


def pieces(
    times: Sequence[tuple[float, float]], usable: Sequence[bool], length_s: float, longest: int
) -> Iterator[tuple[int, int, float, float]]:
    """Yield every run of usable words with pauses around it.

    Args:
        times: start and end in seconds of each word's sound (n_words).
        usable: whether its text can be trusted (n_words).
        length_s: of the recording.
        longest: most words of a run.
    Yields:
        First word, the one after the last, start and end in seconds with some of the pauses.
    """
    ends = [0.0, *(end for _, end in times)]
    starts = [*(start for start, _ in times), length_s]
    pauses = [start - end for end, start in zip(ends, starts, strict=True)]  # before each word
    for first in range(len(times)):
        for last in range(first + 1, min(first + longest, len(times)) + 1):
            if not all(usable[first:last]) or pauses[first] + pauses[last] < _PAUSE_S:
                continue
            start_s = times[first][0] - min(_ROOM_S, pauses[first] / 2)
            end_s = times[last - 1][1] + min(_ROOM_S, pauses[last] / 2)
            if _LENGTH_S[0] <= end_s - start_s <= _LENGTH_S[1]:
                yield first, last, start_s, end_s


def _speakable(words: Sequence[str]) -> bool:
    """Whether somebody may say these words alone: not of two sentences, and not `of` or `to`."""
    within = not any(word[-1] in ".?!" for word in words[:-1])
    return within and any(len(word.strip(",;:.?!")) >= _CONTENT for word in words)


@torch.inference_mode()
def cut_words(
    model: AdaptedWhisper, rows: Sequence[Utterance], hypotheses: Sequence[str], config: WordsConfig
) -> list[Utterance]:
    """Return pieces of typical recordings with text, each a row of its own.

    The model is an unadapted Whisper, and the hypotheses are what Whisper wrote for each.
    """
    backbone = model.backbone
    waveforms = [load(r.path, start_s=r.start_s, end_s=r.end_s, channel=r.channel) for r in rows]
    mel, n_frames = backbone.features(waveforms)
    batch = Batch(n_frames=n_frames, encoded=backbone.encode(mel, n_frames))
    tokens = [backbone.text_ids(row.text or "") for row in rows]
    found = []
    for row, waveform, ids, hypothesis, seen in zip(
        rows, waveforms, tokens, hypotheses, attend(model, batch, tokens, adapt=False), strict=True
    ):
        words = words_of(backbone, ids, [0.0] * len(ids))
        length_s = len(waveform) / SAMPLE_RATE
        times = fit_to_sound(np.clip(word_times(words, seen), 0.0, length_s).tolist(), waveform)
        same = agreeing(" ".join(word.text for word in words), hypothesis)
        # Figures are said in several ways, and a word with a hyphen is several.
        plain = [word.text.isascii() and not re.search(r"[\d-]", word.text) for word in words]
        usable = [a and b for a, b in zip(same, plain, strict=True)]
        runs = [
            run
            for run in pieces(times, usable, length_s, config.longest)
            if _speakable([word.text for word in words[run[0] : run[1]]])
        ]
        rng = random.Random(f"{config.seed}/{row.id}")
        for _ in range(config.per_recording):
            if not runs:
                break
            chosen = rng.choices(runs, [1 / (last - first) for first, last, *_ in runs])[0]
            first, last, start_s, end_s = chosen
            runs = [run for run in runs if run[1] <= first or run[0] >= last]
            spoken = " ".join(word.text for word in words[first:last])
            found.append(
                replace(
                    row,
                    id=f"{row.id}/{first}-{last}",
                    text=sentence(spoken.strip(" ,;:-\"'")),
                    text_clean=None,
                    source=SOURCE,
                    start_s=round(row.start_s + start_s, 3),
                    end_s=round(row.start_s + end_s, 3),
                    extra=None,
                )
            )
    return found


def cut(config: WordsConfig) -> int:
    """Cut words out of the typical recordings of a written manifest, and return how many pieces."""
    rows = [row for row in read_manifest(config.manifest) if row.cohort == TYPICAL]
    if config.recordings:
        random.Random(config.seed).shuffle(rows)
        rows = rows[: config.recordings]
    lines = map(json.loads, lines_beside(config.manifest).read_text(encoding="utf-8").splitlines())
    hypothesis = {line["id"]: line["hypothesis"] for line in lines if "id" in line}
    backbone = Backbone.from_pretrained(config.backbone, audio_context="trimmed")
    model = AdaptedWhisper.unadapted(backbone)
    found: list[Utterance] = []
    for start in track(range(0, len(rows), _BATCH), "cutting"):
        part = rows[start : start + _BATCH]
        found += cut_words(model, part, [hypothesis[row.id] for row in part], config)
    write_manifest(config.out, found)
    n_words = [len((row.text or "").split()) for row in found]
    counts = ", ".join(f"{n_words.count(n)} of {n}" for n in sorted(set(n_words)))
    print(f"{config.out}: {len(found)} pieces of {len(rows)} recordings; by words: {counts}")
    return len(found)


def main() -> None:
    """Read a written manifest, cut words out of its typical recordings."""
    config = read_config(WordsConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cut(config)


if __name__ == "__main__":
    run_program(main)
