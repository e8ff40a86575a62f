"""Corpora split by speaker: nobody in two parts, every cohort in all, a corpus's own split kept."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.types import Utterance
from train.data import split
from train.data.split import PARTS, SpeakerSplitConfig, by_cohort, in_lower_case, split_by_speaker


def corpus(source: str = "x", n: int = 4, **speakers: int) -> list[Utterance]:
    """Return `n` utterances of each of so many speakers a cohort."""
    return [
        Utterance(
            id=f"{source}/{cohort}{i}/{k}",
            path=f"/{source}/{cohort}{i}/{k}.wav",
            text=f"words {k}",
            speaker=f"{cohort}{i}",
            cohort=cohort,
            split="all",
            source=source,
        )
        for cohort, count in speakers.items()
        for i in range(count)
        for k in range(n)
    ]


def parts_of(rows: list[Utterance], **settings) -> dict[str, list[Utterance]]:
    config = SpeakerSplitConfig(manifest=(), out=Path(), **settings)
    found = split_by_speaker(rows, config)
    people = [{row.speaker for row in found[part]} for part in PARTS]
    assert sum(map(len, people)) == len(set().union(*people)), "somebody is in two parts"
    return found


def speakers(rows: list[Utterance], cohort: str) -> set[str]:
    return {row.speaker for row in rows if row.cohort == cohort}


def test_every_cohort_has_speakers_in_every_part() -> None:
    rows = corpus(dysarthria=8, typical=7, als=3, stroke=2, rare=1)
    found = parts_of(rows)
    counts = {
        cohort: [len(speakers(found[part], cohort)) for part in PARTS] for cohort in by_cohort(rows)
    }
    assert counts == {
        "dysarthria": [5, 1, 2],
        "typical": [4, 1, 2],
        "als": [1, 1, 1],
        "stroke": [1, 0, 1],
        "rare": [0, 0, 1],
    }
    assert sum(map(len, found.values())) == len(rows)
    assert {row.split for row in found["dev"]} == {"dev"}


def test_the_same_people_are_drawn_whoever_else_is_there() -> None:
    first = parts_of(corpus(als=8, typical=8))["test"]
    more = parts_of(corpus(als=8, typical=40, stroke=4)[::-1])["test"]
    assert speakers(first, "als") == speakers(more, "als")
    others = {frozenset(speakers(parts_of(corpus(als=8), seed=s)["test"], "als")) for s in range(9)}
    assert len(others) > 1


def test_a_split_by_speaker_is_kept_and_its_dev_is_the_test_where_it_has_none() -> None:
    rows = corpus(als=9, typical=9)
    part_of = {"0": "test", "1": "test", "2": "dev", "3": "dev"}
    where = {row.speaker: part_of.get(row.speaker[-1], "train") for row in rows}
    published = [replace(row, split=where[row.speaker]) for row in rows]
    found = parts_of(published)
    assert {row.speaker: part for part in PARTS for row in found[part]} == where
    withheld = [row for row in published if row.split != "test"]
    found = parts_of(withheld)
    assert speakers(found["test"], "als") == {"als2", "als3"}
    assert len(speakers(found["dev"], "als")) == 1
    assert len(speakers(found["train"], "als")) == 4
    whole = [replace(row, split="train") for row in rows]
    assert len(speakers(parts_of(whole)["test"], "als")) == 2, "one part is no split"


def test_a_split_of_what_the_same_people_said_is_by_speaker_too() -> None:
    """UA-Speech: blocks 1 and 3 train, block 2 tests, of everybody."""
    rows = [
        replace(row, split="test" if row.id.endswith("/2") else "train")
        for row in corpus("ua", dysarthria=8, typical=6)
    ]
    found = parts_of(rows)
    assert {row.id[-1] for row in found["test"]} == {"2"}
    assert {row.id[-1] for part in ("train", "dev") for row in found[part]} == {"0", "1", "3"}


def test_several_corpora_know_a_speaker_by_name() -> None:
    both = [*corpus("a", typical=6), *corpus("b", typical=6), *corpus("a", als=6)]
    found = parts_of(both)
    for part in PARTS:
        assert len({row.source for row in found[part] if row.cohort == "typical"}) == 2


def test_few_development_utterances_of_each_speaker() -> None:
    rows = corpus(n=9, als=8, typical=8)
    some, all_of_them = parts_of(rows, dev_per_speaker=3)["dev"], parts_of(rows)["dev"]
    assert set(Counter(row.speaker for row in some).values()) == {3}
    assert {row.speaker for row in some} == {row.speaker for row in all_of_them}
    assert [row for row in all_of_them if row in some] == some


def test_somebody_in_two_cohorts_counts_as_atypical() -> None:
    rows = corpus(typical=2)
    rows[-1] = replace(rows[-1], cohort="cold")
    assert {c: len(own) for c, own in by_cohort(rows).items()} == {"cold": 4, "typical": 4}


def test_texts_in_capitals_are_taken_in_lower_case_a_corpus_at_a_time() -> None:
    rows = [replace(row, text="OH NO", text_clean="NO") for row in corpus("loud", als=1)]
    rows += corpus("calm", als=2)
    changed = in_lower_case(rows)
    assert {(row.text, row.text_clean) for row in changed[:4]} == {("oh no", "no")}
    assert changed[4:] == rows[4:]


def test_texts_in_capitals_are_found_in_linear_time() -> None:
    rows = [replace(row, text="oh no " * 20) for row in corpus(n=30_000, als=1)]
    started = time.process_time()
    assert in_lower_case(rows) == rows
    assert time.process_time() - started < 5  # one text after the other it took a minute


def test_the_program_writes_three_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "a.jsonl", corpus("a", als=6))
    write_manifest(tmp_path / "b.jsonl", corpus("b", typical=6))

    def run(*names: str) -> None:
        manifests = [str(tmp_path / f"{name}.jsonl") for name in names]
        options = ["--manifest", str(manifests), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["split", *options])
        split.main()

    run("a", "b")
    printed = capsys.readouterr().out
    assert "test: als: 8 recordings of 2 speakers" in printed
    assert "left out: 0 recordings" in printed
    rows = [row for part in PARTS for row in read_manifest(tmp_path / "out" / f"{part}.jsonl")]
    assert sorted(row.id for row in rows) == sorted(
        row.id for row in [*corpus("a", als=6), *corpus("b", typical=6)]
    )
    with pytest.raises(ConfigError, match="stands in two manifests"):
        run("a", "a")


def test_too_few_people_are_refused() -> None:
    with pytest.raises(ConfigError, match="nobody is left for dev: there are 2 speakers"):
        parts_of(corpus(als=2))
    with pytest.raises(ConfigError, match="nobody is left for train and dev: there are 1"):
        parts_of([replace(row, speaker="unknown") for row in corpus(als=5)])
    for settings in ({"dev_share": 0.5}, {"test_share": 0.0}, {"dev_per_speaker": -1}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            SpeakerSplitConfig(manifest=(), out=Path(), **settings)


def test_folds_leave_each_cohort_out_and_a_leak_writes_none(tmp_path, monkeypatch, capsys) -> None:
    people = ("ann", "bob", "cay", "dan", "eve", "ann")  # one person is in two cohorts
    cohorts = ("stuttering", "stuttering", "dysarthria", "typical", "typical", "typical")
    rows = []
    for i, (speaker, cohort) in enumerate(zip(people, cohorts, strict=True)):
        (tmp_path / f"{i}.wav").write_bytes(bytes([i] * 50))
        rows.append(Utterance(str(i), f"{i}.wav", f"text {i}", speaker, cohort))
    manifest, out = tmp_path / "all.jsonl", tmp_path / "folds"
    arguments = ["--manifest", f"[{manifest}]", "--leave_out", "cohort", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["split", *arguments])
    write_manifest(manifest, [*rows[:3], replace(rows[3], path=rows[0].path), *rows[4:]])
    with pytest.raises(ManifestError, match="the split leaks"):
        split.main()
    assert not out.exists()
    write_manifest(manifest, rows)
    split.main()
    assert "stuttering: 3 to train on, 2 to test on, 1 left out" in capsys.readouterr().out
    train, test = (
        read_manifest(out / "stuttering" / f"{part}.jsonl") for part in ("train", "test")
    )
    assert [u.speaker for u in test] == ["ann", "bob"]
    assert [u.speaker for u in train] == ["cay", "dan", "eve"]
    assert {u.split for u in train} == {"train"}
    assert all(Path(u.path).is_file() for u in [*train, *test])
