"""From a few unlabelled clips to one static adapter: of a speaker, or of a cohort.

Two ways. *embedding*: the factors of the mean speaker embedding; the rank stays. *average*: the
mean of the clips' updates, brought back to low rank. Averaging A and B apart would be wrong: the
mean of products is no product of means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hyperasr.adapters.lora import squared_product_norm
from hyperasr.errors import ConfigError
from hyperasr.model import AdaptedWhisper
from hyperasr.types import Batch, LayerFactors, LoRAFactors

_BATCH = 16


@dataclass(frozen=True)
class StaticAdapter:
    """A static adapter, and what was lost on the way to it.

    Attributes:
        factors: of one utterance that stands for all (n_utt is 1, shared).
        kept: share of the squared norm of the mean update that the rank holds, 0 to 1.
        spread: size of the clips' differences from the mean update beside the mean update itself;
            0 where all clips have the same one. A voice that varies has no good static adapter.
    """

    factors: LoRAFactors
    kept: float
    spread: float


@torch.inference_mode()
def build_static_adapter(
    model: AdaptedWhisper,
    waveforms: Sequence[np.ndarray],
    *,
    method: Literal["embedding", "average"] = "embedding",
    rank: int | None = None,
    group: str | None = None,
) -> StaticAdapter:
    """Make one static adapter from clips of one speaker or cohort.

    Args:
        model: with any adapter source; of a distribution the mean is taken.
        waveforms: each (n_samples,) float32, 16 kHz, at most 30 s; louder and longer clips do not
            count more.
        method: see above.
        rank: of the result, for ``average``; None is the source's.
        group: cohort or speaker, for a source with factors by name.
    Raises:
        ConfigError: no clips, or a rank out of range.
    """
    if not waveforms:
        raise ConfigError("a static adapter needs at least one clip with speech in it")
    if method == "embedding" and rank not in (None, model.source.rank):
        raise ConfigError(
            f"with the method embedding the rank is that of the source, {model.source.rank}; "
            "another rank needs the method average"
        )
    embs = torch.cat(
        [_embeddings(model, waveforms[i : i + _BATCH]) for i in range(0, len(waveforms), _BATCH)]
    )
    factors = _of(model, embs, group)
    averaged = average(factors, rank or model.source.rank)
    if method == "average":
        return averaged
    mean = _of(model, embs.mean(0, keepdim=True), group)
    return StaticAdapter(LoRAFactors(mean.targets, mean.scaling, shared=True), 1.0, averaged.spread)


@torch.no_grad()
def average(factors: LoRAFactors, rank: int) -> StaticAdapter:
    """Return the best factors of a rank for the mean update of several utterances.

    The mean of `scaling B_u A_u` over utterances is the product of all B side by side with all A on
    top of each other. Its singular vectors follow from two thin QR factorisations and a small SVD
    (Golub and Van Loan, Matrix Computations), so no update is ever built in full.

    Args:
        factors: of n_utt utterances.
        rank: of the result, from 1 to what the matrices and utterances allow.
    Raises:
        ConfigError: rank out of range.
    """
    targets, total, held, apart = {}, 0.0, 0.0, 0.0
    for name in factors:
        pairs = []
        for a, b in zip(factors[name].A.double(), factors[name].B.double(), strict=True):
            left, values, right = _svd(a, b * factors.scaling)
            if not 1 <= rank <= min(b.shape[1], a.shape[2]):
                raise ConfigError(
                    f"rank is {rank}; target {name!r} allows 1 to {min(b.shape[1], a.shape[2])}"
                )
            root = values[:rank].sqrt()
            small_a, small_b = right[:rank] * root[:, None], left[:, :rank] * root
            missing = rank - len(root)  # where the mean update has a lower rank
            pairs.append((F.pad(small_a, (0, 0, 0, missing)), F.pad(small_b, (0, missing))))
            squared = values.square()
            total += float(squared.sum())
            held += float(squared[:rank].sum())
            apart += float(squared_product_norm(a, b * factors.scaling).mean())
        dtype = factors[name].A.dtype
        targets[name] = LayerFactors(
            torch.stack([a for a, _ in pairs])[:, None].to(dtype),
            torch.stack([b for _, b in pairs])[:, None].to(dtype),
        )
    kept = held / total if total else 1.0
    # The mean of |x - mean|^2 is the mean of |x|^2 less |mean|^2.
    spread = (max(0.0, apart - total) / total) ** 0.5 if total else 0.0
    return StaticAdapter(LoRAFactors(targets, scaling=1.0, shared=True), kept, spread)


def _svd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S, V^T of mean_u B_u A_u; a is (n_utt, rank, d_in), b (n_utt, d_out, rank)."""
    tall = b.permute(1, 0, 2).reshape(b.shape[1], -1) / a.shape[0]
    q_out, r_out = torch.linalg.qr(tall)
    q_in, r_in = torch.linalg.qr(a.reshape(-1, a.shape[2]).mT)
    left, values, right = torch.linalg.svd(r_out @ r_in.mT, full_matrices=False)
    return q_out @ left, values, right @ q_in.mT


def _embeddings(model: AdaptedWhisper, waveforms: Sequence[np.ndarray]) -> Tensor:
    mel, n_frames = model.backbone.features(waveforms)
    return model.embed(Batch(n_frames=n_frames, mel=mel, waveforms=tuple(waveforms)))[0]


def _of(model: AdaptedWhisper, embs: Tensor, group: str | None) -> LoRAFactors:
    groups = [group] * embs.shape[0] if group is not None else []
    return model.factors(embs, groups)
