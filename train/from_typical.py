"""Start without any atypical data: from a Whisper and typical transcribed speech to a model.

    python -m train.from_typical --backbone tiny.en --speech FOLDER --out runs/mine

takes recordings in any generic layout (a manifest, WAV beside TXT, LibriSpeech, Kaldi, ...), writes
their texts as Whisper writes, cuts single words out of them, simulates the cohorts on all of it,
caches what the encoder hears, meta-trains a hypernetwork with the unadapted Whisper as its teacher,
and leaves a model folder in OUT/best that ``hyperasr transcribe --model`` takes. Recordings of
other cohorts that are among them are used as they are. The disk that it takes is printed first; an
interrupted run goes on. A model that is worth nothing, or harms typical speech, is not kept: then
the command ends with 1.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperasr.adapters import SourceConfig
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.cohorts.cache import CacheConfig, estimate_bytes
from hyperasr.cohorts.corpora import prepare
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL, Variety
from hyperasr.errors import ConfigError
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Utterance
from hyperasr.util.files import keep_inputs
from hyperasr.whisper.backbone import Backbone
from train.config import LoopConfig, MetaConfig
from train.data.split import by_cohort, in_lower_case, some_of_each
from train.data.views import LONGEST_SIMULATED_S, development_plan, training_plan, usable
from train.data.words import WordsConfig, cut
from train.data.writing import lines_beside, write
from train.loop.program import read_config, run_program
from train.meta import frozen, run

log = logging.getLogger(__name__)
_DEV_PER_SPEAKER = 24  # recordings that choose the checkpoint


@dataclass(frozen=True)
class StartConfig:
    """From which Whisper, from which speech, to where."""

    speech: Path
    """A manifest (``.jsonl``), or a folder of recordings with transcripts in a generic layout."""
    backbone: str = "tiny.en"
    """Frozen Whisper: ``tiny.en``, a folder in the Hugging Face layout, or a hub name."""
    audio_context: str | None = "trimmed"
    """``trimmed`` encodes the real length of each utterance, several times faster, and leaves the
    adapters to learn where the text then ends; ``full`` encodes 30 s; None does as the checkpoint
    says."""
    margin_s: float | None = None
    """Seconds of silence that trimmed context hears after an utterance; None as the checkpoint
    says."""
    out: Path = Path("runs/from_typical")
    """Run folder; the model is in its folder `best`."""
    cache: Path | None = None
    """Folder of encoder states; None is OUT/cache."""
    steps: int = 800
    """Optimiser steps, at least 1."""
    batch_size: int = 16
    """Utterances a step, at least 1."""
    lr: float = 0.002
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
    """Print what it takes on disk and stop."""
    must_help: bool = True
    """Keep no model that harms typical speech or does not help atypical speech."""
    seed: int = 0
    """Of batches and weights."""

    def __post_init__(self) -> None:
        if not 0 < self.dev_share <= 0.5:
            raise ConfigError(f"dev_share is {self.dev_share}; it must be in (0, 0.5]")


def read_speech(speech: Path) -> list[Utterance]:
    """Return the utterances with text; what is left out is said.

    Raises:
        ManifestError, ConfigError: no typical speech that is usable there.
    """
    if speech.is_file():
        rows = read_manifest(speech)
    else:
        prepared = prepare("generic", speech)
        rows = list(prepared)
        print("\n".join(prepared.report.lines()))
    found = usable(rows, speech, COHORTS)
    kept = [replace(row, path=str(Path(row.path).resolve())) for row in found]
    n_typical = sum(row.cohort == TYPICAL for row in kept)
    if n_typical < 2:
        raise ConfigError(
            f"{speech} has {n_typical} typical utterances with text of at most "
            f"{LONGEST_SIMULATED_S:g} s; meta-training needs hundreds, of many speakers"
        )
    if n_typical < len(kept):
        print(f"{len(kept) - n_typical} recordings are not of typical speech: used as they are")
    return in_lower_case(kept)


def split_speakers(
    rows: Sequence[Utterance], share: float
) -> tuple[list[Utterance], list[Utterance]]:
    """Keep whole speakers of every cohort out for development; always the same ones.

    With fewer than three speakers of a cohort utterances are kept out instead, and the log says so.
    """

    def some(names: Iterable[str]) -> list[str]:
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        return ordered[: max(1, round(share * len(ordered)))]

    dev_ids: set[str] = set()
    for cohort, own in by_cohort(rows).items():
        speakers = {row.speaker for row in own}
        if len(speakers) >= 3:
            out = some(speakers)
            dev_ids |= {row.id for row in own if row.speaker in out}
            continue
        log.warning(
            "only %d speakers of the cohort %s: utterances are kept out instead of speakers, so "
            "the measured error says little about new voices",
            len(speakers),
            cohort,
        )
        if len(own) > 1:  # one utterance alone trains
            dev_ids |= set(some([row.id for row in own]))
    train = [replace(row, split="train") for row in rows if row.id not in dev_ids]
    return train, [replace(row, split="dev") for row in rows if row.id in dev_ids]


def meta_config(config: StartConfig) -> MetaConfig:
    """Return the meta-training that this start comes to."""
    settings = {"rank": config.rank, "alpha": config.rank, "dropout": 0.2, "emb_noise": 0.3}
    manifest = config.out / "train.jsonl"
    return MetaConfig(
        backbone=config.backbone,
        audio_context=config.audio_context,
        margin_s=config.margin_s,
        train=manifest,
        teacher=lines_beside(manifest),
        objective=ObjectiveConfig(nll_weight=0.5, teacher=1.0, negatives=4_096),
        dev=config.out / "dev.jsonl",
        cache=config.cache or config.out / "cache",
        out=config.out,
        source=SourceConfig(settings=settings),
        batch_size=config.batch_size,
        variety=Variety(speed=(0.9, 1.12), place_share=0.3),
        dev_per_speaker=_DEV_PER_SPEAKER,
        must_help=config.must_help,
        workers=config.workers,
        encode_on=config.encode_on,
        loop=LoopConfig(
            steps=config.steps,
            lr=config.lr,
            ema=0.995,
            weight_decay=0.05,
            eval_every=max(1, config.steps // 4),
            save_every=max(1, config.steps // 16),
            seed=config.seed,
        ),
    )


def estimate(config: MetaConfig, rows: Sequence[Utterance], dev: Sequence[Utterance] = ()) -> str:
    """Return one line: recordings, views, and what the cache takes on disk."""
    backbone = frozen(config)
    if config.dev_per_speaker:
        dev = some_of_each(dev, config.dev_per_speaker)
    held_out = development_plan(dev, config.simulate)
    views = [*training_plan(config, rows), *held_out]
    # Words are cut out of the recordings later: as many as there may be, of a second each.
    words = [
        replace(row, id=f"{row.id}/{i}", end_s=row.start_s + 1.0)
        for row in rows
        if row.cohort == TYPICAL
        for i in range(WordsConfig.per_recording)
    ]
    kept = CacheConfig(config.speaker, config.needs_mel)
    n_bytes = estimate_bytes([*views, *training_plan(config, words)], backbone, kept)
    if config.must_help:
        whole = Backbone(backbone.whisper, backbone.tokenizer, "full")
        n_bytes += estimate_bytes(held_out, whole, CacheConfig(SpeakerConfig()))
    return (
        f"{len(rows) + len(dev)} recordings, {len(views)} views of them: about "
        f"{n_bytes / 2**30:.3g} GiB on disk"
    )


def main() -> None:
    """Read, split, estimate, write the texts, train; the model is in the run folder's `best`."""
    config = read_config(StartConfig)
    meta = meta_config(config)
    keep_inputs([meta.train, meta.dev], [config.speech], "choose another out")
    rows = read_speech(config.speech)
    train, dev = split_speakers(rows, config.dev_share)
    config.out.mkdir(parents=True, exist_ok=True)
    write_manifest(meta.dev, dev)
    print(estimate(meta, train, dev), flush=True)
    if config.estimate_only:
        return
    write(train, meta.train, Backbone.from_pretrained(config.backbone, audio_context="full"))
    words = WordsConfig(meta.train, config.out / "words.jsonl", config.backbone)
    if cut(words):
        meta = replace(meta, words=words.out)
    run(meta)
    print(f"done: hyperasr transcribe my.wav --model {config.out / 'best'}")


if __name__ == "__main__":
    run_program(main)
