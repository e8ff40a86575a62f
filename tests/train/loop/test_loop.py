"""The training loop: exact resume, skipped steps, the best checkpoint, several processes."""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperasr.errors import CheckpointMismatch, ConfigError
from train.config import LoopConfig
from train.loop import loop, state
from train.loop.loop import fit, learning_rate_factor
from train.loop.state import load_state, save_state


class Model(nn.Module):
    """A few weights, dropout, a frozen part and a running statistic."""

    def __init__(self, dropout: float = 0.3, width: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.frozen = nn.Linear(3, width).requires_grad_(False)
            self.hidden = nn.Linear(width, 5)
            self.last = nn.Linear(5, 1)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        if self.training:
            self.seen += x.mean()
        out = self.last(self.dropout(torch.tanh(self.hidden(self.frozen(x)))))
        loss = (out[:, 0] - y).square().mean()
        return {"total": loss, "mse": loss}


def draw(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(6, 3, generator=generator)
    return x, x.sum(1)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the loop catches it."""


def evaluate(model: nn.Module) -> dict[str, float]:
    """Error on fixed data; consumes random numbers, as decoding might."""
    torch.rand(3)
    assert not model.training
    with torch.no_grad():
        return {"score": float(model(draw(10**6))["total"])}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def train(
    folder: Path,
    config: LoopConfig,
    model: Model | None = None,
    draw: Callable[[int], Any] = draw,
    evaluate: Callable[[nn.Module], dict[str, float]] = evaluate,
) -> tuple[Model, dict[str, float], list[dict[str, Tensor]]]:
    """Run the loop; returns the model, the best measures and each best model's weights."""
    folder.mkdir(exist_ok=True)
    model, best_models = model or Model(), []
    best = fit(
        model,
        draw,
        evaluate,
        lambda m: best_models.append(weights(m)),
        config,
        folder,
        Accelerator(cpu=True),
    )
    return model, best, best_models


LONG = LoopConfig(
    steps=23, accumulate=2, ema=0.9, eval_every=5, save_every=3, log_every=1000, lr=0.05
)


def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(tmp_path: Path) -> None:
    whole, best, best_models = train(tmp_path / "whole", LONG)
    rng = random.Random(0)
    kills = sorted(rng.sample(range(1, 2 * 23), 5))
    folder = tmp_path / "killed"
    last_of_killed: list[dict[str, Tensor]] = []
    for kill in kills:

        def draw_or_die(number: int, kill: int = kill) -> Any:
            if number == kill:
                raise Killed
            return draw(number)

        folder.mkdir(exist_ok=True)
        torch.rand(rng.randrange(5))  # another random state than the run before
        with pytest.raises(Killed):
            fit(
                Model(),
                draw_or_die,
                evaluate,
                lambda m: last_of_killed.append(weights(m)),
                LONG,
                folder,
                Accelerator(cpu=True),
            )
    resumed, resumed_best, more = train(folder, LONG)
    assert_equal(weights(resumed), weights(whole))
    assert_equal([*last_of_killed, *more][-1], best_models[-1])
    assert resumed_best == best
    # A finished run returns at once, with the finished weights.
    again, again_best, none = train(folder, LONG, draw=lambda number: 1 / 0)
    assert_equal(weights(again), weights(whole))
    assert (again_best, none) == (best, [])


def assert_equal(own: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert own.keys() == other.keys()
    for name, value in own.items():
        assert torch.equal(value, other[name]), name


def test_what_makes_the_resume_exact_is_needed(tmp_path: Path) -> None:
    # Else the test above could not fail: dropout, the average and the optimizer all matter.
    whole = weights(train(tmp_path / "a", LONG)[0])
    for name, config in {
        "seed": LoopConfig(**{**vars(LONG), "seed": 1}),
        "accumulate": LoopConfig(**{**vars(LONG), "accumulate": 1}),
    }.items():
        other = weights(train(tmp_path / name, config)[0])
        assert not torch.equal(whole["last.weight"], other["last.weight"]), name
    averaged = train(tmp_path / "b", LONG)[2][-1]
    assert not torch.equal(averaged["last.weight"], whole["last.weight"])


def test_accumulation_is_one_large_batch(tmp_path: Path) -> None:
    def joined(number: int) -> tuple[Tensor, Tensor]:
        x, y = zip(draw(2 * number), draw(2 * number + 1), strict=True)
        return torch.cat(x), torch.cat(y)

    a = LoopConfig(steps=5, accumulate=2, lr=0.01)
    b = LoopConfig(steps=5, accumulate=1, lr=0.01)
    small, _, _ = train(tmp_path / "a", a, Model(dropout=0.0))
    large, _, _ = train(tmp_path / "b", b, Model(dropout=0.0), joined)
    for name, value in small.named_parameters():
        torch.testing.assert_close(value, large.get_parameter(name), rtol=0, atol=1e-6)


def test_only_what_is_trained_moves(tmp_path: Path) -> None:
    model, _, _ = train(tmp_path, LoopConfig(steps=3))
    assert_equal(weights(model.frozen), weights(Model().frozen))
    assert not torch.equal(model.hidden.weight, Model().hidden.weight)


@pytest.mark.parametrize(
    ("step", "warmup", "cooldown", "factor"),
    [
        *((s, 0.1, 0.25, f) for s, f in ((0, 0.25), (1, 0.5), (3, 1.0), (29, 1.0), (30, 1.0))),
        *((s, 0.1, 0.25, f) for s, f in ((35, 0.505), (39, 0.109))),
        *((s, 0.0, 0.0, 1.0) for s in (0, 39)),
    ],
)
def test_learning_rate(step: int, warmup: float, cooldown: float, factor: float) -> None:
    config = LoopConfig(steps=40, warmup=warmup, cooldown=cooldown)
    assert learning_rate_factor(step, config) == pytest.approx(factor)


def test_the_learning_rate_is_the_one_used(tmp_path: Path) -> None:
    # AdamW's first step moves every weight by its learning rate, which the model may scale.
    class Scaled(Model):
        def learning_rate_scales(self) -> dict[str, float]:
            return {"last.weight": 0.25}

    config = LoopConfig(steps=4, warmup=0.5, lr=0.01, weight_decay=0.0, save_every=1)

    def one_step(number: int) -> tuple[Tensor, Tensor]:
        if number:
            raise Killed
        return draw(number)

    with pytest.raises(Killed):
        train(tmp_path, config, Scaled(dropout=0.0), one_step)
    (saved,) = tmp_path.glob("state*/state.safetensors")
    for name, scale in (("last.weight", 0.25), ("last.bias", 1.0), ("hidden.weight", 1.0)):
        moved = load_file(saved)[f"model.{name}"] - Model().get_parameter(name).detach()
        expected = torch.full_like(moved, 0.01 * scale * learning_rate_factor(0, config))
        torch.testing.assert_close(moved.abs(), expected, rtol=1e-3, atol=0)


def test_what_is_left_is_estimated_from_measured_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(number: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.6 if number < 2 else 0.02)  # the first steps take longer, as on any machine
        return draw(number)

    config = LoopConfig(steps=30, eval_every=10, save_every=30, log_every=1000)
    with caplog.at_level(logging.INFO):
        train(tmp_path, config, draw=slow)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("a step takes")]
    assert "the 12 that are left" in line
    assert line.endswith("their 2 evaluations what each takes")
    assert 0.02 <= float(line.split()[3]) <= 0.1


def test_the_best_checkpoint_is_the_lowest_score(tmp_path: Path) -> None:
    scores = iter([0.5, float("nan"), 0.3, 0.3, 0.4])
    model = Model()
    at: list[int] = []
    step = 0

    def scripted(_: nn.Module) -> dict[str, float]:
        nonlocal step
        step += 2
        return {"score": next(scores), "extra": float(step)}

    best = fit(
        model,
        draw,
        scripted,
        lambda m: at.append(step),
        LoopConfig(steps=10, eval_every=2),
        tmp_path,
        Accelerator(cpu=True),
    )
    assert at == [2, 6]
    assert best == {"score": 0.3, "extra": 6.0, "step": 6}


def test_the_last_step_is_evaluated_and_saved(tmp_path: Path) -> None:
    _, best, models = train(tmp_path, LoopConfig(steps=3, eval_every=100, save_every=100))
    assert best["step"] == 3
    assert len(models) == 1
    assert [p.name for p in tmp_path.glob("state*")] == ["state-00000003"]


def test_a_run_folder_holds_no_pickle(tmp_path: Path) -> None:
    train(tmp_path, LoopConfig(steps=4, ema=0.9, log_every=2, save_every=2))
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == [
        "log.jsonl",
        "state-00000004/state.json",
        "state-00000004/state.safetensors",
    ]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert {"total", "mse", "grad_norm", "step_s"} <= lines[0].keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"cooldown": 1.5}, "cooldown is 1.5"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"ema": 1.0}, "ema is 1.0"),
    ],
)
def test_impossible_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoopConfig(**values)


# States


def stepped(n_steps: int) -> tuple[Model, torch.optim.Optimizer]:
    model = Model(dropout=0.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for number in range(n_steps):
        model(draw(number))["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def unlink_one(path: Path, **_: Any) -> None:
    for file in list(Path(path).glob("*"))[:1]:
        file.unlink()


class Kill:
    """Patches what writes a state so that its n-th action dies half done and nothing follows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left, self.dead = at, False
        for owner, name, half in (
            (state, "save_file", lambda tensors, path: save_file({}, path)),
            (Path, "mkdir", lambda path, **_: None),
            (Path, "write_text", lambda path, text: path.write_bytes(b"{")),
            (shutil, "rmtree", unlink_one),
        ):
            monkeypatch.setattr(owner, name, self.guarded(getattr(owner, name), half))
        from hyperasr.util import files

        monkeypatch.setattr(files.os, "rename", self.guarded(files.os.rename, lambda *_: None))

    def guarded(self, action: Any, half: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                return None  # clean-up that a killed process would not do
            self.left -= 1
            if self.left == 0:
                half(*args, **kwargs)
                self.dead = True
                raise Killed
            return action(*args, **kwargs)

        return call


@pytest.mark.parametrize("at", range(1, 8))
def test_a_kill_at_any_moment_leaves_a_state(at: int, tmp_path: Path) -> None:
    for n in (1, 2):
        model, optimizer = stepped(n)
        with pytest.MonkeyPatch.context() as patch:
            kill = Kill(patch, at if n == 2 else 10**6)
            try:
                save_state(tmp_path, n, {"score": float(n)}, model, optimizer, None, notes={})
            except Killed:
                assert n == 2
        if n == 1:
            assert not kill.dead
    loaded, fresh = stepped(0)
    step, best = load_state(tmp_path, loaded, fresh, None)
    expected, expected_optimizer = stepped(step)
    assert step in (1, 2)
    assert best == {"score": float(step)}
    assert_equal(weights(loaded), weights(expected))
    own, other = fresh.state_dict()["state"], expected_optimizer.state_dict()["state"]
    for index, values in other.items():
        for name, value in values.items():
            assert torch.equal(own[index][name], value)
    if at <= 4:
        assert kill.dead
        assert step == 1, "the new state was not complete"
    # The next save clears up what was left.
    model, optimizer = stepped(3)
    save_state(tmp_path, 3, {}, model, optimizer, None, notes={})
    assert [p.name for p in tmp_path.iterdir()] == ["state-00000003"]


@pytest.mark.parametrize("change", ["shape", "average", "layer"])
def test_the_state_of_another_model_is_refused(change: str, tmp_path: Path) -> None:
    model, optimizer = stepped(1)
    save_state(tmp_path, 1, {}, model, optimizer, None, notes={})
    average = None
    if change == "shape":
        model = Model(width=6)
    elif change == "layer":
        model.extra = nn.Linear(1, 1)
    else:
        average = {"last.bias": torch.zeros(1)}
    with pytest.raises(CheckpointMismatch, match="of another model or other settings") as error:
        load_state(tmp_path, model, optimizer, average)
    assert "\n" not in str(error.value)


# Several processes


def test_the_whole_copy_of_spread_weights_is_where_the_data_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_is_spread", lambda _: True)
    accelerator: Any = SimpleNamespace(
        device=torch.device("meta"),
        num_processes=1,
        process_index=0,
        is_main_process=True,
        prepare=lambda *prepared: prepared,
    )
    run = loop._Run(
        Model(), draw, evaluate, lambda _: None, LoopConfig(), tmp_path, accelerator, {}, None
    )
    assert {tensor.device for tensor in run.whole.state_dict().values()} == {accelerator.device}


def test_ways_to_spread_weights_that_cannot_be_saved_are_refused(tmp_path: Path) -> None:
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    for kind, message in (("fsdp", "set fsdp_version to 2"), ("deepspeed", "DeepSpeed has")):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True)
        if kind == "fsdp":
            accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=1)
        else:
            accelerator.state.distributed_type = DistributedType.DEEPSPEED
        with pytest.raises(ConfigError, match=message):
            fit(Model(), draw, evaluate, lambda m: None, LONG, tmp_path, accelerator)
