"""The measurement of the loop guard: what is counted, and on what."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eval.benchmarks import repetition_loop
from eval.benchmarks.repetition_loop import GuardEvalConfig, Verdict, examine, recordings, rows_of
from eval.lib import results
from hyperasr.hub import HyperASR

Voice = Callable[..., np.ndarray]


@pytest.fixture
def manifest(tmp_path: Path, voice: Voice) -> Path:
    rows = []
    for index in range(4):
        waveform = voice(1.0 + 0.4 * index, 110 + 30 * index)
        soundfile.write(tmp_path / f"{index}.wav", waveform, 16_000)
        row = {"id": str(index), "path": f"{index}.wav", "text": "turn on the light"}
        rows.append(row | {"speaker": f"s{index % 2}"})
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_recordings_are_spread_over_the_manifest(manifest: Path) -> None:
    picked = recordings(GuardEvalConfig(test=manifest, n_utterances=2), 0.0, 10.0)
    assert [(s, round(len(w) / 16_000, 1)) for s, w in picked] == [("s0", 1.0), ("s1", 2.2)]
    assert len(recordings(GuardEvalConfig(test=manifest), 0.0, 1.5)) == 2
    stuttered = recordings(GuardEvalConfig(test=manifest), 1.0, 10.0)
    assert any(len(w) != 16_000 * (1 + 0.4 * i) for i, (_, w) in enumerate(stuttered))


def test_forced_runaways_are_told_from_free_decoding(
    random_model_folder: Path, voice: Voice
) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    verdicts = examine(model, [("a", voice(1.5)), ("b", voice(2.5, 180))])
    assert set(verdicts) == {"free", "no_end", "looped_text"}
    assert [v.speaker for v in verdicts["free"]] == ["a", "b"]
    assert all(v.flagged for v in verdicts["no_end"])
    assert all(v.kept is None for v in verdicts["free"])
    assert all(0 <= v.kept <= 1 for v in verdicts["no_end"] if v.kept is not None)


def test_rows_count_what_was_flagged() -> None:
    verdicts = {
        "free": [Verdict("a", False), Verdict("a", True), Verdict("b", False), Verdict("b", False)],
        "no_end": [Verdict("a", True, 1.0), Verdict("b", True, 0.5), Verdict("b", False)],
        "looped_text": [],
    }
    rows = rows_of(0.5, verdicts)
    assert [(r["condition"], r["metric"], r["value"]) for r in rows] == [
        ("free", "false_alarm_rate", 0.25),
        ("no_end", "detection_rate", pytest.approx(2 / 3)),
        ("no_end", "words_kept", 0.75),
    ]
    assert (rows[0]["n_utterances"], rows[0]["n_speakers"], rows[0]["severity"]) == (4, 2, 0.5)
    assert 0 < rows[0]["low"] < 0.25 < rows[0]["high"] < 1
    assert "severity" not in rows_of(0.0, verdicts)[0]


def test_every_condition_is_measured(
    random_model_folder: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"model": str(random_model_folder), "test": str(manifest), "looks": None}
    (tmp_path / "c.yaml").write_text(json.dumps({**values, "out": str(tmp_path / "x.json")}))
    monkeypatch.setattr(sys, "argv", ["program", "--config", str(tmp_path / "c.yaml")])
    repetition_loop.main()
    rows = results.read(tmp_path / "x.json")["rows"]
    assert {(r["cohort"], r["condition"]) for r in rows} >= {
        (cohort, condition)
        for cohort in ("typical", "stuttering")
        for condition in ("free", "no_end", "looped_text")
    }
    assert all(0 <= r["value"] <= 1 for r in rows)
