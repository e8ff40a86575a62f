"""Active selection: which of a person's recordings should be transcribed first?

    python -m eval.selection --config eval/configs/selection.yaml

Some recordings of each person are held out and recognised. The others are put in an order, and the
first k of them enrol (`train.individual`). No order needs a transcript:

- ``random``: drawn from person and seed.
- ``longest``: the longest first.
- ``improbable``: least mean log-probability a token of what the start writes first.
- ``disagreeing``: most words first that posterior samples of a Bayesian system write otherwise
  than its mean.
- ``different``: the embedding farthest from the person's mean first, then always the one farthest
  from all that were chosen.

``everything`` enrols with all that is not held out. A finished training is not repeated, an
interrupted one goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.runs import train
from eval.lib.tables import print_rows
from hyperasr.errors import ConfigError
from hyperasr.metrics.uncertainty import disagreement
from hyperasr.util.files import atomic_write_text
from train.individual import enrol
from train.loop.program import read_config, run_program

log = logging.getLogger("eval.selection")

RANDOM, EVERYTHING = "random", "everything"
STRATEGIES = (RANDOM, "longest", "improbable", "disagreeing", "different")


@dataclass(frozen=True)
class SelectionConfig:
    """Who enrols with how much, from which start."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """People's recordings, and systems: the start, the Bayesian one, and any others to compare
    with."""
    start: str = "global_lora"
    """System that everybody starts from."""
    bayesian: str = "bayes_hypernet"
    """System whose samples disagree."""
    cohort: str = "nonnative"
    """Whose recordings."""
    individual: Path = Path("train/configs/individual.yaml")
    """Configuration of `train.individual`, but for people, number and order."""
    k: tuple[int, ...] = (1, 3, 5)
    """Recordings that enrol, each at least 1."""
    held_out: int = 10
    """Recordings of each person that are recognised, at least 1."""
    n_samples: int = 8
    """Posterior samples of a recording, at least 2."""
    processes: int = 2
    """Trainings at a time, at least 1."""
    threads: int = 1
    """Threads of torch in each, at least 1."""
    options: dict[str, str] = field(default_factory=dict)
    """Further options of `train.individual` by dotted name."""
    runs: Path = Path("runs/selection")
    """Folder of orders and trainings."""
    out: Path = Path("results/selection.json")
    """Result file."""

    def __post_init__(self) -> None:
        for name in (self.start, self.bayesian):
            if name not in self.bench.systems:
                raise ConfigError(f"{name!r} is not among the systems; give its folder there")
        if not self.k or min(*self.k, self.held_out, self.n_samples - 1) < 1:
            raise ConfigError("k and held_out must be at least 1, n_samples at least 2")


def farthest_first(embs: Tensor) -> list[int]:
    """Return rows of embeddings (n, d_spk): farthest from their mean, then from those before."""
    distance = (embs - embs.mean(0)).norm(dim=1)
    order: list[int] = []
    for _ in range(len(embs)):
        order.append(int(distance.argmax()))
        from_last = (embs - embs[order[-1]]).norm(dim=1)
        distance = from_last if len(order) == 1 else torch.minimum(distance, from_last)
        distance[order] = -1.0
    return order


def orders(config: SelectionConfig, bench: Bench) -> dict[str, dict[str, list[int]]]:
    """Return, by strategy and person, all rows of the test in the order in which they enrol.

    Raises:
        ManifestError: somebody has too few recordings.
    """
    cohorts, persons = bench.column("cohort"), bench.column("person")
    own = [i for i, cohort in enumerate(cohorts) if cohort == config.cohort]
    # As train.individual draws it, held-out rows last.
    needed = {"k": max(config.k), "held_out": config.held_out}
    enrol([persons[i] for i in own], **needed)
    drawn = enrol([persons[i] for i in own], k=0, held_out=config.held_out)
    pools = {name: [own[i] for i in one.enrolled] for name, one in drawn.items()}
    rest = {name: [own[i] for i in one.recognised] for name, one in drawn.items()}
    rows = [row for pool in pools.values() for row in pool]
    keys = keys_of(config, bench, rows)
    embs = bench.embeddings(bench.systems[config.bayesian])
    made: dict[str, dict[str, list[int]]] = {name: {} for name in STRATEGIES}
    for person, pool in pools.items():
        for name, key in keys.items():
            # Stable: where two are alike, in the order that was drawn.
            made[name][person] = sorted(pool, key=key.__getitem__)
        made["different"][person] = [pool[i] for i in farthest_first(embs[pool])]
        made[RANDOM][person] = pool
    return {
        name: {person: [*order, *rest[person]] for person, order in by_person.items()}
        for name, by_person in made.items()
    }


def keys_of(
    config: SelectionConfig, bench: Bench, rows: Sequence[int]
) -> dict[str, Mapping[int, float]]:
    """Return what each strategy sorts by: a number of each row, the least first."""
    frames = bench.rows.n_frames
    written = bench.decoded(config.start, rows)
    improbable = {
        row: sum(logprobs) / max(len(logprobs), 1)
        for row, logprobs in zip(rows, written.logprobs, strict=True)
    }
    normalise = bench.protocol.normaliser
    text = bench.systems[config.bayesian].model.backbone.text
    sampled = bench.decoded(config.bayesian, rows, n_samples=config.n_samples).tokens
    means = bench.decode(config.bayesian, rows)
    disagreeing = {}
    for i, (row, mean) in enumerate(zip(rows, means, strict=True)):
        own = sampled[i * config.n_samples : (i + 1) * config.n_samples]
        doubts = disagreement(normalise(mean), [normalise(text(tokens)) for tokens in own])
        disagreeing[row] = -sum(doubts) / max(len(doubts), 1)
    return {
        "longest": {row: -float(frames[row]) for row in rows},
        "improbable": improbable,
        "disagreeing": disagreeing,
    }


def arguments(config: SelectionConfig, out: Path, order: Path, k: int) -> list[str]:
    """Return the command line of `train.individual`."""
    options: dict[str, Any] = {
        "config": config.individual,
        "manifest": config.bench.test,
        "backbone": config.bench.backbone,
        "cache": config.bench.cache,
        "init_from": config.bench.systems[config.start],
        "order": order,
        "k": k,
        "held_out": config.held_out,
        "out": out,
        **config.options,
    }
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def enrolled(config: SelectionConfig, bench: Bench) -> dict[str, Path]:
    """Train for every strategy and number; returns the models' folders by system name."""
    ids, n_pool = bench.column("id"), 0
    jobs: list[tuple[str, Path, Path, int]] = []
    for strategy, by_person in orders(config, bench).items():
        path = config.runs / f"{strategy}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        named = {person: [ids[row] for row in rows] for person, rows in by_person.items()}
        atomic_write_text(path, json.dumps(named, indent=1) + "\n")
        n_pool = min(len(rows) for rows in by_person.values()) - config.held_out
        jobs += [(f"{strategy}_{k}", config.runs / strategy, path, k) for k in config.k]
    jobs.append((EVERYTHING, config.runs / EVERYTHING, config.runs / f"{RANDOM}.json", n_pool))

    def enrol_all(job: tuple[str, Path, Path, int]) -> None:
        name, out, order, k = job
        given = arguments(config, out, order, k)
        train("individual", given, out / f"k-{k:02d}", f"enrolling {name}", config.threads)

    enrol_all(jobs[0])  # which makes the cache that all of them share
    with ThreadPoolExecutor(config.processes) as pool:
        for number, _ in enumerate(pool.map(enrol_all, jobs[1:]), start=2):
            log.info("%d of %d trained", number, len(jobs))
    return {name: out / f"k-{k:02d}" / "best" for name, out, _, k in jobs}


def main() -> None:
    """Order, train, evaluate; write the JSON, print the tables."""
    config = read_config(SelectionConfig)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    bench = Bench(config.bench)
    own = bench.beside(enrolled(config, bench))
    new = [name for name in own.systems if name not in bench.systems]
    scores = own.scores(own.systems, own.rows_of(EVERYTHING))
    pairs = [(name, config.start) for name in new]
    pairs += [(n, EVERYTHING) for n in new if n != EVERYTHING]
    pairs += [
        (n, f"{RANDOM}_{n.rpartition('_')[2]}")
        for n in new
        if not n.startswith((RANDOM, EVERYTHING))
    ]
    rows = [row for group in scores.groups() for row in scores.rows(group, pairs=pairs)]
    bench.save("eval.selection", config, results.with_holm(rows, ("against", "metric")))
    print_rows(rows, title="enrolled with")
    print_rows(rows, ("against",), title="differences", differences=True)


if __name__ == "__main__":
    run_program(main)
