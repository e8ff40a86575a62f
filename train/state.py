"""What a training run needs to go on after an interruption: safetensors and JSON, never pickle.

Every state is a folder of its own, named by its step, which appears whole in one rename; only then
are the older ones removed. So a run that is killed at any moment leaves one that can be loaded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperasr.errors import CheckpointMismatch
from hyperasr.files import atomic_folder

__all__ = ["load_average", "load_state", "save_state"]


def save_state(
    folder: Path,
    step: int,
    best: dict[str, float],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
) -> None:
    """Write the state after `step` steps into ``folder/state-STEP``, then remove older ones."""
    tensors = _model_tensors(model, average)
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    # Older states, and what a run that was killed while writing one has left.
    old = [*folder.glob("state*"), *folder.glob(".state-*")]
    new = folder / f"state-{step:08d}"
    with atomic_folder(new) as temporary:
        # Cloned, because safetensors refuses tensors that share memory.
        save_file(
            {n: t.detach().contiguous().clone() for n, t in tensors.items()},
            temporary / "state.safetensors",
        )
        (temporary / "state.json").write_text(json.dumps({"step": step, "best": best}))
    for path in old:
        if path != new:
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
    states = _states(folder)
    if not states:
        return 0, {}
    step, path = states[-1]
    best = json.loads((path / "state.json").read_text())["best"]
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
            tensor.copy_(saved[name])
    values: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            values.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": values, "param_groups": groups})
    return step, best


def load_average(folder: Path, model: nn.Module) -> None:
    """Give `model` the averaged weights of a run that kept an average; the start of another run.

    Raises:
        CheckpointMismatch: no state in `folder`, or averaged weights that do not fit.
    """
    states = _states(folder)
    if not states:
        raise CheckpointMismatch(f"{folder} holds no state to start from; give a run folder")
    path = states[-1][1]
    saved = load_file(path / "state.safetensors")
    own = {f"average.{n}": p for n, p in model.named_parameters() if p.requires_grad}
    wrong = [n for n, p in own.items() if n not in saved or saved[n].shape != p.shape]
    if wrong:
        raise CheckpointMismatch(
            f"{path} does not fit: {wrong[0]} is missing or of another shape ({len(wrong)} in all);"
            " start from a run of the same shape that kept a moving average"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def _model_tensors(model: nn.Module, average: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Name everything but the optimizer's state that a step changes."""
    tensors: dict[str, Tensor] = {
        f"model.{n}": p for n, p in model.named_parameters() if p.requires_grad
    }
    tensors |= {f"buffer.{n}": b for n, b in model.named_buffers()}
    return tensors | {f"average.{n}": t for n, t in (average or {}).items()}


def _states(folder: Path) -> list[tuple[int, Path]]:
    """List the states of a run by step, the newest last."""
    heads = folder.glob("state*/state.json")
    return sorted((int(json.loads(head.read_text())["step"]), head.parent) for head in heads)
