"""What every training program starts and ends with: configuration, processes, log, result."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, LoggerType
from torch import nn

from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.util.config import config_files, parse, to_dict
from hyperasr.util.files import alone_in, atomic_write_text, keep_inputs
from hyperasr.util.program import run
from train.config import LoopConfig
from train.loop.loop import Split, fit
from train.loop.scoring import Judge, NotWorthIt

T = TypeVar("T")
WORTH_FILE = "worth.json"
"""In a run folder: word error rates of the development rows, unadapted and with the best model."""
_RUN = ExitStack()  # the lock on the run folder of this process
# Others wait while one builds a cache; in training the watchdog ends such waits.
_PATIENCE = timedelta(hours=12)


def read_config(kind: type[T], argv: list[str] | None = None) -> T:
    """Build a frozen config dataclass from ``--config file.yaml`` and dotted overrides.

    Raises:
        ConfigError: a mistake in them, or `out` is one of the files and folders that are read.
    """
    argv = sys.argv[1:] if argv is None else argv
    config = parse(kind, argv)
    out = getattr(config, "out", None)
    if isinstance(out, Path):
        if str(out) in ("-", "."):
            raise ConfigError(f"out is {str(out)!r}; name a file or folder of its own")
        values = {name: value for name, value in to_dict(config).items() if name != "out"}
        inputs = [Path(text) for text in [*_texts(values), *config_files(argv)] if text]
        # A run folder may hold its manifests, but an earlier best model is replaced as a whole.
        keep_inputs([out / "best"], inputs, "choose another out")
        keep_inputs([out], [path for path in inputs if _is_same(path, out)], "choose another out")
    return config


def _texts(value: Any) -> list[str]:
    """Return every text among plain values, whatever they are in."""
    if isinstance(value, dict | list):
        within = value.values() if isinstance(value, dict) else value
        return [text for inner in within for text in _texts(inner)]
    return [value] if isinstance(value, str) else []


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def run_program(main: Callable[[], object]) -> None:
    """Run a program's main; an error that it raises on purpose is one line and exit status 2.

    A training that came to its end and is worth nothing exits with 1.
    """
    sys.exit(run(main, partly=NotWorthIt))


def start(name: str, folder: Path, loop: LoopConfig) -> Accelerator:
    """Create the run folder, Accelerate's processes, the log and the tracker.

    Without a GPU, `torchrun --nproc_per_node N` gives N processes on the CPU.

    Args:
        name: of the project in the tracker.
        folder: of the run.
        loop: names arithmetic and tracker.
    Raises:
        ConfigError: no such tracker, or another process trains in this folder.
        MissingExtra: the tracker is not installed.
    """
    _check_tracker(loop.tracker)
    # The name that torch wants instead is not known to Accelerate yet, nor to torch before 2.13.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    folder.mkdir(parents=True, exist_ok=True)
    # Without cpu=True Accelerate ignores torchrun's processes on a machine that has no GPU.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=loop.mixed_precision,
        log_with=None if loop.tracker == "none" else loop.tracker,
        project_dir=folder,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=_PATIENCE),
            # Buffers are statistics that every process has alike; only gradients are exchanged.
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )
    if accelerator.is_main_process:
        _RUN.close()  # of the training before, where one process makes several
        _RUN.enter_context(alone_in(folder))
        # A full disk must not turn every line of the log into a traceback.
        logging.raiseExceptions = False
        handlers = [logging.StreamHandler(), logging.FileHandler(folder / "log.txt")]
        logging.basicConfig(
            level=logging.INFO,
            format="%(asctime)s %(message)s",
            datefmt="%H:%M:%S",
            handlers=handlers,
        )
    accelerator.init_trackers(name)
    return accelerator


def fit_and_report(
    model: nn.Module,
    draw: Callable[[int], Any],
    evaluate: Callable[[nn.Module], dict[str, float]],
    save_best: Callable[[nn.Module], None],
    config: Any,
    accelerator: Accelerator,
    *,
    split: Split | None = None,
    judge: Judge | None = None,
) -> dict[str, float]:
    """Run the loop of a program to its end and print its best measures as one line of JSON.

    Args and errors are those of `train.loop.loop.fit`; `config` is the program's whole one, with
    its run folder as `out` and a `loop`, and `judge` decides which checkpoint may be the best.

    Raises:
        NotWorthIt: none may.
    """
    best = fit(
        model,
        draw,
        evaluate if judge is None else lambda candidate: judge(evaluate(candidate)),
        save_best,
        config.loop,
        config.out,
        accelerator,
        settings=to_dict(config),
        split=split,
    )
    accelerator.end_training()
    if accelerator.is_main_process:
        if judge is not None:
            print(judge.verdict(best))
            worth = {"unadapted": judge.unadapted, "best": best}
            atomic_write_text(config.out / WORTH_FILE, json.dumps(worth, indent=2) + "\n")
        print(json.dumps(best))
    return best


def _check_tracker(name: str) -> None:
    """Accelerate leaves out a tracker that is missing without a word."""
    trackers = sorted(kind.value for kind in LoggerType if kind.value != "all")
    if name not in ("none", *trackers):
        raise ConfigError(f"no tracker {name!r}; there are none, {', '.join(trackers)}")
    if name not in ("none", *(str(getattr(t, "value", t)) for t in get_available_trackers())):
        raise MissingExtra(f"the tracker {name!r} is not installed; install it or set another one")
