"""One optimiser step: gradients of its batches, cut smaller where memory runs out, all finite.

A value that is not finite ends the run with its name. Leaving the step out would hide it, and a
moving average or the optimiser's own may have taken it in by then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn

from hyperasr.errors import ConfigError, HyperASRError
from train.loop.state import full_tensor
from train.loop.watchdog import Watchdog

log = logging.getLogger(__name__)

Split = Callable[[Any, int], Sequence[tuple[Any, float]]]
"""(batch, n) -> n parts or fewer, each with its weight in the loss of the whole batch."""


class TrainingStopped(HyperASRError):
    """Training cannot go on as it is: a loss that is not finite, no memory, a process gone."""


class Stepper:
    """Computes the gradient of a step.

    Args:
        wrapped: the model as Accelerate prepared it.
        named: its trained parameters by name.
        draw: batch number -> batch.
        split: cuts a batch where memory runs out; None where batches cannot be cut.
        accelerator: of the program.
        watchdog: told what goes on.
        accumulate: batches a step and process.
        parts: parts each batch is cut into, at least 1; doubled where memory runs out.
        seed: of dropout and everything else that is drawn in a step.
    """

    def __init__(
        self,
        wrapped: nn.Module,
        named: dict[str, nn.Parameter],
        draw: Callable[[int], Any],
        split: Split | None,
        accelerator: Accelerator,
        watchdog: Watchdog,
        *,
        accumulate: int,
        parts: int,
        seed: int,
    ) -> None:
        if parts > 1 and split is None:
            raise ConfigError(f"parts is {parts}, but this program cannot cut its batches; set 1")
        self.wrapped, self.named, self.draw, self.split = wrapped, named, draw, split
        self.accelerator, self.watchdog = accelerator, watchdog
        self.accumulate, self.parts, self.seed = accumulate, parts, seed
        self._exchanging = False
        self._most_pieces = 1

    def gradient(self, step: int, clip_norm: float) -> tuple[dict[str, Tensor], Tensor]:
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
        gradients = [p.grad for p in self.named.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        sums = torch.stack([value.float() for loss in losses for value in loss.values()]).sum()
        if not bool(torch.isfinite(full_tensor(norm) + sums)):
            raise TrainingStopped(f"step {step}: {self._not_finite(losses)}")
        torch.nn.utils.clip_grads_with_norm_(self.named.values(), clip_norm, norm)
        means = {n: torch.stack([loss[n] for loss in losses]).sum(0) for n in losses[0]}
        return means, full_tensor(norm)

    def _accumulated(self, step: int) -> list[dict[str, Tensor]]:
        """Forward and backward of every batch of the step; losses weighted as they count."""
        rank, n_processes = self.accelerator.process_index, self.accelerator.num_processes
        torch.manual_seed(hash((self.seed, step, rank)) % 2**31)
        losses = []
        for micro in range(self.accumulate):
            self.watchdog.stage(f"step {step}: draw a batch")
            batch = self.draw((step * self.accumulate + micro) * n_processes + rank)
            pieces: Sequence[tuple[Any, float]] = [(batch, 1.0)]
            if self.parts > 1 and self.split is not None:
                pieces = self.split(batch, self.parts)
            self._most_pieces = max(self._most_pieces, len(pieces))
            self.watchdog.stage(f"step {step}: forward and backward")
            for index, (piece, share) in enumerate(pieces):
                last = micro == self.accumulate - 1 and index == len(pieces) - 1
                # Processes exchange gradients once a step, in its last backward pass.
                with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                    terms = self.wrapped(piece)
                    weight = share / self.accumulate
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
        for parameter in self.named.values():
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
        for name, parameter in self.named.items():
            if parameter.grad is not None and not bool(
                torch.isfinite(full_tensor(parameter.grad)).all()
            ):
                return f"the gradient of {name} is not finite, though all losses{where} are"
        return f"the norm of the gradient is not finite{where}"


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
