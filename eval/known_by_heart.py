"""What the backbone knows by heart: its errors on people it was trained on, and on unseen ones.

    python -m eval.known_by_heart --config eval/configs/known_by_heart.yaml

Typical speech, three ways: as it was recorded; stretched in frequency and time, as for encoder
targets; and spliced into sentences that nobody said (`train.splice`). Only where both groups make
about as many errors can an adapter learn from the first one what helps the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from eval.scores import RECORDED, Scores
from eval.systems import BACKBONE
from hyperasr import audio, results
from hyperasr.backbone import Backbone
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.views import TYPICAL
from hyperasr.decode import token_limits
from hyperasr.errors import ConfigError
from hyperasr.protocols import protocol
from hyperasr.search import SearchConfig, text_only
from hyperasr.types import Batch
from train.augment import FeatureVariety, vary_features
from train.program import read_config, run_program
from train.splice import SpliceConfig, new_sentences, pieces_of

SEEN, UNSEEN = "seen", "unseen"
SPEECH = ("recorded", "stretched", "spliced")
_BATCH = 32


class Spoken(NamedTuple):
    """What somebody said: waveform (n_samples,) float32, 16 kHz."""

    speaker: str
    text: str
    waveform: np.ndarray


@dataclass(frozen=True)
class KnownByHeartConfig:
    """Whose speech."""

    seen: Path = Path("runs/recordings/train.jsonl")
    """Manifest of typical recordings that the backbone was trained on."""
    unseen: Path = Path("runs/recordings/dev.jsonl")
    """Manifest of typical recordings of other people."""
    stretched: FeatureVariety = field(default_factory=lambda: FeatureVariety(0.15, 0.2))
    """How log-mel is stretched."""
    splice: SpliceConfig = field(default_factory=SpliceConfig)
    """How recordings are spliced; its manifest and folder are not used."""
    protocol: str = "spoken"
    """How to score."""
    seed: int = 0
    """Of stretching and the bootstrap; splicing has its own."""
    out: Path = Path("results/known_by_heart.json")
    """Result file."""


def spoken(config: KnownByHeartConfig) -> dict[tuple[str, str], list[Spoken]]:
    """Return the utterances of each group (seen or unseen) and way of speaking (of `SPEECH`).

    What is to be stretched is as it was recorded.

    Raises:
        ConfigError: a manifest without a recording of the sources.
    """
    said: dict[tuple[str, str], list[Spoken]] = {(w, s): [] for s in SPEECH for w in (SEEN, UNSEEN)}
    rows, group = [], {}
    for who, path in ((SEEN, config.seen), (UNSEEN, config.unseen)):
        own = [row for row in read_manifest(path) if row.source in config.splice.sources]
        if not own:
            raise ConfigError(f"{path} holds no recording of {', '.join(config.splice.sources)}")
        rows += own
        group |= dict.fromkeys((row.speaker for row in own), who)
    for row in rows:
        waveform = audio.load(row.path, start_s=row.start_s, end_s=row.end_s)
        for speech in SPEECH[:2]:
            said[group[row.speaker], speech].append(Spoken(row.speaker, row.text, waveform))
    for speaker, text, waveform in new_sentences(pieces_of(rows, config.splice), config.splice):
        said[group[speaker], "spliced"].append(Spoken(speaker, text, waveform))
    return said


@torch.inference_mode()
def texts(
    backbone: Backbone,
    waveforms: Sequence[np.ndarray],
    variety: FeatureVariety | None = None,
    seed: int = 0,
) -> list[str]:
    """Recognise waveforms greedily, their log-mel changed by a variety if there is one."""
    search = text_only(SearchConfig(), backbone.eos, int(backbone.whisper.config.vocab_size))
    found: dict[int, str] = {}
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    for first in range(0, len(order), _BATCH):
        rows = order[first : first + _BATCH]
        mel, n_frames = backbone.features([waveforms[i] for i in rows])
        batch = Batch(n_frames=n_frames, mel=mel)
        if variety is not None:
            batch = vary_features(batch, variety, (seed, first))
        assert batch.mel is not None
        encoded = backbone.encode(batch.mel, batch.n_frames)
        limits = token_limits(encoded.lengths)
        decoded = backbone.generate(encoded, search, max_tokens=limits)
        found |= {i: backbone.text(t) for i, t in zip(rows, decoded.tokens, strict=True)}
    return [found[i] for i in range(len(waveforms))]


def main() -> None:
    """Recognise, score, write the JSON, print the rates."""
    config = read_config(KnownByHeartConfig)
    backbone = Backbone.from_pretrained(config.splice.backbone)
    scoring = protocol(config.protocol)
    rows: list[dict[str, Any]] = []
    for (who, speech), utterances in spoken(config).items():
        variety = config.stretched if speech == "stretched" else None
        heard = texts(backbone, [u.waveform for u in utterances], variety, config.seed)
        counts = scoring.score(heard, [u.text for u in utterances])
        meta = {"speaker": [u.speaker for u in utterances]}
        scores = Scores(scoring, scoring.metrics[0], meta, {BACKBONE: counts}, config.seed)
        every = range(len(utterances))
        rows += scores.rows(every, TYPICAL, RECORDED, speakers=who, speech=speech)
    command = results.command("eval.known_by_heart")
    described = f"typical speech, {scoring.name}"
    head = results.head(command, config, config.seed, described, scoring.normaliser)
    results.write(config.out, head, rows)
    for row in rows:
        interval = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        name = f"{row['speakers']}, {row['speech']}"
        print(f"{name}: {100 * row['value']:.1f} % {interval}, {row['n_utterances']} utterances")


if __name__ == "__main__":
    run_program(main)
