"""Speed of trimmed and adapted beside 30 s: the ratio by hand, and the program from end to end."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks import adapted_speed, speed
from eval.benchmarks.adapted_speed import AdaptedSpeedConfig, row_of
from eval.lib import results
from hyperasr.adapters import SourceConfig
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.weights import ASSETS


def test_the_ratio_is_of_summed_times() -> None:
    times = np.array([[1.0, 2.0], [1.0, 6.0]])
    counts = [[EditCounts(9, 1, 0, 0)] * 4, [EditCounts(8, 2, 0, 0)] * 4]
    row = row_of(times, counts, "some", 0)
    assert row["ratio"] == pytest.approx(4.0)
    assert row["low"] == pytest.approx(2.0)
    assert row["high"] == pytest.approx(6.0)
    assert (row["wer"], row["peer_wer"], row["n_utterances"]) == (0.1, 0.2, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "package"),
    [("faster_whisper_int8", "faster_whisper"), ("whisper_cpp", "pywhispercpp")],
)
def test_peers_hear_the_words(way: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    clip = sorted((ASSETS / "demo").glob("10-typical*"))[0]
    first, second = adapted_speed.peer(f"tiny.en {way}", tmp_path, 1)([load(clip)] * 2)
    assert "indecision" in first
    assert first == second


def test_each_whisper_has_a_conversion_of_its_own(
    random_backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def converted(folder: Path, compute: str) -> Path:
        folders.append(speed.ctranslate2_folder(folder, compute))
        raise InterruptedError  # before faster-whisper would open it

    monkeypatch.setattr(speed, "ctranslate2_folder", lambda folder, _: folder.with_name("int8"))
    monkeypatch.setattr(adapted_speed, "ctranslate2_folder", converted)
    other = shutil.copytree(random_backbone_folder, tmp_path / "other")
    for whisper in (random_backbone_folder, other):
        with pytest.raises(InterruptedError):
            adapted_speed.peer(f"{whisper} faster_whisper_int8", tmp_path / "scratch", 1)
    assert len(set(folders)) == 2


def test_from_manifest_to_result_file(
    patients, random_backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.from_pretrained(random_backbone_folder, audio_context="trimmed")
    model = HyperASR(backbone, SpeakerConfig(), SourceConfig(settings={"rank": 2}))
    model.save_pretrained(tmp_path / "hypernet", backbone=str(random_backbone_folder))
    bench = patients.config(
        random_backbone_folder, dict.fromkeys("ab", tmp_path / "hypernet"), simulate=("stuttering",)
    )
    source = next(row.source for row in read_manifest(bench.test) if row.cohort == "typical")
    config = AdaptedSpeedConfig(
        replace(bench, looks=tmp_path / "looks.jsonl"),
        source=source,
        systems=("a", "b"),
        peers=(f"{random_backbone_folder} backbone_trimmed_stop",),
        figure=tmp_path / "figure.svg",
        batch_size=2,
        threads=1,
        short_s=30.0,
        out=tmp_path / "speed.json",
    )
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setattr(adapted_speed, "read_config", lambda kind: config)
    adapted_speed.main()
    rows = results.read(tmp_path / "speed.json")["rows"]
    points = {row["system"]: row for row in rows if row["benchmark"] == "error_against_time"}
    assert list(points) == ["a", "b", f"{random_backbone_folder} backbone", *config.peers]
    assert {"wer_simulated", "wer_typical", "wer_stuttering"} <= set(points["a"])
    assert all(point["seconds_an_hour"] > 0 for point in points.values())
    assert (tmp_path / "figure.svg").read_text().count(config.peers[0]) == 1
    rows = [row for row in rows if row["benchmark"] == adapted_speed.BENCHMARK]
    assert [(row["system"], row["headline"]) for row in rows] == [("a", True)] * 2 + [
        ("b", False)
    ] * 2
    assert len({row["n_utterances"] for row in rows}) == 1
    # Both are the same model: the same words, and times of their own.
    assert len({(row["wer"], row["peer_wer"]) for row in rows}) == 1
    assert len({row["seconds"] for row in rows}) == 2
    assert len({row["peer_seconds"] for row in rows}) == 1
    assert all(
        row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"], 1e-3) for row in rows
    )
    looks = (tmp_path / "looks.jsonl").read_text().splitlines()
    assert json.loads(looks[0])["systems"] == list(points)
    alone = replace(config, peers=(), figure=tmp_path / "no.svg", out=tmp_path / "alone.json")
    monkeypatch.setattr(adapted_speed, "read_config", lambda kind: alone)
    adapted_speed.main()
    rows = results.read(alone.out)["rows"]
    assert {row["benchmark"] for row in rows} == {adapted_speed.BENCHMARK}
    assert not alone.figure.exists()
    with pytest.raises(ConfigError, match="no peer 'tiny\\.en loud'"):
        replace(config, peers=("tiny.en loud",))
    with pytest.raises(ConfigError, match="no system 'other'"):
        replace(config, systems=("other",))
    monkeypatch.setattr(adapted_speed, "read_config", lambda kind: replace(config, source="x"))
    with pytest.raises(ConfigError, match="nothing of the corpus 'x'"):
        adapted_speed.main()
