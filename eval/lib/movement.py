"""How far adaptation moves weights: size and effective rank of updates, and the turn of W."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from eval.lib.adaptation import AngleSettings, Who, layers_of
from eval.lib.results import interval_fields
from hyperasr.adapters.lora import find_targets
from hyperasr.metrics.calibration import clustered_interval
from hyperasr.metrics.subspace import SPACES, TopSubspace, effective_rank
from hyperasr.types import LoRAFactors

__all__ = ["means_by_cohort", "size_rows", "weight_rows"]

Row = dict[str, Any]


def size_rows(factors: LoRAFactors, whisper: Any, who: Who | None, n_resamples: int) -> list[Row]:
    """Return how large updates are beside their weights, and their effective rank.

    ``relative_norm`` is the Frobenius norm of delta W over that of W, mean over utterances.

    Args:
        factors: one row an utterance, or shared.
        whisper: holds the weights.
        who: None for shared factors, which get one row for everybody.
        n_resamples: of the speaker-clustered intervals.
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

    Args and Raises: as `size_rows`; also ConfigError for a rank that a weight does not have.
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
            for space in SPACES:
                for rank in ranks:
                    angles = torch.stack([one[rank][space] for one in found])
                    degrees = torch.rad2deg(angles).numpy()
                    place = {"target": target, "layer": layer, "space": space, "rank": rank}
                    for row in means_by_cohort(
                        degrees.mean(1), who, settings.n_resamples, degrees[:, 0]
                    ):
                        rows.append({"measure": "weight_angle", **place, **row})
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
    for cohort in ["all", *who.names("cohorts")]:
        chosen = list(range(len(values))) if cohort == "all" else who.rows(cohorts=cohort)
        own = values[chosen]
        interval = clustered_interval(
            lambda drawn, own=own: float(own[drawn].mean()),
            [who.speakers[i] for i in chosen],
            n_resamples=n_resamples,
        )
        row = {"cohort": cohort, **interval_fields(interval)}
        rows.append(row | ({} if largest is None else {"largest": float(largest[chosen].mean())}))
    return rows
