"""The table of speed: peers do the same work as ours, ratios are what they say, nothing is lost."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.benchmarks import overhead, peers, speed, timing, variational_cost
from eval.benchmarks.speed import Bench, SpeedConfig
from eval.lib import results
from hyperasr.decode import decode
from hyperasr.errors import ConfigError
from hyperasr.types import Batch, LoRAFactors
from hyperasr.whisper.search import SearchConfig

TOKENIZER = Path(__file__).resolve().parents[4] / "shared" / "whisper-assets"
N_TOKENS = 6


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two utterances and a random Whisper of one layer, wide weights so that texts differ."""
    tokenizer = TOKENIZER / "whisper-multilingual"
    if not tokenizer.is_dir():
        pytest.skip("needs the tokenizers in ../shared/whisper-assets")
    config = SpeedConfig(
        tokenizer=tokenizer, d_model=64, n_layers=1, n_utt=2, seconds=0.5, n_tokens=N_TOKENS, rank=2
    )
    made = Bench(config, tmp_path_factory.mktemp("speed"))
    source: Any = made.model("full").source
    with torch.no_grad():
        for weight in [*source.heads.parameters(), *source.bias_B.parameters()]:
            weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return made


def ours(bench: Bench, *, adapt: bool) -> list[list[int]]:
    batch, search = (
        batch_of(bench),
        SearchConfig(max_tokens=N_TOKENS, suppress=tuple(range(50_257, 51_865))),
    )
    return [list(row) for row in decode(bench.model("full"), batch, search, adapt=adapt).tokens]


def batch_of(bench: Bench) -> Batch:
    return Batch(n_frames=torch.full((2,), 3_000), mel=bench.mel())


@torch.inference_mode()
def factors(bench: Bench) -> LoRAFactors:
    model = bench.model("full")
    return model.factors(model.embed(batch_of(bench))[0])


# Peers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [peers.ALL_AT_ONCE, 1])
def test_transformers_decodes_what_our_backbone_does(bench: Bench, batch_size: int) -> None:
    peer = peers.Transformers(bench.folder, bench.mel(), N_TOKENS, batch_size)
    assert peer() == ours(bench, adapt=False)


@pytest.mark.parametrize("how", ["mixed", "swap", "merge"])
def test_peft_decodes_what_our_adapters_do(bench: Bench, how: str) -> None:
    pytest.importorskip("peft")
    peer = peers.Peft(bench.folder, bench.mel(), N_TOKENS, factors(bench), how)
    found = peer()
    assert found == ours(bench, adapt=True) != ours(bench, adapt=False)
    assert peer() == found  # a merged adapter has gone again


@pytest.mark.parametrize("batch_size", [peers.ALL_AT_ONCE, 1])
def test_ctranslate2_decodes_what_our_backbone_does(bench: Bench, batch_size: int) -> None:
    pytest.importorskip("ctranslate2")
    folder = bench.scratch / "ct2-float32"
    peer = peers.CTranslate2(
        bench.folder, folder, bench.mel(), N_TOKENS, batch_size, "float32", threads=1
    )
    assert peer() == ours(bench, adapt=False)


def test_a_peer_that_is_not_there_is_skipped_with_a_note(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(peers.Missing, match="PEFT is not installed"):
        peers.Peft(bench.folder, bench.mel(), N_TOKENS, factors(bench))
    names = ("simulation", "transformers")
    found = speed.measure(SpeedConfig(benchmarks=names, tokenizer=tmp_path, rounds=2, threads=1))
    assert list(found.skipped) == ["transformers"]
    assert "no published tokenizer" in found.skipped["transformers"]
    assert {row["benchmark"] for row in found.rows} == {"simulate_over_real_time"}


def test_peft_knows_three_ways(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="'sideways'"):
        peers.Peft(bench.folder, bench.mel(), N_TOKENS, factors(bench), "sideways")


# Timing ------------------------------------------------------------------------------------------


def test_jobs_take_turns_and_the_first_rounds_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    order: list[str] = []

    def job(name: str, seconds: float) -> Any:
        def run() -> None:
            order.append(name)
            # The first rounds are slow.
            clock[0] += seconds + (100 if len(order) <= 2 * timing.WARM_UP else 0)

        return run

    times = timing.interleaved([job("ours", 1.0), job("peer", 3.0)], 3)
    np.testing.assert_allclose(times, [[1, 3]] * 3)
    assert len(order) == 2 * (3 + timing.WARM_UP)
    # Neither always runs after the other.
    assert order[:4] in (["ours", "peer", "peer", "ours"], ["peer", "ours", "ours", "peer"])


def test_a_ratio_is_the_peers_time_over_ours() -> None:
    rng = np.random.default_rng(0)
    times = np.stack([rng.normal(1, 0.01, 50), rng.normal(5, 0.2, 50)], axis=1)
    row = timing.ratio_row("over_peft_swap", times, "peft", "", 0)
    assert row["ratio"] == pytest.approx(5, rel=0.03)
    assert 4.7 < row["low"] < row["ratio"] < row["high"] < 5.3
    assert row["rounds"] == 50


def test_unknown_benchmarks_are_named() -> None:
    with pytest.raises(ConfigError, match="no benchmark 'speeed'"):
        SpeedConfig(benchmarks=("speeed",))


@pytest.mark.slow
def test_both_training_steps_do_the_same(bench: Bench) -> None:
    model = bench.model("trimmed")
    found = []
    start = copy.deepcopy(model.source.state_dict())
    made = overhead.training_steps(model, bench.waves, N_TOKENS, bench.folder, bench.scratch)
    for step in made:
        model.source.load_state_dict(start)
        step()
        found.append([p.grad.clone() for p in model.source.parameters()])
    model.eval().requires_grad_(False)
    cached, uncached = (torch.cat([g.flatten() for g in gradients]) for gradients in found)
    # Cached states are rounded to fp16, and the optimiser moved the weights by 1e-6 in between.
    assert float(uncached.norm()) > 0
    assert float((cached - uncached).norm() / uncached.norm()) < 0.1


@pytest.mark.slow
def test_variational_trainings_are_those_of_the_configurations() -> None:
    made = list(variational_cost.groups(0.5, 4, 0))
    for (plain, others), group in zip(variational_cost.GROUPS, made, strict=True):
        assert list(group.steps) == [plain, *(f"{kind}, {noise} noise" for kind, noise in others)]
        first = group.models[plain].source
        n_means = sum(p.numel() for p in first.parameters())
        for model, (kind, noise) in zip(list(group.models.values())[1:], others, strict=True):
            source: Any = model.source
            assert source.gaussian.noise == noise
            assert model.objective.beta > 0
            assert (source.targets, source.rank) == (first.targets, first.rank)
            # A width for each entry of A, and of B where it is Gaussian.
            n_widths = sum(p.numel() for n, p in source.named_parameters() if "log_sigma" in n)
            assert sum(p.numel() for p in source.parameters()) == n_means + n_widths
            assert 0 < n_widths <= n_means
            assert (n_widths == n_means) == (kind == "vi_lora")
        before = {name: p.clone() for name, p in first.named_parameters()}
        group.steps[plain]()
        assert any((p != before[name]).any() for name, p in first.named_parameters())


def test_the_program_writes_rows_that_others_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "speed.yaml"
    values = {"benchmarks": ["embedded", "beam", "simulation"], "rounds": 2, "threads": 1}
    values |= {"n_utt": 2, "n_tokens": 4, "seconds": 0.5, "out": str(tmp_path / "speed.json")}
    config.write_text(json.dumps(values))
    before = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["speed", "--config", str(config)])
    speed.main()
    torch.set_num_threads(before)
    content = results.read(tmp_path / "speed.json")
    names = [row["benchmark"] for row in content["rows"]]
    timed = ["adapted_over_unadapted"] * 2 + ["beam_over_greedy"]
    assert names == timed + ["simulate_over_real_time"] * 3
    assert all(row["ratio"] > 0 and len(row["seconds"]) == 2 for row in content["rows"][:3])
    assert content["machine"]["cores"]
    assert content["skipped"] == {}
    assert content["measures"] == {}


@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes on an idle machine
def test_every_benchmark_runs(bench: Bench) -> None:
    for package in ("peft", "ctranslate2"):
        pytest.importorskip(package)
    config = replace(
        bench.config, rounds=2, peer_rounds=2, threads=1, n_recordings=100, cache_gib=0.02
    )
    before = torch.get_num_threads()
    found = speed.measure(config)
    torch.set_num_threads(before)
    assert not found.skipped
    assert {row["benchmark"] for row in found.rows} == set(results.BENCHMARKS)
    assert found.measures["start"]["import_s"] < found.measures["start"]["transcribe_s"]
    assert found.measures["cache"]["rows_per_s"] > 100
    assert found.measures["prepare"]["all"]["rows"] == 100
    assert found.measures["large_cache"]["gib"] >= 0.02
