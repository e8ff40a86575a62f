"""Training noise of one shared posterior, on activations instead of on factors.

Drawing the factors of every utterance costs n_utt times the memory of the adapter; this costs
activations instead, which is less where the adapter is large and utterances are short (on a
small backbone it is more). It is for training only: decoding draws factors, once an utterance.

``flipout`` (Wen et al., ICLR 2018): one draw of noise a step, turned for each utterance by random
signs: A_u = mu_A + (sigma_A * e) * (s_u t_u^T). Each utterance still has one sample of its weights,
kept over all its tokens, and the samples of two utterances are uncorrelated. Signs drawn per token,
as in code we have read, would leave no set of weights that is an utterance's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hyperasr.adapters import lora
from hyperasr.adapters.posterior import GaussianFactors


@contextmanager
def using_noise(model: nn.Module, posterior: GaussianFactors, n_rows: int) -> Iterator[None]:
    """Adapt a batch with noisy shared factors for the length of the block; training only.

    Gradients reach means and deviations.

    Args:
        model: a Whisper of transformers, or any module that contains one.
        posterior: shared, with `noise` ``flipout``: A (n_layer, 1, rank, d_in), B (n_layer, 1,
            d_out, rank).
        n_rows: utterances, or utterances times samples; the batch has a multiple of it.
    Raises:
        ConfigError, ShapeError: as `lora.using`.
    """
    targets = lora.checked_targets(model, posterior.mu)
    hooks = {
        name: [_hook(name, layer, posterior, n_rows) for layer, _ in enumerate(linears)]
        for name, linears in targets.items()
    }
    with lora.hooked(targets, hooks):
        yield


def _hook(name: str, layer: int, posterior: GaussianFactors, n_rows: int) -> lora.Hook:
    """Draw the noise of one layer now, so that every call in the block meets the same weights."""
    pair, log_sigma, scaling = posterior.mu[name], posterior.log_sigma[name], posterior.mu.scaling
    dtype = torch.promote_types(pair.A.dtype, torch.float32)
    factors = []  # mean (n, m) and signed noise, of A before B
    for mean, deviation in ((pair.A, log_sigma.A), (pair.B, log_sigma.B)):
        noise = None if deviation is None else _drawn(deviation[layer, 0].to(dtype).exp(), n_rows)
        factors.append((mean[layer, 0].to(dtype), noise))

    def hook(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        x = args[0]
        with torch.autocast(x.device.type, enabled=False):
            h = lora.by_utterance(name, x, n_rows).to(dtype)
            for mean, noise in factors:
                out = h @ mean.mT
                if noise is not None:
                    matrix, of_rows, of_columns = noise
                    out = out + ((h * of_columns) @ matrix.mT) * of_rows
                h = out
            return y + (scaling * h).to(y.dtype).view(y.shape)

    return hook


def _drawn(sigma: Tensor, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the noise (n, m) of a matrix, and signs of its rows and columns for each utterance."""
    n, m = sigma.shape
    noise = sigma * torch.randn_like(sigma)
    of_rows = sigma.new_empty(n_rows, 1, n).normal_().sign()
    return noise, of_rows, sigma.new_empty(n_rows, 1, m).normal_().sign()
