"""Active selection: which of a person's recordings should be transcribed first?

    python -m eval.selection --config eval/configs/selection.yaml

Some recordings of each person are held out and recognised. The others are put in an order, and the
first k of them enrol (`train.individual`). No order needs a transcript:

- ``random``: drawn from person and seed.
- ``longest``: the longest first.
- ``improbable``: least mean log-probability a token of what the start writes first.
- ``disagreeing``: the largest share of words first that posterior samples of a Bayesian system
  write otherwise than its mean.
- ``different``: the embedding farthest from the person's mean first, then always the one farthest
  from all that were chosen.

``everything`` enrols with all that is not held out. A finished training is not repeated, an
interrupted one goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.runs import at_once, train
from eval.lib.tables import print_rows
from hyperasr.errors import ConfigError
from hyperasr.metrics.uncertainty import disagreement
from hyperasr.util.files import atomic_write_text
from train.individual import enrol
from train.loop.program import read_config, run_program

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
        least = (*self.k, self.held_out, self.n_samples - 1, self.processes, self.threads)
        if not self.k or min(least) < 1:
            raise ConfigError(
                "k, held_out, processes and threads must be at least 1, n_samples at least 2"
            )


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

    People with too few recordings are left out.

    Raises:
        ConfigError: nobody is of the cohort.
        ManifestError: nobody has enough recordings.
    """
    cohorts, persons = bench.column("cohort"), bench.column("person")
    own = [i for i, cohort in enumerate(cohorts) if cohort == config.cohort]
    if not own:
        known = ", ".join(sorted(set(cohorts)))
        raise ConfigError(f"nobody of {config.bench.test} is of {config.cohort!r}; give {known}")
    # As train.individual draws it, held-out rows last.
    who = [persons[i] for i in own]
    enough = enrol(who, k=max(config.k), held_out=config.held_out, drop_short=True)
    own = [i for i in own if persons[i] in enough]
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
    ids = bench.column("id")
    systems: dict[str, Path] = {}
    jobs: list[Callable[[], None]] = []
    for strategy, by_person in orders(config, bench).items():
        named = {person: [ids[row] for row in rows] for person, rows in by_person.items()}
        text = json.dumps(named, indent=1) + "\n"
        # By its content, or another order would find the models of this one.
        folder = config.runs / f"{strategy}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        order = folder / "order.json"
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(order, text)
        for k in (*config.k, 0) if strategy == RANDOM else config.k:
            name = f"{strategy}_{k}" if k else EVERYTHING
            run = folder / (f"k-{k:02d}" if k else "k-all")
            given = arguments(config, folder, order, k)
            systems[name] = run / "best"
            about = f"enrolling {name}"
            jobs.append(partial(train, "individual", given, run, about, threads=config.threads))
    jobs[0]()  # which makes the cache that all of them share
    at_once(jobs[1:], config.processes)
    return systems


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
    bench.save("eval.selection", config, results.with_holm(rows, ("against", "corpus", "metric")))
    print_rows(rows, title="enrolled with")
    print_rows(rows, ("against", "domain"), title="differences", differences=True)


if __name__ == "__main__":
    run_program(main)
