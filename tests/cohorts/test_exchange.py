"""Manifests to other tools: nothing that the other side can hold is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from hyperasr.audio.reading import load
from hyperasr.cohorts import exchange
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
    with pytest.raises(ManifestError, match="no rows"):
        exchange.to_lhotse([], tmp_path / "out")
    with pytest.raises(ManifestError, match="no rows"):
        exchange.to_dataset([])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["dataset", "lhotse"])
def test_times_past_the_end(form: str, rows: list[Utterance], tmp_path: Path) -> None:
    past = [replace(rows[0], end_s=1e308), replace(rows[2], end_s=0.75)]
    out = tmp_path / "out"
    if form == "dataset":
        assert exchange.to_dataset(past)["end_s"][:] == [None, None]
    else:
        made = read(exchange.to_lhotse(past, out) / "supervisions.jsonl")
        assert [(s["start"], s["duration"]) for s in made] == [(0.5, 2.5), (0.0, 0.5)]
    write: Any = {
        "dataset": exchange.to_dataset,
        "lhotse": lambda rows: exchange.to_lhotse(rows, tmp_path / "none"),
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
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="will not replace"):
        exchange.to_lhotse(rows, tmp_path / "home")
