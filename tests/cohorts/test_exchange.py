"""Manifests to other tools and back: nothing that the other side can hold is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from hyperasr.audio import load
from hyperasr.cohorts import exchange
from hyperasr.cohorts.corpora import generic
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.types import Utterance

RATE = 16_000


@pytest.fixture
def rows(tmp_path: Path) -> list[Utterance]:
    """Parts of a recording, a whole one, and one with everything a row can have."""
    folder = tmp_path / "my audio"
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE)
    soundfile.write(folder / "long.flac", noise, RATE)
    soundfile.write(folder / "o'clock.wav", noise[:8000], RATE)
    stereo = np.stack([noise[:8000], np.zeros(8000)], axis=1)
    soundfile.write(folder / "call.sph", stereo, RATE, format="NIST", subtype="PCM_16")
    long = str(folder / "long.flac")
    return [
        Utterance(
            "ann/1",
            long,
            text="ein „Wort“",
            speaker="ann",
            cohort="stuttering",
            start_s=0.5,
            end_s=1.25,
            text_clean="Wort",
            etiology="stroke",
            severity=0.25,
            language="de",
            split="train",
            source="here",
            extra={"session": "1", "Größe": "2"},
        ),
        Utterance("ann/2", long, text="two", speaker="ann", cohort="stuttering", start_s=1.5),
        Utterance("b 3", str(folder / "o'clock.wav"), text="three", speaker="b", cohort="typical"),
        Utterance(
            "c",
            str(folder / "call.sph"),
            text="four",
            speaker="c",
            cohort="dysarthria",
            extra={"channel": "1"},
        ),
    ]


# datasets


@pytest.mark.parametrize("audio", ["path", "bytes"])
def test_dataset_and_back(audio: str, rows: list[Utterance], tmp_path: Path) -> None:
    rows[2] = replace(rows[2], text=None)
    dataset = exchange.to_dataset(rows, audio=audio)
    assert dataset.features["audio"] == datasets.Audio(decode=False)
    assert dataset["cohort"][:] == ["stuttering", "stuttering", "typical", "dysarthria"]
    item = dataset[0]["audio"]
    assert (item["bytes"] is None) == (audio == "path")
    back = list(exchange.from_dataset(dataset, tmp_path / "out"))
    assert [replace(r, path="") for r in back] == [replace(r, path="") for r in rows]
    for before, after in zip(rows, back, strict=True):
        assert (before.path == after.path) == (audio == "path")
        np.testing.assert_array_equal(load(before.path), load(after.path))
    if audio == "bytes":
        assert len(list((tmp_path / "out").iterdir())) == 3, "one file a recording, not a row"


def test_dataset_through_parquet(rows: list[Utterance], tmp_path: Path) -> None:
    """Parquet takes the recordings in, and leaves only the names of their paths."""
    exchange.to_dataset(rows, audio="bytes").to_parquet(tmp_path / "d.parquet")
    again = datasets.Dataset.from_parquet(str(tmp_path / "d.parquet"), cache_dir=str(tmp_path))
    back = list(exchange.from_dataset(again, tmp_path / "out"))
    assert [r.cohort for r in back] == [r.cohort for r in rows]
    np.testing.assert_array_equal(load(back[2].path), load(rows[2].path))
    with pytest.raises(ManifestError, match="row 0: the dataset holds the recording as bytes"):
        list(exchange.from_dataset(again))


def test_dataset_of_others(rows: list[Utterance]) -> None:
    dataset = datasets.Dataset.from_dict(
        {"audio": [rows[0].path], "sentence": ["hello"], "client_id": ["x"], "up_votes": [2]}
    ).cast_column("audio", datasets.Audio(RATE))
    (row,) = exchange.from_dataset(
        dataset,
        columns={"text": "sentence", "speaker": "client_id"},
        defaults={"cohort": "parkinson", "language": "it"},
    )
    assert row == Utterance(
        "00000000", rows[0].path, text="hello", speaker="x", cohort="parkinson", language="it"
    )


@pytest.mark.parametrize(
    ("table", "options", "reason"),
    [
        ({"path": [None], "id": ["a"]}, {}, "dataset, row 0: field 'path' is missing"),
        ({"path": ["a"], "start_s": [-1.0]}, {}, "row 0: field 'start_s' must be a number >= 0"),
        ({"path": ["a"], "speaker": [7]}, {}, "row 0: field 'speaker' must be text"),
        ({"audio": [[0.1, 0.2]]}, {}, "row 0: audio that was decoded already"),
        ({"path": ["a"]}, {"columns": {"text": "txt"}}, "there is no 'txt'; the dataset has"),
        ({"path": ["a"]}, {"columns": {"words": "path"}}, "there is no 'words'"),
        ({"path": ["a"]}, {"defaults": {"kohort": "x"}}, "unknown field 'kohort'"),
    ],
)
def test_bad_datasets(table: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    dataset = datasets.Dataset.from_dict(table)
    with pytest.raises(ManifestError, match=reason):
        list(exchange.from_dataset(dataset, **options))


def test_nothing_to_convert(rows: list[Utterance], tmp_path: Path) -> None:
    for write in (exchange.to_lhotse, exchange.to_kaldi):
        with pytest.raises(ManifestError, match="no rows"):
            write([], tmp_path / "out")
    with pytest.raises(ManifestError, match="no rows"):
        exchange.to_dataset([])
    with pytest.raises(ManifestError, match="audio is 'array'; it must be path or bytes"):
        exchange.to_dataset(rows, audio="array")
    with pytest.raises(ManifestError, match=r"cannot read none\.wav: No such file"):
        exchange.to_dataset([replace(rows[0], path="none.wav")], audio="bytes")
    assert not (tmp_path / "out").exists()


# lhotse


def test_lhotse_and_back(rows: list[Utterance], tmp_path: Path) -> None:
    rows[1] = replace(rows[1], text=None)
    folder = exchange.to_lhotse(rows, tmp_path / "lhotse")
    back = list(exchange.from_lhotse(folder))
    lengths = [1.25, 3.0, 0.5, 0.5]
    assert back == [replace(r, end_s=end) for r, end in zip(rows, lengths, strict=True)]
    assert len((folder / "recordings.jsonl").read_text().splitlines()) == 3
    exchange.to_lhotse(rows[:1], folder)
    assert len(list(exchange.from_lhotse(folder))) == 1, "written anew"


def test_lhotse_reads_it(rows: list[Utterance], tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    folder = exchange.to_lhotse(rows, tmp_path / "lhotse")
    recordings = lhotse.RecordingSet.from_file(folder / "recordings.jsonl")
    supervisions = lhotse.SupervisionSet.from_file(folder / "supervisions.jsonl")
    lhotse.validate_recordings_and_supervisions(recordings, supervisions)
    cuts = lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
    parts = list(cuts.trim_to_supervisions(keep_overlapping=False))
    assert [cut.supervisions[0].text for cut in parts] == [row.text for row in rows]
    assert parts[0].supervisions[0].custom["cohort"] == "stuttering"
    expected = load(rows[0].path, start_s=0.5, end_s=1.25)
    np.testing.assert_allclose(parts[0].load_audio()[0], expected, atol=1e-6)


def test_what_lhotse_writes_is_read(rows: list[Utterance], tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    folder = exchange.to_lhotse(rows, tmp_path / "lhotse")
    for kind, name in (
        (lhotse.RecordingSet, "recordings"),
        (lhotse.SupervisionSet, "supervisions"),
    ):
        kind.from_file(folder / f"{name}.jsonl").to_eager().to_file(folder / f"{name}.jsonl")
    assert [row.cohort for row in exchange.from_lhotse(folder)] == [row.cohort for row in rows]


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


FILE = {"type": "file", "channels": [0], "source": "a.wav"}


@pytest.mark.parametrize(
    ("recordings", "supervisions", "reason"),
    [
        ("{", "", "recordings.jsonl, line 1: not a JSON object"),
        ("[1]", "", "recordings.jsonl, line 1: not a JSON object"),
        (lines({"id": "r", "sources": [FILE, FILE]}), "", "only recordings of one file are read"),
        (lines({"id": "r", "sources": [{"type": "command"}]}), "", "only recordings of one file"),
        ("", lines({"id": "s", "recording_id": "q"}), "line 1: there is no recording 'q'"),
        (
            lines({"id": "r", "sources": [FILE]}),
            lines({"id": "s", "recording_id": "r", "start": 1.0, "duration": 0.0}),
            "supervisions.jsonl, line 1: end_s 1.0 is not after start_s",
        ),
    ],
)
def test_bad_lhotse_files(recordings: str, supervisions: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "recordings.jsonl").write_text(recordings)
    (tmp_path / "supervisions.jsonl").write_text(supervisions)
    with pytest.raises(ManifestError, match=reason):
        list(exchange.from_lhotse(tmp_path))


def test_lhotse_faults(rows: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        list(exchange.from_lhotse(tmp_path / "none"))
    with pytest.raises(ManifestError, match="row 'c': there is no file"):
        exchange.to_lhotse([rows[0], replace(rows[3], path="none.wav")], tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing half-written"


# Kaldi


def table(path: Path) -> dict[str, str]:
    pairs = [line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    assert pairs == sorted(pairs, key=lambda pair: pair[0].encode()), "Kaldi sorts by bytes"
    return {key: value for key, value in pairs}


def test_kaldi_files(rows: list[Utterance], tmp_path: Path) -> None:
    folder = exchange.to_kaldi(rows, tmp_path / "kaldi")
    utt2spk = table(folder / "utt2spk")
    assert utt2spk == {"ann-ann/1": "ann", "ann-ann/2": "ann", "b-b_3": "b", "c-c": "c"}
    assert table(folder / "spk2utt") == {"ann": "ann-ann/1 ann-ann/2", "b": "b-b_3", "c": "c-c"}
    assert table(folder / "text")["ann-ann/1"] == "ein „Wort“"
    assert table(folder / "segments") == {
        "ann-ann/1": "ann-ann/1 0.500 1.250",
        "ann-ann/2": "ann-ann/1 1.500 -1.000",
        "b-b_3": "b-b_3 0.000 -1.000",
        "c-c": "c-c 0.000 -1.000",
    }
    scp = table(folder / "wav.scp")
    assert scp["ann-ann/1"] == f"flac -c -d -s '{rows[0].path}' |"
    assert scp["b-b_3"] == rows[2].path
    assert scp["c-c"] == f"sph2pipe -f wav -p -c 2 '{rows[3].path}' |"
    assert table(folder / "utt2cohort")["c-c"] == "dysarthria"
    assert table(folder / "utt2lang")["ann-ann/1"] == "de"


def test_kaldi_and_back(rows: list[Utterance], tmp_path: Path) -> None:
    folder = exchange.to_kaldi(rows, tmp_path / "kaldi")
    back = list(generic.prepare(folder, audio_root=tmp_path, split="test"))
    names = ["ann-ann/1", "ann-ann/2", "b-b_3", "c-c"]
    assert [row.id for row in back] == names
    for before, after in zip(rows, back, strict=True):
        for field in ("path", "text", "speaker", "cohort", "language", "start_s", "end_s"):
            assert getattr(after, field) == getattr(before, field), field
    assert back[3].extra is not None
    assert back[3].extra["channel"] == "1"


def test_kaldi_order_is_that_of_the_speakers(rows: list[Utterance], tmp_path: Path) -> None:
    """Sorting by utterance must sort by speaker too, or Kaldi refuses the folder."""
    speakers = ["s1", "s10", "s1-b", "s", "S2", "s_1"]
    many = [replace(rows[2], id=f"{s}_{i}", speaker=s) for s in speakers for i in range(2)]
    folder = exchange.to_kaldi(many, tmp_path / "kaldi")
    pairs = table(folder / "utt2spk")
    by_speaker = sorted(pairs, key=lambda name: (pairs[name].encode(), name.encode()))
    assert by_speaker == list(pairs)
    assert set(pairs.values()) == set(speakers)
    assert not (folder / "segments").exists()
    assert len(table(folder / "wav.scp")) == len(many)


def with_text(rows: Iterable[Utterance], *texts: str | None) -> list[Utterance]:
    return [replace(row, text=text) for row, text in zip(rows, texts, strict=False)]


def test_kaldi_faults(rows: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="row 'ann/2' has no text and others have"):
        exchange.to_kaldi(with_text(rows, "one", " "), tmp_path / "out")
    same = [replace(rows[2], id="b 3"), replace(rows[2], id="b_3")]
    with pytest.raises(ManifestError, match="two rows are called 'b-b_3'"):
        exchange.to_kaldi(same, tmp_path / "out")
    broken = replace(rows[2], path="/a\nb.wav")
    with pytest.raises(ManifestError, match="line break in its name"):
        exchange.to_kaldi([broken], tmp_path / "out")
    os.makedirs(tmp_path / "home")
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="will not replace"):
        exchange.to_kaldi(rows, tmp_path / "home")
    folder = exchange.to_kaldi(with_text(rows, None, None), tmp_path / "out")
    assert not (folder / "text").exists()
