"""How the updates of utterances lie to each other: angles, beside chance and beside noise.

Three levels. ``utterance``: mean over pairs of utterances, of the same person, of the same voice in
another cohort, of other speakers in the cohort, across cohorts. ``person`` and ``cohort``: angles
between the subspaces that hold most of a group's energy. Beside each stand the angles of random
subspaces of the same shape (chance), and for groups those of two halves of the same group (noise):
halves of a person's utterances, halves of a cohort's speakers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperasr.errors import ConfigError
from hyperasr.metrics.statistics import ONE_SPEAKER
from hyperasr.metrics.subspace import (
    SPACES,
    DeltaSVD,
    delta_svd,
    expected_overlap,
    group_basis,
    overlap,
    pairwise_angles,
    principal_angles,
    random_angles,
)
from hyperasr.types import LoRAFactors

__all__ = ["AngleSettings", "Who", "layers_of", "pair_interval", "update_rows"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Who:
    """Who speaks in each utterance: the real voice, the (simulated) person, the cohort."""

    speakers: Sequence[str]
    persons: Sequence[str]
    cohorts: Sequence[str]

    def names(self, column: str) -> list[str]:
        """Return the distinct values of a column, sorted."""
        return sorted(set(getattr(self, column)))

    def rows(self, **where: str) -> list[int]:
        """Return the utterances with these values."""
        n = len(self.speakers)
        return [i for i in range(n) if all(getattr(self, c)[i] == v for c, v in where.items())]


@dataclass(frozen=True)
class AngleSettings:
    """Ranks of the subspaces, and how much is drawn."""

    ranks: tuple[int, ...] = (1, 4, 8)
    """Dimensions of the subspaces of updates, each at least 1 and at most the adapter's rank."""
    weight_ranks: tuple[int, ...] = (4, 16)
    """Dimensions of the leading subspaces of W and W + delta W."""
    n_null: int = 2_000
    """Random pairs drawn for the null model."""
    n_splits: int = 10
    """Halvings of each group."""
    n_resamples: int = 1_000
    """Draws of speakers for each interval."""
    seed: int = 0
    """Of all draws."""

    def __post_init__(self) -> None:
        for name in ("ranks", "weight_ranks"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give numbers of at least 1")


def layers_of(factors: LoRAFactors) -> Iterator[tuple[str, int, DeltaSVD]]:
    """Decompose the updates of every target and layer.

    Raises:
        ConfigError: factors that are not finite.
    """
    for target, pair in factors.targets.items():
        for layer in range(pair.A.shape[0]):
            what = f"delta W of {target}, layer {layer},"
            yield target, layer, delta_svd(pair.A[layer], pair.B[layer], factors.scaling, what)


def update_rows(factors: LoRAFactors, who: Who, settings: AngleSettings) -> list[Row]:
    """Return the angles between updates at all levels, for every target, layer, space and rank.

    Args:
        factors: of one row an utterance.
        who: as many utterances.
        settings: ranks and draws.
    Raises:
        ConfigError: factors that are not finite, or of lower rank than asked for.
    """
    if factors.n_utt != len(who.speakers):
        raise ConfigError(f"factors of {factors.n_utt} utterances, speakers of {len(who.speakers)}")
    rows: list[Row] = []
    for target, layer, svd in layers_of(factors):
        for space in SPACES:
            what = f"delta W of {target}, layer {layer},"
            bases = svd.basis(space, max(settings.ranks), what)
            by_rank = pairwise_angles(bases, settings.ranks)
            for rank in settings.ranks:
                null = _null(bases.shape[1], rank, settings)
                found = _utterance_rows(by_rank[rank], who, settings)
                for level, column in (("person", "persons"), ("cohort", "cohorts")):
                    found += _group_rows(svd, who, level, column, space, rank, settings)
                place = {"target": target, "layer": layer, "space": space, "rank": rank}
                rows += [{"measure": "angle", **place, **row, **null} for row in found]
    return rows


def _null(d: int, k: int, settings: AngleSettings) -> Row:
    """Angles of random subspaces of the same shape: drawn, and what is expected in closed form."""
    expected = expected_overlap(d, k, k)
    if d < 2 * k:
        return {"null_overlap_expected": expected}
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = random_angles(d, k, k, settings.n_null, generator)
    means = torch.rad2deg(drawn).mean(-1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return {
        "null": float(means.mean()),
        "null_low": low,
        "null_high": high,
        "null_overlap": float(overlap(drawn).mean()),
        "null_overlap_expected": expected,
    }


def _summary(angles: Tensor) -> Row:
    """Means over pairs (n_pairs, k): of the mean angle and the largest, in degrees, and overlap."""
    degrees = torch.rad2deg(angles)
    return {
        "value": float(degrees.mean()),
        "largest": float(degrees[:, 0].mean()),
        "overlap": float(overlap(angles).mean()),
        "n_pairs": len(angles),
    }


def _utterance_rows(angles: Tensor, who: Who, settings: AngleSettings) -> list[Row]:
    first, second = torch.triu_indices(len(who.speakers), len(who.speakers), 1).numpy()
    speakers, persons, cohorts = (np.asarray(x) for x in (who.speakers, who.persons, who.cohorts))
    same_person = persons[first] == persons[second]
    same_voice = speakers[first] == speakers[second]
    same_cohort = cohorts[first] == cohorts[second]
    masks = {
        "same_person": same_person,
        "same_voice": same_voice & ~same_cohort,
        "same_cohort": same_cohort & ~same_voice,
        "other_cohort": ~same_cohort & ~same_voice,
    }
    degrees = torch.rad2deg(angles).mean(-1).numpy()
    rows = []
    for relation, mask in masks.items():
        inside = relation in ("same_person", "same_cohort")
        names = who.names("cohorts")
        for a, b in [(c, c) for c in names] if inside else list(combinations(names, 2)):
            both = (cohorts[first] == a) & (cohorts[second] == b)
            both |= (cohorts[first] == b) & (cohorts[second] == a)
            chosen = np.flatnonzero(mask & both)
            if not len(chosen):
                continue
            used = sorted({*first[chosen], *second[chosen]})
            interval = pair_interval(
                degrees[chosen],
                speakers[first[chosen]],
                speakers[second[chosen]],
                n_resamples=settings.n_resamples,
                seed=settings.seed,
            )
            rows.append(
                {
                    "level": "utterance",
                    "relation": relation,
                    "cohort": a,
                    "with_cohort": b,
                    **_summary(angles[chosen]),
                    **interval,
                    "n_utterances": len(used),
                    "n_speakers": len(set(speakers[used])),
                }
            )
    return rows


def pair_interval(
    values: NDArray[np.float64],
    first: Sequence[str] | NDArray[Any],
    second: Sequence[str] | NDArray[Any],
    *,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> Row:
    """Return the 95 % interval of a mean over pairs of utterances, by draws of whole speakers.

    A pair counts as often as both of its speakers were drawn together: the product of their
    numbers, or the number itself where both are one.

    Args:
        values: of each pair.
        first, second: its two speakers.
        n_resamples, seed: of the bootstrap.
    Returns:
        ``low`` and ``high``, or None and the ``reason`` for fewer than two speakers.
    """
    names = sorted({*map(str, first), *map(str, second)})
    place = {name: i for i, name in enumerate(names)}
    n = len(names)
    if n < 2:
        return {"low": None, "high": None, "reason": ONE_SPEAKER}
    sums, counts = np.zeros((n, n)), np.zeros((n, n))
    i, j = (np.array([place[str(s)] for s in side]) for side in (first, second))
    np.add.at(sums, (i, j), values)
    np.add.at(counts, (i, j), 1.0)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n, size=(n_resamples, n))
    times = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
    totals = []
    for matrix in (sums, counts):
        own = np.diag(matrix).copy()
        apart = matrix - np.diag(own)
        totals.append(((times @ apart) * times).sum(1) + times @ own)
    defined = totals[1] > 0
    low, high = np.percentile(totals[0][defined] / totals[1][defined], [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def _group_rows(
    svd: DeltaSVD,
    who: Who,
    level: str,
    column: str,
    space: str,
    rank: int,
    settings: AngleSettings,
) -> list[Row]:
    """Angles between groups' subspaces, and between halves of each group."""
    cohorts = {name: who.rows(cohorts=name) for name in who.names("cohorts")}
    groups: dict[str, list[list[int]]] = {}
    for cohort, members in cohorts.items():
        if level == "cohort":
            groups[cohort] = [members]
            continue
        persons = sorted({who.persons[i] for i in members})
        groups[cohort] = [who.rows(persons=p, cohorts=cohort) for p in persons]
    bases = {c: [group_basis(svd, m, space, rank) for m in g] for c, g in groups.items()}
    rows = []
    for a in bases:
        pairs = list(combinations(bases[a], 2))
        if pairs:
            rows.append(_group_row(level, "same_cohort", a, a, pairs, groups[a], who))
        halves = _halves(svd, who, groups[a], level, space, rank, settings)
        if halves:
            rows.append(_group_row(level, "split_half", a, a, halves, groups[a], who))
    for a, b in combinations(bases, 2):
        crossed = [(x, y) for x in bases[a] for y in bases[b]]
        rows.append(_group_row(level, "other_cohort", a, b, crossed, groups[a] + groups[b], who))
    return rows


def _group_row(
    level: str,
    relation: str,
    a: str,
    b: str,
    pairs: list[tuple[Tensor, Tensor]],
    groups: list[list[int]],
    who: Who,
) -> Row:
    first, second = (torch.stack(side) for side in zip(*pairs, strict=True))
    angles = principal_angles(first, second)
    members = sorted({i for group in groups for i in group})
    row = {"level": level, "relation": relation, "cohort": a, "with_cohort": b, **_summary(angles)}
    if relation == "split_half":
        # How far halvings differ among each other; not an interval of their mean.
        spread = torch.rad2deg(angles).mean(-1)
        ends = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=spread.dtype)).tolist()
        row |= {"spread_low": ends[0], "spread_high": ends[1]}
    n_speakers = len({who.speakers[i] for i in members})
    return row | {"n_utterances": len(members), "n_speakers": n_speakers}


def _halves(
    svd: DeltaSVD,
    who: Who,
    groups: list[list[int]],
    level: str,
    space: str,
    rank: int,
    settings: AngleSettings,
) -> list[tuple[Tensor, Tensor]]:
    """Subspaces of random halves of each group; a cohort is halved by speaker."""
    rng = np.random.default_rng(settings.seed)
    made = []
    # There are many persons; a halving or two of each is as much as ten of a cohort.
    n_splits = settings.n_splits if level == "cohort" else math.ceil(settings.n_splits / 5)
    for members in groups:
        units = [who.speakers[i] if level == "cohort" else str(i) for i in members]
        names = sorted(set(units))
        if len(names) < 2:
            continue
        for _ in range(n_splits):
            chosen = set(rng.permutation(names)[: len(names) // 2])
            sides = (
                [i for i, u in zip(members, units, strict=True) if (u in chosen) == side]
                for side in (True, False)
            )
            one, other = (group_basis(svd, side, space, rank) for side in sides)
            made.append((one, other))
    return made
