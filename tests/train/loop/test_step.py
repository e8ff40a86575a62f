"""One optimiser step: what is not finite stops the run, what does not fit is cut."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hyperasr.errors import ConfigError
from train.config import LoopConfig
from train.loop.loop import TrainingStopped, fit


class Model(nn.Module):
    """Two loss terms; the second can be spoiled from outside."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Linear(3, 1)
        self.told: list[tuple[int, int]] = []
        self.after_forward: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda losses: losses

    def at_step(self, step: int, n_steps: int) -> None:
        self.told.append((step, n_steps))

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        nll = (self.layer(x)[:, 0] - y).square().mean()
        kl = 0.1 * self.layer.weight.square().sum()
        return self.after_forward({"total": nll + kl, "nll": nll, "kl": kl})


def draw(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(8, 3, generator=generator)
    return x, x.sum(1)


def split(batch: tuple[Tensor, Tensor], n: int) -> list[tuple[tuple[Tensor, Tensor], float]]:
    x, y = batch
    return [((a, b), len(a) / len(x)) for a, b in zip(x.chunk(n), y.chunk(n), strict=True)]


def train(folder: Path, model: Model, draw: Any = draw, split: Any = None, **values: Any) -> None:
    config = LoopConfig(**{"steps": 6, "save_every": 2, "log_every": 1, "lr": 0.05, **values})
    fit(
        model,
        draw,
        lambda m: {"score": 0.0},
        lambda m: None,
        config,
        folder,
        Accelerator(cpu=True),
        split=split,
    )


@pytest.mark.parametrize(
    ("term", "value", "expected"),
    [
        ("kl", math.nan, "step 3: the loss term 'kl' is nan"),
        ("nll", math.inf, "step 3: the loss term 'nll' is inf"),
        ("total", -math.inf, "step 3: the loss term 'total' is -inf"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_with_its_name(
    term: str, value: float, expected: str, tmp_path: Path
) -> None:
    model = Model()

    def spoil(losses: dict[str, Tensor]) -> dict[str, Tensor]:
        if model.told[-1][0] == 3:
            losses = {**losses, term: losses[term] * 0 + value}
            if term != "total":
                losses["total"] = losses["nll"] + losses["kl"]
        return losses

    model.after_forward = spoil
    with pytest.raises(TrainingStopped) as error:
        train(tmp_path, model)
    assert str(error.value).startswith(expected)
    assert str(tmp_path / "state-00000002") in str(error.value)
    assert "\n" not in str(error.value)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_term_that_is_not_finite_in_the_first_of_several_batches_is_found(tmp_path: Path) -> None:
    def spoiled(number: int) -> tuple[Tensor, Tensor]:
        x, y = draw(number)
        return (x, y * math.nan) if number == 3 else (x, y)  # step 1, first of three

    with pytest.raises(TrainingStopped, match=r"step 1: the loss term 'nll' is nan.*No checkpoint"):
        train(tmp_path, Model(), spoiled, accumulate=3)


def test_a_gradient_that_is_not_finite_is_named_by_its_parameter(tmp_path: Path) -> None:
    model = Model()
    model.layer.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingStopped, match=r"step 0: the gradient of layer\.bias is not finite"):
        train(tmp_path, model)


def test_the_run_can_go_on_from_the_last_good_checkpoint(tmp_path: Path) -> None:
    def broken(number: int) -> tuple[Tensor, Tensor]:
        x, y = draw(number)
        return (x, y * math.nan) if number == 3 else (x, y)

    with pytest.raises(TrainingStopped):
        train(tmp_path / "a", Model(), broken)
    resumed, whole = Model(), Model()
    train(tmp_path / "a", resumed)
    train(tmp_path / "b", whole)
    assert resumed.told[0] == (2, 6)
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    for folder in ("a", "b"):  # each step once, whatever was logged before the stop
        lines = (tmp_path / folder / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def memory_for(n_rows: int, model: Model) -> list[int]:
    """Let the model run out of memory with more rows than this; returns what it was given."""
    given: list[int] = []

    def check(module: nn.Module, args: Any) -> None:
        given.append(len(args[0][0]))
        if given[-1] > n_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_forward_pre_hook(check)
    return given


def test_a_batch_that_does_not_fit_is_cut_and_the_step_stays_the_same(
    tmp_path: Path, caplog: Any
) -> None:
    small, large = Model(), Model()
    given = memory_for(3, small)
    train(tmp_path / "small", small, split=split, clip_norm=1e9)
    train(tmp_path / "large", large, split=split, clip_norm=1e9)
    assert given[:3] == [8, 4, 2]  # whole, in two, in four parts
    assert set(given[2:]) == {2}
    assert "cut into 4 parts" in caplog.text
    torch.testing.assert_close(small.layer.weight, large.layer.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(small.layer.bias, large.layer.bias, rtol=0, atol=1e-6)
    # What was found out is remembered.
    again = Model()
    given = memory_for(3, again)
    train(tmp_path / "small", again, split=split, clip_norm=1e9, accept_changes=True, steps=8)
    assert set(given) == {2}


def test_memory_that_never_suffices_is_one_clear_error(tmp_path: Path) -> None:
    model = Model()
    memory_for(0, model)
    with pytest.raises(TrainingStopped, match="out of memory with a single utterance"):
        train(tmp_path, model, split=lambda batch, n: split(batch, min(n, 8)))


def test_memory_error_of_a_program_that_cannot_cut(tmp_path: Path) -> None:
    model = Model()
    memory_for(4, model)
    with pytest.raises(TrainingStopped, match=r"out of memory .* make the batches smaller"):
        train(tmp_path, model)
    with pytest.raises(ConfigError, match="cannot cut its batches"):
        train(tmp_path, Model(), parts=2)


def test_other_errors_pass(tmp_path: Path) -> None:
    def fails(number: int) -> Any:
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match=r"^the disk is gone$"):
        train(tmp_path, Model(), fails)


def test_the_model_is_told_where_training_is(tmp_path: Path) -> None:
    model = Model()
    train(tmp_path, model, steps=3)
    assert model.told == [(0, 3), (1, 3), (2, 3)]
