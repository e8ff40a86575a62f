"""Fixtures of the training programs: a small corpus, and a random backbone to train on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from accelerate.state import AcceleratorState

from hyperasr.cohorts.manifest import write_manifest
from hyperasr.types import Utterance
from tests.in_this_process import InThisProcess
from tests.random_whisper import random_whisper

WORDS = "turn the light on please call my sister at ten seven five stop kitchen we go".split()


@pytest.fixture(autouse=True)
def _own_accelerator() -> None:
    """Let every test have an accelerator of its own settings, as every process has."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module", autouse=True)
def _caches_without_new_interpreters() -> Iterator[None]:
    """Build every cache in the test's own process: an interpreter takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperasr.cohorts.cache.WorkerPool", InThisProcess)
        patch.setattr("train.data.views.WorkerPool", InThisProcess)
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of three training and one development speaker: buzzing noise with a text each."""
    folder = tmp_path_factory.mktemp("corpus")
    rng, numbers = random.Random(0), np.random.default_rng(0)
    for split, speakers in (("train", "abc"), ("dev", "d")):
        rows = []
        for speaker in speakers:
            for i in range(2):
                time_s = np.arange(16_000) / 16_000
                wave = 0.2 * np.sign(np.sin(2 * np.pi * (100 + 20 * i) * time_s))
                wave = wave * (np.sin(2 * np.pi * 2 * time_s) > 0) + numbers.normal(0, 0.01, 16_000)
                sf.write(folder / f"{speaker}{i}.wav", wave, 16_000)
                rows.append(
                    Utterance(
                        id=f"{speaker}{i}",
                        path=f"{speaker}{i}.wav",
                        text=" ".join(rng.choices(WORDS, k=rng.randint(2, 6))),
                        speaker=speaker,
                        split=split,
                        source="an4" if speaker == "c" else "synthetic",
                    )
                )
        write_manifest(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture(scope="session")
def shipped_shape_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random backbone with 4 + 2 layers, d_model 32."""
    folder = tmp_path_factory.mktemp("shipped") / "backbone"
    random_whisper(encoder_layers=4, decoder_layers=2).save_pretrained(folder)
    return folder
