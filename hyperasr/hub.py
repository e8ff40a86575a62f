"""Open, save and share models: by name, from a folder, from the model hub and to it.

Only `push_to_hub` sends anything away from this machine.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from safetensors.torch import save_file

from hyperasr.adapters import SourceConfig
from hyperasr.adapters.checkpoint import (
    FORMAT_VERSION,
    current_settings,
    load_strictly,
    read_head,
    stored,
)
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.export.card import CARD_FILE, model_card
from hyperasr.model import AdaptedWhisper
from hyperasr.speaker.encoder import FORMER_SETTINGS, SpeakerConfig
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import transcribe
from hyperasr.types import Transcript
from hyperasr.util.closest import closest
from hyperasr.util.config import from_dict, to_dict
from hyperasr.util.files import atomic_folder
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.weights import (
    ASSETS,
    EMBEDDED_WHISPERS,
    HUB_NAMES,
    fetched,
    find_weights,
    kind_of_folder,
)

__all__ = [
    "EMBEDDED",
    "MODEL_FILES",
    "HyperASR",
    "Opened",
    "model_folder",
    "open_model",
    "push_to_hub",
]

EMBEDDED = {"tiny.en": ASSETS / "tiny.en" / "hypernet"}
"""Folders of the adapters inside the package by name, each that of the embedded Whisper that they
adapt. Where a folder is not there, its name opens the plain Whisper."""

MODEL_FILES = ("config.json", "model.safetensors", CARD_FILE)
"""What a model folder may hold that belongs on the hub; nothing else is uploaded."""


def model_folder(name: str | os.PathLike[str], *, offline: bool = False) -> tuple[Path, str]:
    """Find a model by name: an embedded one, a local folder, or one of the hub.

    Args:
        name: an adapter model (one of `EMBEDDED`, a folder, a hub name), or a Whisper as for
            `hyperasr.whisper.weights.find_weights`.
        offline: never touch the network; what is on the hub must be in the local cache.
    Returns:
        Folder, and what it holds as in `hyperasr.whisper.weights.kind_of_folder`. Of a Whisper on
        the hub the folder holds no more than its config.
    Raises:
        ConfigError: there is no such model.
    """
    text = str(name)
    if text in EMBEDDED and EMBEDDED[text].is_dir():
        return EMBEDDED[text], "adapter"
    if not (text in EMBEDDED_WHISPERS or Path(name).is_dir() or text in HUB_NAMES):
        bad_path = Path(name).is_absolute() or text.startswith((".", "~"))
        if bad_path or text.count("/") != 1:
            known = ", ".join(map(repr, EMBEDDED_WHISPERS))
            raise ConfigError(
                f"no model folder at {text}; give {known}, a folder, a hub name (OWNER/NAME), or a "
                f"Whisper's short name such as {next(iter(HUB_NAMES))!r}"
            )
    weights = find_weights(name, offline=offline)
    if isinstance(weights.where, Path):
        return weights.where, "whisper" if weights.parts else kind_of_folder(weights.where)
    folder = fetched(weights.where, ["config.json"], offline)
    kind = kind_of_folder(folder)
    if kind == "adapter":
        folder = fetched(weights.where, list(MODEL_FILES), offline)
    return folder, kind


class HyperASR(AdaptedWhisper):
    """A frozen Whisper that decodes every utterance with weights of its own: what a user opens.

        model = HyperASR.from_pretrained("tiny.en")
        print(model.transcribe("my.wav").text)

    What it computes, and the arguments to make an untrained one, are of
    `hyperasr.model.AdaptedWhisper`.
    """

    def transcribe(
        self, source: Any, sample_rate: float | None = None, **options: Any
    ) -> Transcript:
        """Transcribe one recording of any length.

        Args:
            source: path of a recording, or samples: (n,), (n, channels) or (channels, n), numpy,
                torch or lists.
            sample_rate: of samples, in hertz; None for a path.
            options: fields of `hyperasr.transcription.options.TranscribeOptions`, such as
                `beam_size`.
        Returns:
            Text, segments with times and words with probabilities; empty where nobody speaks.
        Raises:
            AudioError: the recording cannot be read, or samples come without a sample rate.
            ConfigError: an unknown option, or a value out of range.
        """
        names = [f.name for f in fields(TranscribeOptions) if f.name != "compare"]
        for name in options:
            if name not in names:
                close = closest(name, names)
                raise ConfigError(f"transcribe has no option {name!r}; did you mean {close!r}?")
        one = source if sample_rate is None else (source, sample_rate)
        results = list(transcribe(self, [one], TranscribeOptions(**options)))
        if len(results) != 1:
            raise ConfigError(
                f"{source} holds {len(results)} recordings; use "
                "hyperasr.transcription.pipeline.transcribe"
            )
        if results[0].transcript is None:
            raise results[0].error or HyperASRError(f"{source} has no transcript")
        return results[0].transcript

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
            backbone: how to find the backbone on loading, as for `Backbone.from_pretrained`.
            training: notes on how it was trained, kept in config.json.
        """
        weights = {n: t for n, t in self.state_dict().items() if not n.startswith("backbone.")}
        head = {
            "format_version": FORMAT_VERSION,
            "backbone": backbone,
            "backbone_fingerprint": self.backbone.fingerprint(),
            "audio_context": self.backbone.audio_context,
            "margin_s": self.backbone.margin_s,
            "speaker": to_dict(self.speaker_config),
            "source": to_dict(self.source_config),
            "training": training or {},
        }
        with atomic_folder(Path(folder), replaces=("config.json",)) as temporary:
            trained = {n for n, _ in self.named_parameters()}
            tensors = {n: stored(t, half=n in trained) for n, t in weights.items()}
            save_file(tensors, temporary / "model.safetensors")
            (temporary / "config.json").write_text(json.dumps(head, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str] = "tiny.en",
        *,
        backbone: Backbone | None = None,
        offline: bool = False,
    ) -> Self:
        """Load a model that `save_pretrained` wrote, or a plain Whisper, which adapts nothing.

        Args:
            folder: a folder, a hub name (``OWNER/NAME``), or an embedded model.
            backbone: already loaded; None loads the one the model names.
            offline: never touch the network.
        Raises:
            ConfigError: no such model, or an unknown key in it.
            CheckpointMismatch: another backbone, or weights that do not fit.
        """
        path, kind = model_folder(folder, offline=offline)
        if kind == "whisper":
            return cls.unadapted(backbone or Backbone.from_pretrained(folder, offline=offline))
        head = read_head(path)
        if backbone is None:
            backbone = _backbone_of(path, head, offline=offline)
        return cls._of_folder(path, head, backbone)

    @classmethod
    def _of_folder(cls, path: Path, head: dict[str, Any], backbone: Backbone) -> Self:
        """Put the adapters of a folder, whose config.json is `head`, onto their backbone."""
        backbone.require_fingerprint(head["backbone_fingerprint"], f"the adapter in {path}")
        where = str(path / "config.json")
        speaker_config = from_dict(
            SpeakerConfig, current_settings(head["speaker"], FORMER_SETTINGS), where
        )
        source_config = from_dict(SourceConfig, head["source"], where)
        if source_config.settings:
            settings = current_settings(source_config.settings)
            source_config = replace(source_config, settings=settings)
        model = cls(backbone, speaker_config, source_config, fit_prior=False)
        load_strictly(model, path / "model.safetensors")
        return model.to(backbone.device).eval()


@dataclass(frozen=True)
class Opened:
    """A model that was found.

    Attributes:
        model: ready to transcribe.
        folder: where its adapter lies; None for a plain Whisper.
        backbone_name: of its Whisper, as for `hyperasr.whisper.weights.find_weights`.
    """

    model: HyperASR
    folder: Path | None
    backbone_name: str

    @property
    def adapts(self) -> bool:
        """False for a plain Whisper, whose transcripts are unadapted."""
        return self.model.adapts

    @property
    def warnings(self) -> list[str]:
        """What its user should know, one line each."""
        if self.adapts:
            return []
        return [
            f"{self.backbone_name} is a plain Whisper without an adapter: transcripts are unadapted"
        ]

    def resolve(self, options: TranscribeOptions) -> TranscribeOptions:
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
        return Opened(HyperASR.unadapted(backbone), None, str(name))
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
    model = HyperASR._of_folder(folder, head, _backbone_of(folder, head, **how))
    return Opened(model, folder, _backbone_name(folder, head))


def _backbone_name(folder: Path, head: dict[str, Any]) -> str:
    local = folder / head["backbone"]
    return str(local if local.is_dir() else head["backbone"])


def _backbone_of(folder: Path, head: dict[str, Any], **how: Any) -> Backbone:
    """Load the Whisper that a model folder was made for."""
    return Backbone.from_pretrained(
        _backbone_name(folder, head),
        audio_context=head["audio_context"],
        margin_s=head["margin_s"],
        **how,
    )


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = True,
    license: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a model that `HyperASR.save_pretrained` wrote, with a card made of its own metadata.

    Args:
        folder: of the model; nothing in it is changed, and only `MODEL_FILES` are uploaded.
        repo_id: ``OWNER/NAME``; made where it is not there.
        private: seen by its owner alone.
        license: for the card.
        token: of the hub; None is the one of ``hf auth login``.
        endpoint: of another hub than huggingface.co.
    Returns:
        Address of the upload.
    Raises:
        ConfigError: no model there, its backbone cannot be found by others, or the network is
            switched off.
        HyperASRError: the hub refused.
    """
    from huggingface_hub import HfApi, constants

    folder = Path(folder)
    card = model_card(folder, license=license)
    _require_public_backbone(folder)
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("the network is switched off (HF_HUB_OFFLINE); uploading needs it")
    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as staged:
        for name in MODEL_FILES:
            if (folder / name).is_file() and name != CARD_FILE:
                # A copy: an upload reads a file twice, and it must not change in between.
                (Path(staged) / name).write_bytes((folder / name).read_bytes())
        (Path(staged) / CARD_FILE).write_text(card, encoding="utf-8")
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            info: Any = api.upload_folder(
                repo_id=repo_id, folder_path=staged, commit_message="hyperasr model"
            )
        except Exception as error:  # of the hub, of its validation, of the network
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise HyperASRError(f"cannot upload to {repo_id!r}: {reason}") from error
    return str(info.commit_url)


def _require_public_backbone(folder: Path) -> None:
    backbone = json.loads((folder / "config.json").read_text(encoding="utf-8"))["backbone"]
    if backbone not in EMBEDDED_WHISPERS and (
        Path(backbone).is_absolute() or backbone.startswith(".")
    ):
        raise ConfigError(
            f"the model in {folder} names its backbone by a path of this machine, {backbone!r}; "
            "save it with backbone='OWNER/NAME' so that others find it"
        )
