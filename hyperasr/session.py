"""One conversation: what earlier utterances told about the voice is kept for the next ones.

An utterance of two seconds says little about its speaker. A session keeps a running mean of the
speaker embeddings, weighted by how sure each is, and gives the hypernetwork that mean; when the
voice changes it starts again. It lives in memory only: an embedding is biometric data. An embedding
also tells how this one utterance is said, which a mean forgets: whether a session helps is measured
by `eval.session`, and it is off unless asked for.

    session = Session.of(model)
    for path in conversation:
        transcript = model.transcribe(path, session=session)

Sureness is the length of what was heard. The deviations of a Bayesian head are not used: they say
how far the weights are from sure for this kind of voice, not how well the voice was heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.sources.hypernet import HyperNet
from hyperasr.speaker import PooledStates

__all__ = ["Session", "SessionConfig"]


@dataclass(frozen=True)
class SessionConfig:
    """When to trust the past."""

    new_voice: float = 0.65
    """Distance beyond which an utterance is another voice; > 0, where 2 is the most there is.
    Chosen on development speakers: of their simulated people it notices four in five, and it takes
    one utterance in seven of the same person for another's. To begin anew costs less than to mix
    two voices. `eval.session` measures both on test speakers."""

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
        apart: distance of two embeddings (d_spk,) each; 0 is the same.
        config: when to trust the past.

    Attributes:
        mean: the embedding of the voice (d_spk,); None before anybody spoke.
        heard_s: seconds behind it, at most `SessionConfig.memory_s`.
        n_voices: voices noticed so far.
    """

    apart: Callable[[Tensor, Tensor], float]
    config: SessionConfig = field(default_factory=SessionConfig)
    mean: Tensor | None = None
    heard_s: float = 0.0
    n_voices: int = 0

    @classmethod
    def of(cls, model: Any, config: SessionConfig | None = None) -> Session:
        """Return a new session of a model (a `HyperASR`).

        Voices are told apart by 1 minus the cosine of embeddings that are standardised over the
        training data; of pooled encoder states, by the deviations of the lowest layer alone. Higher
        layers, and means, follow what is said more than who says it.

        Raises:
            ConfigError: the model does not listen to the voice.
        """
        source = model.source
        if not isinstance(source, HyperNet):
            raise ConfigError(
                "a session needs a model that listens to the voice, a hypernetwork; this one gives "
                "everybody the same weights"
            )

        part = slice(None)
        if isinstance(model.speaker, PooledStates):
            d_model = model.speaker.d_spk // (2 * len(model.speaker.layers))
            lowest = model.speaker.layers.index(min(model.speaker.layers))
            part = slice((2 * lowest + 1) * d_model, (2 * lowest + 2) * d_model)

        def apart(a: Tensor, b: Tensor) -> float:
            z = (torch.stack([a, b]).to(source.emb_mean) - source.emb_mean) / source.emb_std
            return 1.0 - float(torch.cosine_similarity(z[0, part], z[1, part], dim=0))

        return cls(apart, config or SessionConfig())

    @torch.no_grad()
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
            ShapeError: other shapes, or embeddings of another size than before.
            ConfigError: a duration that is not above 0.
        """
        if embs.dim() != 2 or durations_s.shape != embs.shape[:1]:
            raise ShapeError(
                f"embeddings {tuple(embs.shape)} and durations {tuple(durations_s.shape)} do not "
                "belong together; expected (n_utt, d_spk) and (n_utt,)"
            )
        if self.mean is not None and self.mean.shape != embs.shape[1:]:
            raise ShapeError(
                f"embeddings of {embs.shape[1]} values in a session of {self.mean.shape[0]}; "
                "each model needs a session of its own"
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
        return self.apart(emb, self.mean)

    def forget(self) -> None:
        """Start again, as after a change of speakers that somebody else noticed."""
        self.mean, self.heard_s = None, 0.0
