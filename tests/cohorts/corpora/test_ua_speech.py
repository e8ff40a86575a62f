"""UA-Speech: both releases, both sources of words, seven microphones, corrupt headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
import soundfile
import xlwt

from hyperasr.cohorts.corpora.ua_speech import prepare, read_mlf
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.types import Utterance
from tests.cohorts.corpora.conftest import Tree

PEOPLE = [
    ["Speaker", "Age", "Intelligibility", "Diagnosis", "Motor control"],
    ["F02", 30, "Low", "Spastic", "Wheelchair"],
    ["", "", "(29%)", "", ""],
    ["M04", ">18", "Very low (2%)", "", ""],
]
WORDS = [
    ["WORD", "FILE NAME"],
    ["command", "C1"],
    ["romeo.", "LR"],
    ["one", "D1"],
    ["the", "CW1"],
    ["naturalization", "B1_UW1"],
    ["moonshine", "B2_UW1"],
]


def mlf(*entries: tuple[str, str]) -> str:
    return "#!MLF!#\n" + "".join(f'"*/{name}.lab"\n{word}\n.\n' for name, word in entries)


def write_list(path: Path, old: bool) -> None:
    if old:
        book = xlwt.Workbook()
        for name, rows in (("Speaker", PEOPLE), ("Word_filename", WORDS)):
            sheet = book.add_sheet(name)
            for i, row in enumerate(rows):
                for j, value in enumerate(row):
                    sheet.write(i, j, value)
        book.save(str(path))
    else:
        new = openpyxl.Workbook()
        for name, rows in (("Speaker", PEOPLE), ("Word_filename", WORDS)):
            sheet = new.create_sheet(name)
            for row in rows:
                sheet.append(row)
        new.remove(new.worksheets[0])
        new.save(path)


def texts(rows: list[Utterance]) -> dict[str, str | None]:
    return {row.id.removeprefix("ua_speech/"): row.text for row in rows}


def test_old_release_with_mlf(tree: Tree) -> None:
    names = [f"F02_B1_UW1_M{m}" for m in range(2, 9)]
    files: dict[str, str | bytes | float] = {f"audio/F02/{name}.wav": 0.05 for name in names}
    files |= {
        "audio/control/CF02/CF02_B2_D1_M5.wav": 0.05,
        "audio/F02/F02_B3_C1_M5.WAV": 0.05,
        "audio/F02/F02_B3_C13_M2.wav": b"",
        "audio/F02/F02_B3_C99_M2.wav": 0.05,
        "audio/F02/notes.wav": 0.05,
        "mlf/F02/F02_word.mlf": mlf(
            *((name, "NATURALIZATION") for name in names),
            ("F02_B3_C1_M2", "COMMAND"),
            ("F02_B3_C13_M2", "UPWARD"),
        ),
        "mlf/CF02/CF02_word.mlf": mlf(("CF02_B2_D1_M5", "ONE")),
    }
    ready = prepare(tree(files))
    rows = list(ready)
    assert texts(rows) == {f"F02/B1/UW1/M{m}": "NATURALIZATION" for m in range(2, 9)} | {
        "F02/B3/C1/M5": "COMMAND",  # the MLF has it for another microphone
        "CF02/B2/D1/M5": "ONE",
    }
    assert {row.extra["group"] for row in rows if row.extra} == {
        "F02/B1/UW1",
        "F02/B3/C1",
        "CF02/B2/D1",
    }
    assert {row.speaker: (row.cohort, row.split) for row in rows} == {
        "F02": ("dysarthria", "train"),
        "CF02": ("typical", "test"),
    }
    assert ready.report.skipped == {
        "the recording has 0 bytes": 1,
        "neither an MLF nor the word list has the word": 1,
        "the name is not SPEAKER_BLOCK_WORD_MICROPHONE": 1,
    }


@pytest.mark.parametrize("old", [True, False], ids=["xls", "xlsx"])
def test_new_release_with_word_list(tree: Tree, old: bool) -> None:
    names = ("F02_B1_UW1_M5", "F02_B2_UW1_M5", "F02_B1_LR_M5", "M04_B1_CW1_M2", "CM01_B1_D1_M2")
    root = tree(
        {
            f"audio/{v}/{n[: n.index('_')]}/{n}.wav": 0.05
            for v in ("noisereduced", "original")
            for n in names
        }
    )
    write_list(root / ("speaker_wordlist.xls" if old else "speaker_wordlist.xlsx"), old)
    ready = prepare(root)
    rows = list(ready)
    assert texts(rows) == {
        "F02/B1/UW1/M5": "NATURALIZATION",
        "F02/B2/UW1/M5": "MOONSHINE",
        "F02/B1/LR/M5": "ROMEO",
        "M04/B1/CW1/M2": "THE",
        "CM01/B1/D1/M2": "ONE",
    }
    assert all("original" in row.path for row in rows)
    assert {row.speaker: (row.severity, row.etiology) for row in rows} == {
        "F02": (0.71, "Spastic"),
        "M04": (0.98, "cerebral palsy"),
        "CM01": (None, None),
    }
    assert sum(ready.report.notes.values()) == len(names)  # the other version
    assert {row.extra["task"] for row in rows if row.extra} == {
        "uncommon word",
        "letter",
        "common word",
        "digit",
    }
    other = list(prepare(root, version="noisereduced"))
    assert texts(other) == texts(rows)
    assert all("noisereduced" in row.path for row in other)
    assert [row.id for row in prepare(root, mics="M2")] == [
        "ua_speech/CM01/B1/D1/M2",
        "ua_speech/M04/B1/CW1/M2",
    ]


def test_corrupt_headers_are_skipped_or_repaired_in_a_copy(
    tree: Tree, tmp_path: Path, wav: Callable[..., Path]
) -> None:
    sound = wav(tmp_path / "sound.wav", 0.1)
    samples, _ = soundfile.read(sound, dtype="int16")
    corrupt = b"\x00" * 44 + sound.read_bytes()[44:] + b"\x01"  # half a sample at the end
    root = tree(
        {
            "audio/M01/M01_B1_D1_M5.wav": corrupt,
            "audio/M01/M01_B1_D1_M6.wav": 0.05,
            "audio/M01/M01_B1_D1_M7.wav": b"",
            "mlf/M01/M01_word.mlf": mlf(("M01_B1_D1_M5", "ONE")),
        }
    )
    ready = prepare(root)
    assert len(list(ready)) == 1
    assert ready.report.skipped == {
        "the recording's header cannot be read": 1,
        "the recording has 0 bytes": 1,
    }
    ready = prepare(root, repair_to=tmp_path / "repaired")
    first, second = ready
    assert first.path == str(tmp_path / "repaired" / "M01_B1_D1_M5.wav")
    assert first.extra is not None
    assert first.extra["repaired"] == "true"
    copied, rate = soundfile.read(first.path, dtype="int16")
    assert rate == 16_000
    assert (copied == samples).all()
    assert second.extra is not None
    assert "repaired" not in second.extra
    assert ready.report.skipped == {"the recording has 0 bytes": 1}
    assert (root / "audio/M01/M01_B1_D1_M5.wav").read_bytes() == corrupt


def test_a_damaged_word_list(tree: Tree) -> None:
    files: dict[str, str | bytes | float] = {
        "audio/F02/F02_B1_D1_M5.wav": 0.05,
        "speaker_wordlist.xls": b"\xd0\xcf\x11\xe0 no Excel",
    }
    with pytest.raises(ManifestError, match=r"speaker_wordlist.xls: a damaged Excel file"):
        list(prepare(tree(files)))
    # With an MLF it is only the severity that is missing.
    ready = prepare(tree({"mlf/F02/F02_word.mlf": mlf(("F02_B1_D1_M5", "ONE"))}))
    assert [row.text for row in ready] == ["ONE"]
    assert len(ready.report.notes) == 1


def test_mlf_with_times() -> None:
    text = '#!MLF!#\n"*/M16_B1_C1_M2.lab"\n0 1000 sil\n1000 5000 COMMAND.\n.\n"a\\b.rec"\nTWO\n.\n'
    assert read_mlf(text) == {"M16_B1_C1_M2": "SIL COMMAND", "B": "TWO"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "loud"}, "version is 'loud'"),
        ({"mics": "M5,left"}, "mics is 'M5,left'"),
        ({"repair_to": "."}, "outside of the corpus"),
    ],
)
def test_bad_options(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], message: str
) -> None:
    root = tree({"a.txt": ""})
    monkeypatch.chdir(root)
    with pytest.raises(ConfigError, match=message):
        prepare(root, **options)  # type: ignore[arg-type]
