"""TORGO: prompts joined with both microphones, instructions and pictures left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperasr.cohorts.corpora.torgo import clean_prompt, prepare
from hyperasr.errors import ConfigError, ManifestError
from tests.cohorts.corpora.conftest import Tree


@pytest.fixture
def root(tree: Tree) -> Path:
    prompts = {
        "0001": "stick\n",
        "0002": "The quick, brown fox; jumps!\r\n",
        "0003": "[say Ah-P-Eee repeatedly]",
        "0004": "input/images/car.jpg",
        "0005": "xxx",
        "0006": "Xray",
        "0008": "air [as in a wind]",
    }
    files: dict[str, str | bytes | float] = {
        f"F/F01/Session1/prompts/{take}.txt": text for take, text in prompts.items()
    }
    for take in ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"):
        files[f"F/F01/Session1/wav_headMic/{take}.wav"] = 0.05
    files |= {
        "F/F01/Session1/wav_arrayMic/0001.wav": 0.05,
        "F/F01/Session1/phn_headMic/0001 xyz.phn": "0 100 sil",
        "M/M01/Session2_3/wav_arrayMic/0002.wav": 0.05,
        "M/M01/Session2_3/Prompts/0002.TXT": "no",
        "MC/MC01/Session3/wav_headMic/0009.WAV": 0.05,
        "MC/MC01/Session3/prompts/0009.txt": "yes",
        "MC/MC01/Session3/wav_headMic/0010.wav": b"",
        "MC/MC01/Session3/prompts/0010.txt": "empty",
        "MC/MC01/notes/a.wav": 0.05,
    }
    return tree(files)


def test_rows(root: Path) -> None:
    ready = prepare(root)
    rows = {row.id: row for row in ready}
    assert {name: row.text for name, row in rows.items()} == {
        "torgo/F01/Session1/arrayMic/0001": "stick",
        "torgo/F01/Session1/headMic/0001": "stick",
        "torgo/F01/Session1/headMic/0002": "The quick brown fox jumps",
        "torgo/F01/Session1/headMic/0006": "X-RAY",
        "torgo/M01/Session2_3/arrayMic/0002": "no",
        "torgo/MC01/Session3/headMic/0009": "yes",
    }
    assert ready.report.skipped == {
        "the prompt is an instruction in brackets": 2,
        "the prompt is a picture; what was said is not known": 1,
        "the prompt marks a bad recording (xxx)": 1,
        "there is no prompt for the recording": 1,
        "the recording has 0 bytes": 1,
        "the place of the recording tells no speaker, session and number": 1,
    }
    sentence = rows["torgo/F01/Session1/headMic/0002"]
    assert (sentence.speaker, sentence.cohort, sentence.severity) == ("F01", "dysarthria", None)
    assert sentence.extra == {
        "gender": "f",
        "group": "F01/Session1/0002",
        "session": "Session1",
        "mic": "head",
        "text_source": "prompt",
        "raw_text": "The quick, brown fox; jumps!",
        "task": "sentence",
    }
    control = rows["torgo/MC01/Session3/headMic/0009"]
    assert (control.cohort, control.etiology) == ("typical", None)


def test_both_microphones_share_a_group(root: Path) -> None:
    groups = [row.extra["group"] for row in prepare(root) if row.text == "stick" and row.extra]
    assert groups == ["F01/Session1/0001"] * 2


@pytest.mark.parametrize(("mics", "n"), [("head", 4), ("array", 2)])
def test_one_microphone(root: Path, mics: str, n: int) -> None:
    assert len(list(prepare(root, mics=mics))) == n


@pytest.mark.parametrize("below", ["F", "F/F01", "F/F01/Session1"])
def test_the_root_may_be_a_folder_of_the_corpus(root: Path, below: str) -> None:
    whole = [row for row in prepare(root) if row.speaker == "F01"]
    assert list(prepare(root / below)) == whole


def test_severity_is_the_users(root: Path, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("speaker,severity\nF01,0.75\nM01,1\n")
    expected = {"F01": 0.75, "M01": 1.0, "MC01": None}
    for table in (tmp_path / "s.csv", {"f01": 0.75, "M01": 1}):
        assert {row.speaker: row.severity for row in prepare(root, severity=table)} == expected
    for bad in ({"F01": 3}, {"F01": "high"}):
        with pytest.raises(ConfigError, match=r"severity of F01 is .*must be within 0 and 1"):
            prepare(root, severity=bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="severity: there is no file"):
        prepare(root, severity=tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("name", "row_id"),
    [
        (
            "F_Con/wav_arrayMic_FC01S01/wav_arrayMic_FC01S01_0089.wav",
            "torgo/FC01/Session1/arrayMic/0089",
        ),
        ("F_Dys/wav_headMic_F01/wav_headMic_F01_0012.wav", "torgo/F01/Session1/headMic/0012"),
        ("torgo_data/dysarthria_male/M05_Session2_0007.wav", "torgo/M05/Session2/0007"),
    ],
)
def test_repacked_copies_have_no_text(tree: Tree, name: str, row_id: str) -> None:
    ready = prepare(tree({name: 0.05}))
    (row,) = ready
    assert (row.id, row.text) == (row_id, None)
    assert ready.report.notes == {"a copy without prompts: the text is left out": 1}


def test_bad_options_and_other_folders(root: Path, tree: Tree) -> None:
    with pytest.raises(ConfigError, match="mics is 'left'"):
        prepare(root, mics="left")
    with pytest.raises(ManifestError, match=r"expected SPEAKER/SessionN/wav_headMic"):
        list(prepare(root / "F/F01/Session1/phn_headMic"))


def test_prompts() -> None:
    assert clean_prompt('He said: "yes; no?"') == "He said yes no"
    assert clean_prompt("xray") == "x-ray"
    assert clean_prompt("xrays") == "xrays"
    assert clean_prompt("x [relax]") is None
