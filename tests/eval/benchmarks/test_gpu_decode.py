"""The program for a GPU, run on the CPU in a small shape: bound and ratios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.benchmarks import gpu_decode
from eval.benchmarks.gpu_decode import GpuConfig
from hyperasr.errors import ConfigError


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_decode.SHAPES, "small", (32, 2, 2, 2, 80, 51_865))


CPU: dict[str, Any] = {
    "shapes": ("small",),
    "batches": (2,),
    "seconds": 1.0,
    "n_tokens": 5,
    "rank": 2,
    "device": "cpu",
    "dtype": "float32",
    "rounds": 2,
    "copy_mib": 4,
}


def test_the_whole_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu_decode, "read_config", lambda kind: kind(**CPU, out=out))
    gpu_decode.main()
    found = json.loads(out.read_text())
    assert {row["benchmark"] for row in found["rows"]} == {
        "adapted_over_unadapted",
        "trimmed_adapted_over_unadapted",
        "over_peft_mixed_batch",
    }
    measured = found["measures"]["decode"]
    assert [row["context"] for row in measured] == ["trimmed", "full"]
    for row in measured:
        assert 0 < row["tokens_per_s"]
    assert measured[0]["bytes_a_step"] < measured[1]["bytes_a_step"], "fewer states to look at"


def test_the_bytes_of_a_step_by_hand(tmp_path: Path) -> None:
    config = GpuConfig(**CPU)
    model = gpu_decode.adapted_model(
        gpu_decode.write_random(tmp_path / "m", "small"), "full", config
    )
    d, layers, n_utt, n_states = 32, 2, 3, 50
    # Self-attention 4 matrices, cross-attention query and output, feed-forward; no bias for keys.
    attention = 4 * d * d + 3 * d + 2 * (d * d + d)
    forward = 2 * 4 * d * d + 5 * d
    weights = layers * (attention + forward + 3 * 2 * d) + 51_865 * d
    kept = 2 * layers * d * n_utt * (n_states + 4 // 2)
    factors = n_utt * layers * 2 * (d + 4 * d)
    assert gpu_decode.step_bytes(model, n_utt, n_states, 4) == 4 * (weights + kept + factors)


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="no shape 'huge'; there are tiny, small"):
        GpuConfig(shapes=("huge",))
    with pytest.raises(ConfigError, match="rounds must be at least 2"):
        GpuConfig(rounds=1)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' cannot be used here"):
            gpu_decode.measure(GpuConfig())
