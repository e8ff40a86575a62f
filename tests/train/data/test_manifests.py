"""Nobody and no sentence is on two sides, and the manifests hold what is committed."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from pathlib import Path

import pytest

from hyperasr.cohorts.splits import check_leaks
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.metrics.normalisers import normaliser
from train.data import manifests
from train.data.manifests import SPLITS, Built, Corpus, Recording, build, read_corpora, read_splits
from train.loop.program import run_program

# Manifest, source, cohort: recordings, speakers, minutes.
COMMITTED = {
    ("train", "librispeech", "typical"): (2177, 257, 418.8),
    ("train", "ljspeech", "typical"): (8, 1, 0.8),
    ("train", "an4", "typical"): (719, 56, 32.6),
    ("train", "speechocean762", "nonnative"): (1140, 57, 84.8),
    ("dev", "librispeech", "typical"): (247, 4, 31.6),
    ("dev", "speechocean762", "nonnative"): (160, 8, 12.6),
    ("test", "librispeech-test-other", "typical"): (100, 10, 12.8),
    ("test", "librispeech-dev-clean", "typical"): (370, 6, 45.5),
    ("test_nonnative", "speechocean762", "nonnative"): (305, 61, 21.4),
    ("test_small", "librispeech-test-other", "typical"): (60, 10, 7.2),
    ("test_small", "librispeech-dev-clean", "typical"): (36, 6, 4.4),
    ("test_small", "speechocean762", "nonnative"): (305, 61, 21.4),
    ("people", "librispeech-dev-clean", "typical"): (120, 6, 17.3),
    ("people", "speechocean762", "nonnative"): (620, 31, 44.7),
    ("dev_an4", "an4", "typical"): (79, 6, 3.5),
    ("test_an4", "an4", "typical"): (150, 12, 6.4),
}


@pytest.fixture(scope="module")
def built(shared_data: Path) -> Built:
    return build(shared_data)


def test_nobody_is_in_two_lists() -> None:
    lists = read_splits()
    for corpus, own in lists["speakers"].items():
        names = [name for split in SPLITS for name in own.get(split, ())]
        assert len(names) == len(set(names)), corpus
    sizes = {c: [len(own.get(s, ())) for s in SPLITS] for c, own in lists["speakers"].items()}
    assert sizes == {
        "librispeech": [251 + 6, 4, 10 + 6],
        "ljspeech": [1, 0, 0],
        "speechocean762": [57, 8, 61],
        "an4": [56, 6, 12],
    }
    tested = lists["test_recordings"]
    assert sorted(tested) == sorted(lists["speakers"]["speechocean762"]["test"])
    for speaker, names in tested.items():
        assert len(set(names)) == 5
        assert {name[1:5] for name in names} == {speaker}


def test_the_program_writes_what_is_committed(
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["manifests", "--data", str(shared_data), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    manifests.main()
    _, *lines = capsys.readouterr().out.splitlines()
    found = {}
    for line in lines[: len(COMMITTED)]:
        *place, n, n_speakers, minutes = line.split()
        found[tuple(place)] = (int(n), int(n_speakers), float(minutes))
    assert found == COMMITTED
    assert sorted(lines[len(COMMITTED) :]) == [
        "left out, in two folders: 6",
        "left out, longer than 30 s: 7",
        "left out, of a speaker in no list: 40",
    ]
    assert {path.stem for path in tmp_path.glob("*.jsonl")} == {name for name, *_ in COMMITTED}


def test_nothing_leaks(built: Built) -> None:
    made = built.manifests
    sides = {
        "train": made["train"],
        "dev": made["dev"],
        "test": [*made["test"], *made["test_nonnative"], *made["people"]],
    }
    for first, second in itertools.combinations(sides, 2):
        assert check_leaks(sides[first], sides[second], text="error", name=first) == []
    for first, second in itertools.combinations(("train", "dev_an4", "test_an4"), 2):
        assert check_leaks(made[first], made[second], text="ignore", name=first) == []
    words = normaliser("spoken")
    spoken = {words(u.text or "") for u in [*made["train"], *made["dev"]]}
    with (Path(made["test_nonnative"][0].path).parents[1] / "manifest.csv").open() as file:
        official = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert len(official) == 61 * 20
    assert not spoken & {words(row["text"]) for row in official}


def test_every_recording_is_once_in_its_split(built: Built) -> None:
    for name, rows in built.manifests.items():
        assert len({u.id for u in rows}) == len({u.path for u in rows}) == len(rows)
        assert {u.split for u in rows} == {"test" if name == "people" else name.split("_")[0]}
        assert {u.domain for u in rows} == {"recorded"}
        assert {u.cohort for u in rows if u.source == "speechocean762"} <= {"nonnative"}
        assert {u.cohort for u in rows if u.source != "speechocean762"} <= {"typical"}
        for u in rows:
            assert u.id.startswith(f"{u.source}/")
            assert u.source.startswith(u.speaker.split("-")[0])
            assert Path(u.path).is_absolute()
            assert u.text == (u.text or "").lower() or u.source == "ljspeech"
            assert 0 < built.duration_s[u.id] <= 30


def test_a_sentence_is_held_out_of_what_comes_before() -> None:
    def one(corpus: str, name: str, text: str) -> Recording:
        return Recording(Corpus(corpus, corpus), Path(name), "a", text, 1.0)

    left_out: Counter[str] = Counter()
    kept = manifests._without_shared_texts(
        {
            "train": [one("x", "1", "Yes."), one("x", "2", "no"), one("x", "3", "go")],
            "dev": [one("x", "4", "YES"), one("x", "5", "No!")],
            "test": [one("x", "6", "yes"), one("an4", "7", "go")],
        },
        left_out,
    )
    assert {split: [r.path.name for r in own] for split, own in kept.items()} == {
        "test": ["6", "7"],
        "dev": ["5"],
        "train": ["3"],
    }
    assert left_out == {"dev: sentences held out": 1, "train: sentences held out": 2}


def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["manifests", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        run_program(manifests.main)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no corpus librispeech-train-clean-5, " in line
    assert not (tmp_path / "out").exists()
    table = tmp_path / "x" / "manifest.csv"
    table.parent.mkdir()
    for text, kind, message in (
        ("path,speaker,text\na.wav,s,t\n", ManifestError, "no column 'duration_s'"),
        ("path,speaker,text,duration_s\na.wav,s,t,long\n", ManifestError, "could not convert"),
        ("path,speaker,text,duration_s\na.wav,s,t,1.0\n", ConfigError, "1 recordings that .* list"),
    ):
        table.write_text(text)
        with pytest.raises(kind, match=message):
            read_corpora(tmp_path, [Corpus("x", "x")])
