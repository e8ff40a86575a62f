"""Meta-train a source of adapters over cohorts, recorded or simulated, and typical speech.

    accelerate launch -m train.meta --config train/configs/hypernet.yaml

One program for every source: the hypernetwork, point and Bayesian, global and cohort LoRA, VI LoRA
and BLoRA. Encoder states and embeddings come from a cache; further sets of views (new simulated
people) can be made in the background while training goes on. An interrupted run goes on exactly
where it stopped. On several CPU processes: `torchrun --nproc_per_node 2 -m train.meta ...`; on
several machines see train/slurm_example.sbatch, sharded (FSDP) train/configs/accelerate_fsdp.yaml.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hyperasr.adapters import HyperNet
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.cohorts.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.sampler import check_source_share, check_speaker_power
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import Variety
from hyperasr.errors import ConfigError
from hyperasr.model import HyperASR, SourceConfig
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch
from hyperasr.util.config import to_dict
from hyperasr.whisper.backbone import Backbone
from train.data.augment import FeatureVariety
from train.data.views import Views, development_views, of_cohorts
from train.loop.batches import split_batch
from train.loop.loop import LoopConfig
from train.loop.program import fit_and_report, read_config, run_program, start
from train.loop.scoring import Judge, evaluate

__all__ = ["MetaConfig", "Objective", "data_of", "development_views", "evaluate", "run"]

log = logging.getLogger("train.meta")


@dataclass(frozen=True)
class MetaConfig:
    """What is trained, on what, for how long."""

    backbone: str = "tiny.en"
    """Frozen Whisper: ``tiny.en``, a folder or a hub name."""
    audio_context: str | None = None
    """What its encoder hears: ``trimmed`` to the real length, as the model then also does in use,
    ``full`` for 30 s; None as the checkpoint says."""
    margin_s: float | None = None
    """Seconds of silence that trimmed context hears after an utterance, in [0, 30]; None as the
    checkpoint says, or `hyperasr.whisper.backbone.MARGIN_S`. Less is faster, and more to be
    learned."""
    train: Path = Path("runs/data/train.jsonl")
    """Manifest of recordings with text. Typical ones are also simulated on; those of any other
    cohort are used as they were recorded."""
    dev: Path = Path("runs/data/dev.jsonl")
    """Manifest of speakers kept out for choosing the best checkpoint."""
    simulate: tuple[str, ...] = COHORTS
    """Cohorts to simulate on typical recordings; empty simulates nothing."""
    cache: Path = Path("runs/cache")
    """Folder of all caches."""
    out: Path = Path("runs/hypernet")
    """Run folder; the best model is in its folder `best`."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """The adapter source and its targets."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is minimised."""
    speaker: SpeakerConfig = field(default_factory=SpeakerConfig)
    """The speaker encoder."""
    batch_size: int = 32
    """Utterances a batch and process, at least 1."""
    people_per_speaker: int = 2
    """Simulated people that share a real voice in each cohort."""
    typical_share: float = 0.5
    """Share of the typical recordings that also count as they are, in [0, 1]; all of them do where
    nothing is simulated."""
    variety: Variety = field(default_factory=Variety)
    """More speakers and places made out of the training recordings."""
    teacher: Path | None = None
    """What the unadapted Whisper says of the training texts: the ``.lines.jsonl`` that
    `train.data.writing` writes beside the manifest. `objective.teacher` is its weight."""
    source_share: dict[str, float] = field(default_factory=dict)
    """Chance of a row to be of a source of recordings, by its name; together at most 1. Speakers
    weigh the same within what is left, and within each source."""
    speaker_power: float = 0.0
    """A speaker with n rows of a cohort weighs n to this power, in [0, 1]: 0 lets speakers weigh
    the same, 1 rows, which is for data in which many speakers have one recording each."""
    features: FeatureVariety = field(default_factory=FeatureVariety)
    """How log-mel is changed anew for every batch, which is then encoded anew too."""
    cohorts: tuple[str, ...] = ()
    """Cohorts, ``typical`` among them, to train and choose on; empty for all. The cache holds all
    of them either way, so that it serves every choice."""
    workers: int = 2
    """Processes that build caches."""
    encode_on: str = "cpu"
    """Device that these encode on, such as ``cuda``; each holds a copy of the backbone there."""
    keep_mel: bool = False
    """Cache log-mel too where it is not needed, to share a cache with encoder targets."""
    dev_per_speaker: int = 0
    """Recordings of each development speaker that choose the checkpoint, at least 1; 0 for all."""
    must_help: bool = True
    """Decode the development rows with the unadapted recogniser on 30 s first, and keep no
    checkpoint that harms typical speech or does not help atypical speech. False keeps the best
    checkpoint whatever it is worth, for comparisons."""
    view_seed: int = 0
    """Seed of the simulated people."""
    init_from: Path | None = None
    """A trained model folder that the hypernetwork starts from: the factors of a static LoRA, or
    all weights of a hypernetwork of the same shape, whose training goes on."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The training loop."""

    def __post_init__(self) -> None:
        check_source_share(self.source_share)
        check_speaker_power(self.speaker_power)
        if unknown := [cohort for cohort in self.simulate if cohort not in COHORTS]:
            raise ConfigError(
                f"no cohort {unknown[0]!r} to simulate; there are {', '.join(COHORTS)}"
            )
        if (self.teacher is None) != (self.objective.teacher == 0):
            raise ConfigError(
                f"teacher is {self.teacher} and objective.teacher {self.objective.teacher:g}; give "
                "both or neither"
            )
        if self.dev_per_speaker < 0:
            raise ConfigError(f"dev_per_speaker is {self.dev_per_speaker}; it must be at least 0")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be at least 1")

    @property
    def adapts_encoder(self) -> bool:
        """Whether a target lies in the encoder, so that cached encoder states do not serve."""
        return any(target.startswith("encoder.") for target in self.source.targets)

    @property
    def needs_mel(self) -> bool:
        """Whether the cache has to keep log-mel."""
        heard_anew = self.adapts_encoder or self.features.changes
        return self.keep_mel or heard_anew or self.speaker.kind == "ecapa"


class Objective(nn.Module):
    """HyperASR as the training loop wants it: a batch in, losses by name out."""

    def __init__(self, model: HyperASR) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the parts of the ELBO."""
        return self.model(batch).losses()

    def at_step(self, step: int, n_steps: int) -> None:
        """Pass on where training is, for a warm-up of the divergence."""
        self.model.at_step(step, n_steps)


def frozen(config: MetaConfig) -> Backbone:
    """Load the frozen Whisper as it hears in this training."""
    return Backbone.from_pretrained(
        config.backbone, audio_context=config.audio_context, margin_s=config.margin_s
    )


def data_of(
    config: MetaConfig, backbone: Backbone, accelerator: Accelerator
) -> tuple[Views, Cache]:
    """Return the training batches and the development rows; the main process makes the caches."""
    with accelerator.main_process_first():
        plan = development_views(config.dev, config.simulate, config.dev_per_speaker)
        views = Views(config, backbone)
        dev_folder = build_cache(
            config.cache,
            plan,
            config.backbone,
            CacheConfig(config.speaker, views.cache.keeps_mel),
            backbone=backbone,
            workers=config.workers,
            device=config.encode_on,
        )
    return views, chosen_on(Cache([dev_folder], backbone), views.cache, config)


def judge_of(
    config: MetaConfig, backbone: Backbone, accelerator: Accelerator, dev: Cache
) -> Judge | None:
    """Return what compares with the unadapted recogniser; None where nobody wants to know.

    Args:
        config, backbone, accelerator: of the training.
        dev: the rows that choose its checkpoint, whose cohorts are compared.
    """
    if not config.must_help:
        return None
    whole = Backbone(backbone.whisper, backbone.tokenizer, "full")
    plan = development_views(config.dev, config.simulate, config.dev_per_speaker)
    with accelerator.main_process_first():
        folder = build_cache(
            config.cache,
            plan,
            config.backbone,
            CacheConfig(SpeakerConfig()),
            backbone=whole,
            workers=config.workers,
            device=config.encode_on,
        )
    rows = of_cohorts(Cache([folder], whole), sorted(set(dev.meta["cohort"])))
    log.info("the unadapted recogniser on 30 s: %d development rows", len(rows))
    rates = evaluate(HyperASR.unadapted(whole), rows, adapt=False)
    return Judge({name: rate for name, rate in rates.items() if name != "score"})


def chosen_on(dev: Cache, train: Cache, config: MetaConfig) -> Cache:
    """Return the development rows that choose the checkpoint; the log names cohorts without any.

    Factors by cohort exist for what is trained on, so other cohorts' rows are left out with them.

    Raises:
        ConfigError: no row is left.
    """
    trained, there = set(train.meta["cohort"]), set(dev.meta["cohort"])
    wanted = set(config.cohorts) or trained | there
    if (config.source.settings or {}).get("by") == "cohort":
        wanted &= trained
    if not wanted & there:
        raise ConfigError(
            f"{config.dev} has nobody of the cohorts {', '.join(sorted(wanted))} to choose a "
            f"checkpoint by, only of {', '.join(sorted(there))}; keep some of their speakers out"
        )
    for cohort in sorted(wanted & trained - there):
        log.warning("%s has nobody of the cohort %s to choose a checkpoint by", config.dev, cohort)
    if there <= wanted:
        return dev
    log.info("the checkpoint is chosen by %s", ", ".join(sorted(wanted & there)))
    return of_cohorts(dev, sorted(wanted & there))


def with_groups(source: SourceConfig, cache: Cache) -> SourceConfig:
    """Fill in the cohorts or speakers of the training rows where factors go by them."""
    settings = dict(source.settings or {})
    if settings.get("by", "global") not in ("cohort", "speaker") or settings.get("groups"):
        return source
    return replace(source, settings={**settings, "groups": sorted(set(cache.meta[settings["by"]]))})


def start_from(model: HyperASR, model_folder: Path, backbone: Backbone) -> None:
    """Let a hypernetwork start as a trained model: a global LoRA, or a hypernetwork like itself.

    Raises:
        ConfigError: that model has other targets or another shape.
    """
    trained = HyperASR.from_pretrained(model_folder, backbone=backbone)
    assert isinstance(model.source, HyperNet)
    if not isinstance(trained.source, HyperNet):
        start_from_static(model.source, trained, model_folder)
        return
    own, other = model.source.state_dict(), trained.source.state_dict()
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (own, other)]
    if shapes[0] != shapes[1] or model.speaker_config != trained.speaker_config:
        raise ConfigError(
            f"{model_folder}: another speaker encoder, other targets or other sizes than the "
            "hypernetwork's that is to start from it"
        )
    if trained.source.scaling != model.source.scaling:
        raise ConfigError(f"{model_folder}: its alpha differs from the hypernetwork's")
    model.source.load_state_dict(other)
    model.speaker.load_state_dict(trained.speaker.state_dict())


def start_from_static(source: HyperNet, static: HyperASR, model_folder: Path) -> None:
    """Let the hypernetwork's bias be a trained global LoRA, so that it starts as that adapter."""
    factors = static.factors(torch.zeros(1, 1))
    if static.source.targets != source.targets or static.source.rank != source.rank:
        raise ConfigError(f"{model_folder}: its targets or rank differ from the hypernetwork's")
    ratio = factors.scaling / source.scaling
    with torch.no_grad():
        for name, pair in factors.targets.items():
            key = source.key(name)
            source.bias_A[key].copy_(pair.A[:, 0].flatten(1))
            source.bias_B[key].copy_(ratio * pair.B[:, 0].mT.flatten(1))


def new_model(config: MetaConfig, backbone: Backbone, cache: Cache) -> HyperASR:
    """Return the untrained model, its statistics and start taken from data and `init_from`."""
    source = with_groups(config.source, cache)
    model = HyperASR(
        backbone, config.speaker, source, seed=config.loop.seed, objective=config.objective
    )
    if isinstance(model.source, HyperNet):
        if cache.keeps_embeddings:
            model.source.fit_embedding(cache.embedding_blocks())
        if config.init_from:
            start_from(model, config.init_from, backbone)
    elif config.init_from:
        raise ConfigError(f"init_from is for a hypernetwork, not for {config.source.kind!r}")
    return model


def run(config: MetaConfig) -> dict[str, float]:
    """Train, leave the best model in the run folder, and return its measures."""
    accelerator = start("meta", config.out, config.loop.mixed_precision, config.loop.tracker)
    backbone = frozen(config)
    views, dev = data_of(config, backbone, accelerator)
    judge = judge_of(config, backbone, accelerator, dev)
    model = new_model(config, backbone, views.cache)
    log.info("%s", model.budget())

    def save_best(objective: nn.Module) -> None:
        notes = {"config": to_dict(config), "rows": len(views.cache)}
        objective.model.save_pretrained(
            config.out / "best", backbone=str(config.backbone), training=notes
        )

    return fit_and_report(
        Objective(model),
        views,
        lambda objective: evaluate(objective.model, dev),
        save_best,
        config,
        accelerator,
        split=split_batch,
        together=True,
        judge=judge,
    )


def main() -> None:
    """Train as the command line says."""
    run(read_config(MetaConfig))


if __name__ == "__main__":
    run_program(main)
