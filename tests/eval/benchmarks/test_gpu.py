"""The program for a CUDA card, run on the CPU in a small shape."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from eval.benchmarks import gpu
from eval.benchmarks.gpu import GpuConfig
from eval.lib import results
from hyperasr.errors import ConfigError

CPU: dict[str, Any] = {"shapes": ("small",), "batches": (2,), "n_tokens": 4, "rank": 2}
CPU |= {"device": "cpu", "rounds": 2}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setitem(gpu.SHAPES, "small", (32, 2, 2, 2, 80, 51_865))
    monkeypatch.setattr(gpu, "STATES", {"trimmed": 5, "full": 40})


def test_the_whole_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GpuConfig(**CPU, out=tmp_path / "gpu.json")
    monkeypatch.setattr(gpu, "read_config", lambda kind: config)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    gpu.main()
    content = results.read(config.out)
    assert [row["benchmark"] for row in content["rows"]] == ["adapted_over_unadapted"] * 2
    for context in ("trimmed", "full"):
        work = f"small, {context} context, 2 utterances"
        training, decoding = (content["measures"][f"{w}, {work}"] for w in ("training", "decoding"))
        assert training["utterances_per_s"] > 0
        assert decoding["tokens_per_s"] > 0


@pytest.mark.parametrize("n_states", [150, 400])
def test_every_row_is_decoded_to_its_last_token(n_states: int) -> None:
    model = gpu.random_model("small", "trimmed", GpuConfig(**CPU))
    for job in gpu.decoding_jobs(model, gpu.host_batch(model, 3, n_states, 24), 24):
        assert [len(tokens) for tokens in job().tokens] == [24] * 3


def test_a_step_trains_the_source_alone() -> None:
    model = gpu.random_model("small", "trimmed", GpuConfig(**CPU))
    before = {n: p.clone() for n, p in model.named_parameters()}
    gpu.training_row(model, gpu.host_batch(model, 2, 50, 4), 1)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(name.startswith("source.") for name in moved)


def test_what_cannot_be_measured_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="no shape 'huge'; there are small, large-v3"):
        GpuConfig(shapes=("huge",))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' cannot be used here"):
            gpu.measure(GpuConfig())
