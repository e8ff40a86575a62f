"""Throughput of bulk transcription: what is counted, and the program with Ray left out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import cluster
from eval.benchmarks.cluster import ClusterConfig, throughput
from eval.lib import results
from hyperasr.errors import ConfigError
from hyperasr.transcription import cluster as bulk
from hyperasr.transcription.cluster import in_this_process


def test_the_first_block_counts_for_nothing() -> None:
    def blocks() -> Iterator[list[dict[str, Any]]]:
        time.sleep(0.2)  # loading
        yield [{"duration_s": 100.0}]
        for _ in range(2):
            time.sleep(0.05)
            yield [{"duration_s": 1.0}, {"duration_s": 2.0}]

    assert 20 < throughput(blocks()) <= 60
    with pytest.raises(ConfigError, match="all was one block; give more minutes"):
        throughput(iter([[{"duration_s": 1.0}]]))


def test_from_clips_to_the_result_file(
    random_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_ray(model: Any, _: Any, recordings: Any, options: Any, workers: int) -> Any:
        called.append((workers, len(recordings)))
        return in_this_process(model, recordings, options)

    called: list[tuple[int, int]] = []
    config = ClusterConfig(str(random_model_folder), minutes=2.0, out=tmp_path / "c.json", rounds=1)
    monkeypatch.setattr(bulk, "_WINDOW_BATCHES", 1)  # several blocks in two minutes
    monkeypatch.setattr(cluster, "on_ray", on_ray)
    monkeypatch.setattr(cluster, "peer_version", lambda name: f"{name} 1")
    monkeypatch.setattr(cluster, "read_config", lambda kind: config)
    monkeypatch.setattr(sys, "argv", ["cluster"])
    cluster.main()
    rows = results.read(config.out)["rows"]
    names = ["ray_over_one_process", "workers_over_one_worker"]
    assert [row["benchmark"] for row in rows] == names
    assert [n for n, _ in called] == [1, 2]
    assert all(row["hours_an_hour"] > 0 for row in rows)
    with pytest.raises(ConfigError, match="workers must hold 1"):
        ClusterConfig(workers=(2,))
