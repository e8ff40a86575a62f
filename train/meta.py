"""Meta-train a source of adapters over cohorts, recorded or simulated, and typical speech.

    accelerate launch -m train.meta --config train/configs/hypernet.yaml

One program for every source: the hypernetwork, point and Bayesian, global and cohort LoRA, VI LoRA
and BLoRA. Encoder states and embeddings come from a cache. An interrupted run goes on exactly where
it stopped. On several CPU processes: `torchrun --nproc_per_node 2 -m train.meta ...`; on several
machines see train/slurm_example.sbatch, sharded (FSDP) train/configs/accelerate_fsdp.yaml.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import track
from torch import Tensor, nn

from hyperasr.adapters import HyperNet, SourceConfig, StaticLoRA, VILoRA
from hyperasr.adapters.checkpoint import read_head
from hyperasr.cohorts.cache import Cache, CacheConfig
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch
from hyperasr.util.config import to_dict
from hyperasr.whisper.backbone import Backbone
from train.config import MetaConfig
from train.data.views import Views, as_written, cached, development_views, of_cohorts
from train.loop.program import fit_and_report, read_config, run_program, start
from train.loop.scoring import Judge, evaluate

log = logging.getLogger("train.meta")
_FITTED = 2048  # rows, at most, that a new reading of embeddings is fitted to
_BATCH = 16
_RIDGE = 0.3  # of the mean square of a standardised embedding's entries


class Objective(nn.Module):
    """HyperASR as the training loop wants it: a batch in, losses by name out."""

    def __init__(self, model: HyperASR) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the parts of the ELBO."""
        return self.model(batch).losses()

    def learning_rate_scales(self) -> dict[str, float]:
        """Name the parameters whose learning rate is not the run's, with the factor on it."""
        source = self.model.source
        scales = source.learning_rate_scales() if isinstance(source, HyperNet) else {}
        return {f"model.source.{name}": scale for name, scale in scales.items()}

    def at_step(self, step: int, n_steps: int) -> None:
        """Pass on where training is, for a warm-up of the divergence."""
        self.model.at_step(step, n_steps)


def split_batch(batch: Batch, n_parts: int) -> list[tuple[Batch, float]]:
    """Cut a batch into parts whose weighted losses add up to the loss of the whole.

    The weight of a part is its share of the scored tokens, because the cross-entropy is a mean over
    tokens. Terms that are a mean over utterances (the divergence of per-utterance posteriors) are
    thereby weighted by tokens too; terms that are alike for all utterances do not change.

    Returns:
        At most `n_parts` parts, utterances of similar length together; none is empty.
    """
    assert batch.n_tokens is not None
    scored = (batch.n_tokens - batch.n_prompt).tolist()
    order = sorted(range(batch.n_utt), key=lambda row: int(batch.n_frames[row]))
    size = -(-batch.n_utt // n_parts)
    parts = [order[first : first + size] for first in range(0, batch.n_utt, size)]
    total = sum(scored)
    return [(batch.select(rows), sum(scored[row] for row in rows) / total) for rows in parts]


def frozen(config: Any) -> Backbone:
    """Load the frozen Whisper of a training, which hears what `config` says."""
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
        dev = cached(config, [plan], backbone, CacheConfig(config.speaker, views.cache.keeps_mel))
        dev = as_written(chosen_on(dev, views.cache, config), [plan], config)
    return views, dev


def judge_of(
    config: MetaConfig, backbone: Backbone, accelerator: Accelerator, dev: Cache
) -> Judge | None:
    """Return what compares with the unadapted recogniser on the cohorts of the development rows.

    None where nobody wants to know.
    """
    if not config.must_help:
        return None
    whole = Backbone(backbone.whisper, backbone.tokenizer, "full")
    plan = development_views(config.dev, config.simulate, config.dev_per_speaker)
    with accelerator.main_process_first():
        rows = cached(config, [plan], whole, CacheConfig(SpeakerConfig()))
        rows = of_cohorts(rows, sorted(set(dev.meta["cohort"])))
        rows = as_written(rows, [plan], config)
    log.info("the unadapted recogniser on 30 s: %d development rows", len(rows))
    home = whole.device
    whole.to(accelerator.device)
    rates = evaluate(HyperASR.unadapted(whole), rows, adapt=False)
    whole.to(home)  # where the training finds it, until it is prepared
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


def start_from(model: HyperASR, model_folder: Path | None, cache: Cache | None = None) -> None:
    """Let a model start as a trained one: a global LoRA, a hypernetwork like its own, or a
    posterior that is its prior too. Without a folder it stays as it is.

    A hypernetwork of another speaker encoder needs training rows with mel, the `cache`.

    Raises:
        ConfigError: a model that starts as no other, or that one has other targets or shapes; a
            prior ``posterior`` without a folder.
    """
    goes_on = isinstance(model.source, VILoRA) and model.source.gaussian.prior == "posterior"
    if model_folder is None:
        if goes_on:
            raise ConfigError("prior 'posterior' needs init_from, a trained VI LoRA")
        return
    head, backbone, source = read_head(model_folder), model.backbone, model.source
    heard = Backbone(backbone.whisper, backbone.tokenizer, head["audio_context"], head["margin_s"])
    trained = HyperASR.from_pretrained(model_folder, backbone=heard)
    if isinstance(source, HyperNet) and isinstance(trained.source, HyperNet):
        go_on(model, trained, model_folder, cache)
    elif goes_on and isinstance(source, VILoRA):
        if not isinstance(trained.source, VILoRA):
            raise ConfigError(f"{model_folder} holds no posterior to be the prior")
        try:
            source.go_on_from(trained.source)
        except ConfigError as error:
            raise ConfigError(f"{model_folder}: {error}") from error
    elif isinstance(source, HyperNet | StaticLoRA):
        start_as_global_lora(source, trained, model_folder)
    else:
        raise ConfigError(
            f"init_from is for a hypernetwork or static LoRA, not for {model.source_config.kind!r}"
        )


def go_on(model: HyperASR, trained: HyperASR, model_folder: Path, cache: Cache | None) -> None:
    """Let a hypernetwork have the weights of a trained one.

    Where that one hears another speaker encoder, the layer that reads the embedding is fitted to
    say the same of the rows of `cache`.

    Raises:
        ConfigError: that one has another shape, or another speaker encoder and the rows have no
            mel and embeddings to fit with.
    """
    own, other = model.source.state_dict(), trained.source.state_dict()
    same_speaker = model.speaker_config == trained.speaker_config
    if not same_speaker and cache is not None and cache.keeps_mel and cache.keeps_embeddings:
        other |= reading_as(model, trained, cache)
        same_speaker = True
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (own, other)]
    if shapes[0] != shapes[1] or not same_speaker:
        raise ConfigError(
            f"{model_folder}: another speaker encoder, other targets or other sizes than the "
            "hypernetwork's that is to start from it; another speaker encoder alone will do where "
            "the cache keeps log-mel (keep_mel)"
        )
    if trained.source.scaling != model.source.scaling:
        raise ConfigError(f"{model_folder}: its alpha differs from the hypernetwork's")
    if trained.backbone.fingerprint() != model.backbone.fingerprint():
        # Embeddings of another audio context have a mean and deviations of their own.
        other |= {name: own[name] for name in ("emb_mean", "emb_std")}
    # The prior is a setting of the new training, not something learned.
    other |= {name: value for name, value in own.items() if name.startswith("prior_sigma.")}
    model.source.load_state_dict(other)
    if model.speaker_config == trained.speaker_config:
        model.speaker.load_state_dict(trained.speaker.state_dict())


@torch.no_grad()
def reading_as(model: HyperASR, trained: HyperASR, cache: Cache) -> dict[str, Tensor]:
    """Return the weights with which a hypernetwork makes of its own embeddings what a trained one
    makes of others, by ridge regression over training rows.

    Returns:
        Its first layer, and the mean and deviation of its own embeddings; by name.
    """
    source: Any = model.source
    reads: Any = trained.source
    rows = sorted(range(len(cache)), key=lambda row: cache.n_frames[row])
    rows = rows[:: -(-len(rows) // _FITTED)]
    embs, read = [], []
    for first in track(range(0, len(rows), _BATCH), "embedding"):
        batch = cache.batch(rows[first : first + _BATCH])
        assert batch.speaker_emb is not None
        embs.append((batch.speaker_emb - source.emb_mean) / source.emb_std)
        emb, _ = trained.embed(replace(batch, encoded=None, speaker_emb=None))
        read.append(reads.speaker[0]((emb - reads.emb_mean) / reads.emb_std))
    x, y = torch.cat(embs).double(), torch.cat(read).double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    gram = centred.mT @ centred
    gram.diagonal().add_(_RIDGE * len(x))
    weight = torch.linalg.solve(gram, centred.mT @ (y - y_mean)).mT
    missed = (y - y_mean - centred @ weight.mT).square().sum() / (y - y_mean).square().sum()
    log.info("%.0f %% of what the start reads in embeddings is read again", 100 * (1 - missed))
    bias = y_mean - weight @ x_mean
    return {
        "speaker.0.weight": weight.float(),
        "speaker.0.bias": bias.float(),
        "emb_mean": source.emb_mean,
        "emb_std": source.emb_std,
    }


@torch.no_grad()
def start_as_global_lora(
    source: HyperNet | StaticLoRA, trained: HyperASR, model_folder: Path
) -> None:
    """Let every group's factors, or the bias of a hypernetwork, be those of a trained global LoRA.

    Targets that the LoRA does not have start as they always do, with no update.

    Raises:
        ConfigError: no global LoRA, another rank, or a target that `source` does not have.
    """
    own = trained.source
    if not isinstance(own, StaticLoRA) or own.config.by != "global":
        raise ConfigError(
            f"{model_folder} holds no global LoRA (its source is {trained.source_config.kind!r}); "
            "init_from needs one"
        )
    if not set(own.targets) <= set(source.targets) or own.rank != source.rank:
        raise ConfigError(
            f"{model_folder}: its rank {own.rank} and targets {', '.join(own.targets)} must be "
            f"those of what starts from it (rank {source.rank}, {', '.join(source.targets)}) or "
            "some of them"
        )
    factors = trained.factors(torch.zeros(1, trained.speaker.d_spk, device=trained.backbone.device))
    ratio = factors.scaling / source.scaling
    for name, pair in factors.targets.items():
        key, a, b = source.key(name), pair.A[:, :1], ratio * pair.B[:, :1]
        if isinstance(source, HyperNet):
            source.bias_A[key].copy_(a[:, 0].flatten(1))
            source.bias_B[key].copy_(b[:, 0].mT.flatten(1))
        else:
            source.A[key].copy_(a.expand_as(source.A[key]))
            source.B[key].copy_(b.expand_as(source.B[key]))


def new_model(config: MetaConfig, backbone: Backbone, cache: Cache) -> HyperASR:
    """Return the untrained model, its statistics and start taken from data and `init_from`."""
    source = with_groups(config.source, cache)
    model = HyperASR(
        backbone, config.speaker, source, seed=config.loop.seed, objective=config.objective
    )
    if isinstance(model.source, HyperNet) and cache.keeps_embeddings:
        model.source.fit_embedding(cache.embedding_blocks())
    start_from(model, config.init_from, cache)
    return model


def run(config: MetaConfig) -> dict[str, float]:
    """Train, leave the best model in the run folder, and return its measures."""
    accelerator = start("meta", config.out, config.loop)
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
        judge=judge,
    )


def main() -> None:
    """Train as the command line says."""
    run(read_config(MetaConfig))


if __name__ == "__main__":
    run_program(main)
