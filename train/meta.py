"""Meta-train a source of adapters over the simulated cohorts and typical speech.

    accelerate launch -m train.meta --config train/configs/hypernet.yaml

One program for every point source: the hypernetwork, global and cohort LoRA. Encoder states and
embeddings come from a cache; further sets of views (new simulated people) can be made in the
background while training goes on. An interrupted run goes on exactly where it stopped.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperasr.backbone import Backbone
from hyperasr.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.sampler import BalancedSampler
from hyperasr.cohorts.views import Variety, View, plan_views
from hyperasr.config import to_dict
from hyperasr.decode import decode_rows
from hyperasr.errors import ConfigError
from hyperasr.metrics import error_rate, score
from hyperasr.model import HyperASR, SourceConfig
from hyperasr.sources import HyperNet
from hyperasr.speaker import SpeakerConfig
from hyperasr.text import normaliser
from hyperasr.types import Batch
from train.loop import LoopConfig, fit
from train.program import read_config, start

log = logging.getLogger("train.meta")


@dataclass(frozen=True)
class MetaConfig:
    """What is trained, on what, for how long."""

    backbone: str = "micro"
    """Frozen Whisper: ``micro``, a folder or a hub name."""
    train: Path = Path("runs/recordings/train.jsonl")
    """Manifest of typical recordings with text."""
    dev: Path = Path("runs/recordings/dev.jsonl")
    """Manifest of speakers kept out for choosing the best checkpoint."""
    cache: Path = Path("runs/cache")
    """Folder of all caches."""
    out: Path = Path("runs/hypernet")
    """Run folder; the best model is in its folder `best`."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """The adapter source and its targets."""
    speaker: SpeakerConfig = field(default_factory=SpeakerConfig)
    """The speaker encoder."""
    batch_size: int = 32
    """Utterances a batch and process, at least 1."""
    view_sets: int = 1
    """Sets of simulated views; set k joins the training after k/n of the steps."""
    people_per_speaker: int = 2
    """Simulated people that share a real voice in each cohort and set."""
    typical_share: float = 0.5
    """Share of the recordings that also count as they are, in [0, 1]."""
    same_person_share: float = 0.0
    """Share of the utterances that train with the embedding of another utterance of the same
    simulated person, in [0, 1]: an embedding of one's own can be learned by heart."""
    variety: Variety = field(default_factory=Variety)
    """More speakers and places made out of the training recordings."""
    workers: int = 2
    """Processes that build caches."""
    keep_mel: bool = False
    """Cache log-mel too where it is not needed, to share a cache with encoder targets."""
    view_seed: int = 0
    """Seed of the simulated people."""
    init_from: Path | None = None
    """A trained model folder with a static LoRA, whose factors become the hypernetwork's start."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The training loop."""

    def __post_init__(self) -> None:
        if not 0 <= self.same_person_share <= 1:
            raise ConfigError(
                f"same_person_share is {self.same_person_share}; it must be in [0, 1]"
            )
        if self.batch_size < 1 or self.view_sets < 1:
            raise ConfigError(
                f"batch_size and view_sets must be at least 1, not {self.batch_size} and "
                f"{self.view_sets}"
            )


class Objective(nn.Module):
    """HyperASR as the training loop wants it: a batch in, losses by name out."""

    def __init__(self, model: HyperASR) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the parts of the ELBO."""
        return self.model(batch).losses()


class Views:
    """The training rows: caches of view sets, the later ones made in the background."""

    def __init__(self, config: MetaConfig, backbone: Backbone) -> None:
        self.config, self.backbone = config, backbone
        self.recordings = read_manifest(config.train)
        self.caches: list[Path] = [self._build(0)]
        self.drawing = (0, *self._rows(0))
        self.maker: threading.Thread | None = None
        if config.view_sets > 1:
            self.maker = threading.Thread(target=self._build_the_rest, daemon=True)
            self.maker.start()

    def plan(self, index: int) -> list[View]:
        """Return the views of set `index`."""
        config = self.config
        return plan_views(
            self.recordings,
            seed=config.view_seed + index,
            people_per_speaker=config.people_per_speaker,
            typical_share=config.typical_share,
            variety=config.variety,
        )

    def __call__(self, number: int) -> Batch:
        """Return batch `number`; waits for the view sets it draws from."""
        config = self.config
        total = config.loop.steps * config.loop.accumulate
        wanted = min(config.view_sets - 1, number * config.view_sets // max(total, 1))
        if wanted != self.drawing[0]:
            while len(self.caches) <= wanted:
                assert self.maker is not None
                self.maker.join(1.0)
                if not self.maker.is_alive() and len(self.caches) <= wanted:
                    raise ConfigError(f"view set {wanted} could not be made; see the log")
            self.drawing = (wanted, *self._rows(wanted))
        _, cache, sampler = self.drawing
        rows = sampler.batch(number, config.batch_size)
        batch = cache.batch(rows)
        if not config.same_person_share:
            return batch
        rng = random.Random(f"{config.loop.seed}/{number}/person")
        chosen = [
            rng.choice(self.people[cache.person(row)])
            if rng.random() < config.same_person_share
            else row
            for row in rows
        ]
        return replace(batch, speaker_emb=self.embeddings[chosen].to(self.backbone.device))

    def _rows(self, last: int) -> tuple[Cache, BalancedSampler]:
        cache = Cache(self.caches[: last + 1], self.backbone)
        if self.config.same_person_share:
            self.embeddings = cache.embeddings()
            self.people: dict[str, list[int]] = {}
            for row in range(len(cache)):
                self.people.setdefault(cache.person(row), []).append(row)
        speakers = [str(s) for s in cache.meta["speaker"]]
        seed = self.config.loop.seed
        return cache, BalancedSampler(cache.meta["cohort"], speakers, seed, cache.n_frames)

    def _build(self, index: int) -> Path:
        config = self.config
        needed = any(t.startswith("encoder.") for t in config.source.targets)
        keep_mel = config.keep_mel or needed or config.speaker.kind == "ecapa"
        return build_cache(
            config.cache,
            self.plan(index),
            config.backbone,
            CacheConfig(config.speaker, keep_mel),
            backbone=self.backbone,
            workers=config.workers if index == 0 else 1,
            progress=lambda done, n: log.info("view set %d: %d of %d parts", index, done, n),
        )

    def _build_the_rest(self) -> None:
        for index in range(1, self.config.view_sets):
            self.caches.append(self._build(index))


def development_views(manifest: Path) -> list[View]:
    """Return the fixed views of held-out speakers that choose the best checkpoint."""
    return plan_views(read_manifest(manifest), seed=7_000, severities=(0.3, 0.6, 0.9))


def evaluate(model: HyperASR, cache: Cache, adapt: bool = True) -> dict[str, float]:
    """Return word error rates of the development views by cohort; the score weighs them alike."""
    hypotheses = decode_rows(model, cache, batch_size=64, adapt=adapt)
    counts = score(cache.meta["text"], hypotheses, normaliser("spoken"), "wer")
    measures = {}
    for cohort in sorted(set(cache.meta["cohort"])):
        chosen = [c for c, name in zip(counts, cache.meta["cohort"], strict=True) if name == cohort]
        measures[cohort] = error_rate(chosen)
    return {**measures, "score": sum(measures.values()) / len(measures)}


def start_from_static(source: HyperNet, model_folder: Path, backbone: Backbone) -> None:
    """Let the hypernetwork's bias be a trained global LoRA, so that it starts as that adapter."""
    static = HyperASR.from_pretrained(model_folder, backbone=backbone)
    factors = static.factors(torch.zeros(1, 1))
    if static.source.targets != source.targets or static.source.rank != source.rank:
        raise ConfigError(f"{model_folder}: its targets or rank differ from the hypernetwork's")
    ratio = factors.scaling / source.scaling
    with torch.no_grad():
        for name, pair in factors.targets.items():
            key = source.key(name)
            source.bias_A[key].copy_(pair.A[:, 0].flatten(1))
            source.bias_B[key].copy_(ratio * pair.B[:, 0].mT.flatten(1))


def main() -> None:
    """Train, and leave the best model in the run folder."""
    config = read_config(MetaConfig)
    accelerator = start("meta", config.out)
    backbone = Backbone.from_pretrained(config.backbone)
    with accelerator.main_process_first():
        views = Views(config, backbone)
        dev_config = CacheConfig(config.speaker, views.drawing[1].keeps_mel)
        dev_folder = build_cache(
            config.cache,
            development_views(config.dev),
            config.backbone,
            dev_config,
            workers=config.workers,
        )
    dev = Cache([dev_folder], backbone)
    source = config.source
    if source.kind == "static" and (source.settings or {}).get("by", "global") != "global":
        groups = sorted(set(views.drawing[1].meta["cohort"]))
        source = replace(source, settings={**(source.settings or {}), "groups": groups})
    model = HyperASR(backbone, config.speaker, source, seed=config.loop.seed)
    if isinstance(model.source, HyperNet):
        if views.drawing[1].keeps_embeddings:
            model.source.fit_embedding(views.drawing[1].embeddings())
        if config.init_from:
            start_from_static(model.source, config.init_from, backbone)
    log.info("%s", model.budget())

    def save_best(objective: nn.Module) -> None:
        notes = {"config": to_dict(config), "rows": len(views.drawing[1])}
        objective.model.save_pretrained(
            config.out / "best", backbone=str(config.backbone), training=notes
        )

    best = fit(
        Objective(model),
        views,
        lambda objective: evaluate(objective.model, dev),
        save_best,
        config.loop,
        config.out,
        accelerator,
    )
    print(json.dumps(best))
    accelerator.end_training()


if __name__ == "__main__":
    main()
