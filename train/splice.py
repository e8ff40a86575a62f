"""New sentences in the voices of real people: recordings cut apart at pauses, joined otherwise.

    python -m train.splice --manifest runs/recordings/train.jsonl --out runs/recordings/spliced

writes FLAC files, and ``train.jsonl`` of the recordings in the manifest and the new ones.

A backbone that was trained on few people knows their sentences by heart, however much they are
stretched in frequency and time: it makes no error in them, and an adapter learns nothing from them
that serves anybody else. In an order in which they were never said, words have to be heard again.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from rich.progress import track
from torch import Tensor

from hyperasr import audio
from hyperasr.audio import SAMPLE_RATE
from hyperasr.backbone import Backbone
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.files import atomic_folder
from hyperasr.types import Utterance
from train.align import Aligner, WordSpan
from train.program import read_config, run_program

__all__ = ["Piece", "SpliceConfig", "cut_at_pauses", "new_sentences", "pieces_of", "splice"]

_WINDOW = 480  # samples over which energy is smoothed: 30 ms
_FADE = 160  # samples in which one piece gives way to the next: 10 ms
_SHORTEST = 1_200  # samples of a piece: 75 ms
_MARGINS_S = (0.2, 0.3)  # kept before the first and after the last character that was heard
_BATCH = 32


@dataclass(frozen=True)
class SpliceConfig:
    """Which recordings to cut, and how many new ones to make of them."""

    manifest: Path = Path("runs/recordings/train.jsonl")
    """Typical recordings with transcripts."""
    out: Path = Path("runs/recordings/spliced")
    """Folder of the new recordings and of the manifest of all."""
    sources: tuple[str, ...] = ("an4",)
    """Corpora whose recordings are cut."""
    per_speaker: int = 80
    """New recordings of each speaker."""
    n_words: tuple[int, int] = (1, 8)
    """Least and most words of a new recording; its last piece may exceed that."""
    longest_run: int = 3
    """Most neighbouring pieces that stay together."""
    pause: float = 0.005
    """Energy of a pause, relative to the 0.9 quantile of the recording's energy."""
    backbone: str = "micro"
    """Whose encoder states the words are found by."""
    epochs: int = 20
    """Passes of the aligner over the recordings."""
    seed: int = 1
    """Of every choice."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_words[0] <= self.n_words[1]:
            raise ConfigError(f"n_words is {self.n_words}; it must be a least and a most number")
        for name in ("per_speaker", "longest_run"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Piece:
    """Words, and their sound (n_samples,) float32."""

    words: tuple[str, ...]
    waveform: np.ndarray

    @property
    def spelled(self) -> bool:
        """Whether it is all letters, which nobody mixes with words at will."""
        return all(len(word) == 1 for word in self.words)


def cut_at_pauses(
    waveform: np.ndarray, spans: Sequence[WordSpan], pause: float = 0.005
) -> list[Piece]:
    """Cut a recording where the speaker pauses between two words; what runs on stays together.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
        spans: when each of its words was said.
        pause: energy of a pause, relative to the 0.9 quantile of the recording's.
    Returns:
        The pieces, in order, all words among them but those of pieces too short for speech.
    """
    energy = np.convolve(waveform.astype(np.float64) ** 2, np.hanning(_WINDOW), "same")
    quiet = pause * np.quantile(energy, 0.9)
    starts_s, ends_s = [s.start_s for s in spans], [s.end_s for s in spans]
    first = max(0, round((starts_s[0] - _MARGINS_S[0]) * SAMPLE_RATE))
    cuts = [(0, first)]
    for i, (end_s, start_s) in enumerate(zip(ends_s, starts_s[1:], strict=False), start=1):
        a = round(end_s * SAMPLE_RATE)
        between = energy[a : max(a + _FADE, round(start_s * SAMPLE_RATE))]
        if len(between) and between.min() <= quiet:
            cuts.append((i, a + int(between.argmin())))
    last = min(len(waveform), round((ends_s[-1] + _MARGINS_S[1]) * SAMPLE_RATE))
    cuts.append((len(spans), last))
    return [
        Piece(tuple(s.word for s in spans[i:j]), waveform[a:b])
        for (i, a), (j, b) in pairwise(cuts)
        if b - a >= _SHORTEST
    ]


def splice(
    recordings: Sequence[Sequence[Piece]],
    rng: np.random.Generator,
    n_words: int,
    longest_run: int = 3,
) -> Piece:
    """Join pieces of one speaker's recordings into a sentence that nobody said.

    Args:
        recordings: the pieces of each, at least one, all equally loud.
        rng: source of every choice.
        n_words: where to stop; the last run of pieces may exceed it.
        longest_run: most neighbouring pieces of a recording that stay together.
    """
    parts = [_run(recordings, rng, longest_run)]
    while sum(len(part.words) for part in parts) < n_words:
        part = _run(recordings, rng, longest_run)
        if part.spelled == parts[0].spelled:
            parts.append(part)
    joined = parts[0].waveform
    for part in parts[1:]:
        joined = _joined(joined, part.waveform)
    return Piece(tuple(word for part in parts for word in part.words), joined)


def _run(recordings: Sequence[Sequence[Piece]], rng: np.random.Generator, longest: int) -> Piece:
    pieces = recordings[rng.integers(len(recordings))]
    n = min(len(pieces), int(rng.integers(1, longest + 1)))
    first = rng.integers(len(pieces) - n + 1)
    chosen = pieces[first : first + n]
    words = tuple(word for piece in chosen for word in piece.words)
    return Piece(words, np.concatenate([piece.waveform for piece in chosen]))


def _joined(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    rise = np.linspace(0, 1, _FADE, dtype=np.float32)
    middle = before[-_FADE:] * (1 - rise) + after[:_FADE] * rise
    return np.concatenate([before[:-_FADE], middle, after[_FADE:]])


@torch.no_grad()
def _states(backbone: Backbone, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
    """Return the encoder states of each waveform (n_states, d_model)."""
    states: dict[int, Tensor] = {}
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    for first in track(range(0, len(order), _BATCH), "encoding"):
        rows = order[first : first + _BATCH]
        encoded = backbone.encode(*backbone.features([waveforms[i] for i in rows]))
        for i, row, length in zip(rows, encoded.states, encoded.lengths, strict=True):
            states[i] = row[: int(length)].clone()
    return [states[i] for i in range(len(waveforms))]


def pieces_of(rows: Sequence[Utterance], config: SpliceConfig) -> dict[str, list[list[Piece]]]:
    """Return the pieces of each recording, by speaker, equally loud; nobody without any piece.

    Args:
        rows: transcribed recordings.
        config: how to cut them.
    """
    backbone = Backbone.from_pretrained(config.backbone)
    waveforms = [audio.load(row.path, start_s=row.start_s, end_s=row.end_s) for row in rows]
    texts = [row.text for row in rows]
    states = _states(backbone, waveforms)
    torch.manual_seed(config.seed)
    aligner = Aligner(backbone.d_model, texts)
    loss = aligner.learn(states, texts, epochs=config.epochs, seed=config.seed)
    print(f"aligner: {loss:.3f} nats a character")
    pieces: dict[str, list[list[Piece]]] = defaultdict(list)
    for row, waveform, spans in zip(rows, waveforms, aligner.spans(states, texts), strict=True):
        if spans:
            level = 0.5 / max(float(np.abs(waveform).max()), 1e-5)
            found = cut_at_pauses(waveform * np.float32(level), spans, config.pause)
            if found:
                pieces[row.speaker].append(found)
    return dict(pieces)


def new_sentences(
    pieces: Mapping[str, Sequence[Sequence[Piece]]], config: SpliceConfig
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield speaker, text and waveform of `per_speaker` new sentences of each speaker.

    Args:
        pieces: of each recording, by speaker.
        config: how many, how long, and the seed.
    """
    rng = np.random.default_rng(config.seed)
    for speaker, recordings in sorted(pieces.items()):
        for _ in range(config.per_speaker):
            n_words = int(rng.integers(config.n_words[0], config.n_words[1] + 1))
            new = splice(recordings, rng, n_words, config.longest_run)
            yield speaker, " ".join(new.words), new.waveform


def main() -> None:
    """Write the new recordings, and the manifest of all."""
    config = read_config(SpliceConfig)
    rows = read_manifest(config.manifest)
    chosen = [row for row in rows if row.source in config.sources and row.text]
    if not chosen:
        wanted = ", ".join(config.sources)
        raise ConfigError(f"{config.manifest} holds no transcribed recording of {wanted}")
    pieces = pieces_of(chosen, config)
    template = {row.speaker: replace(row, start_s=0.0, end_s=None) for row in chosen}
    n_pieces = sum(len(found) for recordings in pieces.values() for found in recordings)
    print(f"{len(chosen)} recordings of {len(pieces)} speakers, cut into {n_pieces} pieces")
    # Relative to the new manifest, so that a folder of runs can be moved.
    rows = [replace(row, path=os.path.relpath(row.path, config.out)) for row in rows]
    with atomic_folder(config.out, replaces=("*.flac", "train.jsonl")) as folder:
        for number, (speaker, text, waveform) in enumerate(new_sentences(pieces, config)):
            name = f"{speaker}-{number % config.per_speaker:03d}"
            sf.write(folder / f"{name}.flac", waveform, SAMPLE_RATE)
            new = replace(template[speaker], id=f"spliced/{name}", path=f"{name}.flac", text=text)
            rows.append(new)
        write_manifest(folder / "train.jsonl", rows)
    print(f"{config.out / 'train.jsonl'}: {len(rows)} recordings")


if __name__ == "__main__":
    run_program(main)
