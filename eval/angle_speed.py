"""What angles cost at the size of large-v3: 32 layers of fc1, 5120 x 1280, 100 utterances.

    python -m eval.angle_speed

Factors are random: time and memory do not depend on their values. The peak of memory is the whole
process's, torch and the factors included.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass

import torch

from eval.threads import in_threads
from hyperasr.subspace import SPACES, delta_svd, pairwise_angles, principal_angles
from hyperasr.top_subspace import TopSubspace
from hyperasr.types import LayerFactors, LoRAFactors
from train.program import read_config

_AT_ONCE = 20  # pairs, so that their residuals stay small in memory


@dataclass(frozen=True)
class AngleSpeedConfig:
    """How large."""

    n_layer: int = 32
    """Layers, at least 1."""
    d_in: int = 1280
    """Inputs of the matrix."""
    d_out: int = 5120
    """Outputs of the matrix."""
    rank: int = 16
    """Rank of the factors."""
    n_utt: int = 100
    """Utterances, at least 2."""
    threads: int = 2
    """Layers worked on at a time."""
    what: str = "pairs"
    """``neighbours``: each utterance with the next one; ``pairs``: all pairs, at every rank of
    1, 4 and the full one; ``leading``: all pairs at ranks 1 and 4; ``weights``: W against W + delta
    W, rank 32, first layer and ten utterances only."""


def measure(config: AngleSpeedConfig) -> dict[str, object]:
    """Return one row: seconds, CPU seconds and peak memory."""
    generator = torch.Generator().manual_seed(0)
    n_layer, n_utt = (1, 10) if config.what == "weights" else (config.n_layer, config.n_utt)
    pair = LayerFactors(
        torch.randn(n_layer, n_utt, config.rank, config.d_in, generator=generator),
        torch.randn(n_layer, n_utt, config.d_out, config.rank, generator=generator),
    )
    factors = LoRAFactors({"decoder.fc1": pair}, scaling=1.0)
    started, started_cpu = time.perf_counter(), time.process_time()
    if config.what == "weights":
        torch.set_num_threads(config.threads)
        n_angles = _weights(factors)
    else:
        layers = range(n_layer)
        n_angles = sum(
            in_threads(lambda layer: _angles(factors, layer, config.what), layers, config.threads)
        )
    return {
        "benchmark": f"angles_{config.what}",
        **asdict(config),
        "n_layer": n_layer,
        "n_utt": n_utt,
        "n_angles": n_angles,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        # Linux counts in KiB.
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _angles(factors: LoRAFactors, layer: int, what: str) -> int:
    """Angles between the updates of utterances in one layer, column and row space."""
    pair, n_angles = factors["decoder.fc1"], 0
    svd = delta_svd(pair.A[layer], pair.B[layer], factors.scaling)
    rank = svd.values.shape[-1]
    for space in SPACES:
        if what == "neighbours":
            bases = svd.basis(space, rank)
            for start in range(0, len(bases) - 1, _AT_ONCE):
                end = min(start + _AT_ONCE, len(bases) - 1)
                found = principal_angles(bases[start:end], bases[start + 1 : end + 1])
                n_angles += found.numel()
            continue
        ranks = [1, min(4, rank)] + ([rank] if what == "pairs" else [])
        angles = pairwise_angles(svd.basis(space, max(ranks)), ranks)
        n_angles += sum(found.numel() for found in angles.values())
    return n_angles


def _weights(factors: LoRAFactors) -> int:
    """Angles between a weight and what each utterance makes of it."""
    pair = factors["decoder.fc1"]
    d_out, d_in = pair.B.shape[2], pair.A.shape[3]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(d_out, d_in, generator=generator) * torch.linspace(2, 0.1, d_in)
    top, n_angles = TopSubspace(weight, min(32, d_in - 1)), 0
    for a, b in zip(pair.A[0], pair.B[0], strict=True):
        found = top.angles(0.01 * a, b)[top.k]
        n_angles += found.column.numel() + found.row.numel()
    return n_angles


def main() -> None:
    """Measure and print one line of JSON."""
    print(json.dumps(measure(read_config(AngleSpeedConfig))))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
