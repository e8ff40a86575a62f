"""The table of a CUDA card, tried out with small shapes: the same code on whatever is here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from eval.benchmarks import gpu, peers, speed
from eval.benchmarks.speed import SpeedConfig
from train.loop.step import Stepper

TINY = gpu.Shape("tiny", 32, 2, 2, 80, 51_865)


@pytest.fixture(autouse=True)
def _own_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def test_every_case_has_a_row() -> None:
    cases = (("trimmed", 5, 2), ("full", 40, 4))
    found = gpu.table("cpu", (TINY,), cases, peak_sizes=(64,), seconds=0.01)
    assert found["peak_bf16_tflops"] > 0
    assert [(r["shape"], r["audio_context"], r["n_utt"]) for r in found["rows"]] == [
        ("tiny", "trimmed", 2),
        ("tiny", "full", 4),
    ]
    for row in found["rows"]:
        assert row["utterances_per_s"] > 0
        assert row["steps"] >= 3
        assert row["share_of_peak"] == pytest.approx(row["tflops"] / found["peak_bf16_tflops"])


def test_operations_are_those_of_the_trained_part() -> None:
    """Frozen weights cost a forward and the gradient to their input, cross-attention's half."""
    model = gpu.random_model(TINY, "cpu", rank=2)
    accelerator = Accelerator(cpu=True)
    few = gpu.meta_training(model, accelerator, 2, 50, seconds=0.01)["flops_per_step"]
    many = gpu.meta_training(model, accelerator, 2, 850, seconds=0.01)["flops_per_step"]
    # Keys and values of 800 more states in two utterances and two layers, forward alone: nothing
    # of them is trained. Attention itself is counted on a card alone.
    keys_and_values = 2 * 2 * 2 * 2 * 800 * 32 * 32
    assert keys_and_values <= many - few < 12 * keys_and_values


def test_a_step_trains_the_source_and_nothing_else() -> None:
    model = gpu.random_model(TINY, "cpu", rank=2)
    before = {n: p.clone() for n, p in model.named_parameters()}
    gpu.meta_training(model, Accelerator(cpu=True), 3, 5, seconds=0.01)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(name.startswith("source.") for name in moved)


def test_what_does_not_fit_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    accumulated = Stepper._accumulated

    def too_large(self: Stepper, step: int) -> object:
        if self.parts == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return accumulated(self, step)

    monkeypatch.setattr(Stepper, "_accumulated", too_large)
    model = gpu.random_model(TINY, "cpu", rank=2)
    found = gpu.meta_training(model, Accelerator(cpu=True), 4, 5)
    assert found["fault"] == "out of memory"
    assert "utterances_per_s" not in found


def test_without_a_card_it_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(peers.Missing, match="no CUDA card"):
        speed.graphics_card(speed.Bench(SpeedConfig(n_utt=1), tmp_path))


def test_shapes_are_those_of_the_published_models() -> None:
    small, large = gpu.SHAPES
    assert (small.d_model, small.n_layers, small.n_heads) == (768, 12, 12)
    assert (large.d_model, large.n_layers, large.n_mels) == (1280, 32, 128)
