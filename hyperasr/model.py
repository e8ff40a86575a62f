"""HyperASR: a frozen Whisper, a speaker encoder and a source of adapters, as one model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperasr import lora
from hyperasr.backbone import ASSETS, Backbone
from hyperasr.bayes import ELBO
from hyperasr.config import from_dict, to_dict
from hyperasr.errors import CheckpointMismatch, ConfigError, ShapeError
from hyperasr.files import atomic_folder
from hyperasr.sources import HyperNet, HyperNetConfig, StaticLoRA, StaticLoRAConfig
from hyperasr.sources.base import AdapterSource
from hyperasr.speaker import SpeakerConfig, speaker_encoder
from hyperasr.types import Batch, EncoderOutput, LoRAFactors, Transcript

__all__ = ["HyperASR", "SourceConfig", "build_source"]

FORMAT_VERSION = 1
_HEAD = {
    "format_version",
    "backbone",
    "backbone_fingerprint",
    "audio_context",
    "speaker",
    "source",
    "training",
}
_SOURCES: dict[str, tuple[type[Any], type[Any]]] = {
    "hypernet": (HyperNet, HyperNetConfig),
    "static": (StaticLoRA, StaticLoRAConfig),
}


@dataclass(frozen=True)
class SourceConfig:
    """Which adapter source, on which matrices, with which settings."""

    kind: str = "hypernet"
    """``hypernet`` or ``static``."""
    targets: tuple[str, ...] = ("decoder.fc1",)
    """Names of adapted matrices, such as ``decoder.fc1`` or ``encoder.fc1``."""
    settings: dict[str, Any] | None = None
    """Values of the source's own config, such as ``rank``."""

    def __post_init__(self) -> None:
        if self.kind not in _SOURCES:
            raise ConfigError(f"no adapter source {self.kind!r}; there are {', '.join(_SOURCES)}")
        object.__setattr__(self, "targets", tuple(self.targets))


def build_source(
    config: SourceConfig, backbone: Backbone, d_spk: int, seed: int = 0
) -> AdapterSource:
    """Build an untrained source for a backbone and embeddings of size `d_spk`.

    Raises:
        ConfigError: unknown targets or settings.
    """
    kind, kind_config = _SOURCES[config.kind]
    settings = dict(config.settings or {})
    if config.kind == "hypernet":
        settings["d_spk"] = d_spk
    shapes = lora.target_shapes(backbone.whisper, config.targets)
    source_config = from_dict(kind_config, settings, f"source {config.kind}")
    return kind(source_config, shapes, generator=torch.Generator().manual_seed(seed))


class HyperASR(nn.Module):
    """A frozen Whisper that decodes every utterance with weights of its own.

    Args:
        backbone: the frozen recogniser.
        speaker_config: what embeds an utterance.
        source_config: what maps an embedding to low-rank factors.
        seed: of the untrained weights.
    """

    def __init__(
        self,
        backbone: Backbone,
        speaker_config: SpeakerConfig,
        source_config: SourceConfig,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.speaker_config = speaker_config
        self.source_config = source_config
        self.speaker = speaker_encoder(speaker_config, backbone, seed)
        self.source = build_source(source_config, backbone, self.speaker.d_spk, seed)

    @property
    def adapts_encoder(self) -> bool:
        """Whether a target lies in the encoder, so that encoder states cannot be cached."""
        return any(name.startswith("encoder.") for name in self.source_config.targets)

    def train(self, mode: bool = True) -> HyperASR:
        """Set training mode; the frozen backbone always stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def encode(self, batch: Batch) -> EncoderOutput:
        """Return the unadapted encoder states, computed only where the batch does not bring them.

        Raises:
            ShapeError: the batch has neither states nor mel.
        """
        if batch.encoded is not None:
            return batch.encoded
        if batch.mel is None:
            raise ShapeError("a batch needs encoder states or mel; it has neither")
        with torch.no_grad():
            return self.backbone.encode(batch.mel, batch.n_frames, self.speaker.layers)

    def embed(self, batch: Batch) -> tuple[Tensor, EncoderOutput]:
        """Return speaker embeddings (n_utt, d_spk) and the unadapted encoder states.

        Either is computed only where the batch does not bring it.

        Raises:
            ShapeError: the batch has neither states nor mel.
        """
        encoded = self.encode(batch)
        if batch.speaker_emb is not None:
            return batch.speaker_emb, encoded
        emb = self.speaker(
            encoded=encoded, mel=batch.mel, n_frames=batch.n_frames, waveforms=batch.waveforms
        )
        return emb, encoded

    def groups(self, batch: Batch) -> tuple[str, ...]:
        """Return what a static source with factors by group goes by: cohorts or speakers."""
        by_speaker = (self.source_config.settings or {}).get("by") == "speaker"
        return batch.speakers if by_speaker else batch.cohorts

    def factors(self, speaker_emb: Tensor, groups: Sequence[str] = ()) -> LoRAFactors:
        """Return the low-rank factors of each utterance.

        Args:
            speaker_emb: (n_utt, d_spk).
            groups: of each utterance, for a static source with factors by group.
        """
        return self.source(speaker_emb, groups=list(groups) or None)

    def adapted_states(self, batch: Batch, encoded: EncoderOutput) -> EncoderOutput:
        """Return the states to decode from: a second, adapted pass where the encoder is a target.

        Call it inside `lora.using`. Encoder targets bypass every cache of final states.
        """
        if not self.adapts_encoder:
            return encoded
        if batch.mel is None:
            raise ShapeError("encoder targets need mel in the batch; cached states do not serve")
        return self.backbone.encode(batch.mel, batch.n_frames)

    def forward(self, batch: Batch) -> ELBO:
        """Score a batch with its own weights; everything trainable goes through here.

        Args:
            batch: with tokens, and either encoder states (and embeddings) or mel.
        Returns:
            The objective; `nll` is the mean over the scored tokens.
        """
        if batch.tokens is None or batch.n_tokens is None:
            raise ShapeError("a batch needs tokens and n_tokens to be scored")
        emb, encoded = self.embed(batch)
        factors = self.factors(emb, self.groups(batch))
        with lora.using(self.backbone.whisper, factors):
            states = self.adapted_states(batch, encoded)
            nll, n_scored = self.backbone.nll(states, batch.tokens, batch.n_tokens, batch.n_prompt)
        return ELBO(nll.sum() / n_scored.sum(), nll.new_zeros(()))

    def transcribe(
        self, source: Any, sample_rate: float | None = None, **options: Any
    ) -> Transcript:
        """Transcribe one recording of any length.

        Args:
            source: path of a recording, or samples: (n,), (n, channels) or (channels, n), numpy,
                torch or lists.
            sample_rate: of samples, in hertz; None for a path.
            options: fields of `hyperasr.options.TranscribeOptions`, such as `beam_size`.
        Returns:
            Text, segments with times and words with probabilities; empty where nobody speaks.
        Raises:
            AudioError: the recording cannot be read, or samples come without a sample rate.
            ConfigError: an unknown option, or a value out of range.
        """
        from hyperasr.transcribe import transcribe_one

        return transcribe_one(self, source, sample_rate, **options)

    def budget(self) -> str:
        """Return one line: parameters of the source and per utterance, and their shares."""
        return str(self.source.budget(self.backbone.n_parameters))

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        backbone: str,
        training: dict[str, Any] | None = None,
    ) -> None:
        """Write source and speaker encoder: config.json and model.safetensors (fp16).

        Args:
            folder: replaced in one rename.
            backbone: how to find the backbone on loading: ``micro``, a hub name or a folder.
            training: notes on how it was trained, kept in config.json.
        """
        weights = {n: t for n, t in self.state_dict().items() if not n.startswith("backbone.")}
        head = {
            "format_version": FORMAT_VERSION,
            "backbone": backbone,
            "backbone_fingerprint": self.backbone.fingerprint(),
            "audio_context": self.backbone.audio_context,
            "speaker": to_dict(self.speaker_config),
            "source": to_dict(self.source_config),
            "training": training or {},
        }
        with atomic_folder(Path(folder), replaces=("config.json",)) as temporary:
            trained = {n for n, _ in self.named_parameters()}
            stored = {n: _stored(t, half=n in trained) for n, t in weights.items()}
            save_file(stored, temporary / "model.safetensors")
            (temporary / "config.json").write_text(json.dumps(head, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str] = "micro",
        *,
        backbone: Backbone | None = None,
        offline: bool = False,
    ) -> HyperASR:
        """Load a model that `save_pretrained` wrote.

        Args:
            folder: ``"micro"`` is the embedded model.
            backbone: already loaded; None loads the one the model names.
            offline: never touch the network.
        Raises:
            ConfigError: no such model, or an unknown key in it.
            CheckpointMismatch: another backbone, or weights that do not fit.
        """
        path = ASSETS / "micro" / "hypernet" if str(folder) == "micro" else Path(folder)
        head = _read_head(path)
        if backbone is None:
            name = head["backbone"]
            local = path / name
            backbone = Backbone.from_pretrained(
                local if local.is_dir() else name,
                offline=offline,
                audio_context=head["audio_context"],
            )
        backbone.require_fingerprint(head["backbone_fingerprint"], f"the adapter in {path}")
        where = str(path / "config.json")
        speaker_config = from_dict(SpeakerConfig, head["speaker"], where)
        source_config = from_dict(SourceConfig, head["source"], where)
        model = cls(backbone, speaker_config, source_config)
        _load_strictly(model, path / "model.safetensors")
        return model.eval()


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """Store weights in fp16; statistics, which fp16 could overflow, stay as they are."""
    return tensor.detach().to(torch.float16 if half else tensor.dtype).contiguous().clone()


def _read_head(path: Path) -> dict[str, Any]:
    try:
        head = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no adapter model in {path}: config.json is missing or damaged; "
            "give 'micro' or a folder that train.meta wrote"
        ) from error
    version = head.get("format_version") if isinstance(head, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format_version is {version}, this version of hyperasr reads {FORMAT_VERSION}"
        )
    wrong = sorted(_HEAD ^ set(head))
    if wrong:
        known = "unknown" if wrong[0] in head else "missing"
        raise ConfigError(f"{path / 'config.json'}: {known} key {wrong[0]!r}")
    return head


def _load_strictly(model: HyperASR, path: Path) -> None:
    """Load every weight but the backbone's, and say readably what does not fit."""
    own = {n: t for n, t in model.state_dict().items() if not n.startswith("backbone.")}
    try:
        saved = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointMismatch(f"{path}: weights are missing or damaged ({error})") from error
    missing, surplus = sorted(set(own) - set(saved)), sorted(set(saved) - set(own))
    wrong = [
        f"{n} is {tuple(saved[n].shape)}, not {tuple(own[n].shape)}"
        for n in own
        if n in saved and saved[n].shape != own[n].shape
    ]
    if missing or surplus or wrong:
        raise CheckpointMismatch(
            f"{path} does not fit its config.json: missing {missing[:3]}, surplus {surplus[:3]}, "
            f"other shape {wrong[:3]}"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])
