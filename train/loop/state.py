"""What a training run needs to go on after an interruption: safetensors and JSON, never pickle.

Every state is a folder of its own, named by its step, which appears whole in one rename, its
content on the disk before its name; only then are the older ones removed. So a run that is killed
at any moment, or a machine that loses power, leaves one that can be loaded. Weights that are spread
over processes (FSDP) are gathered, so the state is the same however many there are.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from hyperasr.errors import CheckpointMismatch
from hyperasr.util.files import atomic_folder

# Where a run is, how it is watched and how it is cut to fit into memory may change on the way.
FREE_SETTINGS = {
    "accept_changes",
    "accumulate",  # what counts is the batches a step, over all processes
    "cache",
    "encode_on",
    "keep_mel",
    "log_every",
    "out",
    "parts",
    "save_every",
    "tracker",
    "watchdog_s",
    "workers",
}
GONE = {"people_per_speaker": 2, "typical_voices": 1, "view_sets": 1, "view_seed": 9_000}
"""Settings that are gone, each with the value at which it changed nothing."""


def save_state(
    folder: Path,
    step: int,
    best: dict[str, float],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
    *,
    notes: dict[str, Any],
    writes: bool = True,
) -> None:
    """Write the state after `step` steps into ``folder/state-STEP``, then remove older ones.

    Args:
        folder: the run folder.
        step: optimiser steps done.
        best: best measures so far.
        model, optimizer, average: what a step changes.
        notes: further JSON values, such as the settings of the run.
        writes: False on every process but one; where weights are spread over processes, all of
            them have to call this.
    """
    tensors = {n: full_tensor(t) for n, t in _model_tensors(model, average).items()}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"optimizer.{index}.{name}"] = full_tensor(torch.as_tensor(value))
    if not writes:
        return
    new = folder / f"state-{step:08d}"
    with atomic_folder(new) as temporary:
        # Cloned, because safetensors refuses tensors that share memory.
        save_file(
            {n: t.detach().contiguous().clone() for n, t in tensors.items()},
            temporary / "state.safetensors",
        )
        head = {"step": step, "best": best, **notes}
        (temporary / "state.json").write_text(json.dumps(head))
        for path in (*temporary.iterdir(), temporary):
            _to_disk(path)
    _to_disk(folder)
    remove_older(folder)


def remove_older(folder: Path) -> None:
    """Remove all states but the newest, and what a run that was killed at one has left."""
    newest = last_state(folder)
    for path in (*folder.glob("state*"), *folder.glob(".state-*")):
        if path != newest:
            shutil.rmtree(path, ignore_errors=True)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
) -> tuple[int, dict[str, float]]:
    """Restore the newest state; returns the number of steps done and the best measures.

    Raises:
        CheckpointMismatch: the state belongs to another model or other settings.
    """
    path, head = last_state(folder), read_head(folder)
    if path is None:
        return 0, {}
    tensors = load_file(path / "state.safetensors")
    own = _model_tensors(model, average)
    saved = {n: t for n, t in tensors.items() if not n.startswith("optimizer.")}
    wrong = sorted(set(own) ^ set(saved))
    wrong += [n for n in own if n in saved and own[n].shape != saved[n].shape]
    if wrong:
        raise CheckpointMismatch(
            f"{path} is of another model or other settings ({wrong[0]} differs, {len(wrong)} in "
            "all); go on with the settings it was trained with, or choose another run folder"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(_like(tensor, saved[name]))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            parameter = parameters[int(index)]
            whole = tensor.shape == parameter.shape and tensor.dim() > 0
            value = _like(parameter, tensor) if whole else tensor
            values.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": values, "param_groups": groups})
    return head["step"], head["best"]


def last_state(folder: Path) -> Path | None:
    """Return the folder of the newest state of a run, or None."""
    states = []
    for head in folder.glob("state*/state.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged: an older one serves
            states.append((json.loads(head.read_text())["step"], head.parent))
    return max(states)[1] if states else None


def last_good(folder: Path) -> str:
    """Say in a sentence, without its full stop, what a run that stopped can go on from."""
    state = last_state(folder)
    if state is None:
        return "No checkpoint was written yet; start again, with a lower loop.lr perhaps"
    return (
        f"The last good checkpoint is {state}: the same command goes on from there (with "
        "--loop.accept_changes true also with other settings, such as a lower loop.lr)"
    )


def read_head(folder: Path) -> dict[str, Any]:
    """Return the JSON values of the newest state of a run; empty where there is none."""
    path = last_state(folder)
    return json.loads((path / "state.json").read_text()) if path else {}


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name, as JSON has them: ``{"loop": {"lr": 1}}``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat if prefix else json.loads(json.dumps(flat, default=str))


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the names of settings that differ, by dotted name, and may not within a run.

    A setting that one side does not know is as good as off (false, 0, nothing, or in `GONE`): runs
    of a version before it was added, or taken away, go on.
    """

    changed = []
    for name in sorted(before.keys() | now.keys()):
        last = name.rpartition(".")[2]
        values = [settings[name] for settings in (before, now) if name in settings]
        if len(values) == 2:
            differs = values[0] != values[1]
        else:
            differs = bool(values[0]) and values[0] != GONE.get(last)
        if differs and last not in FREE_SETTINGS:
            changed.append(name)
    return changed


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on in a folder whose run had other settings.

    Settings that change neither the weights nor which of them are best may differ: where things
    are kept, how often a state or a line of the log is written, and so on. The number of steps may
    not: the learning rate of every step hangs on it.

    Raises:
        CheckpointMismatch: names what differs.
    """
    path = last_state(folder)
    if path is None:
        return
    before = read_head(folder)["settings"]
    differ = [
        f"{name} was {_said(before, name)}, is {_said(settings, name)}"
        for name in changed_settings(before, settings)
    ]
    if differ:
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        raise CheckpointMismatch(
            f"{path} was trained with other settings: {'; '.join(differ[:5])}{more}. Go on with "
            "those, choose another run folder, or set loop.accept_changes to go on regardless"
        )


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor whole; one spread over processes is gathered, which all must call."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(own: Tensor, whole: Tensor) -> Tensor:
    """Spread a whole tensor over the processes as `own` is."""
    if not isinstance(own, DTensor):
        return whole
    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements)


def _said(settings: dict[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not set"


def _to_disk(path: Path) -> None:
    """Force a file, or the names in a folder, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _model_tensors(model: nn.Module, average: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Name everything but the optimizer's state that a step changes."""
    tensors: dict[str, Tensor] = {
        f"model.{n}": p for n, p in model.named_parameters() if p.requires_grad
    }
    tensors |= {f"buffer.{n}": b for n, b in model.named_buffers()}
    return tensors | {f"average.{n}": t for n, t in (average or {}).items()}
