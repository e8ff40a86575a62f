"""Open, save and share models: by name, from a folder, from the model hub and to it.

Only `push_to_hub` sends anything away from this machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, Self, Unpack, overload

import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from hyperasr.adapters import SourceConfig
from hyperasr.adapters.checkpoint import (
    FORMAT_VERSION,
    load_strictly,
    read_head,
    stored,
)
from hyperasr.errors import CheckpointMismatch, ConfigError, HyperASRError
from hyperasr.export.card import CARD_FILE, is_hub_name, model_card
from hyperasr.metrics.calibration import CALIBRATION_FILE, PlattScaling
from hyperasr.model import AdaptedWhisper
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.transcription.options import TranscribeKeywords, options_of
from hyperasr.transcription.pipeline import iter_transcribe, transcribe
from hyperasr.transcription.recordings import holds_several, recordings_of
from hyperasr.transcription.transcript import Result, Transcript
from hyperasr.types import Segment, Utterance
from hyperasr.util.config import from_dict, to_dict
from hyperasr.util.files import atomic_folder
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import checked_device
from hyperasr.whisper.weights import (
    ASSETS,
    EMBEDDED_WHISPERS,
    HUB_NAMES,
    fetched,
    find_weights,
    kind_of_folder,
)

EMBEDDED = {
    "tiny.en": ASSETS / "tiny.en" / "hypernet_one_pass",
    "tiny.en-decoder": ASSETS / "tiny.en" / "hypernet",
    "base-decoder": ASSETS / "base" / "hypernet",
}
"""Folders of the adapters inside the package by name. The Whisper that they adapt is inside too,
but for base, which comes from the hub or the extra `base`. Where the folder of ``tiny.en`` is not
there, the name opens the plain Whisper."""


class Samples(Protocol):
    """An array of NumPy or torch."""

    @property
    def ndim(self) -> int: ...


Source = (
    str
    | os.PathLike[str]
    | bytes
    | BinaryIO
    | Samples
    | Mapping[str, Any]
    | tuple[Any, float]
    | tuple[float, Any]
    | Utterance
)
"""One recording; see `HyperASR.transcribe`."""

MODEL_FILES = ("config.json", "model.safetensors", CALIBRATION_FILE, CARD_FILE)
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
            known = ", ".join(map(repr, dict.fromkeys([*EMBEDDED_WHISPERS, *EMBEDDED])))
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

    What it computes, and the arguments to make an untrained one, are of
    `hyperasr.model.AdaptedWhisper`. Several threads may use one model.

    >>> model.transcribe(clip).text == model.transcribe(clip.read_bytes()).text
    True

    Attributes:
        folder: where its adapter lies; None for a plain Whisper, and for a model that was not
            loaded.
        backbone_name: of its Whisper, as for `hyperasr.whisper.weights.find_weights`.
        offline: whether it was loaded without the network, and fetches nothing either.
    """

    folder: Path | None = None
    backbone_name: str = ""
    offline: bool = False

    @property
    def warnings(self) -> list[str]:
        """What its user should know, one line each."""
        plain = "is a plain Whisper without an adapter: transcripts are unadapted"
        return [] if self.adapts else [f"{self.backbone_name} {plain}"]

    @overload
    def transcribe(
        self,
        source: Source,
        sampling_rate: float | None = None,
        *,
        stream: Literal[True],
        **options: Unpack[TranscribeKeywords],
    ) -> Iterator[Segment]: ...

    @overload
    def transcribe(
        self,
        source: Source,
        sampling_rate: float | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[TranscribeKeywords],
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        source: Sequence[Any] | Iterator[Any],
        sampling_rate: float | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[TranscribeKeywords],
    ) -> Iterator[Result]: ...

    def transcribe(
        self,
        source: Any,
        sampling_rate: float | None = None,
        *,
        stream: bool = False,
        **options: Unpack[TranscribeKeywords],
    ) -> Transcript | Iterator[Segment] | Iterator[Result]:
        """Transcribe one recording of any length, or many.

        Args:
            source: a path; the bytes of a file, or a file opened as binary; an array of samples,
                (n,), (n, channels) or (channels, n), numpy or torch; an array and its rate as a
                tuple, in either order; a mapping with ``array`` and ``sampling_rate``, as of
                datasets; an http or https address, unless the model was loaded offline. Or many: a
                list or another iterable of these, a folder or a manifest (``.jsonl``). Type
                checkers take every string for one recording; for them put a folder into a list.
            sampling_rate: of arrays that come without one, in hertz.
            stream: of one recording, yield each segment as soon as it is decoded; a smaller
                `batch_size` brings the first one sooner.
            options: fields of `hyperasr.transcription.options.TranscribeOptions`, such as
                `beam_size`.
        Returns:
            Of one recording its transcript, empty where nobody speaks, or with `stream` its
            segments; of many a result of each, in order, as they are ready. What cannot be read
            among many is a result with an error, and the rest goes on.
        Raises:
            AudioError: the recording cannot be read, or samples come without their rate.
            ConfigError: an unknown option, or a value out of range.
        """
        how = options_of(dict(options))
        several = holds_several(source)
        if several and stream:
            raise ConfigError("stream is for one recording at a time; call it for each")
        if how.compare and not several:
            raise ConfigError("compare gives two transcripts; give a list, whose results hold both")
        online = not (self.offline or constants.HF_HUB_OFFLINE)
        recordings = recordings_of(source, sampling_rate, online=online)
        if several:
            return transcribe(self, recordings, how)
        if stream:
            return self._segments(iter_transcribe(self, recordings, how))
        (result,) = transcribe(self, recordings, how)
        return _transcript(result)

    def _segments(self, events: Iterator[Segment | Result]) -> Iterator[Segment]:
        for event in events:
            if isinstance(event, Segment):
                yield event
            else:
                _transcript(event)  # raises where it broke off

    def to(  # type: ignore[override]
        self,
        device: str | torch.device | torch.dtype | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Self:
        """Move to a device, and bring the frozen weights to another number format, in place.

        Speaker encoder, hypernetwork and factors stay in float32.

        Args:
            device: ``cpu``, ``cuda``, ...; None stays where it is.
            dtype: as for `load`, by name or of torch.
        Raises:
            ConfigError: no such device or dtype here, or the weights have lost precision already.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        target = self.backbone.device if device is None else checked_device(device)
        if dtype is not None:
            name = str(dtype).removeprefix("torch.")
            _check_int8(name, target)
            self.backbone.reduced(name)
        _check_int8(self.backbone.dtype, target)
        return super().to(target)

    def half(self) -> Self:
        """Bring the frozen weights to float16, as `to` does."""
        return self.to(dtype="float16")

    def bfloat16(self) -> Self:
        """Bring the frozen weights to bfloat16, as `to` does."""
        return self.to(dtype="bfloat16")

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        backbone: str,
        training: dict[str, Any] | None = None,
    ) -> None:
        """Write source and speaker encoder: config.json and model.safetensors (fp16).

        Where the probabilities of words were calibrated, calibration.json as well.

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
            if self.calibration is not None:
                self.calibration.write(temporary / CALIBRATION_FILE, {})

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "tiny.en",
        *,
        backbone: Backbone | None = None,
        offline: bool = False,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        audio_context: str | None = None,
    ) -> Self:
        """Open a model as `load` does, or onto a backbone that is at hand, for programs that train.

        Args:
            name, offline, device, dtype, audio_context: as for `load`.
            backbone: already loaded; None loads the one that the model names.
        Raises:
            ConfigError: no such model, device or dtype, or a folder of another kind.
            CheckpointMismatch: another backbone, or weights that do not fit.
        """
        _check_int8(dtype, device)
        folder, kind = model_folder(name, offline=offline)
        how: dict[str, Any] = {"offline": offline, "device": device, "dtype": dtype}
        if kind == "peft":
            raise ConfigError(
                f"{name} is a PEFT adapter; merge it into its Whisper "
                "(PeftModel.merge_and_unload) and give the merged folder"
            )
        if kind not in ("adapter", "whisper", ""):
            raise ConfigError(f"{name} holds a model of type {kind!r}, not a Whisper or an adapter")
        if kind == "whisper":
            # A folder that has lost its tokenizer, say, is refused in there.
            backbone = backbone or Backbone.from_pretrained(
                name, audio_context=audio_context, **how
            )
            model = cls.unadapted(backbone)
            model.backbone_name = str(name)
        else:
            head, where = read_head(folder), str(folder / "config.json")
            if audio_context not in (None, head["audio_context"]):
                raise ConfigError(
                    f"{name} was trained for audio context {head['audio_context']!r}, not "
                    f"{audio_context!r}; leave the audio context out"
                )
            local = folder / head["backbone"]
            backbone_name = str(local if local.is_dir() else head["backbone"])
            backbone = backbone or Backbone.from_pretrained(
                backbone_name,
                audio_context=head["audio_context"],
                margin_s=head["margin_s"],
                **how,
            )
            backbone.require_fingerprint(head["backbone_fingerprint"], f"the adapter in {folder}")
            speaker_config = from_dict(SpeakerConfig, head["speaker"], where)
            source_config = from_dict(SourceConfig, head["source"], where)
            try:
                model = cls(backbone, speaker_config, source_config, fit_prior=False)
            except (RuntimeError, OverflowError, MemoryError, TypeError) as error:
                raise CheckpointMismatch(
                    f"{where}: a size in it is impossible ({error})"
                ) from error
            load_strictly(model, folder / "model.safetensors")
            model.calibration = PlattScaling.read(folder / CALIBRATION_FILE)
            model.folder, model.backbone_name = folder, backbone_name
            model.to(backbone.device).eval()
        model.offline = offline
        return model


def load(
    name: str | os.PathLike[str] = "tiny.en",
    *,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    offline: bool = False,
    audio_context: str | None = None,
) -> HyperASR:
    """Open a model: adapters, or a plain Whisper, which transcribes unadapted.

    >>> model = hyperasr.load("tiny.en", offline=True, device="cpu")
    >>> model.adapts, model.backbone.dtype
    (True, 'float32')

    Args:
        name: an embedded model, a folder (of adapters; of a Whisper in the Hugging Face layout, or
            as CTranslate2 and faster-whisper have it), or a hub name (``OWNER/NAME``, or ``base``
            and the like for OpenAI's).
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` is a GPU where there is one.
        dtype: of the frozen weights: ``float32``, ``bfloat16``, ``float16`` or, on the CPU,
            ``int8``; ``auto`` is float32 on the CPU and float16 elsewhere. Speaker encoder,
            hypernetwork and factors stay in float32.
        offline: never touch the network; what is on the hub must be in the local cache.
        audio_context: of a plain Whisper: ``full`` is 30 s, as published; ``trimmed`` the real
            length and a margin of silence, several times faster. None is ``full``, and what
            adapters were trained for.
    Raises:
        ConfigError: no such model, device or dtype, or a folder of another kind.
        CheckpointMismatch: adapters that do not fit their backbone.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if str(device).startswith("cpu") else "float16"
    return HyperASR.from_pretrained(
        name, offline=offline, device=device, dtype=dtype, audio_context=audio_context
    )


def _check_int8(dtype: str, device: str | torch.device) -> None:
    if dtype == "int8" and not str(device).startswith("cpu"):
        raise ConfigError(f"int8 runs on the CPU only; on {device} give float16 or bfloat16")


def _transcript(result: Result) -> Transcript:
    """Return the transcript of a result, or raise its error."""
    if result.transcript is None:
        raise result.error or HyperASRError(f"{result.id} has no transcript")
    return result.transcript


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
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    card = model_card(folder, license=license)
    _require_public_backbone(folder)
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("the network is switched off (HF_HUB_OFFLINE); uploading needs it")
    api = HfApi(endpoint=endpoint, token=token)
    contents = {n: (folder / n).read_bytes() for n in MODEL_FILES if (folder / n).is_file()}
    contents[CARD_FILE] = card.encode()
    files = [CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        info = api.create_commit(repo_id, files, commit_message="hyperasr model")
    except Exception as error:  # of the hub, of its validation, of the network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HyperASRError(f"cannot upload to {repo_id!r}: {reason}") from error
    return str(info.commit_url)


def _require_public_backbone(folder: Path) -> None:
    backbone = json.loads((folder / "config.json").read_text(encoding="utf-8"))["backbone"]
    known = backbone in EMBEDDED_WHISPERS or backbone in HUB_NAMES
    if not known and (not is_hub_name(backbone) or Path(backbone).is_dir()):
        raise ConfigError(
            f"the model in {folder} names its backbone by a path of this machine, {backbone!r}; "
            "save it with backbone='OWNER/NAME' so that others find it"
        )
