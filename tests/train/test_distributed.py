"""Several processes: the same gradients as one, equal steps, weights spread, shared evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hyperasr.adapters import SourceConfig
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, EncoderOutput, real_mask
from hyperasr.whisper.backbone import Backbone
from train.config import LoopConfig
from train.loop.loop import fit
from train.loop.scoring import decode_together
from train.meta import Objective, split_batch

pytestmark = pytest.mark.slow


def new_accelerator() -> Accelerator:
    """Return the accelerator of this process; a forked one must forget its parent's."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True)


class Rows:
    """Batches of random encoder states by number; as much of a cache as training needs."""

    def __init__(self, backbone: Backbone, n_utt: int) -> None:
        self.backbone, self.n_utt = backbone, n_utt
        self.drawn: list[int] = []

    def __call__(self, number: int) -> Batch:
        self.drawn.append(number)
        generator = torch.Generator().manual_seed(number)
        n_states = torch.tensor([9 + 3 * i for i in range(self.n_utt)])
        states = torch.randn(
            self.n_utt, int(n_states.max()), self.backbone.d_model, generator=generator
        )
        prompt = self.backbone.prompt_ids()
        texts = [[5 + number % 7, 8, 11][: 1 + i % 3] for i in range(self.n_utt)]
        ids = [[*prompt, *text, self.backbone.eos] for text in texts]
        tokens = torch.full((self.n_utt, max(map(len, ids))), self.backbone.eos)
        for row, values in zip(tokens, ids, strict=True):
            row[: len(values)] = torch.tensor(values)
        return Batch(
            n_frames=2 * n_states,
            encoded=EncoderOutput(
                states * real_mask(n_states, states.shape[1])[..., None], n_states
            ),
            speaker_emb=torch.randn(self.n_utt, 2 * self.backbone.d_model, generator=generator),
            tokens=tokens,
            n_tokens=torch.tensor([len(values) for values in ids]),
            n_prompt=len(prompt),
            speakers=tuple("abcdefgh"[: self.n_utt]),
        )


def hypernet(folder: Path) -> Objective:
    backbone = Backbone.from_pretrained(folder, offline=True)
    settings = {"rank": 2, "d_hidden": 16, "n_hidden": 1}
    model = HyperASR(backbone, SpeakerConfig(layers=[1]), SourceConfig(settings=settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # else only the bias has a gradient in the first step
        for weight in model.source.heads.parameters():
            weight.normal_(0, 0.1, generator=generator)
    return Objective(model)


def run(out: str, folder: str, accumulate: int) -> None:
    """Make two steps and keep the gradients of each, as the optimiser saw them."""
    accelerator = new_accelerator()
    objective = hypernet(Path(folder))
    rows = Rows(objective.model.backbone, 4)
    # A small learning rate: Adam's first step turns rounding of tiny gradients into whole steps.
    config = LoopConfig(
        steps=2, accumulate=accumulate, eval_every=1, log_every=1, clip_norm=1e9, lr=1e-6
    )
    kept: list[dict[str, Tensor]] = []
    step = torch.optim.AdamW.step

    def keep(self: Any, *args: Any, **kwargs: Any) -> Any:
        named = objective.named_parameters()
        kept.append({n: p.grad.clone() for n, p in named if p.grad is not None})
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", keep)
        name = f"{accelerator.num_processes}-{accelerator.process_index}"
        fit(
            objective,
            rows,
            lambda m: {"score": 0.0},
            lambda m: None,
            config,
            Path(out),
            accelerator,
            split=split_batch,
        )
    tensors = {f"{i}.{n}": g for i, grads in enumerate(kept) for n, g in grads.items()}
    save_file(tensors, Path(out) / f"{name}.safetensors")
    (Path(out) / f"{name}.json").write_text(json.dumps(rows.drawn))


def test_two_processes_have_the_gradients_of_one(
    tmp_path: Path, random_backbone_folder: Path
) -> None:
    folder = str(random_backbone_folder)
    for name in ("one", "two", "four"):
        (tmp_path / name).mkdir()
    run(str(tmp_path / "one"), folder, 4)
    debug_launcher(run, (str(tmp_path / "two"), folder, 2), num_processes=2)
    one = load_file(tmp_path / "one" / "1-0.safetensors")
    assert len({key.split(".", 1)[0] for key in one}) == 2
    assert all(bool(gradient.abs().sum() > 0) for key, gradient in one.items() if "bias_B" in key)
    for rank in range(2):
        two = load_file(tmp_path / "two" / f"2-{rank}.safetensors")
        assert two.keys() == one.keys()
        for key, gradient in one.items():
            worst = float((two[key] - gradient).abs().max())
            assert worst < 1e-6, (key, worst, float(gradient.abs().max()))
    # Each batch once, equally many on each process.
    drawn = [json.loads((tmp_path / "two" / f"2-{r}.json").read_text()) for r in range(2)]
    assert sorted(drawn[0] + drawn[1]) == list(range(8))
    assert [len(own) for own in drawn] == [4, 4]
    # The log has the mean over both.
    lines = {
        name: [
            json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("one", "two")
    }
    for one_line, two_line in zip(lines["one"], lines["two"], strict=True):
        assert two_line["nll"] == pytest.approx(one_line["nll"], abs=1e-5)


def test_parts_of_a_batch_have_the_gradient_of_the_whole(random_backbone_folder: Path) -> None:
    objective = hypernet(random_backbone_folder).eval()  # without dropout
    batch = Rows(objective.model.backbone, 5)(3)

    def gradient(parts: list[tuple[Batch, float]]) -> dict[str, Tensor]:
        objective.zero_grad()
        for part, weight in parts:
            (objective(part)["total"] * weight).backward()
        return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}

    whole = gradient([(batch, 1.0)])
    for n in (2, 3, 5, 9):
        parts = split_batch(batch, n)
        assert sum(weight for _, weight in parts) == pytest.approx(1.0)
        assert sorted(s for part, _ in parts for s in part.speakers) == sorted(batch.speakers)
        assert len(parts) <= min(n, 5)
        for name, value in gradient(parts).items():
            scale = float(whole[name].abs().max())
            worst = float((value - whole[name]).abs().max())
            assert worst < 5e-6 * scale, (n, name, worst, scale)


def test_picked_rows_lose_padding_and_nothing_else(random_backbone: Backbone) -> None:
    batch = Rows(random_backbone, 4)(0)
    own = batch.select([2, 0])
    assert own.speakers == ("c", "a")
    assert own.encoded is not None
    assert own.encoded.states.shape[1] == 15
    assert torch.equal(own.encoded.states[1, :9], batch.encoded.states[0, :9])
    assert torch.equal(own.speaker_emb, batch.speaker_emb[[2, 0]])
    assert own.tokens.shape[1] == int(own.n_tokens.max())


# Weights spread over processes (FSDP)


class Stack(nn.Module):
    """Layers to spread, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.layers[1].requires_grad_(False)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return {"total": (x - y).square().mean()}


def draw(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(5, 6, generator=generator)
    return x, x.flip(1)


def spreading(accelerator: Accelerator, *layers: str) -> None:
    """Turn FSDP 2 on; Accelerate does so for accelerators only, but torch has it for gloo too."""
    if accelerator.num_processes == 1:
        return
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(layers),
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )


def spread_run(out: str, steps: int, stop: int) -> None:
    """Train with FSDP 2; up to `stop` steps of `steps`."""
    accelerator = new_accelerator()
    spreading(accelerator, "Linear")
    model = Stack()
    whole: list[bool] = []

    def draws(number: int) -> tuple[Tensor, Tensor]:
        if number >= 2 * stop:
            raise KeyboardInterrupt
        return draw(number)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        whole.append(not any(isinstance(p, DTensor) for p in candidate.parameters()))
        with torch.no_grad():
            return {"score": float(candidate(draw(999))["total"])}

    config = LoopConfig(
        steps=steps,
        accumulate=2 // accelerator.num_processes,
        ema=0.5,
        lr=0.02,
        save_every=2,
        eval_every=2,
    )
    folder = Path(out)

    def keep(best: nn.Module) -> None:
        save_file({n: p.detach() for n, p in best.named_parameters()}, folder / "best.safetensors")

    try:
        fit(model, draws, evaluate, keep, config, folder, accelerator)
    except KeyboardInterrupt:
        os._exit(0)  # as a process that is killed
    spread = sum(isinstance(p, DTensor) for p in model.parameters())
    assert spread == (6 if accelerator.num_processes > 1 else 0)
    assert all(whole)


def test_spread_weights_are_trained_saved_and_gone_on_with_like_whole_ones(
    tmp_path: Path,
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    spread_run(str(tmp_path / "one"), 6, 99)
    launch: list[tuple[Callable[..., None], int]] = [(spread_run, 4), (spread_run, 99)]
    for function, stop in launch:  # killed after four steps, then to the end
        debug_launcher(function, (str(tmp_path / "two"), 6, stop), num_processes=2)
    states = [load_file(next((tmp_path / n).glob("state*/*.safetensors"))) for n in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=1e-6)
    best = [load_file(tmp_path / n / "best.safetensors") for n in ("one", "two")]
    for key, value in best[0].items():
        torch.testing.assert_close(best[1][key], value, rtol=0, atol=1e-6)
    assert not torch.equal(best[0]["layers.0.weight"], Stack().layers[0].weight)


# Shared evaluation


class FakeCache(Rows):
    """Rows of a cache, decoded together."""

    def __init__(self, backbone: Backbone, n_rows: int) -> None:
        super().__init__(backbone, 1)
        self.n_frames = [18 + 2 * (7 * i % n_rows) for i in range(n_rows)]
        self.meta = {"text": [""] * n_rows}

    def __len__(self) -> int:
        return len(self.n_frames)

    def batch(self, rows: Any) -> Batch:
        states = torch.stack([self(row).encoded.states[0] for row in rows])
        lengths = torch.full((len(rows),), states.shape[1])
        return Batch(n_frames=2 * lengths, encoded=EncoderOutput(states, lengths))


def decode_in_a_process(out: str, folder: str) -> None:
    accelerator = new_accelerator()
    objective = hypernet(Path(folder)).eval()
    rows = FakeCache(objective.model.backbone, 7)
    texts = decode_together(objective.model, rows, adapt=False)
    name = f"{accelerator.num_processes}-{accelerator.process_index}.json"
    (Path(out) / name).write_text(json.dumps({"texts": texts, "own": rows.drawn}))


def test_rows_are_decoded_once_and_all_processes_get_all(
    tmp_path: Path, random_backbone_folder: Path
) -> None:
    folder = str(random_backbone_folder)
    decode_in_a_process(str(tmp_path), folder)
    debug_launcher(decode_in_a_process, (str(tmp_path), folder), num_processes=2)
    alone, *both = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("1-0", "2-0", "2-1"))
    assert len(set(alone["texts"])) > 1
    assert [p["texts"] for p in both] == [alone["texts"]] * 2
    assert sorted(both[0]["own"] + both[1]["own"]) == list(range(7))
    assert len(both[0]["own"]) - len(both[1]["own"]) == 1
