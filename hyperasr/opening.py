"""One door for every program: a model by name, on a device, in a number format, on- or offline."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperasr.adapters.checkpoint import read_head
from hyperasr.errors import ConfigError
from hyperasr.hub import model_folder
from hyperasr.model import HyperASR
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.whisper.backbone import Backbone

__all__ = ["Opened", "open_model"]


@dataclass(frozen=True)
class Opened:
    """A model that was found.

    Attributes:
        model: ready to transcribe.
        adapts: False for a plain Whisper, whose transcripts are unadapted.
        folder: where its adapter lies; None for a plain Whisper.
        backbone_name: of its Whisper, as for `hyperasr.whisper.weights.find_weights`.
    """

    model: HyperASR
    adapts: bool
    folder: Path | None
    backbone_name: str

    @property
    def warnings(self) -> list[str]:
        """What its user should know, one line each."""
        if self.adapts:
            return []
        return [
            f"{self.backbone_name} is a plain Whisper without an adapter: transcripts are unadapted"
        ]

    def suited(self, options: TranscribeOptions) -> TranscribeOptions:
        """Return the options as this model can follow them.

        Raises:
            ConfigError: they ask for adapted and unadapted transcripts of a plain Whisper.
        """
        if self.adapts:
            return options
        if options.compare or options.samples:
            raise ConfigError(
                f"{self.backbone_name} is a plain Whisper without an adapter: it has no second "
                "transcript and no posterior samples; give an adapter model"
            )
        return replace(options, adapt=False)


def open_model(
    name: str | os.PathLike[str] = "tiny.en",
    *,
    offline: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    audio_context: str | None = None,
) -> Opened:
    """Open an adapter model, or a plain Whisper that nobody trained an adapter for.

    Args:
        name: of an adapter model or of a Whisper: an embedded one, a folder, or a hub name.
        offline: never touch the network.
        device: ``cpu``, ``cuda``, ...
        dtype: of the frozen weights: ``float32``, ``bfloat16``, ``float16`` or ``int8`` (CPU).
            Speaker encoder, hypernetwork and factors stay in float32.
        audio_context: of a plain Whisper: ``full`` is 30 s, as published; ``trimmed`` the real
            length and a margin of silence, several times faster. None is ``full``, and what an
            adapter was trained for.
    Raises:
        ConfigError: no such model, device or dtype, or a folder of another kind.
        CheckpointMismatch: an adapter that does not fit its backbone.
    """
    folder, kind = model_folder(name, offline=offline)
    how: dict[str, Any] = {"offline": offline, "device": device, "dtype": dtype}
    if kind == "whisper":
        # A folder that has lost its tokenizer, say, is refused in there.
        backbone = Backbone.from_pretrained(name, audio_context=audio_context, **how)
        return Opened(HyperASR.unadapted(backbone), False, None, str(name))
    if kind == "peft":
        raise ConfigError(
            f"{name} is a PEFT adapter; merge it into its Whisper (PeftModel.merge_and_unload) and "
            "give the merged folder"
        )
    if kind not in ("adapter", ""):
        raise ConfigError(f"{name} holds a model of type {kind!r}, not a Whisper or an adapter")
    head = read_head(folder)
    if audio_context not in (None, head["audio_context"]):
        raise ConfigError(
            f"{name} was trained for audio context {head['audio_context']!r}, not "
            f"{audio_context!r}; leave --audio-context out"
        )
    local = folder / head["backbone"]
    backbone_name = str(local if local.is_dir() else head["backbone"])
    how |= {"audio_context": head["audio_context"], "margin_s": head["margin_s"]}
    backbone = Backbone.from_pretrained(backbone_name, **how)
    model = HyperASR.from_pretrained(folder, backbone=backbone, offline=offline)
    return Opened(model.to(backbone.device), True, folder, backbone_name)
