"""The training loop, shared by every program here: Accelerate, logging, checkpoints, exact resume.

Every random choice of a step is drawn from (seed, step), so a run that was killed goes on exactly
as if nothing had happened: no generator state has to be saved. Every process draws its own batches
by number, so all of them make equally many steps by construction.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from hyperasr.errors import ConfigError
from hyperasr.util.files import atomic_write_text, writing
from hyperasr.util.memory import give_back_freed
from train.loop.memory import PeakMemory
from train.loop.state import (
    check_settings,
    flat_settings,
    full_tensor,
    last_good,
    load_state,
    read_head,
    remove_older,
    save_state,
)
from train.loop.step import Split, Stepper, TrainingStopped
from train.loop.watchdog import Watchdog

_TRIM_EVERY = 16  # steps; giving back takes milliseconds
_WARM_STEPS = 2
_TIMED_STEPS = 16  # two of the sampler's blocks of eight batches, short ones and long ones
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int = 4_000
    """Optimiser steps, at least 1."""
    lr: float = 1e-3
    """Peak learning rate, above 0."""
    warmup: float = 0.05
    """Share of the steps with rising learning rate, in [0, 1)."""
    cooldown: float = 0.5
    """Share of the steps at the end in which the learning rate falls to 1 %, in [0, 1]."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, at least 0."""
    clip_norm: float = 1.0
    """Largest gradient norm, above 0."""
    accumulate: int = 1
    """Batches a step and process, at least 1."""
    parts: int = 1
    """Parts that each batch is cut into to fit into memory, at least 1; doubled where memory runs
    out. The gradient is that of the whole batch."""
    ema: float = 0.0
    """Decay of the moving average of the weights, in [0, 1); 0 for none."""
    eval_every: int = 500
    """Steps between evaluations; the best checkpoint is kept."""
    save_every: int = 250
    """Steps between checkpoints to resume from."""
    log_every: int = 50
    """Steps between lines of the log."""
    seed: int = 0
    """Seed of every random choice."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Arithmetic of forward and backward; weights stay in float32."""
    tracker: str = "tensorboard"
    """Where measures go besides the log: a tracker that Accelerate knows by name, or ``none``."""
    watchdog_s: float = 1_800.0
    """Longest time in one stage of a step, in seconds, before it counts as a hang, at least 0; 0
    for none. One process then writes where it is and goes on, one of several ends."""
    accept_changes: bool = False
    """Go on in a run folder whose run had other settings, which is otherwise refused."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "parts", "eval_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if not 0 <= self.cooldown <= 1:
            raise ConfigError(f"cooldown is {self.cooldown}; it must be in [0, 1]")
        for name in ("weight_decay", "watchdog_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.mixed_precision not in ("no", "bf16"):
            raise ConfigError(f"mixed_precision is {self.mixed_precision!r}; give 'no' or 'bf16'")


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Warm-up, plateau, linear cool-down to 1 %; a factor of the peak learning rate."""
    warm = config.warmup * config.steps
    cool = config.cooldown * config.steps
    rising = min(1.0, (step + 1) / max(warm, 1.0))
    falling = min(1.0, (config.steps - step) / max(cool, 1.0))
    return rising * (0.01 + 0.99 * falling)


class Averager:
    """Exponential moving average of the trained weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the present weights; faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in _trained(model):
            self.weights[name].lerp_(parameter.detach(), 1 - decay)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def fit(
    model: nn.Module,
    draw: Callable[[int], Any],
    evaluate: Callable[[nn.Module], dict[str, float]],
    save_best: Callable[[nn.Module], None],
    config: LoopConfig,
    folder: Path,
    accelerator: Accelerator,
    *,
    settings: dict[str, Any] | None = None,
    split: Split | None = None,
    together: bool = False,
) -> dict[str, float]:
    """Train `model`, whose forward maps a batch to losses with a key ``total``.

    A model with a method ``at_step(step, n_steps)`` is told before each step where it is.

    Args:
        model: its trainable parameters have requires_grad.
        draw: batch number -> batch; must depend on nothing else. Processes take turns.
        evaluate: model -> measures; ``score`` (lower is better) chooses the best checkpoint.
        save_best: called with the model whenever the score improves, on the main process.
        config: the loop's settings.
        folder: run folder; an interrupted run in it goes on, a finished one returns at once.
        accelerator: of the calling program.
        settings: of the whole program as nested JSON values; a run is only gone on with by the
            same ones. None takes the loop's alone.
        split: (batch, n) -> parts with their weights, for batches that do not fit into memory.
        together: `evaluate` shares the work among the processes: all call it and get the same.
    Returns:
        The measures of the best evaluation.
    Raises:
        TrainingStopped: a loss or gradient is not finite, no memory, or a process died.
        CheckpointMismatch: the run in `folder` had other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(model, evaluate, save_best, config, folder, accelerator, settings, together)
    rank, n_processes = accelerator.process_index, accelerator.num_processes
    with Watchdog(config.watchdog_s, folder, rank, n_processes) as watchdog, run.memory:
        stepper = Stepper(
            run.wrapped,
            dict(_trained(model)),
            draw,
            split,
            accelerator,
            watchdog,
            accumulate=config.accumulate,
            parts=run.parts,
            seed=config.seed,
        )
        try:
            run.train(stepper, watchdog)
        except TrainingStopped as error:
            raise TrainingStopped(f"{error}. {last_good(folder)}") from error
        except RuntimeError as error:
            if not _of_exchange(error, accelerator):
                raise
            reason = " ".join(str(error).split())[:200]
            raise TrainingStopped(
                f"process {rank}: another process of this run has stopped ({reason}). "
                f"{last_good(folder)}"
            ) from error
    accelerator.wait_for_everyone()
    return run.best


class _Run:
    """A model with its optimiser, average and best measures, restored from the run folder."""

    def __init__(
        self,
        model: nn.Module,
        evaluate: Callable[[nn.Module], dict[str, float]],
        save_best: Callable[[nn.Module], None],
        config: LoopConfig,
        folder: Path,
        accelerator: Accelerator,
        settings: dict[str, Any] | None,
        together: bool,
    ) -> None:
        self.model, self.config, self.folder = model, config, folder
        self.evaluate, self.save_best = evaluate, save_best
        self.evaluates = together or accelerator.is_main_process
        self.accelerator, self.memory = accelerator, PeakMemory()
        self.settings = flat_settings(settings or {"loop": asdict(config)})
        self.settings["batches a step"] = config.accumulate * accelerator.num_processes
        if not config.accept_changes:
            check_settings(folder, self.settings)
        # Weights spread over processes (FSDP) serve training only; a whole copy is evaluated.
        spread = _is_spread(accelerator)
        self.whole = copy.deepcopy(model).to(accelerator.device) if spread else None
        groups = by_learning_rate(model)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.averager = Averager(model, config.ema) if config.ema else None
        self.average = self.averager.weights if self.averager else None
        head = read_head(folder)
        self.parts = max(config.parts, head.get("parts", 1))
        self.start, self.best = load_state(folder, model, self.optimizer, self.average)
        if accelerator.is_main_process:
            remove_older(folder)
            _trim_log(folder / "log.jsonl", self.start)
            if self.start and head.get("settings") not in (None, self.settings):
                log.info("going on from step %d with settings that differ", self.start)

    def train(self, stepper: Stepper, watchdog: Watchdog) -> None:
        """Make the steps that are left."""
        config, accelerator = self.config, self.accelerator
        at_step = getattr(self.model, "at_step", None)
        started = time.monotonic()
        for step in range(self.start, config.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = config.lr * group["scale"] * learning_rate_factor(step, config)
            self.wrapped.train()
            if at_step is not None:
                at_step(step, config.steps)
            losses, norm = stepper.gradient(step, config.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.averager:
                self.averager.update(self.model, step)
            done, last = step + 1, step + 1 == config.steps
            if done - self.start == _WARM_STEPS:
                warm = time.monotonic()
            elif done - self.start == _WARM_STEPS + _TIMED_STEPS:
                step_s = (time.monotonic() - warm) / _TIMED_STEPS
                left = config.steps - done
                log.info(
                    "a step takes %.2f s: the %d that are left take about %.0f minutes, and their "
                    "%d evaluations what each takes",
                    step_s,
                    left,
                    left * step_s / 60,
                    config.steps // config.eval_every - done // config.eval_every,
                )
            if done % _TRIM_EVERY == 0:
                give_back_freed()
            if done % config.log_every == 0:
                step_s = (time.monotonic() - started) / (done - self.start)
                cost = {"step_s": step_s, **self.memory.measured()}
                _report(accelerator, self.folder, done, losses, norm, cost)
            if done % config.eval_every == 0 or last:
                watchdog.stage(f"step {done}: evaluate", timed=self.evaluates)
                self._evaluate(done)
            if done % config.save_every == 0 or last:
                watchdog.stage(f"step {done}: save the state")
                self._save(done, stepper.parts)

    def _evaluate(self, step: int) -> None:
        """Evaluate, and keep the model if it is the best so far."""
        accelerator = self.accelerator
        model = self._candidate() if self.evaluates or self.whole is not None else self.model
        if self.evaluates:
            model.eval()
            measures = self.evaluate(model)
            accelerator.log({f"dev/{k}": v for k, v in measures.items()}, step=step)
            log.info("step %d: dev %s", step, _line(measures))
            if measures["score"] < self.best.get("score", math.inf):  # NaN is never the best
                if accelerator.is_main_process:
                    self.save_best(model)
                self.best = {**measures, "step": step}
        accelerator.wait_for_everyone()

    @torch.no_grad()
    def _candidate(self) -> nn.Module:
        """Return the model to evaluate: whole, on this process, with the averaged weights."""
        if self.whole is None and self.average is None:
            return self.model
        model = copy.deepcopy(self.model) if self.whole is None else self.whole
        source = self.average or dict(_trained(self.model))
        for name, parameter in _trained(model):
            parameter.copy_(full_tensor(source[name]))
        return model

    def _save(self, step: int, parts: int) -> None:
        """Write the state; where weights are spread over processes, all of them take part."""
        main = self.accelerator.is_main_process
        if main or self.whole is not None:
            save_state(
                self.folder,
                step,
                self.best,
                self.model,
                self.optimizer,
                self.average,
                notes={"settings": self.settings, "parts": parts},
                writes=main,
            )


def by_learning_rate(model: nn.Module) -> list[dict[str, Any]]:
    """Group the trained parameters by the ``scale`` of their learning rate, which the model names.

    A model that names none has one group of scale 1.
    """
    scales = getattr(model, "learning_rate_scales", dict)()
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in _trained(model):
        groups.setdefault(scales.get(name, 1.0), []).append(parameter)
    return [{"params": group, "scale": scale} for scale, group in groups.items()]


def _is_spread(accelerator: Accelerator) -> bool:
    """Whether weights are spread over processes, in the one way that this loop can save.

    Raises:
        ConfigError: DeepSpeed, or FSDP of version 1.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ConfigError("DeepSpeed has an optimiser of its own; use DDP, or FSDP of version 2")
    if plugin is not None and plugin.fsdp_version != 2:
        raise ConfigError(
            "FSDP of version 1 hides weights behind flat ones; set fsdp_version to 2, as in "
            "train/configs/accelerate_fsdp.yaml"
        )
    return plugin is not None


def _of_exchange(error: RuntimeError, accelerator: Accelerator) -> bool:
    """Whether an error came from a call that other processes take part in."""
    words = ("gloo", "nccl", "connection", "socket", "timed out", "tcpstore")
    return accelerator.num_processes > 1 and any(w in str(error).lower() for w in words)


def _report(
    accelerator: Accelerator,
    folder: Path,
    step: int,
    losses: dict[str, Tensor],
    norm: Tensor,
    cost: dict[str, float],
) -> None:
    """Log the losses of the step, mean over all processes."""
    stacked = torch.stack([value.float() for value in losses.values()]).to(accelerator.device)
    means = accelerator.reduce(stacked, reduction="mean").tolist()  # type: ignore[union-attr]
    values = dict(zip(losses, means, strict=True)) | {"grad_norm": float(norm), **cost}
    accelerator.log({f"train/{k}": v for k, v in values.items()}, step=step)
    if accelerator.is_main_process:
        log.info("step %d: %s", step, _line(values))
        path = folder / "log.jsonl"
        with writing(path), path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _trim_log(path: Path, step: int) -> None:
    """Drop the lines of steps that an interrupted run made after its last state."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        atomic_write_text(path, "".join(kept))


def _line(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
