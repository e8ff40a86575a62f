"""What the analysis costs: every measurement at a small size, and how it is written."""

from __future__ import annotations

import sys

import pytest

from eval.benchmarks import analysis_speed
from eval.benchmarks.analysis_speed import AIM_GIB, MEASUREMENTS, AnalysisSpeedConfig, measure
from eval.benchmarks.timing import in_own_process
from eval.lib import results
from hyperasr.errors import ConfigError

SMALL = {"n_layer": 2, "d_in": 24, "d_out": 48, "rank": 5, "n_utt": 5, "threads": 1}
SMALL |= {"n_scored": 20, "n_speakers": 4, "n_resamples": 50}


def test_angles_are_counted_by_hand_and_all_rows_are_written(tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "analysis_speed.json"
    options = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["x", *options, "--out", str(out)])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(analysis_speed, "in_own_process", lambda work, *args: work(*args))
    analysis_speed.main()
    rows = results.read(out)["rows"]
    assert [row["benchmark"] for row in rows] == list(MEASUREMENTS)
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0.01 for row in rows)
    n = {row["benchmark"]: row.get("n_angles") for row in rows}
    # Two layers, two spaces; four neighbours of five angles, ten pairs of 1 + 4 and 1 + 4 + 5.
    assert n["neighbours"] == 2 * 2 * 4 * 5
    assert n["leading"] == 2 * 2 * 10 * (1 + 4)
    assert n["pairs"] == 2 * 2 * 10 * (1 + 4 + 5)
    assert n["weights"] == 2 * 10 * 23  # ten utterances, the highest rank of 24 columns
    assert n["bootstrap"] is None
    assert "what the analysis costs" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["neighbours", "leading"])
def test_large_v3_takes_seconds_and_less_than_two_gib(what, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    row = in_own_process(measure, what, AnalysisSpeedConfig(threads=1))
    assert row["peak_gib"] < AIM_GIB
    # Ten seconds of CPU time on an idle core, twice that beside a busy one; the quadratic way that
    # this guards against takes minutes.
    assert row["cpu_seconds"] < 60


def test_the_bootstrap_is_measured() -> None:
    config = AnalysisSpeedConfig(n_resamples=30, n_scored=3000)
    row = measure("bootstrap", config)
    assert row["setting"] == "30 draws of 2,000 speakers, 3,000 utterances"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_utt": 1}, "n_utt is 1"),
        ({"n_speakers": 1}, "n_speakers 1"),
        ({"n_scored": 3, "n_speakers": 4}, "an utterance to each speaker"),
    ],
)
def test_bad_settings_are_one_clear_error(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        AnalysisSpeedConfig(**values)
