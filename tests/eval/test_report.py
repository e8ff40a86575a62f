"""The report: every section from files that the programs' own functions made, and bad folders."""

from __future__ import annotations

import base64
import json
import re
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eval import (
    comparison,
    leave_one_cohort_out,
    report,
    retention,
    severity,
    trimming,
    unadapted,
    zero_shot,
)
from eval.adaptation import AngleSettings, Who, update_rows
from eval.analysis_speed import AnalysisSpeedConfig, measure
from eval.calibration import confidence_rows, severity_rows
from eval.confidence import Said
from eval.matrix_ablation import ranking_rows
from eval.report_angles import cohort_maps, layer_maps
from eval.report_embeddings import principal_plane
from eval.report_errors import difference_blocks, error_blocks
from eval.report_names import names_block
from eval.report_sections import SECTIONS
from eval.report_severity import group_blocks
from eval.report_speed import training_blocks
from eval.report_style import MINUS
from eval.scores import Scores
from hyperasr import results
from hyperasr.errors import ConfigError
from hyperasr.metrics import EditCounts
from hyperasr.protocols import protocol
from hyperasr.sparsity import Sparsity
from hyperasr.types import LayerFactors, LoRAFactors

COHORTS = ("stuttering", "dysarthria", "parkinson", "typical")
SPOKEN = protocol("spoken")
RISK = {"backbone": 0.5, "global_lora": 0.35, "cohort_lora": 0.33, "hypernet": 0.25}


def scores_of(risk: dict[str, float], rule: str = "spoken", metric: str = "wer") -> Scores:
    """Ten speakers, each in every cohort and at two severities, with errors by chance."""
    rng = np.random.default_rng(0)
    names = "id speaker cohort domain severity source person"
    meta: dict[str, list[Any]] = {k: [] for k in names.split()}
    for speaker in range(10):
        for cohort in COHORTS:
            for k, level in enumerate((0.5, 1.0)):
                meta["id"].append(f"{speaker}-{cohort}-{k}")
                meta["speaker"].append(f"s{speaker}")
                meta["person"].append(f"s{speaker}-{cohort}")
                meta["cohort"].append(cohort)
                meta["domain"].append("recorded" if cohort == "typical" else "simulated")
                meta["severity"].append(0.0 if cohort == "typical" else level)
                meta["source"].append("synthetic" if speaker < 5 else "an4")
    counts = {}
    for name, share in risk.items():
        wrong = [
            rng.binomial(8, share * (0.3 if c == "typical" else 0.5 + 0.5 * s))
            for c, s in zip(meta["cohort"], meta["severity"], strict=True)
        ]
        counts[name] = [EditCounts(8 - w, w - w // 2, w // 2, w // 3) for w in map(int, wrong)]
    return Scores(protocol(rule), metric, meta, counts)


def angle_rows() -> list[dict[str, Any]]:
    """Angles of two layers of random updates of six speakers, sizes, and a ranking."""
    generator = torch.Generator().manual_seed(0)
    cohorts = [c for c in COHORTS[:3] for _ in range(4)]
    voices = [f"s{i % 4}" for i in range(12)]
    who = Who(voices, [f"{v}-{c}" for v, c in zip(voices, cohorts, strict=True)], cohorts)
    pair = LayerFactors(
        torch.randn(2, 12, 2, 24, generator=generator),
        torch.randn(2, 12, 48, 2, generator=generator),
    )
    factors = LoRAFactors({"decoder.fc1": pair})
    settings = AngleSettings(ranks=(1, 2), n_null=50, n_splits=2, n_resamples=20)
    rows = [
        {"system": "hypernet", "part": "whole", **r} for r in update_rows(factors, who, settings)
    ]
    targets = ["decoder.fc1", "decoder.fc2", "decoder.self_attn.q_proj", "encoder.fc1"]
    sizes = [
        {
            "measure": "relative_norm",
            "target": target,
            "layer": layer,
            "cohort": "all",
            "value": 0.01 * (i + 1) + 0.002 * layer,
        }
        for i, target in enumerate(targets)
        for layer in range(2)
    ]
    errors = [
        {
            "system": f"static_lora:{target}",
            "cohort": "atypical",
            "target": target,
            "budget": budget,
            "value": None if budget < 0.001 and i == 3 else 0.4 - 0.02 * i,
        }
        for i, target in enumerate(targets)
        for budget in (0.0001, 0.01)
    ]
    moved = [{"system": "static_lora:all", "part": "whole", **row} for row in sizes]
    return [*rows, *moved, *errors, *ranking_rows(sizes, errors)]


def calibration_rows() -> list[dict[str, Any]]:
    """Confidence of one system on thirty utterances, some words of which are wrong."""
    rng = np.random.default_rng(1)
    said, texts, meta = [], [], {k: [] for k in "id speaker cohort severity".split()}
    for i in range(30):
        words = list(rng.choice(["red", "blue", "green"], 4))
        wrong = rng.random(4) < 0.3
        heard = [w if not bad else "black" for w, bad in zip(words, wrong, strict=True)]
        sure = np.clip(np.where(wrong, 0.4, 0.8) + 0.2 * rng.random(4), 0, 1)
        said.append(Said(tuple(heard), tuple(map(float, sure)), float(np.log(sure).mean())))
        texts.append(" ".join(words))
        for name, value in zip(
            meta, (str(i), f"s{i % 6}", COHORTS[i % 4], 0.5 * (i % 3)), strict=True
        ):
            meta[name].append(value)
    domains = ["recorded" if c == "typical" else "simulated" for c in meta["cohort"]]
    columns = {**meta, "text": texts, "domain": domains, "source": ["libri"] * 30}
    bench = SimpleNamespace(
        protocol=SPOKEN, column=columns.__getitem__, config=SimpleNamespace(seed=0, apart=())
    )
    config = SimpleNamespace(n_bins=5, n_resamples=20, bench=bench.config)
    heard_ = SimpleNamespace(rows=list(range(30)), mean=said, samples=None, agreed=None)
    rows = confidence_rows(bench, heard_, config)  # type: ignore[arg-type]
    rows += severity_rows(bench, heard_, None, config)  # type: ignore[arg-type]
    return [{"system": "hypernet", **row} for row in rows]


def comparison_rows(scores: Scores) -> list[dict[str, Any]]:
    """Errors with differences, forgetting, and what a system costs."""
    config = comparison.ComparisonConfig(
        bench=comparison.BenchConfig(
            systems={name: Path(name) for name in RISK if name != "backbone"}
        )
    )
    rows = comparison.error_rows(config, scores, RISK)
    assert any(row["metric"] == "backward_degradation" for row in rows)
    cost = {"system": "hypernet", "cost": "training", "n_trained": 10, "share_trained": 0.1}
    return [*rows, {**cost, "n_generated": 5, "share_generated": 0.05, "seconds": 90.0}]


def unadapted_rows() -> list[dict[str, Any]]:
    """Both decoders on all corpora and on each, on a further set, and how often they agree."""
    scores = scores_of({"backbone": 0.4, "backbone_plain": 0.5})
    rows = unadapted.error_rows(scores) + unadapted.error_rows(scores, subset="no numbers")
    same = {"measure": "same_tokens", "system": "backbone", "base": "backbone_plain", "value": 1.0}
    same |= {"cohort": "typical", "domain": "recorded"}
    return [*rows, {**same, "n_same": 97, "n_limited": 3, "n_utterances": 100}]


def sweep_rows(along: str, lines: str) -> list[dict[str, Any]]:
    """Two points of a sweep, the LoRA and the backbone."""
    rows = []
    for number, name in enumerate(("backbone", "lora", "own:a", "own:b")):
        point = {along: 0.5 * number, lines: "single" if lines == "prior" else 0.01}
        shared = {"system": name, "protocol": "spoken", **(point if ":" in name else {})}
        for cohort in ("atypical", "typical"):
            rows.append({**shared, "cohort": cohort, "metric": "wer", "value": 0.3 - 0.01 * number})
        if number:
            drop = {"against": "backbone", "metric": "backward_degradation", "value": 0.01}
            rows.append({**shared, **drop, "low": -0.01, "high": 0.02})
    return rows


SMALL = {"n_layer": 1, "d_in": 24, "d_out": 48, "rank": 2, "n_utt": 3}


def guard_rows() -> list[dict[str, Any]]:
    """The guard on one kind of speech."""
    about = {"system": "loop_guard", "cohort": "stuttering", "severity": 0.5, "n_utterances": 200}
    return [
        {**about, "metric": metric, "condition": condition, "value": value, **interval}
        for metric, condition, value, interval in (
            ("false_alarm_rate", "free", 0.02, {"low": 0.01, "high": 0.05}),
            ("detection_rate", "no_end", 1.0, {"low": 0.98, "high": 1.0}),
            ("words_kept", "no_end", 0.931, {}),
        )
    ]


def write(folder: Path, name: str, rows: list[dict[str, Any]], rule: str = "spoken") -> Path:
    """Write a result file as the programs do."""
    command = f"python -m eval.{name} --config eval/configs/{name}.yaml"
    head = results.head(command, {"out": name}, 0, rule, protocol(rule).normaliser)
    return results.write(folder / f"{name}.json", head, rows)


@pytest.fixture(scope="session")
def full(tmp_path_factory) -> Path:
    """A folder with a file for every section."""
    folder = tmp_path_factory.mktemp("results")
    scores = scores_of(RISK)
    write(folder, "unadapted", unadapted_rows())
    write(folder, "zero_shot", zero_shot.rows_of(scores))
    write(folder, "beam", zero_shot.rows_of(scores))
    write(folder, "continued", zero_shot.rows_of(scores))
    write(folder, "comparison", comparison_rows(scores))
    oracle = {**RISK, "hypernet_oracle": 0.2}
    folds = {held_out: scores_of(oracle) for held_out in COHORTS[:3]}
    write(folder, "leave_one_cohort_out", leave_one_cohort_out.rows_of(folds))
    for name, point in (
        ("blora_sweep", ("beta", "sigma")),
        ("vi_lora_sweep", ("kl_weight", "prior")),
    ):
        write(folder, name, sweep_rows(*point))
    trained = {name: ("stuttering", "typical") for name in RISK}
    write(folder, "retention", retention.rows_of(scores, trained))
    levels = severity.level_rows(scores)
    levels += severity.gap_rows(scores, "cohort", 50) + severity.slope_rows(scores, 20)
    write(folder, "severity", levels)
    write(folder, "calibration", calibration_rows())
    write(folder, "subspace_angles", angle_rows())
    numbers = Sparsity(below=0.61234, adaptive=0.5, top_energy=0.2, hoyer=0.75, effective_rank=3.25)
    sparse = {"measure": "sparsity", "system": "blora", "target": "decoder.fc1", "layer": 0}
    write(folder, "sparsity", [{**sparse, "matrix": "B", "n_factors": 1, **asdict(numbers)}])
    heard = {"backbone:full:full": 0.4, "hypernet:full:full": 0.3, "hypernet:full:trimmed": 0.32}
    write(folder, "trimming", trimming.rows_of(scores_of(heard)))
    write(folder, "guard", guard_rows())
    write(folder, "analysis_speed", [measure(AnalysisSpeedConfig(**SMALL, what="leading"))])
    ratio = results.speed_row(
        "simulate_over_real_time", 125.2, 80.4, 204.7, 120, "real time", "3 s"
    )
    write(folder, "speed", [ratio])
    step = {"system": "hypernet", "cost": "a step", "step_s": 0.1234, "peak_rss_mib": 812.4}
    write(folder, "training_cost", [{**step, "steps": 4000, "seconds": 493.6}])
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *options: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["eval.report", *map(str, options)])
    report.main()


class Page(HTMLParser):
    """What a browser would fetch, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(full, tmp_path_factory) -> tuple[str, dict[str, Any]]:
    """The page of the full folder, and its index."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "--results", full, "--out", out)
    return out.read_text(encoding="utf-8"), json.loads(out.with_suffix(".json").read_text())


def test_page_stands_alone(written) -> None:
    page = Page(written[0])
    assert not page.open
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(a.startswith(("data:image/svg+xml;base64,", "#")) for a in page.addresses)
    assert "@import" not in written[0]
    assert not re.search(r"url\((?!data:)", written[0])
    for address in page.addresses:
        if address.startswith("data:"):
            svg = base64.b64decode(address.partition(",")[2]).decode("utf-8")
            assert svg.rstrip().endswith("</svg>")
            assert not re.search(r'(?:xlink:)?href="(?!#|data:)', svg)


def test_every_section_is_filled(written, full) -> None:
    text, index = written
    rows = {row["section"]: row for row in index["rows"]}
    assert list(rows) == [section.result for section in SECTIONS] + ["embeddings"]
    for name, row in rows.items():
        assert row["shown"] == (name != "embeddings"), name
        if name in (
            *("zero_shot", "leave_one_cohort_out", "comparison", "retention", "severity"),
            "trimming",
        ):
            assert row["n_figures"] >= 1, name
            assert row["n_tables"] >= 2, name
    assert rows["calibration"]["n_figures"] == 3
    for name in ("blora_sweep", "vi_lora_sweep"):
        assert (rows[name]["n_figures"], rows[name]["n_tables"]) == (1, 1)
    assert rows["subspace_angles"]["n_figures"] == 3
    n_tables = {"guard": 1, "sparsity": 1, "analysis_speed": 1}
    n_tables |= {"training_cost": 1}
    (line,) = training_blocks(results.read(full / "training_cost.json")["rows"])[0].lines
    assert [cell for cell, _ in line] == ["hypernet", "123", "4,000", "8.2", "812"]
    assert {name: rows[name]["n_tables"] for name in n_tables} == n_tables
    for title in ("Stability and plasticity", "Risk and coverage of words", "Angles by layer"):
        assert title in text
    assert "of unseen speakers" not in text  # the map was not asked for


def test_numbers_and_intervals_are_those_of_the_file(written, full) -> None:
    rows = results.read(full / "zero_shot.json")["rows"]
    row = next(
        r
        for r in rows
        if (r["system"], r["cohort"], r.get("corpus")) == ("hypernet", "stuttering", None)
    )
    value, low, high = (f"{100 * row[k]:.1f}" for k in ("value", "low", "high"))
    cell = f'<span class="number">{value}</span> <span class="interval">[{low}, {high}]</span>'
    assert cell in written[0]
    assert 'stuttering, simulated <span class="number">(10 speakers)</span>' in written[0]


def test_kinds_of_errors_are_shares_of_the_reference() -> None:
    scores = scores_of(RISK)
    rows = zero_shot.rows_of(scores)
    block = next(b for b in error_blocks(rows) if b.title.startswith("What the errors are"))
    atypical = scores.pick(cohort=lambda c: c != "typical")
    counts = [scores.counts["hypernet"][i] for i in atypical]
    words = 8 * len(counts)
    line = next(line for line in block.lines if line[0][0] == "hypernet")
    kinds = (sum(getattr(c, kind) for c in counts) for kind in block.header[1:4])
    assert [cell for cell, _ in line[1:4]] == [f"{100 * n / words:.1f}" for n in kinds]
    clipped = sum(min(8, c.errors) for c in counts) / words
    # Everybody said as much, so that the mean over speakers is the mean over words.
    both = [clipped, sum(c.errors for c in counts) / words]
    assert [cell for cell, _ in line[4:]] == [f"{100 * x:.1f}" for x in both]


def test_lines_do_not_repeat_what_all_are_compared_with() -> None:
    rows = comparison_rows(scores_of(RISK))
    plot, table = difference_blocks(rows, against="global_lora")
    assert table.title == "Paired differences to global_lora"
    assert {line[0][0] for line in table.lines} == {"backbone", "cohort_lora", "hypernet"}
    assert plot.title == "Paired differences to global_lora"
    both = difference_blocks(rows)[1]
    assert any(f"hypernet {MINUS} global_lora" == line[0][0] for line in both.lines)
    assert difference_blocks(rows, against="nobody") == []


def test_groups_by_hand() -> None:
    scores = scores_of(RISK)
    (block,) = group_blocks(severity.gap_rows(scores, "cohort", 50))
    rates = {}
    for cohort in COHORTS:
        counts = [scores.counts["hypernet"][i] for i in scores.pick(cohort=cohort)]
        rates[cohort] = sum(c.errors for c in counts) / (8 * len(counts))
    line = next(line for line in block.lines if line[0][0] == "hypernet")
    worst, best = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
    assert [cell for cell, _ in line[1:5]] == [
        worst,
        f"{100 * rates[worst]:.1f}",
        best,
        f"{100 * (rates[worst] - rates[best]):.1f}",
    ]
    backbone = next(line for line in block.lines if line[0][0] == "backbone")
    assert backbone[5] == ("", ""), "nothing to be compared with"
    assert block.n_names == 2


def test_names_are_explained_where_they_occur(written) -> None:
    names = written[0].partition('<section id="names">')[2].partition("</section>")[0]
    for name in ("backbone", "cohort_lora", "…_oracle"):
        assert f'<td class="name">{name}</td>' in names, name
    assert "vi_lora" not in names
    assert "…_shuffled" not in names


def test_parts_of_names() -> None:
    rows = [
        {"system": n} for n in ("hypernet_cohort_mean", "cohort_lora@typical", "static_lora:all")
    ]
    rows.append({"system": "hypernet:without-parkinson", "against": "bayes_hypernet_shuffled"})
    rows.append({"system": "hypernet:full:trimmed"})
    rows.append({"system": "global_lora_spliced", "against": "hypernet_continued_mean"})
    block = names_block({"a": {"rows": rows}})
    assert [line[0][0] for line in block.lines] == [
        *("global_lora", "cohort_lora", "hypernet", "bayes_hypernet", "static_lora"),
        *("…_continued", "…_spliced", "…_shuffled", "…_mean", "…_cohort_mean", "…@COHORT"),
        *("…:without-COHORT", "…:full:trimmed"),
    ]
    assert names_block({"speed": {"rows": [{"benchmark": "x"}]}}) is None


def test_a_cohort_of_one_speaker_shows_the_reason(tmp_path, monkeypatch) -> None:
    scores = scores_of(RISK)
    kept = [
        i
        for i, cohort in enumerate(scores.meta["cohort"])
        if cohort != "parkinson" or scores.meta["speaker"][i] == "s0"
    ]
    folder = tmp_path / "results"
    folder.mkdir()
    made = scores.part(kept)
    write(folder, "zero_shot", zero_shot.rows_of(made))
    write(folder, "severity", severity.level_rows(made) + severity.gap_rows(made, "cohort", 50))
    run(monkeypatch, "--results", folder, "--out", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<span class="reason">(one speaker: no interval)</span>' in text
    assert '<span class="reason">(parkinson has one speaker: no interval)</span>' in text


def test_index_keeps_every_head_and_the_hash_of_every_file(written, full) -> None:
    read = written[1]["read"]
    assert set(read) == {path.stem for path in full.glob("*.json")}
    for name, about in read.items():
        content = results.read(full / f"{name}.json")
        assert about["n_rows"] == len(content.pop("rows"))
        assert about["head"] == content


def test_same_results_give_the_same_page_and_the_index_is_no_result(
    full, tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("zero_shot", "speed"):
        (folder / f"{name}.json").write_bytes((full / f"{name}.json").read_bytes())
    out = folder / "report.html"
    run(monkeypatch, "--results", folder, "--out", out)
    first = out.read_bytes()
    run(monkeypatch, "--results", folder, "--out", out)
    assert out.read_bytes() == first
    assert set(results.read(folder / "report.json")["read"]) == {"zero_shot", "speed"}


def test_a_missing_file_names_its_command(tmp_path, full, monkeypatch, capsys) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "speed.json").write_bytes((full / "speed.json").read_bytes())
    run(monkeypatch, "--results", folder, "--out", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    for section in SECTIONS:
        assert section.command in text  # of the one that is there, as its origin
        assert (f"/{section.result}.json is not there yet" in text) == (section.result != "speed")
    assert "not made yet: unadapted, zero_shot, beam, continued" in capsys.readouterr().out


def test_a_file_without_a_section_is_shown_all_the_same(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    write(folder, "extra", [{"what": "<b>bold</b>", "value": 0.5}] * 61)
    run(monkeypatch, "--results", folder, "--out", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "<b>bold" not in text
    assert "1 more rows are in the file." in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(value="much"), r"zero_shot.json, row 1: value is 'much'"),
        (lambda rows: rows[3].update(low=float("nan")), r"zero_shot.json, row 4: low is nan"),
        (
            lambda rows: [r.pop("value") for r in rows],
            r"zero_shot.json .*no 'value'.*eval.zero_shot",
        ),
        (lambda rows: rows[0].update(protocol="whisper"), r"zero_shot.json: one table cannot hold"),
        (
            lambda rows: rows[0].update(normaliser={"name": "spoken", "hash": "0"}),
            r"zero_shot.json: one table cannot hold backbone",
        ),
        (lambda rows: rows.append(dict(rows[0])), r"zero_shot.json: two rows for backbone"),
        (lambda rows: [r.update(metric="bleu") for r in rows], r"has no error rates"),
    ],
    ids=["text", "nan", "no value", "protocol", "normaliser", "twice", "metric"],
)
def test_damaged_and_mixed_files_are_refused(full, tmp_path, monkeypatch, change, message) -> None:
    content = json.loads((full / "zero_shot.json").read_text())
    change(content["rows"])
    (tmp_path / "zero_shot.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message) as caught:
        run(monkeypatch, "--results", tmp_path, "--out", tmp_path / "r.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.json", '{"shopping": []}', "notes.json is not a result file"),
        ("zero_shot.json", '{"rows": [', "zero_shot.json is not valid JSON"),
        ("zero_shot.json", '{"rows": []}', "not a result file of this project"),
    ],
)
def test_foreign_files_are_refused(tmp_path, monkeypatch, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        run(monkeypatch, "--results", tmp_path, "--out", tmp_path / "r.html")


def test_no_folder_and_a_wrong_ending(tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="there is no results folder"):
        run(monkeypatch, "--results", tmp_path / "none", "--out", tmp_path / "r.html")
    with pytest.raises(ConfigError, match=r"ending \.html"):
        run(monkeypatch, "--results", tmp_path, "--out", tmp_path / "r.pdf")


def test_warnings_tell_of_different_code(full) -> None:
    contents = results.read_folder(full)
    contents["speed"] = {**contents["speed"], "git_commit": "0000000-dirty"}
    first, *rest = report.warnings_of(contents)
    assert "2 states of the code" in first
    assert "0000000-dirty" in first
    assert any("not committed" in line and "speed" in line for line in rest)


def test_maps_hold_the_means_of_the_rows() -> None:
    rows = [row for row in angle_rows() if row.get("measure") == "angle"]
    title, values, names, heads = cohort_maps(rows)[0]
    assert title == "decoder.fc1, column space, k = 1"
    assert heads == [*names, "chance"]
    own = [
        r
        for r in rows
        if (r["level"], r["space"], r["rank"]) == ("cohort", "column", 1)
        and {r["cohort"], r["with_cohort"]} == {names[0], names[1]}
    ]
    assert len(own) == 2  # a layer each
    expected = (own[0]["value"] + own[1]["value"]) / 2
    assert values[0, 1] == values[1, 0] == pytest.approx(expected)
    noise = [
        r["value"]
        for r in rows
        if (r["level"], r["space"], r["rank"], r["relation"])
        == ("cohort", "column", 1, "split_half")
        and r["cohort"] == names[0]
    ]
    assert values[0, 0] == pytest.approx(sum(noise) / len(noise))
    _, values, names, heads = layer_maps(rows)[0]
    assert names[-1] == "chance"
    assert heads == ["layer 0", "layer 1"]
    assert values[-1, 0] == pytest.approx(own[0]["null"])


def test_principal_plane_is_that_of_sklearn_up_to_sign() -> None:
    from sklearn.decomposition import PCA

    points = np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 0.1]
    plane, share = principal_plane(points)
    peer = PCA(2).fit(points)
    expected = peer.transform(points)
    signs = np.sign((plane * expected).sum(0))
    np.testing.assert_allclose(plane * signs, expected, atol=1e-9)
    assert share == pytest.approx(peer.explained_variance_ratio_.sum())


@pytest.mark.slow
def test_map_of_embeddings(world, systems, random_backbone_folder, in_this_process, bench) -> None:
    made = report.embedding_blocks(bench, "hypernet")
    assert made[0].kind == "figure"
    assert made[0].address.startswith("data:image/svg+xml")
    assert f"{bench.n_rows} test utterances of 4 unseen speakers" in made[0].note
    with pytest.raises(ConfigError, match="listens to no embedding"):
        report.embedding_blocks(bench, "global_lora")
