"""Large corpora: what is measured is what it says, in a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.benchmarks import large_corpora
from eval.benchmarks.timing import OwnProcess, in_own_process, peak_mib
from hyperasr.cohorts.cache import Cache
from hyperasr.whisper.backbone import Backbone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")


def allocate(mib: int) -> tuple[float, float]:
    before = peak_mib()
    block = np.ones(mib * 2**20, np.uint8)
    return before, peak_mib() - block[0] + 1


def test_memory_is_that_of_the_own_process() -> None:
    held = np.ones(300 * 2**20, np.uint8)  # of this one, which must not count
    before, after = in_own_process(allocate, 64)
    assert 60 < after - before < 70
    assert peak_mib() > held.nbytes / 2**20
    with pytest.raises(ZeroDivisionError):
        in_own_process(divmod, 1, 0)


def summing(x: torch.Tensor, *, times: int = 1) -> Any:
    return lambda: (os.getpid(), float(x.sum()) * times)


def test_a_peer_in_its_own_process_gives_the_same_and_is_kept() -> None:
    x = torch.arange(6.0)
    peer = OwnProcess(summing, x, times=2)
    pid, total = peer()
    assert pid != os.getpid()
    assert total == summing(x, times=2)()[1]
    assert peer() == (pid, total)
    with pytest.raises(TypeError):
        OwnProcess(summing)


def test_the_tree_has_as_many_recordings_as_asked(tmp_path: Path) -> None:
    root = large_corpora.ua_speech(tmp_path, 701)
    assert len(list(root.glob("audio/*/*.wav"))) == 701
    assert sorted(path.name for path in (root / "audio").iterdir()) == ["F01", "M01"]


@pytest.mark.slow
def test_preparing_is_timed_on_all_and_on_a_tenth(tmp_path: Path) -> None:
    found = large_corpora.prepare_large(tmp_path, 700)
    assert (found["tenth"]["rows"], found["all"]["rows"]) == (70, 700)
    assert 0 < found["all"]["seconds"] < 60
    assert found["all"]["peak_mib"] > 20


@pytest.mark.slow
def test_training_from_a_cache_larger_than_what_it_holds(
    tmp_path: Path, random_backbone_folder: Path
) -> None:
    """Every row counts in the size, and reading them all does not stay in memory."""
    wave = np.sin(np.arange(16_000) / 9).astype(np.float32) / 4
    n_bytes = 400 * 2**20
    found = large_corpora.train_large(
        tmp_path, random_backbone_folder, wave, n_bytes, threads=1, steps=2
    )
    assert found["gib"] >= n_bytes / 2**30
    assert found["rows"] % 512 == 0
    assert found["start_mib"] <= found["trained_mib"] <= found["peak_mib"]
    (folder,) = (tmp_path / "large").iterdir()
    on_disk = {os.stat(path).st_ino: os.stat(path).st_size for path in folder.glob("*/*.arrow")}
    assert sum(on_disk.values()) < n_bytes / 10
    backbone = Backbone.from_pretrained(random_backbone_folder, audio_context="trimmed")
    cache = Cache([folder], backbone)
    states = cache.batch([0]).encoded
    mel, n_frames = backbone.features([wave])
    assert states is not None
    torch.testing.assert_close(
        states.states, backbone.encode(mel, n_frames).states, rtol=1e-3, atol=1e-3
    )
