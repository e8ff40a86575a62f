"""The training speech of the embedded model: synthesised and AN4, as log-mel features on disk.

One folder a voice or speaker, written atomically, so that an interrupted run goes on. Usage:

    python -m train.speech --out runs/speech [--an4 ../shared/data/an4-train]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
from rich.progress import track

from hyperasr.audio import load
from hyperasr.files import atomic_folder
from hyperasr.mel import log_mel
from hyperasr.types import Utterance
from hyperasr.workers import WorkerPool
from train.augment import augment_waveform
from train.domain import sample_text
from train.typical import an4_utterances
from train.voices import Voice, synthesise, voices

__all__ = ["FeatureSet", "write_features"]

COPIES_OF_AN4 = 16
UTTERANCES_PER_VOICE = 200
HELD_OUT_UTTERANCES = 20


class FeatureSet:
    """Log-mel features of one voice or speaker: a float16 array of frames and its rows."""

    def __init__(self, folder: Path) -> None:
        self.frames = np.load(folder / "frames.npy", mmap_mode="r")
        self.rows = json.loads((folder / "rows.json").read_text())

    def mel(self, index: int) -> np.ndarray:
        """Return (n_frames, n_mels) float32 of one utterance."""
        row = self.rows[index]
        return np.asarray(
            self.frames[row["start"] : row["start"] + row["n_frames"]], dtype=np.float32
        )


def write_features(folder: Path, items: list[tuple[np.ndarray, str]], **common: str) -> None:
    """Write the features of `items` (waveform, text) as one feature set."""
    rows, frames, start = [], [], 0
    for waveform, text in items:
        mel = log_mel(waveform).numpy().T.astype(np.float16)
        rows.append({"text": text, "start": start, "n_frames": len(mel), **common})
        frames.append(mel)
        start += len(mel)
    with atomic_folder(folder) as temporary:
        np.save(temporary / "frames.npy", np.concatenate(frames))
        (temporary / "rows.json").write_text(json.dumps(rows))


def make_voice(voice: Voice, out: Path, seed: int) -> None:
    """Synthesise, augment (training voices only) and write one voice."""
    if (out / voice.name).exists():
        return
    train = voice.split == "train"
    rng = random.Random(f"{voice.name}-{seed}")
    texts = [
        sample_text(rng) for _ in range(UTTERANCES_PER_VOICE if train else HELD_OUT_UTTERANCES)
    ]
    noise = np.random.default_rng(rng.getrandbits(32))
    spoken = [
        (wave, text)
        for wave, text in zip(synthesise(voice, texts, seed), texts, strict=True)
        if len(wave) > 1_600
    ]
    if train:
        for i in range(0, len(spoken) - 1, 12):  # some long utterances, so that positions are seen
            (a, text_a), (b, text_b) = spoken[i : i + 2]
            spoken.append((np.concatenate([a, b]), f"{text_a} {text_b}"))
        spoken = [(augment_waveform(wave, noise), text) for wave, text in spoken]
    write_features(out / voice.name, spoken, speaker=voice.name, split=voice.split)


def make_an4(rows: list[Utterance], out: Path, seed: int) -> None:
    """Write one AN4 speaker; training speakers in several augmented copies."""
    speaker, split = rows[0].speaker, rows[0].split
    if (out / speaker).exists():
        return
    noise = np.random.default_rng([seed, *speaker.removeprefix("an4-").encode()])
    items = [(load(row.path), row.text or "") for row in rows]
    if split == "train":
        copies = list(items)
        for _ in range(COPIES_OF_AN4 - 1):
            (a, text_a), (b, text_b) = (items[i] for i in noise.integers(len(items), size=2))
            joined = (np.concatenate([a, b]), f"{text_a} {text_b}")
            copies += [
                (augment_waveform(wave, noise, speed=(0.85, 1.18)), text)
                for wave, text in [*items, joined]
            ]
        items = copies
    write_features(out / speaker, items, speaker=speaker, split=split)


def main() -> None:
    """Write every voice and speaker that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--an4", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with WorkerPool(args.workers) as pool:
        jobs = [pool.submit(make_voice, voice, args.out, args.seed) for voice in voices(args.seed)]
        if args.an4:
            rows = an4_utterances(args.an4)
            speakers = sorted({row.speaker for row in rows})
            jobs += [
                pool.submit(make_an4, [r for r in rows if r.speaker == name], args.out, args.seed)
                for name in speakers
            ]
        for job in track(jobs, "speech"):
            job.result()


if __name__ == "__main__":
    main()
