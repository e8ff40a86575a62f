"""The report: tables against rows by hand, what must be escaped, and folders that are refused."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from eval import report
from eval.lib import results
from eval.report import error_figure, field_blocks, section
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol
from hyperasr.metrics.statistics import Interval
from train.loop.program import run_program

ROOT = Path(__file__).parents[2]
SPOKEN = protocol("spoken")
COHORTS = (("als", "recorded"), ("parkinson", "simulated"), ("typical", "recorded"))
COUNTS = [EditCounts(14, 4, 2, 2), EditCounts(18, 1, 1, 0)]  # 10 errors of 40 words


def interval(value: float, low: float | None, high: float | None, **more: Any) -> Interval:
    return Interval(value=value, low=low, high=high, n_utterances=2, n_speakers=2, **more)


def place(cohort: str, domain: str, **more: Any) -> dict[str, Any]:
    return {"cohort": cohort, "domain": domain, "metric": "wer", **more}


def rates(system: str = "hypernet", **more: Any) -> list[dict[str, Any]]:
    """Error rates of one system: a quarter in every cohort, and once more at a severity."""
    places = [place(*cohort) for cohort in COHORTS]
    measured = interval(0.25, 0.1, 0.4)
    rows = [results.error_row(system, where, measured, COUNTS, SPOKEN) | more for where in places]
    level = place("parkinson", "simulated", severity=0.5), interval(0.5, 0.3, 0.75)
    return [*rows, results.error_row(system, *level, COUNTS, SPOKEN) | more]


def difference(value: float, low: float, high: float, p: float) -> dict[str, Any]:
    about = ("hypernet", "backbone", place("als", "recorded"))
    row = results.difference_row(*about, interval(value, low, high), SPOKEN)
    return row | {"p": p, "p_holm": p, "n_comparisons": 1}


def content(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    head = results.head("eval.zero_shot", {}, 0, "spoken", SPOKEN.normaliser)
    return {**head, "git_commit": "abc1234", "rows": rows, **more}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "zero_shot") -> Path:
    head = content(rows)
    return results.write(folder / f"{name}.json", head, head.pop("rows"))


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path) -> str:
    monkeypatch.setattr(sys, "argv", ["eval.report", "--results", str(folder), "--out", str(out)])
    report.main()
    return out.read_text(encoding="utf-8")


class Page:
    """Tables by caption, tags, and addresses; every element must be closed."""

    def __init__(self, text: str) -> None:
        elements = list(ElementTree.fromstring(text).iter())
        self.tags = [element.tag for element in elements]
        names = [(name.rpartition("}")[2], value) for e in elements for name, value in e.items()]
        self.addresses = [value for name, value in names if name in ("src", "href")]
        self.tables = [
            (text_of(e.find("caption")), [list(map(text_of, line)) for line in e.iter("tr")])
            for e in elements
            if e.tag == "table"
        ]


def text_of(element: ElementTree.Element | None) -> str:
    assert element is not None
    return "".join(element.itertext())


def test_tables_by_hand() -> None:
    rows = [*rates("backbone"), *rates(), difference(-0.125, -0.2, -0.05, 0.01)]
    rows.append(results.speed_row("adapted_over_unadapted", 0.9, 0.8, 1.0, 7, "plain", "2 threads"))
    html = section("zero_shot", content(rows))
    tables = dict(Page(html).tables)
    cell = "25.0 [10.0, 40.0]"
    head = ["als, recorded", "parkinson, simulated", "typical, recorded"]
    assert tables["WER, percent protocol spoken"] == [
        ["system", *(f"{name} (2 speakers)" for name in head)],
        ["backbone", cell, cell, cell],
        ["hypernet", cell, cell, cell],
    ]
    assert tables["WER by severity, parkinson, simulated, percent protocol spoken"][1:] == [
        ["backbone", "50.0 [30.0, 75.0]"],
        ["hypernet", "50.0 [30.0, 75.0]"],
    ]
    assert tables["Differences in WER, points protocol spoken"] == [
        ["system", "als, recorded (2 speakers)"],
        ["hypernet \N{MINUS SIGN} backbone", "-12.5 [-20.0, -5.0]*"],
    ]
    assert tables["WER, insertions only, percent protocol spoken"][1][1:] == ["5.0"] * 3
    speed = next(lines for name, lines in tables.items() if name.startswith("Throughput"))
    assert speed[1] == ["adapted_over_unadapted", "plain", "2 threads", "0.90 [0.80, 1.00]", "7"]
    assert "commit abc1234" in html
    assert "python -m eval.zero_shot" in html
    assert html.index("WER, percent") < html.index("<svg") < html.index("Differences in WER")
    assert html.index("</table>") < html.index("<details>") < html.index("insertions only")


def test_corpora_subsets_and_metrics_are_folded_behind_the_headline() -> None:
    rows = [*rates(), *rates(corpus="an4"), *rates(subset="no numbers"), *rates(metric="cer")]
    opened, _, folded = section("zero_shot", content(rows)).partition("<details>")
    assert [name for name, _ in Page(f"{opened}</section>").tables] == [
        "WER, percent protocol spoken",
        "WER by severity, parkinson, simulated, percent protocol spoken",
    ]
    for name in ("corpus an4", "subset no numbers", "CER, percent"):
        assert name in folded


def test_a_cohort_without_an_interval_shows_the_reason() -> None:
    one = interval(0.25, None, None, reason="als has one speaker: no interval")
    row = results.error_row("a", place("als", "recorded"), one, COUNTS, SPOKEN)
    (_, (_, line)), *_ = Page(section("x", content([row]))).tables
    assert line == ["a", "25.0 (als has one speaker: no interval)"]


def test_other_measures_are_a_table_of_their_fields() -> None:
    about = {"measure": "excess_recovered", "metric": "wer", "domain": "recorded"}
    rows = [
        {"system": "a", **about, "cohort": "als", "value": 0.5, "low": 0.25, "high": 0.75},
        {"system": "b", **about, "cohort": "pd", "value": None, "bins": [1, 2]},
        *({"system": str(i), "measure": "marks", "value": i, "n": i} for i in range(31)),
    ]
    excess, marks = field_blocks(rows)
    ((caption, lines),) = Page(excess.html).tables
    assert caption == "Excess recovered metric wer, domain recorded"
    assert lines == [
        ["system", "cohort", "value", "low", "high"],
        ["a", "als", "0.5", "0.25", "0.75"],
        ["b", "pd", "n/a", "", ""],
    ]
    assert (excess.fold, marks.fold) == ("", "Marks, 31 rows")
    more = {"measures": {"start": {"import_s": 1.5}}, "skipped": {"gpu": "no card"}}
    html = section("speed", content([], **more))
    assert Page(html).tables == [("Start", [["import s"], ["1.5"]])]
    assert "left out: gpu, no card" in html


def test_forgetting_has_a_column_a_measure() -> None:
    about = {"system": "a", "against": "backbone", "protocol": "spoken", "low": -0.01, "high": 0.03}
    names = ("backward_degradation", "target_loss")
    rows = [{**about, "metric": name, "domain": "recorded", "value": 0.01} for name in names]
    ((caption, lines),) = Page(section("x", content(rows))).tables
    assert caption == "Forgetting, percent protocol spoken"
    assert lines[0][1:] == [f"{name}, recorded" for name in names]
    assert lines[1][1:] == ["+1.0 [-1.0, +3.0]"] * 2


def test_names_are_escaped() -> None:
    bad = '<script src="x">&$a_b$'
    rows = [row | {"cohort": f"{row['cohort']}<b>"} for row in rates(bad)]
    made = content([*rows, {"measure": "<i>", "system": bad}], protocol="<u>", command="<s>")
    page = Page(section('a "b"', made))
    assert not {"script", "b", "i", "u", "s"} & set(page.tags)
    assert page.tables[0][1][1][0] == bad


def test_figure_has_every_label_in_rows_of_its_own() -> None:
    rows = [row for i in range(20) for row in rates(f"a_rather_long_name_of_a_system_{i}")]
    svg = error_figure(rows, "x y")
    places = re.findall(r'y="([\d.]+)"[^>]*>a_rather_long|translate\(\S+ ([\d.]+)\)">a_rather', svg)
    heights = sorted(float(a or b) for a, b in places)
    assert len(heights) == 20
    assert min(b - a for a, b in pairwise(heights)) > 9  # the size of letters
    for text in ("als", "parkinson", "simulated", 'id="x_y-'):
        assert text in svg
    assert svg == error_figure(rows, "x y")
    assert error_figure([row | {"value": None} for row in rows], "x") == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "0.3"}, r"a head or row is not as it must be \(TypeError"),
        (
            {"errors": {"hits": 1}},
            r"a head or row is not as it must be \(KeyError\('substitutions'",
        ),
        ({"cohort": "als", "domain": "recorded"}, r"two rows for hypernet at als, recorded"),
        ({"normaliser": {"name": "spoken", "hash": "0"}}, r"one table cannot hold"),
    ],
)
def test_rows_that_break_the_contract_are_one_line(tmp_path, monkeypatch, change, message) -> None:
    path = write(tmp_path, rates())
    made = json.loads(path.read_text())
    made["rows"][1].update(change)
    path.write_text(json.dumps(made))
    with pytest.raises(ConfigError, match=rf"zero_shot\.json: {message}") as caught:
        run(monkeypatch, tmp_path, tmp_path / "r.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r.html").exists()


def test_a_foreign_file_is_one_line_and_exits_with_2(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "notes.json").write_text('{"rows": []}')
    with pytest.raises(SystemExit) as caught:
        run_program(lambda: run(monkeypatch, tmp_path, tmp_path / "r.html"))
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "notes.json: a head or row is not as it must be (KeyError('normaliser'))" in said
    assert said.count("\n") == 1


def test_no_folder_no_results_and_a_wrong_ending(tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="has no result file"):
        run(monkeypatch, tmp_path, tmp_path / "r.html")
    with pytest.raises(ConfigError, match="none has no result file"):
        run(monkeypatch, tmp_path / "none", tmp_path / "r.html")
    with pytest.raises(ConfigError, match=r"ending \.html"):
        run(monkeypatch, tmp_path, tmp_path / "r.pdf")


def test_committed_results_make_a_page_that_stands_alone(tmp_path, monkeypatch) -> None:
    html = run(monkeypatch, ROOT / "results", tmp_path / "r.html")
    page = Page(html)
    for path in (ROOT / "results").glob("*.json"):
        assert f'<section id="{path.stem}">' in html
        assert json.loads(path.read_text())["git_commit"] in html
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert set(re.findall(r"https?://[\w./]*", html)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "nothing about real patients" in html[: html.index("<section")]
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
