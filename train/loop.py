"""The training loop, shared by every program here: Accelerate, logging, checkpoints, exact resume.

Every random choice of a step is drawn from (seed, step), so a run that was killed goes on exactly
as if nothing had happened: no generator state has to be saved.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hyperasr.errors import ConfigError
from train.state import load_state, save_state

__all__ = ["LoopConfig", "fit"]

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
    """Batches a step, at least 1."""
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

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "eval_every", "save_every", "log_every"):
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
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}; it must be at least 0")


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

    def applied_to(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` with the averaged weights."""
        averaged = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in _trained(averaged):
                parameter.copy_(self.weights[name])
        return averaged


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
) -> dict[str, float]:
    """Train `model`, whose forward maps a batch to losses with a key ``total``.

    Args:
        model: its trainable parameters have requires_grad.
        draw: batch number -> batch; must depend on nothing else. Processes take turns.
        evaluate: model -> measures; ``score`` (lower is better) chooses the best checkpoint.
        save_best: called with the model whenever the score improves, on the main process.
        config: the loop's settings.
        folder: run folder; an interrupted run in it goes on, a finished one returns at once.
        accelerator: of the calling program.
    Returns:
        The measures of the best evaluation.
    """
    # First, so that optimiser and average find the weights on their device.
    wrapped = accelerator.prepare(model)
    parameters = [p for _, p in _trained(model)]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    averager = Averager(model, config.ema) if config.ema else None
    average = averager.weights if averager else None
    start, best = load_state(folder, model, optimizer, average)
    n_processes, rank = accelerator.num_processes, accelerator.process_index
    started, seen = time.monotonic(), 0
    for step in range(start, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate_factor(step, config)
        wrapped.train()
        torch.manual_seed(hash((config.seed, step, rank)) % 2**31)
        for micro in range(config.accumulate):
            number = (step * config.accumulate + micro) * n_processes + rank
            losses = wrapped(draw(number))
            accelerator.backward(losses["total"] / config.accumulate)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        if torch.isfinite(norm):
            optimizer.step()
        else:
            log.warning("step %d: the gradient is not finite; the step is left out", step)
        optimizer.zero_grad(set_to_none=True)
        if averager:
            averager.update(model, step)
        done, seen = step + 1, seen + 1
        if done % config.log_every == 0:
            _report(accelerator, folder, done, losses, norm, (time.monotonic() - started) / seen)
        if accelerator.is_main_process:
            if done % config.eval_every == 0 or done == config.steps:
                candidate = averager.applied_to(model) if averager else model
                best = _evaluated(candidate, evaluate, save_best, best, done, accelerator)
            if done % config.save_every == 0 or done == config.steps:
                save_state(folder, done, best, model, optimizer, average)
    accelerator.wait_for_everyone()
    return best


def _evaluated(
    model: nn.Module,
    evaluate: Callable[[nn.Module], dict[str, float]],
    save_best: Callable[[nn.Module], None],
    best: dict[str, float],
    step: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Evaluate, keep the model if it is the best so far, and return the best measures."""
    model.eval()
    measures = evaluate(model)
    accelerator.log({f"dev/{k}": v for k, v in measures.items()}, step=step)
    log.info("step %d: dev %s", step, _line(measures))
    if not measures["score"] < best.get("score", math.inf):  # NaN is never the best
        return best
    save_best(model)
    return {**measures, "step": step}


def _report(
    accelerator: Accelerator,
    folder: Path,
    step: int,
    losses: dict[str, Tensor],
    norm: Tensor,
    step_s: float,
) -> None:
    values = {name: float(value.detach()) for name, value in losses.items()}
    values |= {"grad_norm": float(norm), "step_s": step_s}
    accelerator.log({f"train/{k}": v for k, v in values.items()}, step=step)
    if accelerator.is_main_process:
        log.info("step %d: %s", step, _line(values))
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _line(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
