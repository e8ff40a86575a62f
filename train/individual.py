"""Individual LoRA: a person enrols with k utterances, the rest of theirs are recognised.

    accelerate launch -m train.individual --config train/configs/individual.yaml --k 5
    accelerate launch -m train.individual --config train/configs/individual_vi_lora.yaml --k 5

The third level of the hypernetwork's paper (arXiv 2406.04240): global, cohort, individual. A person
is a simulated one, or the speaker of a recording taken as it is. Everybody's LoRA is trained at
once as one static source by speaker: the loss is the sum of the people's own, so each one's factors
get the gradient that training them alone would give. There is no development set to choose a
checkpoint by; the number of steps is the choice. How the paper trained its individual LoRA (steps,
learning rate, start) is not known; ours is stated in the YAML. The second is what VI LoRA is for
(arXiv 2509.20397): a Gaussian over one person's factors, learned from little of their speech.

Leaves in OUT/k-05 the model (loaded with `HyperASR.from_pretrained`, decoded over `by_person`), and
``people.json``: which utterances of whom were enrolled, and which are to be recognised.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperasr.adapters import SourceConfig
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.adapters.posterior import GaussianFactors
from hyperasr.cohorts.cache import Cache, CacheConfig
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL, plan_views
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.transcription.enrolment import sentence
from hyperasr.types import Batch
from hyperasr.util.config import to_dict
from hyperasr.util.files import atomic_write_text
from hyperasr.whisper.backbone import Backbone
from train.config import LoopConfig
from train.data.views import LONGEST_SIMULATED_S, cached, check_text, usable
from train.loop.program import fit_and_report, read_config, run_program, start
from train.loop.scoring import Rows
from train.meta import frozen, start_from

log = logging.getLogger("train.individual")
# Of the simulated people; `eval.zero_shot` has the same.
VIEW_SEED = 9_000
SEVERITIES = (0.25, 0.5, 0.75, 1.0)  # in turn within a person
PER_STEP = 2  # utterances of each person a step; k where that is fewer


@dataclass(frozen=True)
class IndividualConfig:
    """Who enrols with how much, and how their adapters are trained."""

    backbone: str = "tiny.en"
    """Frozen Whisper: ``tiny.en``, a folder or a hub name."""
    audio_context: str | None = None
    """What its encoder hears: ``trimmed`` or ``full``; None as the checkpoint says."""
    margin_s: float | None = None
    """Seconds of silence that trimmed context hears after an utterance, in [0, 30]; None as the
    checkpoint says."""
    manifest: Path = Path("runs/data/test.jsonl")
    """Recordings of the people; those of `eval.zero_shot` by default."""
    k: int = 5
    """Enrolment utterances of each person, at least 1; 0 is all but the held-out ones."""
    held_out: int = 0
    """Utterances of each person that are recognised and never enrolled, whatever k, so that several
    k are compared on the same; 0 recognises all that were not enrolled."""
    order: Path | None = None
    """JSON file, by person, of the ids of all their utterances in the order in which they enrol,
    those to be held out last; people who are not in it are left out. None draws an order from
    person and seed."""
    drop_short: bool = False
    """Leave out people with too few utterances, instead of stopping."""
    init_from: Path | None = None
    """A trained model folder with a global LoRA that everybody starts from, or a VI LoRA that is
    also everybody's prior (``posterior``); none starts from 0."""
    source: SourceConfig = field(default_factory=lambda: SourceConfig("static"))
    """What each person gets: ``static`` factors, or a Gaussian over them (``vi_lora``), decoded by
    its mean. That there are factors by speaker, and for whom, is filled in."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Weights of cross-entropy and divergence, of each person, and its reduction; nothing else."""
    cache: Path = Path("runs/cache")
    """Folder of all caches."""
    out: Path = Path("runs/individual")
    """Run folder; each k has a folder of its own in it."""
    workers: int = 2
    """Processes that build the cache."""
    encode_on: str = "cpu"
    """Device that these encode on, such as ``cuda``."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=60, clip_norm=1e9))
    """The training loop. `clip_norm` is of all people together: leave it out of reach."""

    def __post_init__(self) -> None:
        for name in ("k", "held_out"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.k == 0 and self.held_out == 0:
            raise ConfigError("k is 0 (all) and held_out is 0: nothing is left to recognise")
        if self.source.kind not in ("static", "vi_lora"):
            raise ConfigError(f"source.kind is {self.source.kind!r}; give static or vi_lora")
        for name in ("teacher", "negatives", "kl_warmup", "l2", "typical_penalty"):
            if getattr(self.objective, name) != getattr(ObjectiveConfig(), name):
                raise ConfigError(f"objective.{name} has no effect on enrolment; leave it out")


@dataclass(frozen=True)
class Enrolment:
    """Rows of a cache that one person enrolled with, and those to recognise."""

    enrolled: list[int]
    recognised: list[int]


def by_person(cache: Cache) -> Rows:
    """Return a cache's rows with the person of each as its speaker, for factors by speaker."""

    def batch(rows: Sequence[int]) -> Batch:
        people = tuple(cache.person(row) for row in rows)
        return replace(cache.batch(rows), speakers=people)

    return Rows(cache.meta, cache.n_frames, batch)


def enrol(
    people: Sequence[str],
    *,
    k: int,
    held_out: int = 0,
    seed: int = 0,
    drop_short: bool = False,
    order: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Enrolment]:
    """Choose each person's enrolment utterances.

    The order is drawn from person and seed, so that k = 5 enrols with those of k = 1 and four more.

    Args:
        people: person of each row.
        k, held_out, drop_short: as in `IndividualConfig`.
        seed: of the order.
        order: all rows of each person who takes part, in another order.
    Returns:
        Rows by person.
    Raises:
        ManifestError: a person has too few utterances, or nobody has enough.
    """
    rows: dict[str, list[int]] = {}
    for row, person in enumerate(people):
        rows.setdefault(person, []).append(row)
    for person, own in rows.items():
        random.Random(f"{seed}/{person}/enrol").shuffle(own)
    if order is not None:
        rows = {person: list(own) for person, own in order.items()}
    needed = max(k, 1) + max(held_out, 1)
    short = {person: len(own) for person, own in sorted(rows.items()) if len(own) < needed}
    if short and (not drop_short or len(short) == len(rows)):
        person, n = next(iter(short.items()))
        raise ManifestError(
            f"person {person!r} has {n} utterances, {needed} are needed to enrol with "
            f"{k or 'all'} and recognise {held_out or 'the rest'} ({len(short)} of {len(rows)} "
            "people have too few); lower k, or set drop_short to leave such people out"
        )
    chosen = {}
    for person in sorted(set(rows) - set(short)):
        own = rows[person]
        n = k or len(own) - held_out
        rest = own[len(own) - held_out :] if held_out else own[n:]
        chosen[person] = Enrolment(own[:n], rest)
    return chosen


def read_order(path: Path, people: Rows) -> dict[str, list[int]]:
    """Return the rows of each person of an order file.

    Raises:
        ConfigError: no such file, or one that does not have every utterance of a person once.
    """
    numbers: dict[str, dict[str, int]] = {}
    for row, (person, name) in enumerate(
        zip(people.meta["person"], people.meta["id"], strict=True)
    ):
        numbers.setdefault(person, {})[name] = row
    try:
        order = {name: list(ids) for name, ids in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read as ids by person ({error})") from error
    for person, ids in order.items():
        if Counter(ids) != Counter(list(numbers.get(person, {}))):
            raise ConfigError(
                f"{path}: must have each utterance of {person!r} once "
                f"({len(numbers.get(person, {}))} of theirs are known, {len(ids)} are listed)"
            )
    return {person: [numbers[person][name] for name in ids] for person, ids in order.items()}


def rows_of_batch(chosen: dict[str, Enrolment], number: int) -> list[int]:
    """Return some rows of every person beside each other, over batches each of theirs as often."""
    batch = []
    for own in (enrolment.enrolled for enrolment in chosen.values()):
        n = min(PER_STEP, len(own))
        batch += [own[(number * n + i) % len(own)] for i in range(n)]
    return batch


class IndividualObjective(nn.Module):
    """Sum over people of each one's objective: cross-entropy, mean over their scored tokens, and of
    a Gaussian the divergence from its prior, both weighted."""

    def __init__(self, model: HyperASR) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum as ``total``; as ``nll`` and ``kl`` the means over people.

        A Gaussian's ``nll`` is of one sample an utterance. People have as many utterances each.
        """
        assert batch.tokens is not None
        assert batch.n_tokens is not None
        model, goal = self.model, self.model.objective
        encoded = model.encode(batch)
        adapter = model.source(batch.speaker_emb, groups=list(batch.speakers))
        factors, kl = adapter, torch.zeros((), device=model.backbone.device)
        if isinstance(adapter, GaussianFactors):
            kl = adapter.kl(model.source.prior, goal.kl_reduction).float()
            factors = adapter.sample()
        with model.adapted_with(factors, batch, encoded) as states:
            nll, n_scored = model.backbone.nll(states, batch.tokens, batch.n_tokens, batch.n_prompt)
        names = sorted(set(batch.speakers))
        whose = torch.tensor([names.index(s) for s in batch.speakers], device=nll.device)
        sums = nll.new_zeros(2, len(names))
        sums = sums.index_add(1, whose, torch.stack([nll, n_scored.to(nll.dtype)]))
        own = sums[0] / sums[1]
        total = goal.nll_weight * own.sum() + goal.beta * len(names) * kl
        return {"total": total, "nll": own.mean(), "kl": kl}


def people_of(config: IndividualConfig, backbone: Backbone) -> Rows:
    """Encode the people's utterances, simulated or as recorded, or take what is cached of them.

    Raises:
        ConfigError: a cohort without any text.
    """
    rows = read_manifest(config.manifest)
    check_text(rows, config.manifest)
    lengths = usable(rows, config.manifest, simulate=())
    cohorts = (*COHORTS, TYPICAL)
    views = plan_views(lengths, seed=VIEW_SEED, cohorts=cohorts, severities=SEVERITIES)
    # After the plan, as in the evaluation, so that people have the same severities in both.
    views = [v for v in views if not v.simulates or lengths[v.utterance] <= LONGEST_SIMULATED_S]
    for cohort, domain in sorted({(view.cohort, view.domain) for view in views}):
        own = [view for view in views if (view.cohort, view.domain) == (cohort, domain)]
        n_people = len({view.person for view in own})
        log.info("%s, %s: %d utterances of %d people", cohort, domain, len(own), n_people)
    kept = CacheConfig(SpeakerConfig(), keep_mel=True)
    cache = cached(config, [views], backbone, kept)
    # As a person writes: a text in one case would unlearn Whisper's own writing.
    texts = zip(cache.meta["id"], cache.meta["text"], strict=True)
    return by_person(cache.with_texts({name: written(text) for name, text in texts}))


def written(text: str) -> str:
    """Return a text as a sentence; one in capitals in lower case."""
    return sentence(text.lower() if text.isupper() else text)


def new_model(config: IndividualConfig, backbone: Backbone, people: Sequence[str]) -> HyperASR:
    """Return the model with factors for each of `people`, untrained or the global LoRA's."""
    own = {"by": "speaker", "groups": list(people)}
    source = replace(config.source, settings={**(config.source.settings or {}), **own})
    model = HyperASR(
        backbone, SpeakerConfig(), source, seed=config.loop.seed, objective=config.objective
    )
    start_from(model, config.init_from)
    return model


def run(config: IndividualConfig) -> None:
    """Train everybody's LoRA, write model and ``people.json``."""
    folder = config.out / (f"k-{config.k:02d}" if config.k else "k-all")
    # There is nothing to choose a checkpoint by: the last one counts.
    loop = replace(config.loop, eval_every=config.loop.steps)
    config = replace(config, out=folder, loop=loop)
    accelerator = start("individual", folder, loop)
    backbone = frozen(config)
    with accelerator.main_process_first():
        people = people_of(config, backbone)
    chosen = enrol(
        people.meta["person"],
        k=config.k,
        held_out=config.held_out,
        seed=loop.seed,
        drop_short=config.drop_short,
        order=read_order(config.order, people) if config.order else None,
    )
    log.info("%d people enrol with %s utterances", len(chosen), config.k or "all their")

    def save_best(objective: nn.Module) -> None:
        objective.model.save_pretrained(
            folder / "best", backbone=config.backbone, training={"config": to_dict(config)}
        )
        ids = people.meta["id"]
        named = {
            person: {name: [ids[row] for row in rows] for name, rows in vars(enrolment).items()}
            for person, enrolment in chosen.items()
        }
        atomic_write_text(folder / "people.json", json.dumps({"people": named}, indent=1) + "\n")

    fit_and_report(
        IndividualObjective(new_model(config, backbone, list(chosen))),
        lambda number: people.batch(rows_of_batch(chosen, number)),
        lambda objective: {"score": 0.0},
        save_best,
        config,
        accelerator,
    )


def main() -> None:
    """Train as the command line says."""
    run(read_config(IndividualConfig))


if __name__ == "__main__":
    run_program(main)
