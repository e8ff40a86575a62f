"""Error against severity: who is served worst, by how much, and does a system narrow the gap?

    python -m eval.severity --config eval/configs/severity.yaml

Rows: error rows of every system by cohort and severity, with differences to the backbone; and per
system, field ``measure``: ``worst_group`` and ``gap`` (worst minus best cohort); ``slope``, the
rise of the error from severity 0 to 1; and ``spearman_with_severity``. Severity is the
simulation's, or what a corpus says of a speaker; recordings without one count in the gaps alone.
The speakers are unseen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.results import interval_fields
from eval.lib.scores import Group, Scores, labels, levels_of
from eval.lib.systems import BACKBONE
from eval.lib.tables import print_lines, print_rows, with_interval
from hyperasr.cohorts.views import TYPICAL
from hyperasr.metrics.calibration import clustered_interval
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.statistics import SpeakerBootstrap
from train.loop.program import read_config, run_program

log = logging.getLogger("eval.severity")

Row = dict[str, Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
MEASURES = ("worst_group", "gap")


@dataclass(frozen=True)
class SeverityConfig:
    """Which systems."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems, test set and protocol."""
    n_resamples: int = 10_000
    """Draws of speakers for the gaps."""
    out: Path = Path("results/severity.json")
    """Result file."""


def level_rows(scores: Scores) -> list[Row]:
    """Return error rows by cohort and severity, with differences to the backbone."""
    pairs = [(name, BACKBONE) for name in scores.counts if name != BACKBONE]
    rows: list[Row] = []
    for group in together(scores):
        if group.cohort == TYPICAL:
            rows += scores.group_rows(group, pairs=pairs)
            continue
        for level, chosen in levels_of(scores.meta["severity"], group.chosen).items():
            rows += scores.rows(chosen, group.cohort, group.domain, pairs=pairs, severity=level)
    return results.with_holm(rows, ("metric", "severity"))


def together(scores: Scores) -> list[Group]:
    """Return the groups of all corpora together."""
    return [group for group in scores.groups() if group.corpus is None]


def gap_rows(scores: Scores, n_resamples: int = 10_000) -> list[Row]:
    """Return every system's worst cohort and its gap to the best, and what they gain.

    In every draw of speakers the worst and the best cohort are chosen anew, as they were on all
    utterances. The largest of several noisy rates is too large on average, and with it the gap, the
    more so the smaller the cohorts are; differences between systems suffer less. Draws in which a
    cohort has nobody are left out. Where one has a single speaker there is no interval: its rate
    would look as if it were known exactly.

    Args:
        scores: of every system.
        n_resamples: draws.
    """
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(labels(scores.meta["cohort"], scores.meta["domain"])):
        groups.setdefault(name, []).append(i)
    if len(groups) < 2:
        return []
    drawn = SpeakerBootstrap(
        scores.meta["speaker"],
        n_resamples=n_resamples,
        seed=scores.seed,
        clip=scores.protocol.clip,
    )
    about = {"grouping": "cohort", "n_groups": len(groups), "metric": scores.metric}
    about |= {"n_utterances": len(scores), "n_speakers": drawn.n_speakers}
    alone = [g for g, rows in groups.items() if len({scores.meta["speaker"][i] for i in rows}) < 2]
    reason = f"{alone[0]} has one speaker: no interval" if alone else None
    rows: list[Row] = []
    draws: dict[tuple[str, str], Floats] = {}
    values: dict[tuple[str, str], float] = {}
    for system, counts in scores.counts.items():
        rates, sampled = _group_rates(counts, groups, drawn)
        worst, best = max(rates, key=lambda g: rates[g]), min(rates, key=lambda g: rates[g])
        high, low = sampled.max(0), sampled.min(0)
        found = ((rates[worst], high), (rates[worst] - rates[best], high - low))
        for measure, (value, each) in zip(MEASURES, found, strict=True):
            draws[system, measure], values[system, measure] = each, value
            row = {"measure": measure, "system": system, **about, "value": value}
            rows.append({**row, **_ends(each, reason), "worst": worst, "best": best})
    for (system, measure), each in draws.items():
        if system != BACKBONE and (BACKBONE, measure) in draws:
            row = {"measure": f"{measure}_difference", "system": system, "base": BACKBONE, **about}
            value = values[system, measure] - values[BACKBONE, measure]
            rows.append({**row, "value": value, **_ends(each - draws[BACKBONE, measure], reason)})
    return rows


def _group_rates(
    counts: Sequence[EditCounts], groups: Mapping[str, Sequence[int]], drawn: SpeakerBootstrap
) -> tuple[dict[str, float], Floats]:
    """Rates of every group, on all utterances and in every draw (n_groups, n_resamples)."""
    rates, sampled = {}, []
    for name, members in groups.items():
        inside = set(members)
        own = [c if i in inside else EditCounts() for i, c in enumerate(counts)]
        rates[name] = drawn.rate(own).value
        # A draw without this group's speakers has no rate; it would read as 0.
        units = drawn.resampled([EditCounts(insertions=c.n_reference) for c in own])
        sampled.append(np.where(units == 0, np.nan, drawn.resampled(own)))
    return rates, np.stack(sampled)


def _ends(values: Floats, reason: str | None) -> Row:
    """Percentile interval of the draws in which every group has somebody, or why there is none."""
    defined = values[np.isfinite(values)]
    if reason is None and len(defined) < 0.5 * len(values):
        reason = "groups without speakers in most draws"
    if reason is not None:
        return {"low": None, "high": None, "reason": reason}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def slope_rows(scores: Scores, n_resamples: int = 1_000) -> list[Row]:
    """Return how the error rises with severity, by cohort: slope and rank correlation.

    The slope is of a straight line through the utterances' error rates, each weighted by its
    reference units; 0.1 is ten points from severity 0 to 1. The correlation is Spearman's, of the
    utterances' rates.
    """
    rows: list[Row] = []
    for group in together(scores):
        if group.cohort == TYPICAL:
            continue
        own = [i for i in group.chosen if scores.meta["severity"][i] is not None]
        level = np.array([float(scores.meta["severity"][i]) for i in own])
        if len(set(level)) < 2:
            continue
        speakers = [str(scores.meta["speaker"][i]) for i in own]
        for system, counts in scores.counts.items():
            chosen = [counts[i] for i in own]
            clip = scores.protocol.clip
            errors = np.array([float(c.clipped if clip else c.errors) for c in chosen])
            units = np.array([float(c.n_reference) for c in chosen])
            rate = errors / np.maximum(units, 1)

            def slope(
                i: Indices, e: Floats = errors, u: Floats = units, level: Floats = level
            ) -> float:
                return weighted_slope(level[i], e[i], u[i])

            def correlation(i: Indices, rate: Floats = rate, level: Floats = level) -> float:
                return rank_correlation(rate[i], level[i])

            for measure, statistic in (("slope", slope), ("spearman_with_severity", correlation)):
                interval = clustered_interval(
                    statistic, speakers, n_resamples=n_resamples, seed=scores.seed
                )
                about = {"measure": measure, "system": system}
                about |= {"cohort": group.cohort, "domain": group.domain}
                rows.append({**about, "metric": scores.metric} | interval_fields(interval))
    return rows


def rank_correlation(x: Floats, y: Floats) -> float:
    """Return Spearman's correlation; nan where either is constant."""
    from scipy.stats import spearmanr

    constant = np.ptp(x) == 0 or np.ptp(y) == 0
    return float("nan") if constant else float(spearmanr(x, y).statistic)


def weighted_slope(x: Floats, errors: Floats, units: Floats) -> float:
    """Return the slope of errors / units on x by least squares weighted with units; nan for one x.

    Items without units add their errors and no weight.
    """
    total = units.sum()
    mean = (units * x).sum() / total if total > 0 else np.nan
    spread = (units * (x - mean) ** 2).sum()
    return float(((x - mean) * errors).sum() / spread) if spread > 0 else float("nan")


def main() -> None:
    """Evaluate, write the JSON, print the tables."""
    config = read_config(SeverityConfig)
    bench = Bench(config.bench)
    scores = bench.scores(bench.names()).headline()
    rows = level_rows(scores)
    if not any("severity" in row for row in rows):
        log.warning("%s says nothing about severity: only cohorts are compared", config.bench.test)
    gaps = gap_rows(scores, config.n_resamples)
    rows += gaps + slope_rows(scores)
    bench.save("eval.severity", config, rows)
    errors = [row for row in rows if "measure" not in row]
    for group in together(scores):
        title = f"{scores.metric} in percent by severity, {group.cohort}, {group.domain}"
        where = {"cohort": group.cohort, "domain": group.domain, "metric": scores.metric}
        print_rows(errors, ("severity",), title=title, **where)
    worst, gap = ({r["system"]: r for r in gaps if r["measure"] == m} for m in MEASURES)
    lines = [
        (name, row["worst"], with_interval(row, 1, 100), with_interval(gap[name], 1, 100))
        for name, row in worst.items()
    ]
    header = ("system", "worst cohort", "error", "gap")
    print_lines("worst cohort and gap to the best, in percent", header, lines)


if __name__ == "__main__":
    run_program(main)
