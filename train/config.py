"""The settings of a meta-training, and of the loop that all trainings have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hyperasr.adapters import SourceConfig
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.cohorts.sampler import check_speaker_power
from hyperasr.cohorts.simulate import COHORTS, check_simulated
from hyperasr.cohorts.views import Variety
from hyperasr.errors import ConfigError
from hyperasr.speaker.encoder import SpeakerConfig


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int = 4_000
    """Optimiser steps, at least 1."""
    lr: float = 1e-3
    """Peak learning rate, above 0."""
    warmup: float = 0.05
    """Share of the steps with rising learning rate, in [0, 1)."""
    cooldown: float = 0.5
    """Share of the steps at the end in which the learning rate falls to 1 %, in [0, 1]."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, at least 0."""
    clip_norm: float = 1.0
    """Largest gradient norm, above 0."""
    accumulate: int = 1
    """Batches a step and process, at least 1."""
    parts: int = 1
    """Parts that each batch is cut into to fit into memory, at least 1; doubled where memory runs
    out. The gradient is that of the whole batch."""
    ema: float = 0.0
    """Decay of the moving average of the weights, in [0, 1); 0 for none."""
    eval_every: int = 500
    """Steps between evaluations; the best checkpoint is kept."""
    save_every: int = 250
    """Steps between checkpoints to resume from."""
    log_every: int = 50
    """Steps between lines of the log."""
    seed: int = 0
    """Seed of every random choice."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Arithmetic of forward and backward; weights stay in float32."""
    tracker: str = "tensorboard"
    """Where measures go besides the log: a tracker that Accelerate knows by name, or ``none``."""
    watchdog_s: float = 1_800.0
    """Longest time in one stage of a step, in seconds, before it counts as a hang, at least 0; 0
    for none. One process then writes where it is and goes on, one of several ends."""
    accept_changes: bool = False
    """Go on in a run folder whose run had other settings, which is otherwise refused."""

    def __post_init__(self) -> None:
        counts = ("steps", "accumulate", "parts", "eval_every", "save_every", "log_every")
        for names, is_right, what in (
            (counts, lambda value: value >= 1, "at least 1"),
            (("lr", "clip_norm"), lambda value: value > 0, "above 0"),
            (("warmup", "ema"), lambda value: 0 <= value < 1, "in [0, 1)"),
            (("cooldown",), lambda value: 0 <= value <= 1, "in [0, 1]"),
            (("weight_decay", "watchdog_s"), lambda value: value >= 0, "at least 0"),
        ):
            for name in names:
                if not is_right(getattr(self, name)):
                    raise ConfigError(f"{name} is {getattr(self, name)}; it must be {what}")


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
    words: Path | None = None
    """Manifest of single words and short phrases that `train.data.words` cut out of `train`, used
    as its rows are."""
    dev: Path = Path("runs/data/dev.jsonl")
    """Manifest of speakers kept out for choosing the best checkpoint."""
    simulate: tuple[str, ...] = COHORTS
    """Cohorts to simulate on typical recordings, several joined by ``+`` for people with mixed
    traits; empty simulates nothing."""
    writing: Literal["intended", "verbatim"] = "intended"
    """What simulated people's texts are: ``intended``, what they meant, or ``verbatim``, what is
    heard: repetitions, part-words and fillers as well."""
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
    typical_share: float = 0.5
    """Share of the typical recordings that also count as they are, in [0, 1]; all of them do where
    nothing is simulated."""
    variety: Variety = field(default_factory=Variety)
    """More speakers and places made out of the training recordings."""
    teacher: Path | None = None
    """What the unadapted Whisper says of the training texts: the ``.lines.jsonl`` that
    `train.data.writing` writes beside the manifest. `objective.teacher` is its weight."""
    speaker_power: float = 0.0
    """A speaker with n rows of a cohort weighs n to this power, in [0, 1]: 0 lets speakers weigh
    the same, 1 rows, which is for data in which many speakers have one recording each."""
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
    init_from: Path | None = None
    """A trained model folder that a hypernetwork or static LoRA starts from: the factors of a
    global LoRA on its targets or some of them; or, for a hypernetwork, all weights of another of
    the same shape, whose training goes on (with another speaker encoder it is fitted to read the
    same in training rows, of which the cache has to keep log-mel); or, for a VI LoRA whose prior is
    ``posterior``, that posterior."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The training loop."""

    def __post_init__(self) -> None:
        check_speaker_power(self.speaker_power)
        for cohort in self.simulate:
            check_simulated(cohort)
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
        return self.keep_mel or self.adapts_encoder or self.speaker.kind == "ecapa"
