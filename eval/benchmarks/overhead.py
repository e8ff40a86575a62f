"""Speed and memory of what surrounds decoding: training steps, cache, simulation, starting up."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from eval.lib import results
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.cohorts.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.simulate import COHORTS, simulate
from hyperasr.cohorts.views import TYPICAL, View
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, Utterance

__all__ = [
    "batch_as_cached",
    "cache_rate",
    "simulation_rows",
    "start_seconds",
    "training_step",
    "training_steps",
    "voice_like",
]

_TEXT = "one two three four five"


def voice_like(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a pulse train of syllables: what is timed is arithmetic, not recognition."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = np.sign(np.sin(2 * np.pi * rng.uniform(90, 220) * t)) * (np.sin(2 * np.pi * 3 * t) > 0)
    return (0.2 * wave + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def training_step(model: HyperASR) -> Callable[[Batch], None]:
    """Return a function that makes a step of meta-training: forward, backward, AdamW.

    The model is left in training mode.
    """
    model.source.requires_grad_(True)
    model.train()
    optimizer = torch.optim.AdamW(model.source.parameters(), lr=1e-6)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        model(batch).total.backward()
        optimizer.step()

    return step


def batch_as_cached(model: HyperASR, waves: list[np.ndarray], n_tokens: int) -> Batch:
    """Return a batch of utterances as the cache gives it, its texts of random tokens.

    Args:
        model: whose backbone and speaker encoder make states and embeddings.
        waves: each (n_samples,) float32, 16 kHz.
        n_tokens: of each text.
    """
    mel, n_frames = model.backbone.features(waves)
    prompt = model.backbone.prompt_ids()
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1_000, (len(waves), n_tokens), generator=generator)
    ends = torch.full((len(waves), 1), model.backbone.eos)
    tokens = torch.cat([torch.tensor(prompt).expand(len(waves), -1), text, ends], dim=1)
    n_all = torch.full((len(waves),), tokens.shape[1])
    batch = Batch(n_frames=n_frames, mel=mel, tokens=tokens, n_tokens=n_all, n_prompt=len(prompt))
    with torch.no_grad():
        emb, encoded = model.embed(batch)
    return replace(batch, mel=None, encoded=encoded, speaker_emb=emb)


def training_steps(
    model: HyperASR, waves: list[np.ndarray], n_tokens: int, whisper: Path, scratch: Path
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return two functions that make a step of meta-training: from the cache, and without.

    Both do forward, backward and AdamW on the same utterances and texts. The first reads states and
    embeddings from the cache on disk, the second computes log-mel, states and embeddings anew.

    Args:
        model: whose source is trained; left in training mode.
        waves: the utterances of the batch.
        n_tokens: of each text.
        whisper: folder of the model's backbone.
        scratch: for the cache.
    """
    text = " ".join(itertools.islice(itertools.cycle(_TEXT.split()), n_tokens))
    views = [recorded(wave, index, scratch, text) for index, wave in enumerate(waves)]
    config = CacheConfig(model.speaker_config)
    folder = build_cache(scratch / "steps", views, whisper, config, backbone=model.backbone)
    cache = Cache([folder], model.backbone)
    step = training_step(model)

    def uncached() -> None:
        mel, n_frames = model.backbone.features(waves)
        step(replace(texts, mel=mel, n_frames=n_frames))

    texts = replace(cache.batch(range(len(waves))), encoded=None, speaker_emb=None)
    return lambda: step(cache.batch(range(len(waves)))), uncached


def recorded(wave: np.ndarray, index: int, scratch: Path, text: str, seed: int = 0) -> View:
    """Write an utterance to disk and return it as a view of a typical recording."""
    path = scratch / f"{index}.wav"
    soundfile.write(path, wave, SAMPLE_RATE, subtype="FLOAT")
    utterance = Utterance(id=str(index), path=str(path), text=text, speaker=f"s{index}")
    return View(utterance, TYPICAL, 0.0, f"s{index}", seed)


def simulation_rows(seconds: float, rounds: int, seed: int) -> list[results.Row]:
    """Return for each cohort how many times faster than real time one core simulates."""
    rows = []
    for cohort in COHORTS:
        rng, rates = np.random.default_rng(seed), []
        for index in range(rounds):
            waveform = voice_like(seconds, rng)
            started = time.process_time()
            simulate(waveform, _TEXT, cohort, 0.7, seed=index, speaker=index)
            rates.append(seconds / (time.process_time() - started))
        low, high = np.quantile(rates, [0.025, 0.975])
        setting = f"{cohort}, {seconds:g} s, severity 0.7, CPU time of one core, single calls"
        ratio = statistics.median(rates)
        row = ("simulate_over_real_time", ratio, float(low), float(high), len(rates), "real time")
        rows.append(results.speed_row(*row, setting))
    return rows


def cache_rate(model: str, waves: list[np.ndarray], scratch: Path, rounds: int) -> dict[str, Any]:
    """Return rows a second that the cache puts into batches, its files in memory already."""
    views = []
    for index, wave in enumerate(waves):
        view = recorded(wave, index, scratch, _TEXT)
        # Many rows of few recordings: how long it takes does not depend on what is in them.
        views += [replace(view, seed=seed) for seed in range(16)]
    opened = HyperASR.from_pretrained(model, offline=True)
    name, backbone = opened.backbone_name, opened.backbone
    config = CacheConfig(SpeakerConfig())
    folder = build_cache(scratch / "cache", views, name, config, backbone=backbone)
    cache, rng, rates = Cache([folder], backbone), np.random.default_rng(0), []
    for _ in range(rounds):
        chosen = rng.permutation(len(cache))[:64].tolist()
        started = time.perf_counter()
        cache.batch(chosen)
        rates.append(len(chosen) / (time.perf_counter() - started))
    return {"rows_per_s": statistics.median(rates), "batch": 64, "d_model": backbone.d_model}


def start_seconds(wave: np.ndarray, model: str, scratch: Path) -> dict[str, float]:
    """Return seconds from starting Python to the first transcript, and of `import hyperasr`.

    Medians of five fresh processes each, the files read once before.
    """
    path = scratch / "start.wav"
    soundfile.write(path, wave, SAMPLE_RATE)
    cli = ["-m", "hyperasr.cli", "transcribe", str(path), "--model", model, "--offline"]
    found = {}
    for name, arguments in (
        ("transcribe_s", cli),
        ("import_s", ["-c", "import hyperasr"]),
        ("python_s", ["-c", ""]),
    ):
        found[name] = statistics.median([_seconds(arguments) for _ in range(6)][1:])
    return found


def _seconds(arguments: list[str]) -> float:
    root = str(Path(__file__).parents[2])
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started
