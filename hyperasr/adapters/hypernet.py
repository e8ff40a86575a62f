"""The hypernetwork: from a speaker embedding to the low-rank factors of every layer.

In the spirit of *Hypernetworks for Personalizing ASR to Atypical Speech* (arXiv 2406.04240); its
inner sizes are not published in what we have read, so they are ours. Trunk and start follow
Text-to-LoRA (Charakorn et al., ICML 2025): residual MLP blocks, one head per kind of matrix, head
weights at zero and its bias at an ordinary LoRA initialisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from hyperasr.adapters.base import AdapterSource, check_rank, kaiming_start
from hyperasr.adapters.lora import TargetShape
from hyperasr.adapters.posterior import GaussianFactors
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.types import LoRAFactors
from hyperasr.util.uninitialised import Uninitialised


@dataclass(frozen=True)
class HyperNetConfig:
    """Sizes and regularisation of a `HyperNet`."""

    d_spk: int
    """Size of the speaker embedding, >= 1."""

    rank: int = 4
    """Rank of the factors, 1..32."""

    alpha: float = 8.0
    """LoRA alpha, > 0; the update is scaled by alpha / rank."""

    d_hidden: int = 128
    """Width of the trunk, >= 1."""

    d_layer_emb: int = 32
    """Size of the learned embedding of each (target, layer), >= 1."""

    n_hidden: int = 2
    """Residual MLP blocks of the trunk, >= 0."""

    dropout: float = 0.0
    """Dropout probability inside the blocks, in [0, 1); training only."""

    emb_noise: float = 0.0
    """Deviation of Gaussian noise on the standardised embedding, >= 0; training only."""

    def __post_init__(self) -> None:
        check_rank(self.rank, self.alpha)
        for name in ("d_spk", "d_hidden", "d_layer_emb"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_hidden < 0:
            raise ConfigError(f"n_hidden must be at least 0, got {self.n_hidden}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.emb_noise >= 0:
            raise ConfigError(f"emb_noise must be at least 0, got {self.emb_noise}")


class HyperNet(AdapterSource):
    """Generate an utterance's factors from its speaker embedding.

    The standardised embedding and a learned embedding of each (target, layer) go through one
    trunk; one head per target, shared by its layers, gives that layer's A and B.

    **Start.** Head weights are zero, so at first the output is the bias: A as in an ordinary LoRA,
    B zero, which leaves the backbone as it is, bit for bit. A bias shared over layers would give
    every layer the same A, so each (target, layer) has its own: training starts as a plain LoRA
    with factors per layer, and the conditioning grows out of it.
    """

    conditioned = True
    emb_mean: Tensor
    emb_std: Tensor

    def __init__(
        self,
        config: HyperNetConfig,
        targets: Mapping[str, TargetShape],
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the network; `generator` decides the initial values (default: seed 0)."""
        super().__init__(targets, config.rank, config.alpha)
        self.config = config
        self.n_generated = sum(shape.n_weights(config.rank) for shape in self.targets.values())
        generator = generator or torch.Generator().manual_seed(0)
        d, n_rows = config.d_hidden, sum(shape.n_layer for shape in self.targets.values())
        self.register_buffer("emb_mean", torch.zeros(config.d_spk))
        self.register_buffer("emb_std", torch.ones(config.d_spk))
        self.speaker = nn.Sequential(_linear(config.d_spk, d, generator), nn.LayerNorm(d))
        self.layer_emb = nn.Parameter(torch.randn(n_rows, config.d_layer_emb, generator=generator))
        self.join = _linear(d + config.d_layer_emb, d, generator)
        blocks = [_Block(config, generator) for _ in range(config.n_hidden)]
        self.trunk = nn.Sequential(*blocks, nn.LayerNorm(d))
        self.heads = nn.ModuleDict()
        self.bias_A = nn.ParameterDict()
        self.bias_B = nn.ParameterDict()
        for name, shape in self.targets.items():
            key, n_layer = self.key(name), shape.n_layer
            n_a, n_b = config.rank * shape.d_in, config.rank * shape.d_out
            # Its bias is per layer, below; saved models have it in a sequence of one.
            self.heads[key] = nn.Sequential(zero_linear(d, n_a + n_b))
            start = kaiming_start((n_layer, n_a), shape.d_in, generator)
            self.bias_A[key] = nn.Parameter(start)
            self.bias_B[key] = nn.Parameter(torch.zeros(n_layer, n_b))

    def learning_rate_scales(self) -> dict[str, float]:
        """Return by parameter name what its learning rate is multiplied with, where it is not 1.

        A head adds up d_hidden trunk states of unit size, so a step of Adam moves its outputs by
        up to d_hidden times as much as the biases beside them; its rate is divided by d_hidden
        (Yang et al. 2022, Tensor Programs V, arXiv 2203.03466, table 3: output weights).
        """
        heads = [f"heads.{key}.0.weight" for key in self.heads]
        return dict.fromkeys(heads, 1 / self.config.d_hidden)

    @torch.no_grad()
    def fit_embedding(self, embs: Tensor | Iterable[Tensor]) -> None:
        """Take mean and deviation of each embedding dimension from training data.

        A dimension that never varies is centred and left unscaled.

        Args:
            embs: (n, d_spk), or blocks of such, which need not fit into memory together.
        Raises:
            ShapeError: not (n, d_spk), or fewer than two embeddings.
            ConfigError: an embedding that is not finite.
        """
        n, largest = 0, torch.zeros((), dtype=torch.float64)
        mean = squares = torch.zeros(self.emb_mean.shape[0], dtype=torch.float64)
        for block in [embs] if isinstance(embs, Tensor) else embs:
            self._check_embedding(block)
            if not torch.isfinite(block).all():
                raise ConfigError("speaker embeddings contain values that are not finite")
            wide = block.to("cpu", torch.float64)
            n_block, largest = len(wide), torch.maximum(largest, wide.abs().amax())
            # Moments of parts joined: Chan, Golub and LeVeque 1983.
            off, part = wide.mean(0) - mean, wide.var(0, correction=0) * n_block
            squares = squares + part + off.square() * (n * n_block / (n + n_block))
            mean = mean + off * (n_block / (n + n_block))
            n += n_block
        if n < 2:
            raise ShapeError(f"need at least 2 embeddings to standardise, got {n}")
        std = (squares / n).sqrt()
        varies = std > 1e-6 * largest.clamp_min(1e-6)
        self.emb_mean.copy_(mean)
        self.emb_std.copy_(torch.where(varies, std, torch.ones_like(std)))

    def forward(
        self,
        speaker_emb: Tensor | None = None,
        groups: Sequence[str] | None = None,
    ) -> LoRAFactors | GaussianFactors:
        """Generate the factors of each utterance.

        Args:
            speaker_emb: (n_utt, d_spk).
            groups: ignored; the network knows nothing but the embedding.
        Returns:
            A (n_layer, n_utt, rank, d_in) and B (n_layer, n_utt, d_out, rank) of each target.
        Raises:
            ConfigError: no embedding.
            ShapeError: not (n_utt, d_spk).
        """
        return self._points(self._trunk_states(speaker_emb))

    def _points(self, states: Mapping[str, Tensor]) -> LoRAFactors:
        """Turn the trunk's states of each target into factors."""
        return self.pack({name: self._factors(name, hidden) for name, hidden in states.items()})

    def _trunk_states(self, speaker_emb: Tensor | None) -> dict[str, Tensor]:
        """Return the states of each target's layers (n_layer, n_utt, d_hidden)."""
        if speaker_emb is None:
            raise ConfigError("a hypernetwork needs speaker embeddings; pass speaker_emb")
        self._check_embedding(speaker_emb)
        emb = (speaker_emb - self.emb_mean) / self.emb_std
        if self.training and self.config.emb_noise:
            emb = emb + self.config.emb_noise * torch.randn_like(emb)
        n_utt, n_rows = emb.shape[0], self.layer_emb.shape[0]
        speaker = repeat(self.speaker(emb), "utt d -> row utt d", row=n_rows)
        layer = repeat(self.layer_emb, "row d -> row utt d", utt=n_utt).to(speaker.dtype)
        states: Tensor = self.trunk(self.join(torch.cat([speaker, layer], dim=-1)))
        by_target = torch.split(states, [shape.n_layer for shape in self.targets.values()])
        return dict(zip(self.targets, by_target, strict=True))

    def _factors(self, name: str, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Turn (n_layer, n_utt, d_hidden) into A and B of one target.

        The head writes B as (rank, d_out): its transpose, which `lora.using` reads, then lies
        contiguous in memory and is not copied.
        """
        key, rank = self.key(name), self.rank
        sizes = [self.bias_A[key].shape[1], self.bias_B[key].shape[1]]
        out_a, out_b = self.heads[key](hidden).split(sizes, dim=-1)
        a = rearrange(self.bias_A[key], "layer (r d_in) -> layer 1 r d_in", r=rank)
        a = a + rearrange(out_a, "layer utt (r d_in) -> layer utt r d_in", r=rank)
        b = rearrange(self.bias_B[key], "layer (r d_out) -> layer 1 r d_out", r=rank)
        b = b + rearrange(out_b, "layer utt (r d_out) -> layer utt r d_out", r=rank)
        return a, rearrange(b, "layer utt r d_out -> layer utt d_out r")

    def _check_embedding(self, emb: Tensor) -> None:
        if emb.dim() != 2 or emb.shape[1] != self.config.d_spk:
            raise ShapeError(
                f"speaker embeddings are {tuple(emb.shape)}, expected (n_utt, {self.config.d_spk})"
            )


class _Block(nn.Module):
    """Residual MLP block, normalised at its entrance."""

    def __init__(self, config: HyperNetConfig, generator: torch.Generator) -> None:
        super().__init__()
        d, d_inner = config.d_hidden, 2 * config.d_hidden
        self.mlp = nn.Sequential(
            nn.LayerNorm(d),
            _linear(d, d_inner, generator),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            _linear(d_inner, d, generator),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.mlp(x)
        return x + update


def zero_linear(d_in: int, d_out: int) -> nn.Linear:
    """Build a linear layer without bias whose weights are zero."""
    with Uninitialised():
        linear = nn.Linear(d_in, d_out, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


def _linear(d_in: int, d_out: int, generator: torch.Generator) -> nn.Linear:
    """Build a linear layer without touching torch's global random state."""
    with Uninitialised():
        linear = nn.Linear(d_in, d_out)
    nn.init.kaiming_uniform_(linear.weight, a=5**0.5, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear
