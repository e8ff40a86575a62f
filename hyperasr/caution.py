"""Caution: a voice far from all that was trained on is adapted less, or not at all.

A hypernetwork extrapolates without knowing it. A `Cloud` remembers where the speaker embeddings of
training lay; the distance of a new one to it scales the adapter down towards the backbone.

The cloud is a Gaussian with a few principal directions and one variance for all the others
(probabilistic principal component analysis, Tipping and Bishop, Journal of the Royal Statistical
Society B, 1999); distances are Mahalanobis'. What is near and what is far is read off people who
were left out of the fit. How trust falls between the two is our choice.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hyperasr.errors import CheckpointMismatch, ConfigError, ShapeError
from hyperasr.files import atomic_write_bytes
from hyperasr.types import LayerFactors, LoRAFactors

__all__ = ["CLOUD_FILE", "CautionConfig", "Cloud", "cautious", "shrink"]

CLOUD_FILE = "cloud.safetensors"
"""Where a model folder keeps its cloud; a folder without one knows no caution."""

_KEPT = 0.99  # share of the variance that the principal directions hold
_MOST_DIRECTIONS = 256
_FOLDS = 5
_FEWEST = 20  # embeddings a direction needs; a variance of fewer is noise
_QUANTILES = 101  # of left-out distances: every percent
_FLOOR = 1e-6


@dataclass(frozen=True)
class CautionConfig:
    """When to trust an adapter; between `near` and `far` trust falls in a straight line."""

    near: float = 0.95
    """Share of unseen people of the training cohorts who are adapted in full, in (0, 1)."""
    far: float = 1.5
    """Distance at which nothing is adapted, as a multiple of the one at `near`; > 1."""

    def __post_init__(self) -> None:
        if not 0 < self.near < 1:
            raise ConfigError(f"near is {self.near}; it is a share and must be in (0, 1)")
        if not self.far > 1:
            raise ConfigError(f"far is {self.far}; it must be above 1, the distance at near")


@dataclass(frozen=True)
class Cloud:
    """Where the embeddings of training lay.

    Attributes:
        mean, std: of each value of an embedding (d_spk,).
        directions: principal directions of standardised embeddings (n_directions, d_spk).
        variances: along each direction (n_directions,).
        rest: variance along every other direction, ().
        quantiles: distances of left-out people at 0, 1, ..., 100 percent (101,).
    """

    mean: Tensor
    std: Tensor
    directions: Tensor
    variances: Tensor
    rest: Tensor
    quantiles: Tensor

    @classmethod
    def fit(cls, embs: Tensor, speakers: Sequence[str]) -> Cloud:
        """Fit a cloud to the embeddings a model was trained on.

        Args:
            embs: (n_utt, d_spk); all cohorts of training, typical speech among them.
            speakers: whose each is; a person is left out as a whole, never in part.
        Raises:
            ShapeError: other shapes.
            ConfigError: fewer than two people, or embeddings that are not finite.
        """
        if embs.dim() != 2 or len(speakers) != embs.shape[0]:
            raise ShapeError(
                f"embeddings {tuple(embs.shape)} and {len(speakers)} speakers do not fit; "
                "expected (n_utt, d_spk) and a name for each"
            )
        people = sorted(set(speakers))
        if len(people) < 2:
            raise ConfigError(
                "a cloud needs embeddings of at least two people, to know how far a new one lies"
            )
        if not bool(torch.isfinite(embs).all()):
            raise ConfigError("embeddings that are not finite cannot be told near or far")
        embs = embs.double()
        fold_of = {person: i % min(_FOLDS, len(people)) for i, person in enumerate(people)}
        folds = torch.tensor([fold_of[s] for s in speakers])
        left_out = torch.cat(
            [_fit(embs[folds != f]).distance(embs[folds == f]) for f in folds.unique().tolist()]
        )
        grid = torch.linspace(0, 1, _QUANTILES, dtype=left_out.dtype)
        return replace(_fit(embs), quantiles=torch.quantile(left_out, grid))

    @property
    def d_spk(self) -> int:
        """Size of an embedding."""
        return int(self.mean.shape[0])

    def distance(self, embs: Tensor) -> Tensor:
        """Return how far embeddings (n_utt, d_spk) lie: (n_utt,), about 1 inside the cloud.

        The Mahalanobis distance divided by the root of its number of dimensions.

        Raises:
            ShapeError: embeddings of another size.
        """
        if embs.dim() != 2 or embs.shape[1] != self.d_spk:
            raise ShapeError(
                f"embeddings {tuple(embs.shape)} do not belong to a cloud of {self.d_spk} values"
            )
        z = (embs.to("cpu", self.mean.dtype) - self.mean) / self.std
        scores = z @ self.directions.mT
        outside = (z.square().sum(1) - scores.square().sum(1)).clamp_min(0)
        squared = (scores.square() / self.variances).sum(1) + outside / self.rest
        return (squared / self.d_spk).sqrt()

    def trust(self, embs: Tensor, config: CautionConfig | None = None) -> Tensor:
        """Return how much of the adapter each embedding deserves (n_utt,), in [0, 1].

        Raises:
            ShapeError: embeddings of another size.
        """
        config = config or CautionConfig()
        near = torch.quantile(self.quantiles, config.near)
        distances = self.distance(embs)
        share = (config.far * near - distances) / ((config.far - 1) * near)
        # An embedding that is not a number is not one to be trusted.
        return share.clamp(0, 1).nan_to_num(0.0).to(embs)

    def save(self, folder: str | os.PathLike[str], fingerprint: str) -> None:
        """Write it into a model's folder.

        Args:
            folder: of the model.
            fingerprint: of the backbone whose states were embedded.
        """
        tensors = {name: t.float().contiguous() for name, t in vars(self).items()}
        data = save(tensors, {"format_version": "1", "backbone_fingerprint": fingerprint})
        atomic_write_bytes(Path(folder) / CLOUD_FILE, data)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], fingerprint: str) -> Cloud | None:
        """Read the cloud of a model's folder; None where it has none.

        Raises:
            CheckpointMismatch: it is damaged, or of another backbone.
        """
        path = Path(folder) / CLOUD_FILE
        if not path.is_file():
            return None
        names = sorted(cls.__dataclass_fields__)
        try:
            with safe_open(path, "pt") as file:
                belongs = (file.metadata() or {}).get("backbone_fingerprint")
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointMismatch(f"{path} is damaged ({error}); fit the cloud again") from error
        if belongs != fingerprint:
            raise CheckpointMismatch(
                f"{path} belongs to the backbone {belongs}, but the one loaded is {fingerprint}; "
                "fit the cloud again"
            )
        return cls(**tensors)


def cautious(model: Any, cloud: Cloud, config: CautionConfig | None = None) -> Any:
    """Return a model that adapts less to voices far from the cloud; weights are shared.

    Args:
        model: a `HyperASR` whose source listens to the speaker embedding.
        cloud: of its training embeddings.
        config: when to trust.
    Raises:
        ConfigError: the source does not listen, so that a far voice changes nothing.
        ShapeError: a cloud of another size.
    """
    if not model.source.conditioned:
        raise ConfigError("caution needs a source that listens to the voice, such as a hypernet")
    if cloud.d_spk != model.speaker.d_spk:
        raise ShapeError(
            f"a cloud of {cloud.d_spk} values does not belong to embeddings of "
            f"{model.speaker.d_spk}; fit it to this model's training"
        )
    made, plain = copy.copy(model), model.factors

    def factors(
        speaker_emb: Tensor | None = None, *args: Any, n_samples: int | None = None, **rest: Any
    ) -> LoRAFactors:
        found = plain(speaker_emb, *args, n_samples=n_samples, **rest)
        if speaker_emb is None:
            return found
        return shrink(found, cloud.trust(speaker_emb, config).repeat_interleave(n_samples or 1))

    made.factors = factors
    return made


def shrink(factors: LoRAFactors, trust: Tensor) -> LoRAFactors:
    """Scale each utterance's update by its trust: 1 leaves it, 0 gives the backbone itself.

    B alone is scaled, so the update itself shrinks in proportion.

    Args:
        factors: of n_utt utterances, or shared; shared ones become those of each utterance.
        trust: (n_utt,), in [0, 1].
    Raises:
        ShapeError: trust of another number of utterances.
    """
    if trust.dim() != 1 or not (factors.shared or trust.shape[0] == factors.n_utt):
        raise ShapeError(
            f"trust {tuple(trust.shape)} does not fit factors of {factors.n_utt} utterances"
        )
    n_utt = trust.shape[0]

    def scaled(pair: LayerFactors) -> LayerFactors:
        by_utt = trust.to(pair.B)[None, :, None, None]
        return LayerFactors(pair.A.expand(-1, n_utt, -1, -1), pair.B * by_utt)

    targets = {name: scaled(factors[name]) for name in factors}
    return replace(factors, targets=targets, shared=factors.shared and n_utt == 1)


def _fit(embs: Tensor) -> Cloud:
    """Fit all but the quantiles."""
    n_utt, d_spk = embs.shape
    mean, std = embs.mean(0), embs.std(0, correction=0)
    std = torch.where(std > _FLOOR, std, torch.ones_like(std))
    z = (embs - mean) / std
    # By the covariance, not by an SVD of all embeddings: there are tens of thousands.
    values, vectors = torch.linalg.eigh(z.mT @ z / max(1, n_utt - 1))
    variances, directions = values.flip(0).clamp_min(0), vectors.mT.flip(0)
    total = variances.sum().clamp_min(_FLOOR)
    most = max(1, min(_MOST_DIRECTIONS, n_utt // _FEWEST, d_spk - 1, len(variances)))
    n = min(most, int((variances.cumsum(0) / total < _KEPT).sum()) + 1)
    rest = (variances[n:].sum() / max(1, d_spk - n)).clamp_min(_FLOOR)
    # No direction may be narrower than the rest: it would be an accident of this sample.
    return Cloud(mean, std, directions[:n], variances[:n].clamp_min(rest), rest, embs.new_zeros(1))
