"""Speaker encoders: one utterance in, one embedding out; padding never changes it.

Embeddings are returned raw; who uses them standardises them with training statistics.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.speaker.speechbrain_import import load_classifier
from hyperasr.types import EncoderOutput
from hyperasr.util.closest import closest

__all__ = [
    "FORMER_SETTINGS",
    "BackboneDims",
    "PooledStates",
    "SpeakerConfig",
    "SpeakerEncoder",
    "SpeechBrainEncoder",
    "speaker_encoder",
]

FORMER_SETTINGS = {"log_duration": False, "d_spk": 192, "channels": 64, "dropout": 0.0}
"""Settings of `SpeakerConfig` that are gone, each with the value at which it changed nothing."""

# Shorter waveforms are zero padded to this: SpeechBrain's convolutions reflect up to four frames
# of 10 ms at each end, and a deviation needs more than one.
_MIN_SAMPLES = SAMPLE_RATE // 10


@runtime_checkable
class SpeakerEncoder(Protocol):
    """What every speaker encoder offers.

    Attributes:
        d_spk: size of an embedding.
        layers: hidden layers of the backbone whose moments ``encoded`` must hold; empty for none.
    """

    d_spk: int
    layers: tuple[int, ...]

    def __call__(
        self,
        *,
        encoded: EncoderOutput | None = None,
        mel: Tensor | None = None,
        n_frames: Tensor | None = None,
        waveforms: Sequence[Tensor | np.ndarray] | None = None,
    ) -> Tensor:
        """Return embeddings (n_utt, d_spk), float32.

        Args:
            encoded: encoder states with the moments of `layers`.
            mel: log-mel (n_utt, n_mels, n_frames), 10 ms a frame.
            n_frames: real mel frames (n_utt,), at least 1.
            waveforms: each (n_samples,), 16 kHz mono, without padding.
        Raises:
            ShapeError: something that the encoder needs is missing, or an utterance is empty.
        """
        ...


class PooledStates(nn.Module):
    """Mean and standard deviation over time of the backbone's own hidden states.

    The backbone pools them while it encodes (`hyperasr.whisper.pooling`), so that this costs no
    second network. Has no parameters and passes no gradient on.

    Args:
        layers: hidden layers to pool; 0 is the convolutional stem, i the output of layer i.
        d_model: width of the backbone.
    """

    def __init__(self, layers: Sequence[int], d_model: int) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.d_spk = 2 * len(self.layers) * d_model

    @torch.no_grad()
    def forward(self, *, encoded: EncoderOutput | None = None, **_: object) -> Tensor:
        """See `SpeakerEncoder`."""
        if encoded is None or not set(self.layers) <= set(encoded.moments):
            given = "none" if encoded is None else sorted(encoded.moments)
            raise ShapeError(f"the speaker encoder pools layers {self.layers}, but got {given}")
        return torch.cat([encoded.moments[layer] for layer in self.layers], dim=1)


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
        SpeechBrain's hyperparams.yaml can run code; load only what you trust.

        Raises:
            ConfigError: a file is missing, damaged or for another model, or not for 16 kHz.
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
        self, *, waveforms: Sequence[Tensor | np.ndarray] | None = None, **_: object
    ) -> Tensor:
        """See `SpeakerEncoder`; less than 0.1 s is zero padded to 0.1 s."""
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


class BackboneDims(Protocol):
    """The sizes of a backbone that a speaker encoder has to know."""

    @property
    def d_model(self) -> int: ...
    @property
    def n_encoder_layers(self) -> int: ...


@dataclass(frozen=True)
class SpeakerConfig:
    """Which speaker encoder. Settings of the other kind are ignored."""

    kind: str = "pooled"
    """``pooled`` (the backbone's states), or ``speechbrain`` (a published folder)."""
    layers: tuple[int, ...] | None = None
    """pooled: hidden layers, 0 to the number of layers; None for the middle and the last."""
    folder: str | None = None
    """speechbrain: checkpoint folder, such as that of the published ECAPA-TDNN."""

    def __post_init__(self) -> None:
        kinds = ["pooled", "speechbrain"]
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


def speaker_encoder(
    config: SpeakerConfig, backbone: BackboneDims
) -> PooledStates | SpeechBrainEncoder:
    """Build the speaker encoder that `config` describes for a backbone.

    Args:
        config: which encoder.
        backbone: the backbone whose states it will hear.
    Raises:
        ConfigError: the backbone has no such layer, or the folder cannot be loaded.
    """
    if config.kind == "speechbrain":
        return SpeechBrainEncoder.from_folder(str(config.folder))
    n_layers = backbone.n_encoder_layers
    layers = config.layers
    if layers is None:
        layers = tuple(dict.fromkeys((n_layers // 2, n_layers)))
    if not all(0 <= layer <= n_layers for layer in layers):
        raise ConfigError(
            f"speaker.layers {layers} do not exist: this backbone has layers 0 to {n_layers}"
        )
    return PooledStates(layers, backbone.d_model)
