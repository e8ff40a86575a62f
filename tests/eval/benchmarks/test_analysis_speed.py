"""What the analysis costs: every measurement at a small size, and how it is written and shown."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from eval.benchmarks import analysis_speed
from eval.benchmarks.analysis_speed import MEASUREMENTS, AnalysisSpeedConfig, measure
from eval.lib import results
from hyperasr.errors import ConfigError

SMALL = {"n_layer": 2, "d_in": 24, "d_out": 48, "rank": 5, "n_utt": 5, "threads": 1}
SMALL |= {"n_scored": 20, "n_speakers": 4, "n_resamples": 50}


def test_angles_are_counted_by_hand() -> None:
    n = {
        what: measure(AnalysisSpeedConfig(**SMALL, what=what)).get("n_angles")
        for what in MEASUREMENTS
    }
    # Two layers, two spaces; four neighbours of five angles, ten pairs of 1 + 4 and 1 + 4 + 5.
    assert n["neighbours"] == 2 * 2 * 4 * 5
    assert n["leading"] == 2 * 2 * 10 * (1 + 4)
    assert n["pairs"] == 2 * 2 * 10 * (1 + 4 + 5)
    assert n["weights"] == 2 * 10 * 23  # ten utterances, the highest rank of 24 columns
    assert n["bootstrap"] is None


def test_one_measurement_is_a_line_and_all_are_a_file(tmp_path, monkeypatch, capsys) -> None:
    options = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    rows = [measure(AnalysisSpeedConfig(**SMALL, what=what)) for what in MEASUREMENTS]
    monkeypatch.setattr(sys, "argv", ["x", *options, "--what", "leading"])
    analysis_speed.main()
    assert '"benchmark": "leading"' in capsys.readouterr().out
    out = tmp_path / "analysis_speed.json"
    monkeypatch.setattr(sys, "argv", ["x", *options, "--out", str(out)])
    by_name = {row["benchmark"]: row for row in rows}
    monkeypatch.setattr(analysis_speed, "measured_apart", lambda what, argv: by_name[what])
    analysis_speed.main()
    written = results.read(out)["rows"]
    assert [row["benchmark"] for row in written] == list(MEASUREMENTS)
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0.01 for row in written)


@pytest.mark.slow
def test_a_process_of_its_own_takes_the_same_options(tmp_path) -> None:
    row = analysis_speed.measured_apart("bootstrap", ["--n_resamples", "30", "--n_scored", "3000"])
    assert row["setting"] == "30 draws of 2,000 speakers, 3,000 utterances"
    analysis_speed.print_rows([row], Console(quiet=True))
    with pytest.raises(ConfigError, match=r"--what pairs failed: error: .*n_scored 1;"):
        analysis_speed.measured_apart("pairs", ["--n_scored", "1"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"what": "everything"}, "it is one of neighbours"),
        ({"threads": 0}, "threads is 0"),
        ({"n_utt": 1}, "n_utt is 1"),
        ({"n_speakers": 1}, "n_speakers 1"),
        ({"n_scored": 3, "n_speakers": 4}, "an utterance to each speaker"),
    ],
)
def test_bad_settings_are_one_clear_error(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        AnalysisSpeedConfig(**values)
