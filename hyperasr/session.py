"""One conversation: what earlier utterances told about the voice helps with the next ones.

An utterance of two seconds says little about its speaker. A session keeps a running mean of the
speaker embeddings, weighted by how sure each is, and gives the hypernetwork that mean; when the
voice changes it starts again. It lives in memory only: an embedding is biometric data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hyperasr.errors import ConfigError, ShapeError

__all__ = ["Session", "SessionConfig"]


@dataclass(frozen=True)
class SessionConfig:
    """When to trust the past."""

    new_voice: float = 1.35
    """Root mean square distance, in standard deviations of the training embeddings, beyond which
    an utterance is another voice; > 0. Of the same simulated person it is about 0.9, of two people
    about 1.4 (`eval.session` measures both)."""

    memory_s: float = 60.0
    """Seconds of speech after which old ones fade, so that a voice may tire; > 0."""

    def __post_init__(self) -> None:
        for name in ("new_voice", "memory_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass
class Session:
    """The voice of one conversation, as far as it has been heard.

    Args:
        standardise: embeddings (n, d_spk) to units of the training data's deviation, in which
            distances mean something; `HyperNet.standardise` for a hypernetwork.
        config: when to trust the past.
    """

    standardise: Callable[[Tensor], Tensor]
    config: SessionConfig = field(default_factory=SessionConfig)
    mean: Tensor | None = None
    heard_s: float = 0.0
    n_voices: int = 0

    def smooth(self, embs: Tensor, durations_s: Tensor) -> Tensor:
        """Return the embedding to adapt each utterance with, and remember them.

        The variance of a pooled embedding falls with the length of what was pooled, so the mean
        weighs each utterance by its seconds: the inverse of its variance.

        Args:
            embs: (n_utt, d_spk), in the order in which they were spoken.
            durations_s: seconds of each (n_utt,), > 0.
        Returns:
            (n_utt, d_spk): the mean over this voice's utterances up to and with each.
        Raises:
            ShapeError: other shapes.
            ConfigError: a duration that is not above 0.
        """
        if embs.dim() != 2 or durations_s.shape != embs.shape[:1]:
            raise ShapeError(
                f"embeddings {tuple(embs.shape)} and durations {tuple(durations_s.shape)} do not "
                "belong together; expected (n_utt, d_spk) and (n_utt,)"
            )
        if not bool((durations_s > 0).all()):
            raise ConfigError("an utterance of a session lasts 0 s; leave silence out")
        used = []
        for emb, duration_s in zip(embs, durations_s.tolist(), strict=True):
            if self.mean is None or self.distance(emb) > self.config.new_voice:
                self.mean, self.heard_s = emb.clone(), 0.0
                self.n_voices += 1
            share = duration_s / (self.heard_s + duration_s)
            self.mean = torch.lerp(self.mean, emb, share)
            self.heard_s = min(self.heard_s + duration_s, self.config.memory_s)
            used.append(self.mean)
        return torch.stack(used) if used else embs

    def distance(self, emb: Tensor) -> float:
        """Return how far an embedding (d_spk,) is from the voice: 0 is the same.

        Raises:
            ConfigError: nobody has been heard yet.
        """
        if self.mean is None:
            raise ConfigError("this session has heard nobody yet")
        both = self.standardise(torch.stack([emb, self.mean]))
        return float((both[0] - both[1]).square().mean().sqrt())

    def forget(self) -> None:
        """Start again, as after a change of speakers that somebody else noticed."""
        self.mean, self.heard_s = None, 0.0
