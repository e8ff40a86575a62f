"""`hyperasr doctor`: what a bug report needs, in a dozen lines without names of people or files."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import hyperasr
from hyperasr.cli.commands import open_for
from hyperasr.cli.terminal import print_rows
from hyperasr.errors import HyperASRError
from hyperasr.hub import EMBEDDED
from hyperasr.whisper.weights import EMBEDDED_WHISPERS, HUB_NAMES

_PACKAGES = {
    "computing": ("torch", "torchaudio", "transformers", "numpy", "ctranslate2", "peft"),
    "audio": ("soundfile", "soxr", "av", "silero-vad", "speechbrain"),
    "other": ("safetensors", "huggingface_hub", "datasets", "jsonargparse"),
}
_GIB = 2**30
_PAGES = ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES")


def doctor(args: Any) -> int:
    """Print the lines, and return 1 where the model cannot be opened."""
    try:
        opened = open_for(args)
    except HyperASRError as error:
        # The message may name a folder, so only its kind is shown.
        model, status = f"cannot be opened ({type(error).__name__})", 1
    else:
        model, status = f"fingerprint {opened.backbone.fingerprint()}, ", 0
        model += opened.source_config.kind if opened.adapts else "no adapter"
    known = args.model in {*EMBEDDED, *EMBEDDED_WHISPERS, *HUB_NAMES}
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = {
        "hyperasr": hyperasr.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.release()}, "
        f"{platform.machine()}",
        **{kind: ", ".join(map(_version, names)) for kind, names in _PACKAGES.items()},
        "device": f"{args.device}, {_gpu()}",
        "threads": f"{torch.get_num_threads()} of {n_cpus} processors",
        "memory": _memory(),
        "model": f"{args.model if known else 'one of your own'}, {args.dtype}: {model}",
    }
    print_rows(rows)
    return status


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "no CUDA"
    return f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name()}"


def _memory() -> str:
    try:
        free, all_of_it = (os.sysconf("SC_PAGE_SIZE") * os.sysconf(name) for name in _PAGES)
    except (AttributeError, OSError, ValueError):  # not on this system
        return "unknown"
    return f"{free / _GIB:.1f} of {all_of_it / _GIB:.1f} GiB free"
