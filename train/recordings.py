"""Typical recordings to simulate cohorts from: synthetic voices, AN4 and FSDD, with manifests.

    python -m train.recordings --out runs/recordings [--an4 DIR] [--fsdd DIR]

writes FLAC files of the synthetic voices, and ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``.
Whole voices and speakers belong to one split. FSDD is for evaluation only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from rich.progress import track

from hyperasr.audio import SAMPLE_RATE
from hyperasr.cohorts.manifest import write_manifest
from hyperasr.files import atomic_folder
from hyperasr.types import Utterance
from hyperasr.workers import WorkerPool
from train.domain import sample_text
from train.program import read_config, run_program
from train.typical import an4_utterances, fsdd_utterances
from train.voices import Voice, synthesise, voices

__all__ = ["RecordingsConfig", "write_voice"]


@dataclass(frozen=True)
class RecordingsConfig:
    """Which recordings to write."""

    out: Path = Path("runs/recordings")
    """Folder of the FLAC files and manifests."""
    an4: Path | None = None
    """The AN4 folder, in one of the layouts of the reader, or none."""
    fsdd: Path | None = None
    """The FSDD folder, or none."""
    per_voice: int = 16
    """Utterances of each training voice."""
    per_held_out_voice: int = 12
    """Utterances of each development or test voice."""
    seed: int = 1
    """Another one than the backbone's speech, so that the texts are new."""
    workers: int = 2
    """Processes."""


def write_voice(voice: Voice, config: RecordingsConfig) -> list[Utterance]:
    """Synthesise one voice (once) and return its rows."""
    rng = random.Random(f"{voice.name}-{config.seed}")
    count = config.per_voice if voice.split == "train" else config.per_held_out_voice
    texts = [sample_text(rng) for _ in range(count)]
    folder = config.out / "synthetic" / voice.name
    if len(list(folder.glob("*.flac"))) != count:
        with atomic_folder(folder, replaces=("*.flac",)) as temporary:
            for i, waveform in enumerate(synthesise(voice, texts, config.seed)):
                level = 0.3 / max(float(np.abs(waveform).max(initial=0.0)), 1e-5)
                sf.write(temporary / f"{i:03d}.flac", waveform * level, SAMPLE_RATE)
    return [
        Utterance(
            id=f"{voice.name}/{i:03d}",
            path=f"synthetic/{voice.name}/{i:03d}.flac",
            text=text,
            speaker=voice.name,
            split=voice.split,
            source="synthetic",
        )
        for i, text in enumerate(texts)
    ]


def main() -> None:
    """Write recordings and manifests."""
    config = read_config(RecordingsConfig)
    config.out.mkdir(parents=True, exist_ok=True)
    rows: list[Utterance] = []
    with WorkerPool(config.workers) as pool:
        jobs = [pool.submit(write_voice, voice, config) for voice in voices(0)]
        for job in track(jobs, "recordings"):
            rows += job.result()
    if config.an4:
        rows += an4_utterances(config.an4)
    if config.fsdd:
        rows += fsdd_utterances(config.fsdd)
    for split in ("train", "dev", "test"):
        chosen = [row for row in rows if row.split == split]
        write_manifest(config.out / f"{split}.jsonl", chosen)
        print(f"{split}: {len(chosen)} utterances, {len({r.speaker for r in chosen})} speakers")


if __name__ == "__main__":
    run_program(main)
