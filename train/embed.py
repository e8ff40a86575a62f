"""Put trained adapters into the package.

    python -m train.embed --hypernet runs/hypernet_one_pass/best

From then on the name ``tiny.en`` opens them; with another folder of the package as OUT, the name
that `hyperasr.hub.EMBEDDED` has for it. Nobody but this Whisper can use them, hearing what
they were trained to hear: anything else is refused.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from hyperasr.adapters.checkpoint import read_head
from hyperasr.errors import ConfigError
from hyperasr.export.card import without_paths
from hyperasr.hub import EMBEDDED, HyperASR
from hyperasr.util.files import atomic_folder
from hyperasr.whisper.backbone import Backbone
from train.loop.program import WORTH_FILE, read_config, run_program

LARGEST_BYTES = 15_000_000


@dataclass(frozen=True)
class EmbedConfig:
    """What to embed."""

    hypernet: Path
    """Folder of adapters that `train.meta` trained."""
    backbone: str = "tiny.en"
    """Name of the Whisper that they were trained for, by which their user finds it."""
    out: Path = EMBEDDED["tiny.en"]
    """Where the package has them; has to be given for another Whisper than tiny.en."""

    def __post_init__(self) -> None:
        if self.backbone != "tiny.en" and self.out == EMBEDDED["tiny.en"]:
            raise ConfigError(f"{self.out} holds the adapters of tiny.en; give --out")


def embed(source: Path, target: Path, name: str = "tiny.en") -> int:
    """Copy adapters into the package, the old ones being there until the new ones are.

    Their notes keep the settings, of folders on the machine that trained them the last part alone,
    and what the training says that they are worth.

    Args:
        source: what `train.meta` left as its best model.
        target: the folder in the package.
        name: of the Whisper that they adapt.
    Returns:
        Size in bytes.
    Raises:
        ConfigError: no adapters there, or too large ones.
        CheckpointMismatch: they belong to another Whisper, or it hears something else with them.
    """
    head = read_head(source)
    context = {name: head[name] for name in ("audio_context", "margin_s")}
    backbone = Backbone.from_pretrained(name, offline=True, **context)
    # Opened as it will be, so that what does not fit is known before it is copied.
    HyperASR.from_pretrained(source, backbone=backbone)
    head |= {"backbone": name, "training": without_paths(head["training"])}
    worth = source.parent / WORTH_FILE
    if worth.is_file():
        head["training"]["worth"] = json.loads(worth.read_text(encoding="utf-8"))
    text = json.dumps(head, indent=2) + "\n"
    size = len(text.encode()) + (source / "model.safetensors").stat().st_size
    if size > LARGEST_BYTES:
        raise ConfigError(
            f"{source} has {size / 1e6:.1f} MB; the package takes adapters of up to "
            f"{LARGEST_BYTES / 1e6:g} MB, so lower the rank or d_hidden"
        )
    with atomic_folder(target) as temporary:
        shutil.copy(source / "model.safetensors", temporary)
        (temporary / "config.json").write_text(text, encoding="utf-8")
    return size


def main() -> None:
    """Embed what was given, and say how large it is."""
    config = read_config(EmbedConfig)
    size = embed(config.hypernet, config.out, config.backbone)
    print(f"{config.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_program(main)
