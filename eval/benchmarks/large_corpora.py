"""Large corpora: time and memory of preparing a hundred thousand recordings, and of training from
a cache that no memory holds. What is measured runs in a process of its own, from a fresh start.
"""

from __future__ import annotations

import io
import os
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from torch import nn

from eval.benchmarks.timing import in_own_process, peak_mib
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.cohorts.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.sampler import BalancedSampler
from hyperasr.cohorts.views import TYPICAL, View
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Utterance
from hyperasr.whisper.backbone import Backbone
from train.config import MetaConfig
from train.loop.loop import LoopConfig, fit
from train.meta import Objective, new_model

__all__ = ["large_cache", "prepare_large", "train_from", "train_large", "ua_speech"]

_GIB = 2**30
_PART = 128  # views a part, so that one is made
_TEXT = "one two three four five"


def ua_speech(root: Path, n: int, seconds: float = 0.05) -> Path:
    """Write `n` recordings in the layout of UA-Speech, 700 a speaker, with their words."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE))
    soundfile.write(file, noise, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    content = file.getvalue()
    speakers = [f"{kind}{i:02d}" for i in range(1, 100) for kind in ("F", "M")]
    for speaker in speakers[: -(-n // 700)]:
        folder = root / "audio" / speaker
        folder.mkdir(parents=True)
        words = []
        for word in range(1, 101):
            words.append(f'"*/{speaker}_B1_UW{word}_M2.lab"\nWORD{word}\n.\n')
            for mic in range(2, 9):
                if n > 0:
                    (folder / f"{speaker}_B1_UW{word}_M{mic}.wav").write_bytes(content)
                    n -= 1
        mlf = root / "mlf" / speaker / f"{speaker}_word.mlf"
        mlf.parent.mkdir(parents=True)
        mlf.write_text("#!MLF!#\n" + "".join(words))
    return root


def prepare(root: Path, out: Path) -> dict[str, float]:
    """Return seconds and memory of ``hyperasr prepare`` on a tree, in this process."""
    from hyperasr.cli.parser import main

    started = time.perf_counter()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert main(["prepare", "ua_speech", str(root), "--out", str(out)]) == 0
    return {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}


def prepare_large(scratch: Path, n: int) -> dict[str, Any]:
    """Return seconds and memory of ``hyperasr prepare`` on `n` recordings, and on a tenth of them.

    The recordings were just written, so they are in the system's cache.
    """
    found: dict[str, Any] = {"recordings": n}
    for name, count in (("tenth", n // 10), ("all", n)):
        root, out = ua_speech(scratch / f"ua_speech-{name}", count), scratch / f"{name}.jsonl"
        found[name] = in_own_process(prepare, root, out)
        found[name]["rows"] = len(out.read_text().splitlines())
    return found


def large_cache(scratch: Path, backbone: Backbone, name: Path, wave: Path, n_bytes: int) -> Path:
    """Build one part of a cache and let it stand under as many names as make `n_bytes`.

    The names are hard links: a process that reads them all maps as many bytes as if each were a
    file of its own, while the disk and the system's cache hold one.

    Args:
        scratch: where the cache goes.
        backbone, name: which makes the states, and where other processes find it.
        wave: recording whose states it holds.
        n_bytes: size of the whole.
    """
    views = [
        View(Utterance(str(i), str(wave), _TEXT, f"s{i % 32}"), TYPICAL, 0.0, f"s{i % 32}", i)
        for i in range(_PART)
    ]
    config = CacheConfig(SpeakerConfig())
    folder = build_cache(scratch, views, name, config, backbone=backbone)
    (part,) = folder.glob("part-*")
    size = sum(file.stat().st_size for file in part.glob("*.arrow"))
    for index in range(1, -(-n_bytes // size)):
        other = folder / f"part-{index:05d}"
        other.mkdir()
        for file in part.iterdir():
            os.link(file, other / file.name)
    return folder


def train_from(folder: Path, whisper: Path, out: Path, steps: int, threads: int) -> dict[str, Any]:
    """Make steps of meta-training from a cache, then read every row of it once.

    Args:
        folder: of the cache, made with trimmed context.
        whisper: folder of the backbone.
        out: run folder.
        steps, threads: of the training.
    Returns:
        Peaks of resident memory in MiB: before the cache is opened, after the training, at the
        end; and how much was read how fast.
    """
    torch.set_num_threads(threads)
    backbone = Backbone.from_pretrained(whisper, offline=True, audio_context="trimmed")
    found: dict[str, Any] = {"start_mib": peak_mib()}
    cache = Cache([folder], backbone)
    config = MetaConfig(batch_size=16, loop=LoopConfig(steps=steps, tracker="none"))
    speakers = [str(name) for name in cache.meta["speaker"]]
    sampler = BalancedSampler(cache.meta["cohort"], speakers, 0, cache.n_frames)

    def evaluate(objective: nn.Module) -> dict[str, float]:
        return {"score": 0.0}

    fit(
        Objective(new_model(config, backbone, cache)),
        lambda number: cache.batch(sampler.batch(number, config.batch_size)),
        evaluate,
        lambda objective: None,
        config.loop,
        out,
        Accelerator(cpu=True),
    )
    found |= {"steps": steps, "trained_mib": peak_mib()}
    started = time.perf_counter()
    for first in range(0, len(cache), 64):
        cache.batch(range(first, min(first + 64, len(cache))))
    found["rows_per_s"] = len(cache) / (time.perf_counter() - started)
    found["gib"] = sum(p.stat().st_size for p in folder.glob("*/*.arrow")) / _GIB
    return found | {"rows": len(cache), "peak_mib": peak_mib()}


def train_large(
    scratch: Path, whisper: Path, wave: np.ndarray, n_bytes: int, threads: int, steps: int = 30
) -> dict[str, Any]:
    """Return memory and speed of training from a cache of `n_bytes`, in a process of its own.

    Args:
        scratch: for cache and run folder; takes as much as one part.
        whisper: folder of the backbone.
        wave: what every row says, 16 kHz.
        n_bytes: size of the cache, as `large_cache` counts it.
        threads, steps: of the training.
    """
    recording = scratch / "large.wav"
    soundfile.write(recording, wave, SAMPLE_RATE, subtype="FLOAT")
    backbone = Backbone.from_pretrained(whisper, offline=True, audio_context="trimmed")
    folder = large_cache(scratch / "large", backbone, whisper, recording, n_bytes)
    return in_own_process(train_from, folder, whisper, scratch / "run", steps, threads)
