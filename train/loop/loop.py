"""The training loop, shared by every program here: Accelerate, logging, checkpoints, exact resume.

Every random choice of a step is drawn from (seed, step), so a run that was killed goes on exactly
as if nothing had happened: no generator state has to be saved. Every process draws its own batches
by number, so all of them make equally many steps by construction.

A batch that does not fit into memory is cut smaller. A value that is not finite ends the run with
its name: leaving the step out would hide it, and a moving average or the optimiser's own may have
taken it in by then.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn

from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.util.files import atomic_write_text, writing
from hyperasr.util.memory import give_back_freed
from train.config import LoopConfig
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
from train.loop.watchdog import Watchdog

_TRIM_EVERY = 16  # steps; giving back takes milliseconds
log = logging.getLogger(__name__)

_WARM_STEPS = 2
_TIMED_STEPS = 16  # two of the sampler's blocks of eight batches, short ones and long ones

Split = Callable[[Any, int], Sequence[tuple[Any, float]]]
"""(batch, n) -> n parts or fewer, each with its weight in the loss of the whole batch."""


class TrainingStopped(HyperASRError):
    """Training cannot go on as it is: a loss that is not finite, no memory, a process gone."""


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Warm-up, plateau, linear cool-down to 1 %; a factor of the peak learning rate."""
    warm = config.warmup * config.steps
    cool = config.cooldown * config.steps
    rising = min(1.0, (step + 1) / max(warm, 1.0))
    falling = min(1.0, (config.steps - step) / max(cool, 1.0))
    return rising * (0.01 + 0.99 * falling)


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
) -> dict[str, float]:
    """Train `model`, whose forward maps a batch to losses with a key ``total``.

    A model with a method ``at_step(step, n_steps)`` is told before each step where it is.

    Args:
        model: its trainable parameters have requires_grad.
        draw: batch number -> batch; must depend on nothing else. Processes take turns.
        evaluate: model -> measures; ``score`` (lower is better) chooses the best checkpoint. All
            processes call it and have to get the same, so that they can share its work.
        save_best: called with the model whenever the score improves, on the main process.
        config: the loop's settings.
        folder: run folder; an interrupted run in it goes on, a finished one returns at once.
        accelerator: of the calling program.
        settings: of the whole program as nested JSON values; a run is only gone on with by the
            same ones. None takes the loop's alone.
        split: (batch, n) -> parts with their weights, for batches that do not fit into memory.
    Returns:
        The measures of the best evaluation.
    Raises:
        TrainingStopped: a loss or gradient is not finite, no memory, or a process died.
        CheckpointMismatch: the run in `folder` had other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings or {"loop": asdict(config)}
    run = _Run(model, draw, evaluate, save_best, config, folder, accelerator, settings, split)
    try:
        with run.watchdog, run.memory:
            run.train()
    except TrainingStopped as error:
        raise TrainingStopped(f"{error}. {last_good(folder)}") from error
    except RuntimeError as error:
        if not _of_exchange(error, accelerator):
            raise
        reason = " ".join(str(error).split())[:200]
        raise TrainingStopped(
            f"process {accelerator.process_index}: another process of this run has stopped "
            f"({reason}). {last_good(folder)}"
        ) from error
    accelerator.wait_for_everyone()
    return run.best


@dataclass
class _Run:
    """A model with its optimiser, average and best measures, restored from the run folder."""

    model: nn.Module
    draw: Callable[[int], Any]
    evaluate: Callable[[nn.Module], dict[str, float]]
    save_best: Callable[[nn.Module], None]
    config: LoopConfig
    folder: Path
    accelerator: Accelerator
    settings: dict[str, Any]
    split: Split | None

    def __post_init__(self) -> None:
        model, config, folder, accelerator = self.model, self.config, self.folder, self.accelerator
        rank, n_processes = accelerator.process_index, accelerator.num_processes
        self.watchdog = Watchdog(config.watchdog_s, folder, rank, n_processes)
        self.memory = PeakMemory()
        self.settings = flat_settings(self.settings)
        self.settings["batches a step"] = config.accumulate * n_processes
        if not config.accept_changes:
            check_settings(folder, self.settings)
        # Weights spread over processes (FSDP) serve training only; a whole copy is evaluated.
        spread = _is_spread(accelerator)
        self.whole = copy.deepcopy(model).to(accelerator.device) if spread else None
        groups = by_learning_rate(model)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.trained = dict(_trained(model))
        # Exponential moving average of the trained weights.
        self.average: dict[str, Tensor] | None = None
        if config.ema:
            self.average = {n: p.detach().clone() for n, p in self.trained.items()}
        head = read_head(folder)
        self.parts = max(config.parts, head.get("parts", 1))
        if self.parts > 1 and self.split is None:
            raise ConfigError(
                f"parts is {self.parts}, but this program cannot cut its batches; set 1"
            )
        self._exchanging, self._most_pieces = False, 1
        self.start, self.best = load_state(folder, model, self.optimizer, self.average)
        if accelerator.is_main_process:
            remove_older(folder)
            _trim_log(folder / "log.jsonl", self.start)
            if self.start and head["settings"] != self.settings:
                log.info("going on from step %d with settings that differ", self.start)

    def train(self) -> None:
        """Make the steps that are left."""
        config = self.config
        at_step = getattr(self.model, "at_step", None)
        started = time.monotonic()
        for step in range(self.start, config.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = config.lr * group["scale"] * learning_rate_factor(step, config)
            self.wrapped.train()
            if at_step is not None:
                at_step(step, config.steps)
            losses, norm = self._gradient(step)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._update_average(step)
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
                self._report(done, losses, norm, {"step_s": step_s, **self.memory.measured()})
            if done % config.eval_every == 0 or last:
                self.watchdog.stage(f"step {done}: evaluate")
                self._evaluate(done)
            if done % config.save_every == 0 or last:
                self.watchdog.stage(f"step {done}: save the state")
                self._save(done)

    def _gradient(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Leave the clipped gradient of step `step` in the parameters.

        Returns:
            The losses by name, mean over this process's batches, and the norm before clipping.
        Raises:
            TrainingStopped: a loss or the gradient is not finite, or memory does not suffice.
        """
        while True:
            try:
                losses = self._accumulated(step)
                break
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            # Outside the handler, which keeps every tensor of the failed attempt alive.
            self._make_room(step, reason)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        sums = torch.stack([value.float() for loss in losses for value in loss.values()]).sum()
        if not bool(torch.isfinite(full_tensor(norm) + sums)):
            raise TrainingStopped(f"step {step}: {self._not_finite(losses)}")
        torch.nn.utils.clip_grads_with_norm_(self.trained.values(), self.config.clip_norm, norm)
        means = {n: torch.stack([loss[n] for loss in losses]).sum(0) for n in losses[0]}
        return means, full_tensor(norm)

    def _accumulated(self, step: int) -> list[dict[str, Tensor]]:
        """Forward and backward of every batch of the step; losses weighted as they count."""
        rank, n_processes = self.accelerator.process_index, self.accelerator.num_processes
        torch.manual_seed(hash((self.config.seed, step, rank)) % 2**31)
        accumulate = self.config.accumulate
        losses = []
        for micro in range(accumulate):
            self.watchdog.stage(f"step {step}: draw a batch")
            batch = self.draw((step * accumulate + micro) * n_processes + rank)
            pieces: Sequence[tuple[Any, float]] = [(batch, 1.0)]
            if self.parts > 1 and self.split is not None:
                pieces = self.split(batch, self.parts)
            self._most_pieces = max(self._most_pieces, len(pieces))
            self.watchdog.stage(f"step {step}: forward and backward")
            for index, (piece, share) in enumerate(pieces):
                last = micro == accumulate - 1 and index == len(pieces) - 1
                # Processes exchange gradients once a step, in its last backward pass.
                with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                    terms = self.wrapped(piece)
                    weight = share / accumulate
                    self._exchanging = last and n_processes > 1
                    self.accelerator.backward(terms["total"] * weight)
                    self._exchanging = False
                losses.append({n: value.detach() * weight for n, value in terms.items()})
        return losses

    def _make_room(self, step: int, reason: str) -> None:
        """Cut batches in half as many utterances; the step itself stays what it was."""
        if self.split is None:
            raise TrainingStopped(
                f"step {step}: out of memory ({reason}); make the batches smaller and accumulate "
                "more of them"
            )
        if self._exchanging:
            raise TrainingStopped(
                f"step {step}: process {self.accelerator.process_index} ran out of memory while "
                f"gradients were exchanged ({reason}); start again with --loop.parts "
                f"{2 * self.parts}, which goes on from the last state"
            )
        if self._most_pieces < self.parts:
            raise TrainingStopped(
                f"step {step}: out of memory with a single utterance ({reason}); leave out long "
                "recordings or take a smaller model"
            )
        self.parts *= 2
        log.warning(
            "step %d: out of memory; every batch is now cut into %d parts, whose gradients add up "
            "to the same step",
            step,
            self.parts,
        )
        for parameter in self.trained.values():
            parameter.grad = None
        clear_device_cache(garbage_collection=True)

    def _not_finite(self, losses: list[dict[str, Tensor]]) -> str:
        """Name the first loss that is not finite, or the parameter whose gradient is not."""
        rank = self.accelerator.process_index
        where = f" in process {rank}" if self.accelerator.num_processes > 1 else ""
        for loss in losses:
            wrong = [n for n, value in loss.items() if not bool(torch.isfinite(value))]
            if wrong:
                # The total is what the others add up to, so it is rarely the cause.
                name = next((n for n in wrong if n != "total"), "total")
                return f"the loss term {name!r} is {float(loss[name])}{where}"
        for name, parameter in self.trained.items():
            if parameter.grad is not None and not bool(
                torch.isfinite(full_tensor(parameter.grad)).all()
            ):
                return f"the gradient of {name} is not finite, though all losses{where} are"
        return f"the norm of the gradient is not finite{where}"

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        """Move the average towards the present weights; faster in the first steps."""
        decay = min(self.config.ema, (1 + step) / (10 + step))
        for name, weight in (self.average or {}).items():
            weight.lerp_(self.trained[name].detach(), 1 - decay)

    def _report(
        self, step: int, losses: dict[str, Tensor], norm: Tensor, cost: dict[str, float]
    ) -> None:
        """Log the losses of the step, mean over all processes."""
        accelerator = self.accelerator
        stacked = torch.stack([value.float() for value in losses.values()]).to(accelerator.device)
        means = accelerator.reduce(stacked, reduction="mean").tolist()  # type: ignore[union-attr]
        values = dict(zip(losses, means, strict=True)) | {"grad_norm": float(norm), **cost}
        accelerator.log({f"train/{k}": v for k, v in values.items()}, step=step)
        if accelerator.is_main_process:
            log.info("step %d: %s", step, _line(values))
            path = self.folder / "log.jsonl"
            with writing(path), path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

    def _evaluate(self, step: int) -> None:
        """Evaluate, and keep the model if it is the best so far."""
        model = self._candidate()
        model.eval()
        measures = self.evaluate(model)
        self.accelerator.log({f"dev/{k}": v for k, v in measures.items()}, step=step)
        log.info("step %d: dev %s", step, _line(measures))
        if measures["score"] < self.best.get("score", math.inf):  # NaN is never the best
            if self.accelerator.is_main_process:
                self.save_best(model)
            self.best = {**measures, "step": step}
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def _candidate(self) -> nn.Module:
        """Return the model to evaluate: whole, on this process, with the averaged weights."""
        if self.whole is None and self.average is None:
            return self.model
        model = copy.deepcopy(self.model) if self.whole is None else self.whole
        source = self.average or self.trained
        for name, parameter in _trained(model):
            parameter.copy_(full_tensor(source[name]))
        return model

    def _save(self, step: int) -> None:
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
                notes={"settings": self.settings, "parts": self.parts},
                writes=main,
            )


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


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


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
