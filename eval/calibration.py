"""Does the system know where it is wrong? Confidence of words on speakers nobody trained on.

    python -m eval.calibration --config eval/configs/calibration.yaml
    python -m eval.calibration --config eval/configs/word_probability.yaml

For every system: token probabilities as confidence. For systems with a distribution over factors
also: disagreement among K posterior samples, both together, the consensus transcript against the
posterior mean's (error rows ``NAME``, ``NAME_consensus``, ``NAME_sample`` and their differences),
and whether the posterior is wider for more severe speech (Spearman's correlation), where severity
is known. What the kinds of confidence are: `eval.lib.confidence`.

The second configuration tests nothing: with `fit` it fits the probabilities of words on development
speakers and writes them beside the adapters, where `hyperasr` reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.lib.bench import Bench, BenchConfig
from eval.lib.confidence import (
    Said,
    collect,
    fitted,
    platt_scaling,
    said,
    thinned,
    word_rows,
)
from eval.lib.results import interval_fields
from eval.lib.scores import Group, groups_of, targets
from eval.lib.systems import System
from eval.lib.tables import confidence_table, print_lines, print_rows
from eval.severity import rank_correlation
from hyperasr.adapters.lora import squared_norms
from hyperasr.adapters.posterior import utterance_generators
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.metrics.calibration import (
    CALIBRATION_FILE,
    clustered_interval,
    expected_calibration_error,
    risk_coverage,
)
from hyperasr.metrics.protocols import protocol
from hyperasr.metrics.subspace import contrast, delta_svd
from hyperasr.metrics.uncertainty import Consensus, consensus
from hyperasr.types import LoRAFactors
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
    n_spread: int = 8
    """Posterior samples from which the width of the posterior is measured, at least 2."""
    n_bins: int = 15
    """Bins of the calibration error, at least 1."""
    n_resamples: int = 1_000
    """Draws of speakers for each interval."""
    out: Path = Path("results/calibration.json")
    """Result file."""
    fit: Path | None = None
    """Manifest of development speakers. Their words, under the same views as a test's, fit the
    probabilities of words of every adapter among the systems, whose folder gets the file
    ``calibration.json``; nothing is tested then."""

    def __post_init__(self) -> None:
        if min(self.n_samples, self.n_spread) < 2:
            raise ConfigError("n_samples and n_spread must be at least 2")


@dataclass(frozen=True)
class SpeechSegment:
    """What a system made of some rows of the test set.

    Attributes:
        rows: row numbers.
        mean: transcripts of the posterior mean (or of the point).
        samples: transcripts of the samples of each utterance; None for a point source.
        agreed: the consensus of each utterance's samples; None for a point source.
    """

    rows: list[int]
    mean: list[Said]
    samples: list[list[Said]] | None = None
    agreed: list[Consensus] | None = None


def hear(bench: Bench, name: str, n_samples: int) -> SpeechSegment:
    """Decode a system with its mean and, where it has a distribution, with samples."""
    system = bench.systems[name]
    rows = bench.rows_of(name)
    backbone, normaliser = system.model.backbone, bench.protocol.normaliser
    mean = said(bench.decoded(name, rows), backbone, normaliser)
    if not (system.adapt and system.model.is_gaussian):
        return SpeechSegment(rows, mean)
    flat = said(bench.decoded(name, rows, n_samples=n_samples), backbone, normaliser)
    samples = [flat[i : i + n_samples] for i in range(0, len(flat), n_samples)]
    agreed = [consensus([s.text for s in each], [s.score for s in each]) for each in samples]
    return SpeechSegment(rows, mean, samples, agreed)


def confidence_rows(bench: Bench, heard: SpeechSegment, config: CalibrationConfig) -> list[Row]:
    """Return the rows of word and utterance confidence, for every group of utterances.

    Groups are everybody, and those of the headline.
    """
    references = [bench.protocol.normaliser(text) for text in _column(bench, "text", heard.rows)]
    speakers = [str(s) for s in _column(bench, "speaker", heard.rows)]
    samples = None
    if heard.samples is not None:
        samples = [[s.text for s in each] for each in heard.samples]
    words = fitted(collect(heard.mean, references, samples, speakers))
    doubts = utterance_doubts(heard)
    scored = bench.protocol.score([s.text for s in heard.mean], references)
    rows: list[Row] = []
    for about_group, members in groups_in(bench, heard.rows):
        chosen = np.flatnonzero(np.isin(words.utterance, members))
        if not len(chosen):
            continue
        made = word_rows(
            words.part(chosen),
            n_bins=config.n_bins,
            n_resamples=config.n_resamples,
            seed=config.bench.seed,
        )
        errors = np.array([float(scored[i].errors) for i in members])
        units = np.array([float(scored[i].n_reference) for i in members])
        for name, doubt in doubts.items():
            own = doubt[members]
            interval = clustered_interval(
                lambda i, own=own, e=errors, u=units: risk_coverage(own[i], e[i], u[i]).area,
                [speakers[i] for i in members],
                n_resamples=config.n_resamples,
                seed=config.bench.seed,
            )
            curve = risk_coverage(own, errors, units)
            about = {"measure": "aurc", "level": "utterance", "score": name}
            shown = {"curve": thinned(curve.coverage, curve.risk), "oracle": curve.oracle}
            made.append({**about, **interval_fields(interval), **shown})
        rows += [{**about_group, **row} for row in made]
    return rows


def utterance_doubts(heard: SpeechSegment) -> dict[str, NDArray[np.float64]]:
    """Return how uncertain each utterance is as a whole, by kind of confidence."""
    doubts = {"token_logprob": np.array([-s.score for s in heard.mean])}
    if heard.agreed is not None:
        # Expected word edits a word: also what samples add counts, which no word can show.
        doubts["disagreement"] = np.array(
            [c.expected_edits / max(1, len(c.text.split())) for c in heard.agreed]
        )
    return doubts


def headline(bench: Bench, rows: Sequence[int]) -> list[Group]:
    """Return the groups of some rows in the headline."""
    meta = {name: _column(bench, name, rows) for name in ("cohort", "domain", "source")}
    return [group for group in groups_of(meta, bench.config.apart) if group.corpus is None]


def groups_in(bench: Bench, rows: Sequence[int]) -> list[tuple[Row, list[int]]]:
    """Return what rows about everybody and about each group say, and who that is."""
    groups = headline(bench, rows)
    everybody = sorted({i for group in groups for i in group.chosen})
    found: list[tuple[Row, list[int]]] = [({"cohort": EVERYBODY}, everybody)]
    return found + [({"cohort": g.cohort, "domain": g.domain}, list(g.chosen)) for g in groups]


def consensus_rows(bench: Bench, name: str, heard: SpeechSegment) -> list[Row]:
    """Return error rows of mean, consensus and a single sample, and their differences."""
    if heard.samples is None or heard.agreed is None:
        return []
    texts = {
        name: [s.text for s in heard.mean],
        f"{name}_consensus": [c.text for c in heard.agreed],
        f"{name}_sample": [each[0].text for each in heard.samples],
    }
    scores = bench.score(texts, heard.rows)
    pairs = [(f"{name}_consensus", name), (f"{name}_sample", name)]
    rows: list[Row] = []
    for group in scores.groups():
        rows += scores.group_rows(group, pairs=pairs, n_samples=len(heard.samples[0]))
    return rows


@torch.inference_mode()
def posterior_spread(bench: Bench, system: System, rows: Sequence[int], k: int) -> Tensor | None:
    """Return the width of each utterance's posterior (n_rows,); None where all have the same one.

    Root mean square over k samples and all layers of the norm of delta W minus its mean's, over the
    norm of W: how far, beside the weights, a sample lies from the mean update.
    """
    model = system.model
    if not system.conditioned:
        return None
    norms = squared_norms(model.backbone.whisper, system.model.source_config.targets)
    ids = [str(name) for name in _column(bench, "id", rows)]
    embs = bench.embeddings(system)[list(rows)]
    total = torch.zeros(len(rows), dtype=torch.float64)
    for start in range(0, len(rows), 64):
        here = slice(start, start + 64)
        posterior = model.posterior(embs[here])
        generators = utterance_generators(bench.config.seed, ids[here], k)
        apart = contrast(posterior.sample(generators, k), posterior.mean().repeat_rows(k))
        total[here] = _squared_size(apart, norms).view(-1, k).mean(1)
    return total.sqrt()


def _squared_size(factors: LoRAFactors, norms: dict[str, Tensor]) -> Tensor:
    """Squared norms of updates over those of their weights, mean over all layers (n_rows,)."""
    sizes = [
        delta_svd(pair.A[layer], pair.B[layer], factors.scaling, name).norms().square()
        / float(norms[name][layer])
        for name, pair in factors.targets.items()
        for layer in range(pair.A.shape[0])
    ]
    return torch.stack(sizes).mean(0)


def severity_rows(
    bench: Bench, heard: SpeechSegment, spread: Tensor | None, config: CalibrationConfig
) -> list[Row]:
    """Return Spearman's correlations of uncertainty with severity, over unseen speakers."""
    measures = dict(utterance_doubts(heard))
    if spread is not None:
        measures["posterior_spread"] = spread.numpy()
    severity = np.array(
        [np.nan if s is None else float(s) for s in _column(bench, "severity", heard.rows)]
    )
    speakers = [str(s) for s in _column(bench, "speaker", heard.rows)]
    rows: list[Row] = []
    for about_group, everyone in groups_in(bench, heard.rows):
        members = [i for i in everyone if np.isfinite(severity[i])]
        level = severity[members]
        if len(set(level)) < 2:
            continue
        for name, values in measures.items():
            own = values[members]
            interval = clustered_interval(
                lambda i, own=own, level=level: rank_correlation(own[i], level[i]),
                [speakers[i] for i in members],
                n_resamples=config.n_resamples,
                seed=config.bench.seed,
            )
            about = {"measure": "spearman_with_severity", "level": "utterance", "score": name}
            rows.append({**about_group, **about, **interval_fields(interval)})
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
        gaps = [expected_calibration_error(p, right, config.n_bins) for p in (raw, across)]
        notes = {
            "fitted_on": manifest.name,
            "n_words": len(right),
            "n_speakers": len(set(words.speaker)),
            "ece_raw": round(gaps[0], 4),
            "ece_other_speakers": round(gaps[1], 4),
        }
        scaling.write(system.folder / CALIBRATION_FILE, notes)
        path = system.folder / CALIBRATION_FILE
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
        heard = hear(bench, name, config.n_samples)
        gaussian = heard.samples is not None
        spread = posterior_spread(bench, system, heard.rows, config.n_spread) if gaussian else None
        made = confidence_rows(bench, heard, config)
        made += severity_rows(bench, heard, spread, config)
        about = {"system": name} | ({"n_samples": config.n_samples} if gaussian else {})
        rows += [{**about, **row} for row in made] + consensus_rows(bench, name, heard)
    bench.save("eval.calibration", config, rows)
    groups = headline(bench, range(bench.n_rows))
    for group in (*targets(groups), *(g for g in groups if g.cohort == TYPICAL)):
        if any(row.get("level") == "word" and row["cohort"] == group.cohort for row in rows):
            table = confidence_table(rows, MEASURES, group.cohort, group.domain)
            title = f"confidence of words, {group.cohort}, {group.domain}"
            print_lines(f"{title} (AUROC: higher is better; else lower)", *vars(table).values())
    metric = bench.protocol.metrics[0]
    print_rows(rows, title="mean and consensus of samples", metric=metric)
    print_rows(rows, title="differences", differences=True, metric=metric)


if __name__ == "__main__":
    run_program(main)
