"""Demonstration clips: people and texts differ, and manifest and attribution stand beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from hyperasr.weights import ASSETS
from train import demo_clips
from train.data.splits import read_splits
from train.demo_clips import DemoConfig, choose


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three typical and two non-native speakers, four sentences each; some do not fit."""
    rng = np.random.default_rng(0)
    for name, seconds in (("a.wav", 4), ("short.wav", 1)):
        time_s = np.arange(seconds * 16_000) / 16_000
        tone = np.sin(2 * np.pi * 120 * time_s) * (np.sin(2 * np.pi * 2 * time_s) > 0)
        sf.write(tmp_path / name, 0.2 * tone + rng.normal(0, 0.001, len(tone)), 16_000)
    rows = [
        Utterance(
            id=f"{source}-{v}-{k}",
            path="a.wav",
            text=f"the {source[:6]} dog ran {v * 'on and '}{k * 'up and '}home",
            speaker=f"{source}-{v}",
            cohort="typical" if source == "librispeech" else "nonnative",
            split="dev",
            source=source,
        )
        for source, n in (("librispeech", 3), ("speechocean762", 2))
        for v in range(n)
        for k in range(4)
    ]
    unfit = [
        ("a.wav", "yes"),
        ("a.wav", "one two three four five six"),
        ("a.wav", "then mister brown ran home again"),
        ("short.wav", "this takes not even two seconds"),
    ]
    rows += [
        Utterance(f"unfit-{k}", path, text, f"unfit-{k}", source="librispeech")
        for k, (path, text) in enumerate(unfit)
    ]
    write_manifest(tmp_path / "dev.jsonl", rows)
    return tmp_path / "dev.jsonl"


def test_people_and_texts_differ(recordings: Path) -> None:
    clips = choose(DemoConfig(recordings, per_cohort=2))
    views = [clip.view for clip in clips]
    cohorts = [*COHORTS, "typical", "nonnative"]
    assert [view.cohort for view in views] == [c for c in cohorts for _ in range(2)]
    assert [view.domain for view in views] == ["simulated"] * 6 + ["recorded"] * 4
    assert [view.severity for view in views[:2]] == [0.4, 0.7]
    assert all(view.severity is None for view in views[6:])
    assert all(3 <= len(clip.waveform) / 16_000 <= 8 for clip in clips)
    assert len({view.utterance.id for view in views}) == len({clip.text for clip in clips}) == 10
    pairs = Counter((view.cohort, view.utterance.speaker) for view in views)
    assert set(pairs.values()) == {1}
    typical = Counter(v.utterance.speaker for v in views if v.utterance.cohort == "typical")
    assert sorted(typical.values()) == [2, 3, 3]
    assert not any(view.utterance.id.startswith("unfit") for view in views)
    again = choose(DemoConfig(recordings, per_cohort=2))
    assert [clip.view for clip in again] == views


def test_too_few_people_are_refused(recordings: Path) -> None:
    with pytest.raises(ConfigError, match=r"too few people .* for 3 clips of nonnative"):
        choose(DemoConfig(recordings, per_cohort=3))
    with pytest.raises(ConfigError, match=r"too few people .* for 4 clips of stuttering"):
        choose(DemoConfig(recordings, per_cohort=4))


def test_clips_are_written_with_manifest_and_attribution(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    words = ["--recordings", str(recordings), "--per_cohort", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["demo_clips", *words])
    demo_clips.main()
    demo_clips.main()  # takes the place of what it wrote
    rows = read_manifest(out / "manifest.jsonl")
    assert [row.id for row in rows] == [
        "01-stuttering",
        "02-dysarthria",
        "03-parkinson",
        "04-typical",
        "05-nonnative",
    ]
    assert [row.source for row in rows] == ["librispeech"] * 4 + ["speechocean762"]
    assert [row.domain for row in rows] == ["simulated"] * 3 + ["recorded"] * 2
    for row in rows:
        info = sf.info(row.path)
        assert (info.format, info.subtype, info.samplerate) == ("OGG", "OPUS", 16_000)
    assert sorted(p.name for p in out.iterdir()) == [
        *(f"{row.id}.ogg" for row in rows),
        "NOTICE",
        "manifest.jsonl",
    ]


def test_recordings_of_other_corpora_have_no_licence_to_state() -> None:
    text = demo_clips.notice({"librispeech", "clinic"})
    assert "Vassil Panayotov" in text
    assert "clinic: ask those whose recordings they are" in text
    assert "speechocean" not in text


def test_bundled_clips_are_of_development_speakers() -> None:
    folder = ASSETS / "demo"
    rows = read_manifest(folder / "manifest.jsonl")
    cohorts = Counter(row.cohort for row in rows)
    assert cohorts == dict.fromkeys((*COHORTS, "typical", "nonnative"), 3)
    lists = read_splits()
    for row in rows:
        corpus, _, speaker = row.speaker.partition("-")
        assert lists.split_of(corpus, speaker) == row.split == "dev"
        assert row.source == corpus
        simulated = row.cohort in COHORTS
        assert row.domain == ("simulated" if simulated else "recorded")
        assert (row.severity is not None) == simulated
        assert 3 <= sf.info(row.path).duration <= 8
    assert {p.name for p in folder.glob("*.ogg")} == {Path(row.path).name for row in rows}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 600_000
    notice = (folder / "NOTICE").read_text()
    for said in ("Vassil Panayotov", "J. Zhang", "creativecommons.org/licenses/by/4.0", "Changes"):
        assert said in notice
