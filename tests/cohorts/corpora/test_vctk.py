"""VCTK: both releases, two microphones, and the speaker without texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperasr.cohorts.corpora import vctk
from hyperasr.errors import ConfigError

Tree = Callable[[dict[str, str | bytes | float]], Path]
NEW = "wav48_silence_trimmed/p225"


def new_release(tree: Tree) -> Path:
    return tree(
        {
            f"{NEW}/p225_001_mic1.flac": 0.1,
            f"{NEW}/p225_001_mic2.flac": 0.1,
            "wav48_silence_trimmed/p315/p315_001_mic1.flac": 0.1,
            "wav48_silence_trimmed/s5/s5_001_mic1.flac": b"",
            "wav48_silence_trimmed/log.txt": "no speech",
            "txt/p225/p225_001.txt": "Please call\n Stella.\n",
            "txt/s5/s5_001.txt": "Please.",
            "speaker-info.txt": "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\n"
            "p225  23  F    English    Southern  England\ns5  22 M British\n",
        }
    )


def test_new_release(tree: Tree) -> None:
    prepared = vctk.prepare(new_release(tree))
    (row,) = prepared
    assert (row.id, row.text, row.speaker) == ("p225_001_mic1", "Please call Stella.", "p225")
    assert row.extra == {
        "text_source": "prompt",
        "age": "23",
        "gender": "f",
        "accent": "English",
        "mic": "mic1",
        "group": "p225_001",
    }
    assert prepared.report.skipped == {"no transcript": 1, "the recording has 0 bytes": 1}


@pytest.mark.parametrize(("mic", "mics"), [("all", ["mic1", "mic2"]), ("mic2", ["mic2"])])
def test_microphones(mic: str, mics: list[str], tree: Tree) -> None:
    rows = list(vctk.prepare(new_release(tree), mic=mic))
    assert [row.extra["mic"] for row in rows if row.extra] == mics
    assert {row.extra["group"] for row in rows if row.extra} == {"p225_001"}


def test_old_release(tree: Tree) -> None:
    root = tree(
        {
            "VCTK-Corpus/wav48/p226/p226_002.wav": 0.1,
            "VCTK-Corpus/wav48/p226/other.wav": 0.1,
            "VCTK-Corpus/txt/p226/p226_002.txt": "Ask her.\n",
            "VCTK-Corpus/speaker-info.txt": "ID AGE GENDER ACCENTS\n226 22 M English\n",
        }
    )
    prepared = vctk.prepare(root)
    (row,) = prepared
    assert (row.id, row.text) == ("p226_002", "Ask her.")
    assert row.extra == {"text_source": "prompt", "age": "22", "gender": "m", "accent": "English"}
    assert prepared.report.skipped == {"a name that is not pNNN_NNN": 1}


def test_no_such_microphone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no microphone 'head'; give mic1, mic2 or all"):
        vctk.prepare(tmp_path, mic="head")
