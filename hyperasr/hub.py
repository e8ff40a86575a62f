"""Models from the hub and to it: one function each way, everything else stays on this machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.export.card import CARD_FILE, model_card
from hyperasr.whisper.weights import (
    ASSETS,
    EMBEDDED_WHISPERS,
    HUB_NAMES,
    fetched,
    find_weights,
    kind_of_folder,
)

__all__ = ["EMBEDDED", "MODEL_FILES", "model_folder", "push_to_hub"]

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
    found = find_weights(name, offline=offline)
    if isinstance(found.where, Path):
        return found.where, "whisper" if found.parts else kind_of_folder(found.where)
    folder = fetched(found.where, ["config.json"], offline)
    kind = kind_of_folder(folder)
    if kind == "adapter":
        folder = fetched(found.where, list(MODEL_FILES), offline)
    return folder, kind


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
    import json

    backbone = json.loads((folder / "config.json").read_text(encoding="utf-8"))["backbone"]
    if backbone not in EMBEDDED_WHISPERS and (
        Path(backbone).is_absolute() or backbone.startswith(".")
    ):
        raise ConfigError(
            f"the model in {folder} names its backbone by a path of this machine, {backbone!r}; "
            "save it with backbone='OWNER/NAME' so that others find it"
        )
