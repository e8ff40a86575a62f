"""Do the deviations of a Whisper's weights fall into two groups, as VI LoRA's dual prior supposes?

    python -m eval.weight_spread --config eval/configs/weight_spread.yaml

VI LoRA (arXiv 2509.20397) gives the layers two priors because the standard deviations of their
pretrained weights are bimodal. Here a mixture of one and of two Gaussians is fitted to those
deviations, as `hyperasr.adapters.priors` fits it. A row for each backbone and set of matrices:

- ``bic_gain``: by how much two components have the better (lower) Bayesian information criterion;
- ``means``, ``deviations``, ``shares`` of the two, and which matrices belong to the smaller one;
- ``separation``: distance of the means over the root mean square of the deviations. Two modes need
  more than 2 (Ashman, Bird and Zepf 1994, Astronomical Journal 108, eq. 1), and some share each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.lib import results
from eval.lib.tables import print_lines
from hyperasr.adapters.lora import TARGET_NAMES
from hyperasr.adapters.priors import LEAST_VARIANCE, weight_deviations
from hyperasr.errors import ConfigError
from hyperasr.metrics.normalisers import normaliser
from hyperasr.whisper.backbone import Backbone
from train.loop.program import read_config, run_program


@dataclass(frozen=True)
class SpreadConfig:
    """Which weights."""

    backbones: tuple[str, ...] = ("tiny.en",)
    """Whispers: names or folders."""
    targets: dict[str, tuple[str, ...]] | None = None
    """Sets of kinds of matrices by name; None for one of all kinds."""
    out: Path = Path("results/weight_spread.json")
    """Result file."""


def spread_row(deviations: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the fields of a row.

    Args:
        deviations: (n_layer,) of each kind of matrix.
    Raises:
        ConfigError: fewer than four matrices.
    """
    from sklearn.mixture import GaussianMixture

    names = [f"{name}.{layer}" for name, own in deviations.items() for layer in range(len(own))]
    values = np.concatenate([own.numpy() for own in deviations.values()])
    if len(values) < 4:
        raise ConfigError(f"{len(values)} matrices are too few to tell one group from two")
    mean, spread = values.mean(), values.std()
    data = ((values - mean) / spread)[:, None]
    one, two = (
        GaussianMixture(n, reg_covar=LEAST_VARIANCE, n_init=5, random_state=0).fit(data)
        for n in (1, 2)
    )
    order = np.argsort(two.weights_)[::-1]
    means = two.means_.ravel()[order] * spread + mean
    widths = np.sqrt(two.covariances_.ravel()[order]) * spread
    smaller = two.predict(data) == order[1]
    return {
        "n_matrices": len(values),
        "bic_gain": float(one.bic(data) - two.bic(data)),
        "means": means.tolist(),
        "deviations": widths.tolist(),
        "shares": two.weights_[order].tolist(),
        "separation": float(abs(means[0] - means[1]) / np.sqrt((widths**2).mean())),
        "smaller": [name for name, own in zip(names, smaller, strict=True) if own],
    }


def main() -> None:
    """Fit, write the JSON, print the table."""
    config = read_config(SpreadConfig)
    rows = []
    for name in config.backbones:
        whisper = Backbone.from_pretrained(name).whisper
        for what, targets in (config.targets or {"all": tuple(TARGET_NAMES)}).items():
            row = spread_row(weight_deviations(whisper, targets))
            rows.append({"measure": "weight_spread", "backbone": name, "targets": what, **row})
    how = {"protocol": "standard deviations of pretrained weights"}
    results.save("eval.weight_spread", config, rows, normaliser=normaliser("whisper"), **how)
    header = ("backbone, matrices", "BIC gain", "means", "shares", "separation")
    lines = [
        (
            f"{row['backbone']}, {row['targets']} ({row['n_matrices']})",
            f"{row['bic_gain']:.1f}",
            " and ".join(f"{mean:.4f}" for mean in row["means"]),
            " and ".join(f"{share:.2f}" for share in row["shares"]),
            f"{row['separation']:.1f}",
        )
        for row in rows
    ]
    print_lines("two Gaussians over the deviations of weights", header, lines)


if __name__ == "__main__":
    run_program(main)
