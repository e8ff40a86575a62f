"""What every training program starts with: its configuration and its log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator

from hyperasr.config import parse

__all__ = ["read_config", "start"]

T = TypeVar("T")


def read_config(kind: type[T], argv: list[str] | None = None) -> T:
    """Build a frozen config dataclass from ``--config file.yaml`` and dotted overrides."""
    return parse(kind, sys.argv[1:] if argv is None else argv)


def start(name: str, folder: Path, mixed_precision: str = "no") -> Accelerator:
    """Create the run folder, Accelerate's processes, the log and the TensorBoard tracker.

    Without a GPU, `torchrun --nproc_per_node N` gives N processes on the CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Without cpu=True Accelerate ignores torchrun's processes on a machine that has no GPU.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=mixed_precision,
        log_with="tensorboard",
        project_dir=folder,
    )
    if accelerator.is_main_process:
        handlers = [logging.StreamHandler(), logging.FileHandler(folder / "log.txt")]
        logging.basicConfig(
            level=logging.INFO,
            format="%(asctime)s %(message)s",
            datefmt="%H:%M:%S",
            handlers=handlers,
        )
    accelerator.init_trackers(name)
    return accelerator
