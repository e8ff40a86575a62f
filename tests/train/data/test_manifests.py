"""Nobody and no sentence is on two sides, and the manifests hold what is committed."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hyperasr.cohorts.splits import check_leaks
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.types import Utterance
from train.data import corpora, manifests
from train.data.manifests import OPUS_BIT_S, Built, build, counts, has_numbers, reencode
from train.data.splits import SPLITS, read_splits, words
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
    ("test_nonnative_no_numbers", "speechocean762", "nonnative"): (287, 61, 20.2),
    ("dev_an4", "an4", "typical"): (79, 6, 3.5),
    ("test_an4", "an4", "typical"): (150, 12, 6.4),
}


@pytest.fixture(scope="module")
def built(shared_data: Path) -> Built:
    return build(shared_data, read_splits())


def test_nobody_is_in_two_lists() -> None:
    lists = read_splits()
    assert sorted(lists.speakers) == ["an4", "librispeech", "ljspeech", "speechocean762"]
    for corpus, own in lists.speakers.items():
        names = [name for split in SPLITS for name in own.get(split, ())]
        assert len(names) == len(set(names)), corpus
    sizes = {c: [len(own.get(s, ())) for s in SPLITS] for c, own in lists.speakers.items()}
    assert sizes == {
        "librispeech": [251 + 6, 4, 10 + 6],
        "ljspeech": [1, 0, 0],
        "speechocean762": [57, 8, 61],
        "an4": [56, 6, 12],
    }


def test_five_recordings_of_each_nonnative_test_speaker() -> None:
    lists = read_splits()
    assert sorted(lists.test_recordings) == sorted(lists.speakers["speechocean762"]["test"])
    for speaker, names in lists.test_recordings.items():
        assert len(set(names)) == 5
        assert {name[1:5] for name in names} == {speaker}


def test_counts_are_the_committed_ones(built: Built) -> None:
    found = {(m, s, c): (n, people, round(min_, 1)) for m, s, c, n, people, min_ in counts(built)}
    assert found == COMMITTED
    assert built.left_out == {
        "in two folders": 6,
        "longer than 30 s": 7,
        "of a speaker in no list": 40,
    }


def test_nothing_leaks(built: Built) -> None:
    made = built.manifests
    sides = {
        "train": made["train"],
        "dev": made["dev"],
        "test": [*made["test"], *made["test_nonnative"]],
    }
    for first, second in itertools.combinations(sides, 2):
        assert check_leaks(sides[first], sides[second], text="error", name=first) == []
    for first, second in itertools.combinations(("train", "dev_an4", "test_an4"), 2):
        assert check_leaks(made[first], made[second], text="ignore", name=first) == []
    spoken = {words(u.text or "") for u in [*made["train"], *made["dev"]]}
    with (Path(made["test_nonnative"][0].path).parents[1] / "manifest.csv").open() as file:
        official = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert len(official) == 61 * 20
    assert not spoken & {words(row["text"]) for row in official}


def test_every_recording_is_once_in_its_split(built: Built) -> None:
    for name, rows in built.manifests.items():
        assert len({u.id for u in rows}) == len({u.path for u in rows}) == len(rows)
        assert {u.split for u in rows} == {name.split("_")[0]}
        assert {u.domain for u in rows} == {"recorded"}
        assert {u.cohort for u in rows if u.source == "speechocean762"} <= {"nonnative"}
        assert {u.cohort for u in rows if u.source != "speechocean762"} <= {"typical"}
        for u in rows:
            assert u.id.startswith(f"{u.source}/")
            assert u.source.startswith(u.speaker.split("-")[0])
            assert Path(u.path).is_absolute()
            assert u.text == (u.text or "").lower() or u.source == "ljspeech"
            assert 0 < built.duration_s[u.id] <= 30


def test_numbers_in_a_text() -> None:
    for text in ("six of them", "the first", "no one", "u s citizens", "room 7", "twenty-one"):
        assert has_numbers(text), text
    for text in ("i have a dog", "it's a start", "don't you see the king's tent"):
        assert not has_numbers(text), text


def test_a_sentence_is_held_out_of_what_comes_before() -> None:
    def one(corpus: str, name: str, text: str) -> corpora.Recording:
        kind = corpora.Corpus(corpus, corpus)
        return corpora.Recording(kind, Path(name), "a", text, 1.0)

    left_out: Counter[str] = Counter()
    kept = manifests._without_shared_texts(
        {
            "train": [one("x", "1", "Yes."), one("x", "2", "no"), one("x", "3", "go")],
            "dev": [one("x", "4", "YES"), one("x", "5", "No!")],
            "test": [one("x", "6", "yes"), one("an4", "7", "go")],
        },
        left_out,
    )
    assert {split: [r.stem for r in own] for split, own in kept.items()} == {
        "test": ["6", "7"],
        "dev": ["5"],
        "train": ["3"],
    }
    assert left_out == {"dev: sentences held out": 1, "train: sentences held out": 2}


def test_opus_of_24_kbit_s(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "librispeech-test-other-10spk"
    paths = sorted(root.glob("1688/*.flac"))[1:3]
    source = "librispeech-test-other"
    rows = [Utterance(f"{source}/1688/{p.name}", str(p), "x", source=source) for p in paths]
    made = reencode(rows, tmp_path / "again")
    assert [u.id for u in made] == [f"{source}-24k/1688/{p.stem}.ogg" for p in paths]
    for old, new in zip(rows, made, strict=True):
        info = sf.info(new.path)
        assert (info.format, info.subtype, info.samplerate) == ("OGG", "OPUS", 16_000)
        assert info.frames == sf.info(old.path).frames
        rate = 8 * Path(new.path).stat().st_size / info.duration
        assert rate == pytest.approx(OPUS_BIT_S, rel=0.15)
        before, after = (sf.read(u.path)[0] for u in (old, new))
        assert np.corrcoef(before, after)[0, 1] > 0.95
    files = {u.path: Path(u.path).read_bytes() for u in made}
    assert reencode(rows, tmp_path / "again") == made
    assert files == {u.path: Path(u.path).read_bytes() for u in made}


def test_what_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(data: Path) -> str:
        words = ["manifests", "--data", str(data), "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as stopped:
            run_program(manifests.main)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "there is no folder" in run(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no corpus librispeech-train-clean-5, " in run(tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    kind = corpora.Corpus("x", "x")
    table = tmp_path / "x" / "manifest.csv"
    table.parent.mkdir()
    table.write_text("path,speaker,text\na.wav,s,t\n")
    with pytest.raises(ManifestError, match="no column 'duration_s'"):
        corpora.read_corpora(tmp_path, [kind])
    table.write_text("path,speaker,text,duration_s\na.wav,s,t,long\n")
    with pytest.raises(ManifestError, match="could not convert"):
        corpora.read_corpora(tmp_path, [kind])
    table.write_text("path,speaker,text,duration_s\na.wav,s,t,1.0\n")
    with pytest.raises(ConfigError, match=r"1 recordings that .* lists are absent"):
        corpora.read_corpora(tmp_path, [kind])
