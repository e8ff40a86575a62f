"""Demonstration clips: other voices in every clip, of one source, with what was said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from train import demo_clips
from train.demo_clips import DemoConfig, choose


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Five synthetic and four real voices, each with a long and a short text."""
    sf.write(tmp_path / "a.wav", np.sin(np.arange(16_000) / 20), 16_000)
    rows = [
        Utterance(f"{source}-{v}-{k}", "a.wav", text, f"{source}-{v}", source=source)
        for source, n in (("synthetic", 5), ("an4", 4))
        for v in range(n)
        for k, text in enumerate(("one two three", "yes"))
    ]
    write_manifest(tmp_path / "test.jsonl", rows)
    return tmp_path / "test.jsonl"


def test_every_clip_is_of_another_voice_of_the_source(recordings: Path) -> None:
    views = choose(DemoConfig(recordings, source="an4", per_cohort=1))
    assert len({view.utterance.speaker for view in views}) == 4
    assert {view.utterance.source for view in views} == {"an4"}
    assert {view.utterance.text for view in views} == {"one two three"}
    cohorts = ["stuttering", "dysarthria", "parkinson", "typical"]
    assert [view.cohort for view in views] == cohorts


def test_too_few_voices_are_refused(recordings: Path) -> None:
    with pytest.raises(ConfigError, match=r"5 voices of source 'synthetic'.* 8 are needed"):
        choose(DemoConfig(recordings, per_cohort=2))
    with pytest.raises(ConfigError, match="0 voices of source 'fsdd'"):
        choose(DemoConfig(recordings, source="fsdd"))


def test_clips_are_written_with_their_manifest(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    words = ["--recordings", str(recordings), "--source", "an4", "--per_cohort", "1"]
    monkeypatch.setattr("sys.argv", ["demo_clips", *words, "--out", str(out)])
    demo_clips.main()
    rows = read_manifest(out / "manifest.jsonl")
    assert [row.id for row in rows] == [
        "01-stuttering",
        "02-dysarthria",
        "03-parkinson",
        "04-typical",
    ]
    assert [row.source for row in rows] == ["simulated"] * 3 + ["an4"]
    assert all((out / Path(row.path).name).stat().st_size > 1_000 for row in rows)
