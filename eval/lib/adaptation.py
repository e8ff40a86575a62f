"""How the updates of utterances lie to each other, and how far they move the weights.

Angles have two levels. ``utterance``: mean over pairs of utterances, of the same person, of the
same voice in another cohort, of other speakers in the cohort, across cohorts. ``cohort``: angles
between the subspaces that hold most of a cohort's energy. Beside each stand the angles of random
subspaces of the same shape (chance), and for cohorts those of two halves of its speakers (noise).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.lib.results import interval_fields
from hyperasr.adapters.lora import find_targets
from hyperasr.errors import ConfigError
from hyperasr.metrics.calibration import clustered_interval
from hyperasr.metrics.statistics import ONE_SPEAKER
from hyperasr.metrics.subspace import (
    SPACES,
    DeltaSVD,
    TopSubspace,
    delta_svd,
    effective_rank,
    expected_overlap,
    group_basis,
    overlap,
    pairwise_angles,
    principal_angles,
    random_angles,
)
from hyperasr.types import LoRAFactors

Row = dict[str, Any]
BY_COHORT = "one update a cohort: no interval over speakers"


@dataclass(frozen=True)
class Who:
    """Who speaks in each utterance: the real voice, the (simulated) person, the cohort."""

    speakers: Sequence[str]
    persons: Sequence[str]
    cohorts: Sequence[str]

    def members(self) -> dict[str, list[int]]:
        """Return the utterances of each cohort, by the sorted names of cohorts."""
        names = sorted(set(self.cohorts))
        return {name: [i for i, c in enumerate(self.cohorts) if c == name] for name in names}


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
    """Halvings of each cohort."""
    n_resamples: int = 1_000
    """Draws of speakers for each interval."""
    seed: int = 0
    """Of all draws."""

    def __post_init__(self) -> None:
        for name in ("ranks", "weight_ranks"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give numbers of at least 1")


def first_of_each(persons: Sequence[str], n: int) -> list[int]:
    """Return the first n rows of each person."""
    return [row for row, person in enumerate(persons) if persons[:row].count(person) < n]


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

    Raises:
        ConfigError: factors that are not finite, or of lower rank than asked for.
    """
    rows: list[Row] = []
    for target, layer, svd in layers_of(factors):
        for space in SPACES:
            what = f"delta W of {target}, layer {layer},"
            bases = svd.basis(space, max(settings.ranks), what)
            by_rank = pairwise_angles(bases, settings.ranks)
            for rank in settings.ranks:
                null = _null(bases.shape[1], rank, settings)
                found = _utterance_rows(by_rank[rank], who, settings)
                found += _cohort_rows(svd, who, space, rank, settings)
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
        names = sorted(set(who.cohorts))
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

    A pair counts as often as both of its speakers, `first` and `second`, were drawn together: the
    product of their numbers, or the number itself where both are one. ``low`` and ``high`` are
    None, with the ``reason``, for fewer than two speakers.
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


def _cohort_rows(
    svd: DeltaSVD, who: Who, space: str, rank: int, settings: AngleSettings
) -> list[Row]:
    """Angles between cohorts' subspaces, and between halves of the speakers of each."""
    members = who.members()
    bases = {name: group_basis(svd, own, space, rank) for name, own in members.items()}
    rows = []
    for name, own in members.items():
        if halves := _halves(svd, who, own, space, rank, settings):
            rows.append(_cohort_row("split_half", name, name, halves, own, who))
    for a, b in combinations(bases, 2):
        pair = [(bases[a], bases[b])]
        rows.append(_cohort_row("other_cohort", a, b, pair, members[a] + members[b], who))
    return rows


def _cohort_row(
    relation: str,
    a: str,
    b: str,
    pairs: list[tuple[Tensor, Tensor]],
    members: list[int],
    who: Who,
) -> Row:
    first, second = (torch.stack(side) for side in zip(*pairs, strict=True))
    angles = principal_angles(first, second)
    place = {"level": "cohort", "relation": relation, "cohort": a, "with_cohort": b}
    row = {**place, **_summary(angles)}
    if relation == "split_half":
        # How far halvings differ among each other; not an interval of their mean.
        spread = torch.rad2deg(angles).mean(-1)
        ends = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=spread.dtype)).tolist()
        row |= {"spread_low": ends[0], "spread_high": ends[1]}
    n_speakers = len({who.speakers[i] for i in members})
    return row | {"n_utterances": len(members), "n_speakers": n_speakers}


def _halves(
    svd: DeltaSVD, who: Who, members: list[int], space: str, rank: int, settings: AngleSettings
) -> list[tuple[Tensor, Tensor]]:
    """Subspaces of random halves of a cohort's speakers; none of a single speaker."""
    rng = np.random.default_rng(settings.seed)
    names = sorted({who.speakers[i] for i in members})
    made = []
    for _ in range(settings.n_splits if len(names) > 1 else 0):
        chosen = set(rng.permutation(names)[: len(names) // 2])
        sides = ([i for i in members if (who.speakers[i] in chosen) == s] for s in (True, False))
        one, other = (group_basis(svd, side, space, rank) for side in sides)
        made.append((one, other))
    return made


def size_rows(factors: LoRAFactors, whisper: Any, who: Who | None, n_resamples: int) -> list[Row]:
    """Return how large updates are beside their weights, and their effective rank.

    ``relative_norm`` is the Frobenius norm of delta W over that of W, mean over utterances. Shared
    factors, of which `who` is None, get one row for everybody.
    """
    rows: list[Row] = []
    targets = find_targets(whisper, factors)
    for target, layer, svd in layers_of(factors):
        norm = float(targets[target][layer].weight.detach().double().norm())
        values = {
            "relative_norm": svd.norms().numpy() / norm,
            "effective_rank": effective_rank(svd.values).numpy(),
        }
        for measure, each in values.items():
            place = {"measure": measure, "target": target, "layer": layer}
            rows += [{**place, **row} for row in means_by_cohort(each, who, n_resamples)]
    return rows


def weight_rows(
    factors: LoRAFactors, whisper: Any, who: Who | None, settings: AngleSettings
) -> list[Row]:
    """Return the angles between the leading subspaces of W and of W + delta W.

    As `size_rows`; a rank that a weight does not have is a ConfigError.
    """
    rows: list[Row] = []
    targets = find_targets(whisper, factors)
    ranks = settings.weight_ranks
    for target, pair in factors.targets.items():
        for layer in range(pair.A.shape[0]):
            top = TopSubspace(targets[target][layer].weight, max(ranks))
            found = [
                top.angles(a, b, factors.scaling, ranks)
                for a, b in zip(pair.A[layer], pair.B[layer], strict=True)
            ]
            for space, rank in product(SPACES, ranks):
                degrees = torch.rad2deg(torch.stack([one[rank][space] for one in found])).numpy()
                about = {"measure": "weight_angle", "target": target, "layer": layer}
                about |= {"space": space, "rank": rank}
                n, largest = settings.n_resamples, degrees[:, 0]
                rows += [about | row for row in means_by_cohort(degrees.mean(1), who, n, largest)]
    return rows


def means_by_cohort(
    values: NDArray[Any],
    who: Who | None,
    n_resamples: int,
    largest: NDArray[Any] | None = None,
) -> list[Row]:
    """Means over utterances by cohort and over all, with intervals over speakers."""
    if who is None:
        row: Row = {"cohort": "all", "value": float(values.mean())}
        return [row | ({} if largest is None else {"largest": float(largest.mean())})]
    rows = []
    for cohort, chosen in {"all": list(range(len(values))), **who.members()}.items():
        own = values[chosen]
        interval = clustered_interval(
            lambda drawn, own=own: float(own[drawn].mean()),
            [who.speakers[i] for i in chosen],
            n_resamples=n_resamples,
        )
        if who.speakers == who.cohorts:  # one update a cohort, of which nobody draws others
            interval = replace(interval, low=None, high=None, reason=BY_COHORT)
        row = {"cohort": cohort, **interval_fields(interval)}
        rows.append(row | ({} if largest is None else {"largest": float(largest[chosen].mean())}))
    return rows
