"""Does the system know where it is wrong? Confidence of words on speakers nobody trained on.

    python -m eval.calibration --config eval/configs/calibration.yaml
    python -m eval.calibration --config eval/configs/word_confidence.yaml
    python -m eval.calibration --config eval/configs/fit_word_probability.yaml

For every system: token probabilities as confidence, raw and as the model ships them. For systems
with a distribution over factors also: disagreement among K posterior samples, both together, and
the consensus transcript against the posterior mean's (error rows ``NAME``, ``NAME_consensus``,
``NAME_sample`` and their differences). What the kinds of confidence are: `eval.lib.confidence`.

The last configuration tests nothing: with `fit` it fits the probabilities of words on development
speakers and writes them beside the adapters, where `hyperasr` reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.lib.bench import Bench, BenchConfig
from eval.lib.confidence import N_BINS, Said, collect, fitted, platt_scaling, said, word_rows
from eval.lib.scores import Group, groups_of, targets
from eval.lib.tables import confidence_table, print_lines, print_rows
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.metrics.calibration import CALIBRATION_FILE, PlattScaling, expected_calibration_error
from hyperasr.metrics.protocols import protocol
from hyperasr.metrics.uncertainty import consensus
from train.loop.program import read_config, run_program

log = logging.getLogger("eval.calibration")

Row = dict[str, Any]
EVERYBODY = "everybody"
MEASURES = ("auroc", "ece_width", "ece_mass", "nll", "brier", "aurc")


@dataclass(frozen=True)
class CalibrationConfig:
    """Which systems, how many samples."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems, test set and protocol, whose references must be ``clean``."""
    n_samples: int = 8
    """Posterior samples an utterance, at least 2."""
    n_resamples: int = 1_000
    """Draws of speakers for each interval."""
    out: Path = Path("results/calibration.json")
    """Result file."""
    fit: Path | None = None
    """Manifest of development speakers. Their words, under the same views as a test's, fit the
    probabilities of words of every adapter among the systems, whose folder gets the file
    ``calibration.json``; nothing is tested then."""

    def __post_init__(self) -> None:
        if self.n_samples < 2:
            raise ConfigError(f"n_samples is {self.n_samples}; it must be at least 2")


def hear(bench: Bench, name: str, n_samples: int) -> tuple[list[Said], list[list[Said]] | None]:
    """Decode all that a system may decode: its mean and, where it has a distribution, samples.

    Returns:
        Transcripts of the posterior mean (or of the point), one a row of `Bench.rows_of`; those of
        the samples of each, or None for a point source.
    """
    system, rows = bench.systems[name], bench.rows_of(name)
    backbone, normaliser = system.model.backbone, bench.protocol.normaliser
    mean = said(bench.decoded(name, rows), backbone, normaliser)
    if not (system.adapt and system.model.is_gaussian):
        return mean, None
    flat = said(bench.decoded(name, rows, n_samples=n_samples), backbone, normaliser)
    return mean, [flat[i : i + n_samples] for i in range(0, len(flat), n_samples)]


def confidence_rows(
    bench: Bench,
    name: str,
    mean: list[Said],
    samples: list[list[Said]] | None,
    n_resamples: int,
    shipped: PlattScaling | None = None,
) -> list[Row]:
    """Return the rows of the confidence of words, for everybody and each group of the headline.

    Args:
        bench, name: where the system is, and what it is called.
        mean, samples: as `hear` returns them.
        n_resamples: draws of speakers.
        shipped: the model's own calibration.
    """
    at = bench.rows_of(name)
    references = [bench.protocol.normaliser(text) for text in _column(bench, "text", at)]
    texts = samples and [[s.text for s in each] for each in samples]
    words = fitted(collect(mean, references, texts, _column(bench, "speaker", at), shipped))
    groups = headline(bench, at)
    everybody = sorted({i for group in groups for i in group.chosen})
    places: list[tuple[Row, Sequence[int]]] = [({"cohort": EVERYBODY}, everybody)]
    places += [({"cohort": g.cohort, "domain": g.domain}, g.chosen) for g in groups]
    rows: list[Row] = []
    for about, members in places:
        chosen = np.flatnonzero(np.isin(words.utterance, members))
        if len(chosen):
            made = word_rows(words.part(chosen), n_resamples=n_resamples, seed=bench.config.seed)
            rows += [{**about, **row} for row in made]
    return rows


def headline(bench: Bench, rows: Sequence[int]) -> list[Group]:
    """Return the groups of some rows in the headline."""
    meta = {name: _column(bench, name, rows) for name in ("cohort", "domain", "source")}
    return [group for group in groups_of(meta, bench.config.apart) if group.corpus is None]


def consensus_rows(
    bench: Bench, name: str, mean: list[Said], samples: list[list[Said]]
) -> list[Row]:
    """Return error rows of mean, consensus and a single sample, and their differences."""
    agreed = [consensus([s.text for s in each], [s.score for s in each]) for each in samples]
    texts = {
        name: [s.text for s in mean],
        f"{name}_consensus": agreed,
        f"{name}_sample": [each[0].text for each in samples],
    }
    scores = bench.score(texts, bench.rows_of(name))
    pairs = [(f"{name}_consensus", name), (f"{name}_sample", name)]
    rows: list[Row] = []
    for group in scores.groups():
        rows += scores.rows(group, pairs=pairs, n_samples=len(samples[0]))
    return rows


class DevelopmentBench(Bench):
    """A bench on speakers that training chose by: they may be known to it, and are no test."""

    def check_leaks(self) -> None:
        """Refuse nothing."""


def fit(config: CalibrationConfig, manifest: Path) -> None:
    """Fit the probabilities of words of every adapter on development speakers, and write them.

    Raises:
        ConfigError: as `eval.lib.confidence.platt_scaling`.
    """
    bench = DevelopmentBench(replace(config.bench, test=manifest, looks=None))
    for name, system in bench.systems.items():
        if system.folder is None or not system.adapt:
            continue
        rows, normaliser = bench.rows_of(name), bench.protocol.normaliser
        made = said(bench.decoded(name, rows), system.model.backbone, normaliser)
        references = [normaliser(text) for text in _column(bench, "text", rows)]
        words = collect(made, references, None, _column(bench, "speaker", rows))
        raw, right = words.claims["token_logprob"], words.correct
        scaling = platt_scaling(raw, right)
        # The gain is measured by fits on other speakers.
        across = fitted(words).claims.get("token_logprob_fitted", scaling(raw))
        gaps = [expected_calibration_error(p, right, N_BINS) for p in (raw, across)]
        notes = {
            "fitted_on": manifest.name,
            "n_words": len(right),
            "n_speakers": len(set(words.speaker)),
            "ece_raw": round(gaps[0], 4),
            "ece_other_speakers": round(gaps[1], 4),
        }
        path = system.folder / CALIBRATION_FILE
        scaling.write(path, notes)
        print(f"{name}: calibration error {gaps[0]:.3f}, then {gaps[1]:.3f}; {path}")


def _column(bench: Bench, name: str, rows: Sequence[int]) -> list[Any]:
    column = bench.column(name)
    return [column[i] for i in rows]


def main() -> None:
    """Evaluate, write the JSON, print the tables."""
    config = read_config(CalibrationConfig)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if protocol(config.bench.protocol).references != "clean":
        raise ConfigError(
            f"protocol {config.bench.protocol!r} has two references or verbatim ones; confidence "
            "of words is held against the clean one: use the protocol 'spoken'"
        )
    if config.fit is not None:
        fit(config, config.fit)
        return
    bench = Bench(config.bench)
    rows: list[Row] = []
    for name, system in bench.systems.items():
        if system.plain:
            log.warning("%s gives no probabilities and is left out", name)
            continue
        log.info("%s", name)
        mean, samples = hear(bench, name, config.n_samples)
        shipped = system.model.calibration if system.adapt else None
        made = confidence_rows(bench, name, mean, samples, config.n_resamples, shipped)
        about: Row = {"system": name} | ({"n_samples": config.n_samples} if samples else {})
        rows += [{**about, **row} for row in made]
        if samples:
            rows += consensus_rows(bench, name, mean, samples)
    bench.save("eval.calibration", config, rows)
    groups = headline(bench, range(len(bench.views)))
    for group in (*targets(groups), *(g for g in groups if g.cohort == TYPICAL)):
        if any(row.get("level") == "word" and row["cohort"] == group.cohort for row in rows):
            table = confidence_table(rows, MEASURES, group.cohort, group.domain)
            title = f"confidence of words, {group.cohort}, {group.domain}"
            note = f"{title} (AUROC: higher is better; else lower)"
            print_lines(note, table.header, table.lines)
    metric = bench.protocol.metrics[0]
    print_rows(rows, title="mean and consensus of samples", metric=metric)
    print_rows(rows, title="differences", differences=True, metric=metric)


if __name__ == "__main__":
    run_program(main)
