"""Manifests to other tools: nothing that the other side can hold is lost."""

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

from hyperasr.audio.reading import load
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


def test_dataset(rows: list[Utterance]) -> None:
    rows[2] = replace(rows[2], text=None)
    dataset = exchange.to_dataset(rows)
    assert dataset.features["audio"] == datasets.Audio(decode=False)
    assert dataset["cohort"][:] == ["stuttering", "stuttering", "typical", "dysarthria"]
    for row, item in zip(rows, dataset, strict=True):
        assert item.pop("audio") == {"bytes": None, "path": row.path}
        extra = None if item["extra"] is None else json.loads(item["extra"])
        values = {**row.to_dict(), "extra": row.extra}
        assert {**item, "extra": extra} == {name: values.get(name) for name in item}


def test_nothing_to_convert(tmp_path: Path) -> None:
    for write in (exchange.to_lhotse, exchange.to_kaldi):
        with pytest.raises(ManifestError, match="no rows"):
            write([], tmp_path / "out")
    with pytest.raises(ManifestError, match="no rows"):
        exchange.to_dataset([])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["dataset", "lhotse", "kaldi"])
def test_times_past_the_end(form: str, rows: list[Utterance], tmp_path: Path) -> None:
    past = [replace(rows[0], end_s=1e308), replace(rows[2], end_s=0.75)]
    out = tmp_path / "out"
    if form == "dataset":
        assert exchange.to_dataset(past)["end_s"][:] == [None, None]
    elif form == "lhotse":
        made = read(exchange.to_lhotse(past, out) / "supervisions.jsonl")
        assert [(s["start"], s["duration"]) for s in made] == [(0.5, 2.5), (0.0, 0.5)]
    else:
        made_segments = table(exchange.to_kaldi(past, out) / "segments")
        assert list(made_segments.values()) == ["ann-ann/1 0.500 -1.000", "b-b_3 0.000 -1.000"]
    write: Any = {
        "dataset": exchange.to_dataset,
        "lhotse": lambda rows: exchange.to_lhotse(rows, tmp_path / "none"),
        "kaldi": lambda rows: exchange.to_kaldi(rows, tmp_path / "none"),
    }[form]
    for times in ({"start_s": 100.0}, {"start_s": 1e300, "end_s": 1e308}, {"end_s": 0.5001}):
        with pytest.raises(ManifestError, match=r"^row 2 \('ann/2'\) is from .*leave it out$"):
            write([rows[0], replace(rows[1], **{"start_s": 0.5, "end_s": None, **times})])
    assert not (tmp_path / "none").exists()


# lhotse


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lhotse_files(rows: list[Utterance], tmp_path: Path) -> None:
    rows[1] = replace(rows[1], text=None)
    folder = exchange.to_lhotse(rows, tmp_path / "lhotse")
    recordings = {r["id"]: r for r in read(folder / "recordings.jsonl")}
    supervisions = read(folder / "supervisions.jsonl")
    assert list(recordings) == ["ann/1", "b 3", "c"]
    for row, made in zip(rows, supervisions, strict=True):
        (source,) = recordings[made["recording_id"]]["sources"]
        assert (source["type"], source["source"]) == ("file", row.path)
        assert (made["id"], made.get("text")) == (row.id, row.text)
        assert (made["speaker"], made["language"]) == (row.speaker, row.language)
        assert made["custom"]["cohort"] == row.cohort
        assert made["custom"].get("extra") == row.extra
    assert [s["duration"] for s in supervisions] == [0.75, 1.5, 0.5, 0.5]
    assert [s["channel"] for s in supervisions] == [0, 0, 0, 1]
    assert supervisions[0]["custom"]["severity"] == 0.25
    exchange.to_lhotse(rows[:1], folder)
    assert len(read(folder / "supervisions.jsonl")) == 1, "written anew"


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


def test_lhotse_faults(rows: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"row 2 \('c'\): there is no file"):
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
    with pytest.raises(ManifestError, match=r"row 2 \('ann/2'\) has no text and others have"):
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
