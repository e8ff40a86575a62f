"""Tables of rows: which cells, in which order, and what cannot be one table."""

from __future__ import annotations

from typing import Any

import pytest

from eval.lib.results import difference_row, error_row, speed_row, with_holm
from eval.lib.tables import markdown, print_rows, table
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol
from hyperasr.metrics.statistics import Interval

COUNTS = [EditCounts(8, 1, 1, 0), EditCounts(2, 0, 0, 50)]


def rate(value: float, n_speakers: int = 12, **more: Any) -> Interval:
    return Interval(value, value - 0.02, value + 0.03, 2, n_speakers, **more)


def place(cohort: str, domain: str = "recorded", metric: str = "wer", **more: Any) -> dict:
    return {"cohort": cohort, "domain": domain, "metric": metric, **more}


def error(
    system: str, cohort: str, value: float, *, by: str = "spoken", n_speakers: int = 12, **more: Any
) -> dict:
    measured = rate(value, n_speakers)
    return error_row(system, place(cohort, **more), measured, COUNTS, protocol(by))


def difference(system: str, cohort: str, value: float, **more: Any) -> dict:
    about = ("backbone", place(cohort), rate(value, **more), protocol("spoken"))
    return difference_row(system, *about)


def some_rows() -> list[dict[str, Any]]:
    return [
        error("backbone", "stuttering", 0.5),
        error("backbone", "typical", 0.1),
        error("hypernet", "stuttering", 0.2512),
        error("hypernet", "stuttering", 0.9, severity=0.75),
        error("hypernet", "stuttering", 0.08, metric="cer"),
        difference("hypernet", "stuttering", -0.2488),
        speed_row("over_peft_swap", 12.345, 11.0, 13.5, 9, "peft", "batch of 16"),
    ]


def made(rows: list[dict[str, Any]], *columns: str, **options: Any) -> str:
    return markdown(table(rows, columns or ("cohort",), **options))


def test_systems_go_down_and_cohorts_across() -> None:
    assert made(some_rows()).splitlines() == [
        "| system | stuttering (12 speakers) | typical (12 speakers) |",
        "| --- | ---: | ---: |",
        "| backbone | 50.0 [48.0, 53.0] | 10.0 [8.0, 13.0] |",
        "| hypernet | 25.1 [23.1, 28.1] |  |",
    ]


def test_other_views_of_the_rows() -> None:
    rows = some_rows()
    assert "| hypernet | 8.0 [6.0, 11.0] |" in made(rows, metric="cer")
    assert "| hypernet | 33.3 |" in made(rows, show="clipped", cohort="stuttering")
    assert "| backbone | 416.7 | 416.7 |" in made(rows, show="insertions")
    severe = made(rows, "cohort", "severity")
    assert severe.splitlines()[0] == "| system | stuttering, 0.75 (12 speakers) |"
    assert "| hypernet | 90.0 [88.0, 93.0] |" in severe
    assert severe.splitlines()[2:] == made(rows, severity=0.75).splitlines()[2:]
    both = made(rows, "metric", cohort="stuttering", system="hypernet")
    assert both.splitlines()[0] == "| system | wer (12 speakers) | cer (12 speakers) |"
    swapped = made(rows, cohort=["typical", "stuttering"], system="backbone")
    assert swapped.splitlines()[0].startswith("| system | typical")
    difference = made(rows, differences=True)
    assert "| hypernet \u2212 backbone | -24.9 [-26.9, -21.9] |" in difference


def test_speed_rows_are_listed_and_chosen() -> None:
    lines = made(some_rows()[-1:]).splitlines()
    assert lines[0] == "| benchmark | peer | setting | ratio | rounds |"
    assert lines[2] == "| over_peft_swap | peft | batch of 16 | 12.35 [11.00, 13.50] | 9 |"
    names = ["over_peft_swap", "over_peft_mixed_batch", "over_peft_swap"]
    rows = [speed_row(n, 1 + i, 1, 2, 9, f"p{i}", "s") for i, n in enumerate(names)]

    def peers(**where: object) -> list[str]:
        return [line[1] for line in table(rows, corpus=None, **where).lines]

    assert peers(benchmark="over_peft_swap") == ["p0", "p2"]
    assert peers(benchmark=["over_peft_swap", "over_peft_mixed_batch"], peer="p1") == ["p1"]
    with pytest.raises(ConfigError, match="no row has benchmark 'no such'"):
        peers(benchmark="no such")


def test_missing_intervals_and_mixed_speakers() -> None:
    one = error("a|b", "typical", 0.1, n_speakers=1) | {"low": None, "high": None}
    lines = made([one]).splitlines()
    assert lines[0] == "| system | typical (1 speaker) |"
    assert lines[2] == "| a\\|b | 10.0 |"
    mixed = made([one, error("hypernet", "typical", 0.2)])
    assert mixed.splitlines()[0] == "| system | typical |"
    none = difference("a", "typical", -0.0001)
    assert "| a \u2212 backbone | +0.0 [-2.0, +3.0] |" in made([none], differences=True)
    assert "| a\\|b | n/a |" in made([one | {"value": None}])
    reason = {"reason": "one speaker: no interval"}
    assert "| a\\|b | 10.0 (one speaker: no interval) |" in made([one | reason])


def test_ambiguous_and_empty_tables_say_so() -> None:
    rows = [*some_rows(), error("backbone", "typical", 0.3, domain="simulated")]
    with pytest.raises(ConfigError, match="two rows for backbone at typical"):
        table(rows)
    assert "simulated, typical" in made(rows, "domain", "cohort").splitlines()[0]
    with pytest.raises(ConfigError, match="no row has cohort 'nobody'"):
        table(rows, cohort="nobody")
    with pytest.raises(ConfigError, match="cannot show 'hits'"):
        table(rows, show="hits")


def test_printed_tables_are_whole_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [error("hypernet_encoder_decoder", f"cohort {i}", 0.5) for i in range(6)]
    print_rows(rows, title="Zero-shot")
    out = capsys.readouterr().out
    assert "Zero-shot" in out
    (line,) = (line for line in out.splitlines() if "hypernet" in line)
    assert line.count("50.0 [48.0, 53.0]") == 6
    print_rows(rows, title="nothing", differences=True)
    assert not capsys.readouterr().out


def test_protocols_are_not_mixed_in_a_table() -> None:
    rows = [error("backbone", "typical", 0.5), error("hypernet", "typical", 0.5, by="whisper")]
    with pytest.raises(
        ConfigError, match="one table cannot hold backbone, scored by protocol"
    ) as e:
        table(rows)
    assert "\n" not in str(e.value)
    assert "hypernet" in str(e.value)
    with pytest.raises(ConfigError, match="a protocol not named"):
        table([rows[0], rows[1] | {"protocol": None}])
    older = {**rows[0], "normaliser": {"name": "spoken", "hash": "000000000000"}}
    with pytest.raises(ConfigError, match="000000000000"):
        table([rows[0], older])
    assert made(rows, protocol="spoken").count("\n") == 2
    assert "spoken" in made(rows, "protocol").splitlines()[0]


def test_a_star_marks_what_is_left_after_adjusting() -> None:
    rows = [
        difference(system, "typical", -0.1, p=p)
        for system, p in (("a", 0.03), ("b", 0.2), ("c", 0.001))
    ]
    text = made(with_holm(rows, ("domain",)), differences=True)
    assert "| a \u2212 backbone | -10.0 [-12.0, -7.0] |" in text  # 0.06 after adjusting
    assert "| c \u2212 backbone | -10.0 [-12.0, -7.0]* |" in text


def test_costs_are_listed() -> None:
    row = {
        "system": "hypernet", "cost": "training", "n_trained": 2_199_616, "share_trained": 0.58,
        "n_generated": 15_360, "share_generated": 0.004, "seconds": 582.0, "step_s": 0.291,
        "peak_rss_mib": 1_024.4,
    }  # fmt: skip
    alone = {"system": "backbone", "cost": "training", "n_trained": 0, "share_trained": 0,
             "n_generated": 0}  # fmt: skip
    lines = made([*some_rows(), row, alone], show="cost").splitlines()
    assert lines[2] == "| hypernet | 2,199,616 (58 %) | 15,360 | 9.7 min | 291 ms | 1024 MiB |"
    assert lines[3] == "| backbone | 0 (0 %) |  |  |  |  |"
    with pytest.raises(ConfigError, match="no row says what a system costs"):
        table(some_rows(), show="cost")
