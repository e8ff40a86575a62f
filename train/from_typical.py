"""Start without any atypical data: from a Whisper and typical transcribed speech to a model.

    python -m train.from_typical --backbone tiny.en --speech FOLDER --out runs/mine

simulates the cohorts on recordings in any generic layout (a manifest, WAV beside TXT, LibriSpeech,
Kaldi, ...), caches what the encoder hears, meta-trains a hypernetwork and leaves a model folder in
OUT/best that ``hyperasr transcribe --model`` takes. Recordings of other cohorts that are among them
are used as they are. Time and disk are estimated and printed first; an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hyperasr.backbone import Backbone
from hyperasr.cache import CacheConfig, estimate_bytes
from hyperasr.cohorts.corpora import prepare
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL, Variety, View, realise
from hyperasr.errors import ConfigError
from hyperasr.model import HyperASR, SourceConfig
from hyperasr.speaker import speaker_encoder
from hyperasr.types import Batch, EncoderOutput, Utterance
from train.data.split import by_cohort, in_lower_case
from train.loop import LoopConfig
from train.meta import MetaConfig, run
from train.program import read_config, run_program
from train.views import LONGEST_SIMULATED_S, development_plan, training_plan, usable

__all__ = ["StartConfig", "meta_config", "split_speakers"]

log = logging.getLogger(__name__)
_SAMPLE = 8  # views that are timed before the start


@dataclass(frozen=True)
class StartConfig:
    """From which Whisper, from which speech, to where."""

    speech: Path
    """A manifest (``.jsonl``), or a folder of recordings with transcripts in a generic layout."""
    backbone: str = "tiny.en"
    """Frozen Whisper: ``tiny.en``, a folder in the Hugging Face layout, or a hub name."""
    audio_context: str | None = None
    """``trimmed`` encodes the real length of each utterance, several times faster, and leaves the
    adapters to make up for what a checkpoint trained on 30 s loses; ``full`` encodes 30 s; None
    does as the checkpoint says."""
    out: Path = Path("runs/from_typical")
    """Run folder; the model is in its folder `best`."""
    cache: Path | None = None
    """Folder of encoder states; None is OUT/cache."""
    steps: int = 2_000
    """Optimiser steps, at least 1."""
    batch_size: int = 16
    """Utterances a step, at least 1."""
    lr: float = 1e-3
    """Peak learning rate, above 0."""
    rank: int = 8
    """Rank of the factors, 1 to 32."""
    dev_share: float = 0.1
    """Share of the speakers kept out to choose the best checkpoint, in (0, 0.5]."""
    workers: int = 2
    """Processes that simulate and encode."""
    encode_on: str = "cpu"
    """Device that these encode on, such as ``cuda``; the training takes a card by itself."""
    estimate_only: bool = False
    """Print what it takes and stop."""
    seed: int = 0
    """Of people, batches and weights."""

    def __post_init__(self) -> None:
        if not 0 < self.dev_share <= 0.5:
            raise ConfigError(f"dev_share is {self.dev_share}; it must be in (0, 0.5]")


def read_speech(speech: Path) -> list[Utterance]:
    """Return the utterances with text, and print what was left out.

    Raises:
        ManifestError, ConfigError: no typical speech that is usable there.
    """
    if speech.is_file():
        rows = read_manifest(speech)
    else:
        prepared = prepare("generic", speech)
        rows = list(prepared)
        print("\n".join(prepared.report.lines()))
    lengths, left_out = usable(rows, COHORTS)
    for (cohort, reason), n in sorted(left_out.items()):
        print(f"{n} {cohort} recordings left out, {reason}")
    kept = [replace(row, path=str(Path(row.path).resolve())) for row in lengths]
    n_typical = sum(row.cohort == TYPICAL for row in kept)
    if n_typical < 2:
        raise ConfigError(
            f"{speech} has {n_typical} typical utterances with text of at most "
            f"{LONGEST_SIMULATED_S:g} s; meta-training needs hundreds, of many speakers"
        )
    if n_typical < len(kept):
        print(f"{len(kept) - n_typical} recordings are not of typical speech: used as they are")
    kept, loud = in_lower_case(kept)
    for source in loud:
        print(f"{source or 'all'}: texts are in capitals, they are taken in lower case")
    return kept


def split_speakers(
    rows: Sequence[Utterance], share: float
) -> tuple[list[Utterance], list[Utterance]]:
    """Keep whole speakers of every cohort out for development; always the same ones.

    With fewer than three speakers of a cohort utterances are kept out instead, and the log says so.
    """

    def order(name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()

    dev_ids: set[str] = set()
    for cohort, own in by_cohort(rows).items():
        speakers = sorted({row.speaker for row in own}, key=order)
        if len(speakers) >= 3:
            out = set(speakers[: max(1, round(share * len(speakers)))])
            dev_ids |= {row.id for row in own if row.speaker in out}
            continue
        log.warning(
            "only %d speakers of the cohort %s: utterances are kept out instead of speakers, so "
            "the measured error says little about new voices",
            len(speakers),
            cohort,
        )
        chosen = sorted(own, key=lambda row: order(row.id))
        n_out = min(max(1, round(share * len(own))), len(own) - 1)  # one utterance alone trains
        dev_ids |= {row.id for row in chosen[:n_out]}
    train = [replace(row, split="train") for row in rows if row.id not in dev_ids]
    return train, [replace(row, split="dev") for row in rows if row.id in dev_ids]


def meta_config(config: StartConfig) -> MetaConfig:
    """Return the meta-training that this start comes to."""
    settings = {"rank": config.rank, "alpha": config.rank, "dropout": 0.2, "emb_noise": 0.3}
    return MetaConfig(
        backbone=config.backbone,
        audio_context=config.audio_context,
        train=config.out / "train.jsonl",
        dev=config.out / "dev.jsonl",
        cache=config.cache or config.out / "cache",
        out=config.out,
        source=SourceConfig(settings=settings),
        batch_size=config.batch_size,
        variety=Variety(speed=(0.9, 1.12), place_share=0.5),
        workers=config.workers,
        encode_on=config.encode_on,
        view_seed=config.seed,
        loop=LoopConfig(
            steps=config.steps,
            lr=config.lr,
            eval_every=max(1, config.steps // 8),
            save_every=max(1, config.steps // 16),
            seed=config.seed,
        ),
    )


def timed(config: MetaConfig, backbone: Backbone, views: Sequence[View]) -> tuple[float, float]:
    """Return seconds to make one view, and seconds of one training step, measured here and now."""
    speaker = speaker_encoder(config.speaker, backbone)
    started = time.monotonic()
    made = [realise(view) for view in views]
    mel, n_frames = backbone.features([waveform for waveform, _ in made])
    with torch.no_grad():
        encoded = backbone.encode(mel, n_frames, speaker.layers)
        emb = speaker(encoded=encoded)
    view_s = (time.monotonic() - started) / len(views)
    prompt = backbone.prompt_ids()
    ids = [[*prompt, *backbone.text_ids(text), backbone.eos] for _, text in made]
    tokens = torch.full((len(ids), max(map(len, ids))), backbone.eos)
    for row, values in zip(tokens, ids, strict=True):
        row[: len(values)] = torch.tensor(values)
    batch = Batch(
        n_frames=n_frames,
        encoded=EncoderOutput(encoded.states, encoded.lengths),
        speaker_emb=emb,
        tokens=tokens,
        n_tokens=torch.tensor([len(values) for values in ids]),
        n_prompt=len(prompt),
    )
    model = HyperASR(backbone, config.speaker, config.source).train()
    model(batch).total.backward()
    started = time.monotonic()
    model(batch).total.backward()
    return view_s, (time.monotonic() - started) * config.batch_size / len(views)


def estimate(config: MetaConfig, rows: Sequence[Utterance], dev: Sequence[Utterance] = ()) -> str:
    """Return one line: views, disk, minutes to simulate and encode, minutes to train.

    Evaluating the model on the utterances kept out, eight times, is not in it.
    """
    backbone = Backbone.from_pretrained(config.backbone, audio_context=config.audio_context)
    views = training_plan(config, rows)
    sample = views[:: max(1, len(views) // _SAMPLE)][:_SAMPLE]
    view_s, step_s = timed(config, backbone, sample)
    views += development_plan(dev, config.simulate)
    n_bytes = estimate_bytes(views, backbone, CacheConfig(config.speaker, config.keep_mel))
    minutes = len(views) * view_s / max(1, config.workers) / 60
    return (
        f"{len(rows) + len(dev)} recordings, {len(views)} views of them: "
        f"about {n_bytes / 2**30:.2f} GiB on disk, {minutes:.1f} min to simulate and encode, "
        f"{config.loop.steps * step_s / 60:.1f} min to train {config.loop.steps} steps"
    )


def main() -> None:
    """Read, split, estimate, train; the model is in the run folder's `best`."""
    config = read_config(StartConfig)
    rows = read_speech(config.speech)
    train, dev = split_speakers(rows, config.dev_share)
    config.out.mkdir(parents=True, exist_ok=True)
    write_manifest(config.out / "train.jsonl", train)
    write_manifest(config.out / "dev.jsonl", dev)
    meta = meta_config(config)
    print(estimate(meta, train, dev), flush=True)
    if config.estimate_only:
        return
    run(meta)
    print(f"done: hyperasr transcribe my.wav --model {config.out / 'best'}")


if __name__ == "__main__":
    run_program(main)
