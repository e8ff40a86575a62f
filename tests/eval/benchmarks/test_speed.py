"""The table of speed: peers do the same work as ours, and ratios are what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.benchmarks import speed
from eval.benchmarks.speed import Bench, SpeedConfig
from eval.lib import results
from hyperasr.adapters import lora
from hyperasr.errors import ConfigError
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import load_whisper
from tests.random_whisper import write_backbone, write_hypernet

N_TOKENS = 6


@pytest.fixture(scope="module", autouse=True)
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Benchmark a random Whisper of English alone, with a hypernetwork, in place of tiny.en."""
    folder = tmp_path_factory.mktemp("random")
    write_backbone(folder / "backbone")
    backbone = Backbone.from_pretrained(folder / "backbone", offline=True)
    generation = backbone.whisper.generation_config
    generation.is_multilingual = False
    for name in ("lang_to_id", "task_to_id"):
        delattr(generation, name)
    backbone.save_pretrained(folder / "backbone")
    write_hypernet(folder / "hypernet", folder / "backbone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "MODEL", str(folder / "hypernet"))
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two utterances; factors so large that they change the texts of a buzzing voice."""
    config = SpeedConfig(n_utt=2, seconds=0.5, n_tokens=N_TOKENS, rounds=2, threads=1)
    return Bench(config, tmp_path_factory.mktemp("speed"))


def factors(bench: Bench) -> Any:
    generator = torch.Generator().manual_seed(1)
    return bench.factors().map(lambda t: 0.2 * torch.randn(t.shape, generator=generator))


@torch.inference_mode()
def ours(bench: Bench, adapted: Any = None) -> list[list[int]]:
    """Decode by our own search on 30 s, with factors or without."""
    whole = bench.whole
    encoded = whole.encode(bench.mel, torch.full((2,), 3_000))
    search = speed.fixed_search(whole, N_TOKENS)
    if adapted is None:
        return [list(row) for row in whole.generate(encoded, search).tokens]
    with lora.using(whole.whisper, adapted):
        return [list(row) for row in whole.generate(encoded, search).tokens]


def test_transformers_decodes_what_our_backbone_does(bench: Bench) -> None:
    whisper = load_whisper(bench.folder, offline=True)[0].eval()
    assert speed.generating(whisper, bench.mel, N_TOKENS)() == ours(bench)


def test_peft_decodes_what_our_adapters_do(bench: Bench) -> None:
    pytest.importorskip("peft")
    made = factors(bench)
    expected = ours(bench, made)
    assert expected != ours(bench)
    jobs = speed.peft_jobs(bench.folder, bench.mel, N_TOKENS, made)
    for how, job in jobs.items():
        assert job() == expected, how
        assert job() == expected, f"{how}: a merged adapter has gone again"


@pytest.mark.parametrize("at_once", [True, False])
def test_ctranslate2_decodes_what_our_backbone_does(bench: Bench, at_once: bool) -> None:
    pytest.importorskip("ctranslate2")
    job = speed.ctranslate2_job(
        bench.folder, bench.mel, N_TOKENS, at_once=at_once, threads=1, compute="float32"
    )
    assert job() == ours(bench)


def test_jobs_take_turns_and_the_first_rounds_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    order: list[str] = []

    def job(name: str, seconds: float) -> Any:
        def run() -> None:
            order.append(name)
            # The first rounds are slow.
            clock[0] += seconds + (100 if len(order) <= 2 * speed.WARM_UP else 0)

        return run

    times = speed.interleaved([job("ours", 1.0), job("peer", 3.0)], 3)
    np.testing.assert_allclose(times, [[1, 3]] * 3)
    assert len(order) == 2 * (3 + speed.WARM_UP)
    # Neither always runs after the other.
    assert order[:4] in (["ours", "peer", "peer", "ours"], ["peer", "ours", "ours", "peer"])


def test_a_ratio_is_the_peers_time_over_ours() -> None:
    rng = np.random.default_rng(0)
    times = np.stack([rng.normal(1, 0.01, 50), rng.normal(5, 0.2, 50)], axis=1)
    row = speed.ratio_row("over_peft_swap", times, "peft", "", 0)
    assert row["ratio"] == pytest.approx(5, rel=0.03)
    assert 4.7 < row["low"] < row["ratio"] < row["high"] < 5.3
    assert row["rounds"] == 50


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> dict[str, Any]:
    values = {"rounds": 2, "threads": 1, "n_utt": 2, "n_tokens": 4, "seconds": 0.5}
    (folder / "speed.yaml").write_text(json.dumps({**values, "out": str(folder / "speed.json")}))
    command = ["speed", "--config", str(folder / "speed.yaml"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(speed, "WARM_UP", 0)
    before = torch.get_num_threads()
    speed.main()
    torch.set_num_threads(before)
    content = results.read(folder / "speed.json")
    assert all(row["ratio"] > 0 and len(row["seconds"]) == 2 for row in content["rows"])
    return content


@pytest.mark.slow
def test_every_benchmark_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("peft", "ctranslate2"):
        pytest.importorskip(package)
    content = run(monkeypatch, tmp_path)
    assert content["skipped"] == {}
    assert {row["benchmark"] for row in content["rows"]} == {
        "adapted_over_unadapted",
        "cached_over_uncached_training",
        "trimmed_adapted_over_unadapted",
        "over_peft_mixed_batch",
        "over_peft_swap",
        "over_faster_whisper_int8",
    }


def test_what_is_not_installed_is_left_out_with_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = speed.version

    def version(package: str) -> str:
        if package == "peft":
            raise ImportError
        return known(package)

    monkeypatch.setattr(speed, "version", version)
    content = run(monkeypatch, tmp_path, "--benchmarks", "[peft, transformers]")
    assert [row["benchmark"] for row in content["rows"]] == ["trimmed_adapted_over_unadapted"]
    assert "peft is not installed" in content["skipped"]["peft"]
    with pytest.raises(ConfigError, match="no benchmark 'speeed'"):
        SpeedConfig(benchmarks=("speeed",))
