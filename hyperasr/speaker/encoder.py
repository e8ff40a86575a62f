"""Speaker encoders: one utterance in, one embedding out; padding never changes it.

Each has ``d_spk``, the size of an embedding, and ``layers``, hidden layers of the backbone whose
moments it needs. Called with what it needs of ``encoded`` (states with these moments), ``mel``
(n_utt, n_mels, n_frames) at 10 ms a frame, ``n_frames`` (n_utt,) real ones, at least 1, and
``waveforms``, each (n_samples,) at 16 kHz without padding, it returns embeddings (n_utt, d_spk)
float32; what is missing or empty is a `ShapeError`.

Embeddings are returned raw; who uses them standardises them with training statistics.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperasr.audio.mel import FRAMES_PER_STATE, SAMPLE_RATE
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.speaker.speechbrain_import import (
    RealFrames,
    load_classifier,
    see_real_frames_only,
    speechbrain_import,
)
from hyperasr.types import EncoderOutput, real_mask
from hyperasr.util.closest import closest
from hyperasr.whisper.pooling import require_frames

if TYPE_CHECKING:
    from hyperasr.whisper.backbone import Backbone

# Shorter waveforms are zero padded to this: SpeechBrain's convolutions reflect up to four frames
# of 10 ms at each end, and a deviation needs more than one.
_MIN_SAMPLES = SAMPLE_RATE // 10


class PooledStates(nn.Module):
    """Mean and standard deviation over time of the backbone's own hidden states.

    The backbone pools them while it encodes (`hyperasr.whisper.pooling`), so that this costs no
    second network. Has no parameters and passes no gradient on.

    Args:
        layers: hidden layers to pool; 0 is the convolutional stem, i the output of layer i.
        d_model: width of the backbone.
        log_duration: append the natural log of the number of real states.
    """

    def __init__(self, layers: Sequence[int], d_model: int, log_duration: bool = False) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.log_duration = log_duration
        self.d_spk = 2 * len(self.layers) * d_model + int(log_duration)

    @torch.no_grad()
    def forward(
        self,
        *,
        encoded: EncoderOutput | None = None,
        n_frames: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Return embeddings; `n_frames` tells the duration where a full context hides it."""
        if encoded is None or not set(self.layers) <= set(encoded.moments):
            given = "none" if encoded is None else sorted(encoded.moments)
            raise ShapeError(f"the speaker encoder pools layers {self.layers}, but got {given}")
        parts = [encoded.moments[layer] for layer in self.layers]
        if self.log_duration:
            lengths = encoded.lengths
            if n_frames is not None:
                states = (n_frames.to(lengths) + FRAMES_PER_STATE - 1) // FRAMES_PER_STATE
                lengths = torch.minimum(lengths, states)
            parts.append(lengths.to(parts[0]).log()[:, None])
        return torch.cat(parts, dim=1)


class SpeechBrainEncoder(nn.Module):
    """A speaker encoder published in SpeechBrain's layout (ECAPA-TDNN, x-vector, ...), frozen.

    Utterances are embedded one by one: SpeechBrain's convolutions reflect the signal at its ends,
    which padding would replace, so only an unpadded utterance has the published embedding.
    The pretrained weights are no part of `state_dict`, and `.half()` leaves them in float32.
    """

    layers: tuple[int, ...] = ()

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        # In a tuple, so that torch does not register them as ours.
        self._pretrained = (classifier,)
        self.d_spk = self._embed(torch.zeros(SAMPLE_RATE)).shape[0]

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> SpeechBrainEncoder:
        """Load a checkpoint folder: hyperparams.yaml and the .ckpt files it names.

        Never touches the network: files named by a hub address are looked for in the folder.
        A hyperparams.yaml can name any code to run; one that names other than SpeechBrain's own
        speaker encoders and features is refused.

        Raises:
            ConfigError: a file is missing, damaged or for another model, not for 16 kHz, or names
                other code.
        """
        folder = Path(folder)
        if not (folder / "hyperparams.yaml").is_file():
            raise ConfigError(
                f"no SpeechBrain model in {folder}: it must hold hyperparams.yaml and the .ckpt "
                "files of the published model"
            )
        try:
            return cls(load_classifier(folder))
        except ConfigError:
            raise
        except Exception as error:  # a yaml that builds objects can fail in any way
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"cannot load the speaker encoder in {folder}: {reason}; "
                "download the published folder again"
            ) from error

    def forward(
        self, *, waveforms: Sequence[Tensor | np.ndarray] | None = None, **_: Any
    ) -> Tensor:
        """Return embeddings; less than 0.1 s is zero padded to 0.1 s."""
        if waveforms is None:
            raise ShapeError("this speaker encoder needs the waveforms of the utterances")
        return torch.stack([self._embed(torch.as_tensor(w)) for w in waveforms])

    @torch.no_grad()
    def _embed(self, waveform: Tensor) -> Tensor:
        if waveform.dim() != 1 or not len(waveform):
            raise ShapeError(f"a waveform must be (n_samples,), not {tuple(waveform.shape)}")
        missing = max(0, _MIN_SAMPLES - len(waveform))
        waveform = nn.functional.pad(waveform.float(), (0, missing))
        embedding: Tensor = self._pretrained[0].encode_batch(waveform[None])[0, 0]
        return embedding

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpeechBrainEncoder:
        """Let the pretrained network follow to another device, never to another precision."""
        (classifier,) = self._pretrained
        device = fn(torch.empty(0, device=classifier.device)).device
        classifier.device = str(device)
        for module in classifier.mods.values():
            module.to(device)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class SmallEcapa(nn.Module):
    """SpeechBrain's ECAPA-TDNN on log-mel, small, trained together with the hypernetwork.

    Differs from the published one at the edges: convolutions see zeros beyond an utterance, not
    its reflection, so that padding cannot be told from its end, and batch normalisation counts
    real frames only. In evaluation an embedding depends on its utterance alone. In training it
    depends on its batch mates through batch normalisation, and never on padding.

    Args:
        n_mels: mel channels of the input.
        d_spk: size of an embedding.
        channels: channels of the convolutions, a multiple of 8; the last one has three times as
            many.
        dropout: share of channels dropped in training, in [0, 1).
        seed: seed of the initial weights.
    Source: ECAPA-TDNN, arXiv 2005.07143.
    """

    layers: tuple[int, ...] = ()

    def __init__(
        self,
        n_mels: int,
        d_spk: int = 192,
        channels: int = 64,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with speechbrain_import():
            from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        self.d_spk = d_spk
        with torch.random.fork_rng(devices=[]):
            # ECAPA_TDNN takes no generator of its own.
            torch.default_generator.manual_seed(seed)
            self.ecapa = ECAPA_TDNN(
                n_mels,
                lin_neurons=d_spk,
                channels=[channels] * 4 + [3 * channels],
                attention_channels=channels,
                se_channels=channels,
                dropout=dropout,
            )
        self._real = RealFrames()
        see_real_frames_only(self.ecapa, self._real)

    def forward(
        self, *, mel: Tensor | None = None, n_frames: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Return embeddings."""
        if mel is None or n_frames is None:
            raise ShapeError("this speaker encoder needs mel and n_frames")
        n_frames = n_frames.to(mel.device)
        require_frames(n_frames, torch.Size([mel.shape[0], mel.shape[2]]))
        self._real.mask = real_mask(n_frames, mel.shape[2])
        # Relative lengths in the middle of a frame: SpeechBrain multiplies them back in floating
        # point, and n / N * N may come out above n and let a padded frame in.
        lengths = (n_frames - 0.5) / mel.shape[2]
        try:
            embeddings: Tensor = self.ecapa(mel.transpose(1, 2), lengths)[:, 0]
            return embeddings.float()
        finally:
            self._real.mask = None


@dataclass(frozen=True)
class SpeakerConfig:
    """Which speaker encoder, and its sizes. Settings of the other kinds are ignored."""

    kind: str = "pooled"
    """``pooled`` (the backbone's states), ``speechbrain`` (a published folder), ``ecapa``."""
    layers: tuple[int, ...] | None = None
    """pooled: hidden layers, 0 to the number of layers; None for the middle and the last. With 0
    alone, the convolutional stem, a model that adapts the encoder runs it once, not twice."""
    log_duration: bool = False
    """pooled: append the log of the number of states."""
    folder: str | None = None
    """speechbrain: checkpoint folder."""
    d_spk: int = 192
    """ecapa: size of an embedding, at least 1."""
    channels: int = 64
    """ecapa: channels of the convolutions, a multiple of 8."""
    dropout: float = 0.0
    """ecapa: share of channels dropped in training, in [0, 1)."""

    def __post_init__(self) -> None:
        kinds = ["pooled", "speechbrain", "ecapa"]
        if self.kind not in kinds:
            close = closest(self.kind, kinds)
            raise ConfigError(
                f"no speaker encoder {self.kind!r}; did you mean {close!r}? ({', '.join(kinds)})"
            )
        if self.layers is not None:
            # YAML has lists only.
            object.__setattr__(self, "layers", tuple(self.layers))
            if not self.layers or len(set(self.layers)) < len(self.layers):
                raise ConfigError(f"speaker.layers must name distinct layers, not {self.layers}")
        if self.kind == "speechbrain" and not self.folder:
            raise ConfigError("speaker.kind speechbrain needs speaker.folder, the model's folder")
        if self.d_spk < 1:
            raise ConfigError(f"speaker.d_spk must be at least 1, not {self.d_spk}")
        if self.channels < 8 or self.channels % 8:
            raise ConfigError(f"speaker.channels must be a multiple of 8, not {self.channels}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"speaker.dropout must be in [0, 1), not {self.dropout}")


def speaker_encoder(
    config: SpeakerConfig, backbone: Backbone, seed: int = 0
) -> PooledStates | SpeechBrainEncoder | SmallEcapa:
    """Build the speaker encoder that `config` describes for a backbone.

    Args:
        config: which encoder, and its sizes.
        backbone: the backbone whose states or mel it will hear.
        seed: seed of the initial weights of an encoder that is trained.
    Raises:
        ConfigError: the backbone has no such layer, or the folder cannot be loaded.
    """
    if config.kind == "speechbrain":
        return SpeechBrainEncoder.from_folder(str(config.folder))
    if config.kind == "ecapa":
        return SmallEcapa(backbone.n_mels, config.d_spk, config.channels, config.dropout, seed)
    n_layers = backbone.n_encoder_layers
    layers = config.layers
    if layers is None:
        layers = tuple(dict.fromkeys((n_layers // 2, n_layers)))
    if not all(0 <= layer <= n_layers for layer in layers):
        raise ConfigError(
            f"speaker.layers {layers} do not exist: this backbone has layers 0 to {n_layers}"
        )
    return PooledStates(layers, backbone.d_model, config.log_duration)
