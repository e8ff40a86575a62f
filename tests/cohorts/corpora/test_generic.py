"""Layouts of one's own: found by themselves, read safely, defaults where they do not tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.cohorts.corpora import generic
from hyperasr.cohorts.corpora._kaldi import _decoded
from hyperasr.errors import ConfigError, ManifestError
from tests.cohorts.corpora.conftest import Tree

SHARED = Path(__file__).parents[4] / "shared" / "data"


def test_pairs(tree: Tree) -> None:
    root = tree(
        {
            "BB/one two.wav": 0.1,
            "BB/one two.txt": "\ufeffThe sip is\r\n goding the ship. \r\n",
            "train/wav/BK/session 1/2.WAV": 0.1,
            "train/wav/BK/session 1/2.TXT": "x",
            "train/wav/BK/3.flac": 0.1,
            "loose.wav": 0.1,
            "loose.lab": "loose",
            "BB/no.wav": 0.1,
            "BB/empty.wav": 0.1,
            "BB/empty.txt": " \n",
            "BB/zero.wav": b"",
            "BB/zero.txt": "zero",
            "README.txt": "about",
        }
    )
    prepared = generic.prepare(root, cohort="dysarthria", language="de", etiology="stroke")
    rows = {row.id: row for row in prepared}
    assert generic.layout_of(root) == "pairs"
    assert set(rows) == {"BB/one_two", "train/wav/BK/session_1/2", "loose"}
    first = rows["BB/one_two"]
    assert (first.text, first.speaker, first.split) == ("The sip is goding the ship.", "BB", "all")
    assert (first.cohort, first.language, first.etiology) == ("dysarthria", "de", "stroke")
    assert first.extra == {"text_source": "human"}
    second = rows["train/wav/BK/session_1/2"]
    assert (second.speaker, second.split) == ("BK", "train")
    assert rows["loose"].speaker == "unknown"
    assert prepared.report.skipped == {
        "no transcript (option untranscribed)": 3,
        "the recording has 0 bytes": 1,
        "a text without a recording beside it": 1,
    }
    assert prepared.report.notes == {"a recording whose speaker nothing tells (option speaker)": 1}


def test_recordings_without_text_on_demand(tree: Tree) -> None:
    root = tree({"a/1.wav": 0.1, "2.mp3.wav": 0.1})
    with pytest.raises(ManifestError, match="no transcript"):
        list(generic.prepare(root))
    rows = list(generic.prepare(root, untranscribed=True, speaker="me", split="test"))
    assert {(row.text, row.speaker, row.split) for row in rows} == {(None, "me", "test")}
    assert rows[0].extra == {"text_source": "none"}


def test_a_stereo_folder_with_windows_lines(tree: Tree, wav: Callable[..., Path]) -> None:
    root = tree({"DL/DL1.txt": "打开灯\r\n"})
    wav(root / "DL" / "DL1.wav", channels=2)
    (row,) = generic.prepare(root, language="zh")
    assert (row.id, row.text, row.speaker) == ("DL/DL1", "打开灯", "DL")


def test_librispeech(tree: Tree) -> None:
    root = tree({"7/8/7-8.trans.txt": "7-8-0000 HELLO\n", "7/8/7-8-0000.flac": 0.1})
    assert generic.layout_of(root) == "librispeech"
    (row,) = generic.prepare(root, cohort="parkinson", language="fr")
    assert (row.text, row.speaker, row.cohort, row.language) == ("hello", "7", "parkinson", "fr")


# Tables


def test_table_of_our_own_columns(tree: Tree) -> None:
    root = tree(
        {
            "manifest.csv": (
                "path,text,speaker,cohort,severity,language,split,start,end,mood\n"
                'a.wav,"Hello, you",s1,dysarthria,0.5,it,valid,0.25,0.75,calm\n'
                "a.wav,no speaker,,,,,,1,1.5,\n"
                "a.wav,bad,s1,,,,,soon,2,\n"
                "a.wav,bad,s1,,7,,,,,\n"
                "a.wav,backwards,s1,dysarthria,,,,2,1,\n"
                ",no path,s1,,,,,,,\n"
                "/etc/passwd,absolute,s1,,,,,,,\n"
                "../b.wav,out,s1,,,,,,,\n"
                "b.wav,absent,s1,,,,,,,\n"
                "short,row\n"
            ),
            "a.wav": 3.0,
        }
    )
    assert generic.layout_of(root) == "table"
    prepared = generic.prepare(root, language="es")
    first, second = prepared
    assert (first.id, first.text, first.speaker) == ("a@0.25", "Hello, you", "s1")
    assert (first.cohort, first.severity, first.language) == ("dysarthria", 0.5, "it")
    assert (first.split, first.start_s, first.end_s) == ("dev", 0.25, 0.75)
    assert first.extra == {"text_source": "human", "mood": "calm"}
    assert (second.speaker, second.cohort, second.language) == ("unknown", "typical", "es")
    assert prepared.report.skipped == {
        "a row whose start_s is no usable number": 1,
        "a row whose severity is no usable number": 1,
        "the end is not after the start": 1,
        "a row without a path": 1,
        "a listed path is absolute": 1,
        "a listed path leaves the root": 1,
        "the recording is listed but absent": 1,
        "a row of a table has too many or too few fields": 1,
    }


def test_nemo_json_lines(tree: Tree) -> None:
    root = tree({"audio/a.wav": 3.0})
    lines = [
        {
            "audio_filepath": str(root / "audio" / "a.wav"),
            "text": "one",
            "duration": 1.0,
            "offset": 2,
        },
        {"audio_filepath": "audio/a.wav", "text": "all of it", "duration": 3.0, "n": 3},
        {"audio_filepath": "audio/a.wav", "text": 5},
        ["audio/a.wav"],
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"broken"\n'
    (root / "train.jsonl").write_text(text, encoding="utf-8")
    prepared = generic.prepare(root)
    first, second = prepared
    assert (first.id, first.start_s, first.end_s) == ("audio/a@2", 2.0, 3.0)
    assert (second.id, second.start_s, second.end_s) == ("audio/a", 0.0, None)
    assert second.extra == {"text_source": "human", "n": "3"}
    assert prepared.report.skipped == {"duplicate id": 1, "a line that is not a JSON object": 2}


def test_hugging_face_folder_and_tsv(tree: Tree) -> None:
    row = "file_name,transcription,speaker_id\nx/a.wav,hi,7\n"
    (found,) = generic.prepare(tree({"train/metadata.csv": row, "train/x/a.wav": 0.1}))
    assert (found.text, found.speaker, found.split) == ("hi", "7", "train")
    table = 'audio\tsentence\na\tsay "hi\n'
    (found,) = generic.prepare(tree({"list.tsv": table, "a.wav": 0.1}), table="list.tsv")
    assert found.text == 'say "hi'


def test_a_table_beside_its_recordings(tree: Tree, tmp_path: Path) -> None:
    root = tree({"lists/a.csv": "path,text,speaker\nsub/a.wav,hi,s\n", "other/sub/a.wav": 0.1})
    (row,) = generic.prepare(root / "lists", audio_root=root / "other")
    assert row.path == str(root / "other" / "sub" / "a.wav")
    assert row.id == "sub/a"


def test_a_manifest_of_hyperasr(tree: Tree) -> None:
    row = {"id": "u1", "path": "a.wav", "text": "hi", "speaker": "s", "cohort": "parkinson"}
    line = json.dumps(row | {"text_clean": "h", "severity": 0.25, "extra": {"mic": "head"}})
    (found,) = generic.prepare(tree({"m.jsonl": line, "a.wav": 0.1}))
    assert (found.id, found.cohort, found.text_clean, found.severity) == (
        "u1",
        "parkinson",
        "h",
        0.25,
    )
    assert found.extra == {"text_source": "human", "mic": "head"}


def test_bad_options(tree: Tree) -> None:
    root = tree({"a.wav": 0.1, "t.txt": "x"})
    with pytest.raises(ConfigError, match="no layout 'pears'; give auto, kaldi, table"):
        generic.prepare(root, layout="pears")
    for table in ("none.csv", "t.txt"):
        with pytest.raises(ConfigError, match=f"no table {table}"):
            generic.prepare(root, table=table)


# Kaldi


def kaldi(tree: Tree, **files: str) -> Path:
    root = tree({"wav/a.wav": 3.0, "wav/b.wav": 0.5})
    defaults = {
        "wav.scp": "a wav/a.wav\nb " + str(root / "wav" / "b.wav") + "\n",
        "text": "a_1 one two\na_2 three\nb_1 four\n",
        "segments": "a_1 a 0.5 1.0\na_2 a 2 -1\nb_1 b 0 0.5\n",
        "utt2spk": "a_1 s1\na_2 s1\n",
    }
    for name, content in (
        defaults | {k.replace("wav_scp", "wav.scp"): v for k, v in files.items()}
    ).items():
        path = root / "dev" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def test_kaldi(tree: Tree) -> None:
    root = kaldi(tree, utt2cohort="a_1 stuttering\n", utt2lang="a_1 de\n", spk2gender="s1 f\n")
    assert generic.layout_of(root) == "kaldi"
    first, second, third = generic.prepare(root)
    assert (first.id, first.text, first.speaker) == ("a_1", "one two", "s1")
    assert (first.cohort, first.language, first.split) == ("stuttering", "de", "dev")
    assert (first.start_s, first.end_s) == (0.5, 1.0)
    assert first.extra == {"text_source": "human", "gender": "f"}
    assert (second.start_s, second.end_s, second.cohort) == (2.0, None, "typical")
    assert (third.speaker, third.path) == ("unknown", str(root / "wav" / "b.wav"))


def test_kaldi_faults(tree: Tree) -> None:
    root = kaldi(
        tree,
        wav_scp="a wav/a.wav\na wav/b.wav\nrm rm -rf wav/b.wav |\nx ../../x.wav\ny /etc/y.wav\n"
        "z wav/z.wav\n",
        segments="a_1 a 0 1\nbad a one 2\nlost q 0 1\nr rm 0 1\nx1 x 0 1\nz1 z 0 1\na_9 a 0 1\n",
        text="a_1 one\nz1 z\nnone x\n",
    )
    prepared = generic.prepare(root)
    assert [row.id for row in prepared] == ["a_1"]
    assert prepared.report.skipped == {
        "a second line of the same id in wav.scp": 1,
        "a command in wav.scp that does more than decode a file": 1,
        "a listed path leaves the root": 1,
        "a listed path is absolute": 1,
        "a segment without recording, start and end": 1,
        "the recording is listed but absent": 2,
        "no transcript (option untranscribed)": 1,
        "a text without a recording or a segment": 1,
    }
    assert (root / "wav" / "b.wav").exists(), "no command of the list is run"


def test_kaldi_without_segments_and_with_decoders(tree: Tree) -> None:
    content = BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, (800, 2))
    soundfile.write(content, noise, 8000, format="NIST", subtype="PCM_16")
    root = tree(
        {
            "kaldi/wav.scp": (
                "u1 sph2pipe -f wav -p -c 2 ../c.sph |\nu2 flac -c -d -s '../a b.flac' |\n"
                "u3 sox ../c.sph -r 16000 -c 1 -t wav - |\nu4 sox ../c.sph -t wav - remix 1 |\n"
            ),
            "kaldi/text": "u1 one\nu2\ttwo\nu3 three\nu4 four\n",
            "c.sph": content.getvalue(),
            "a b.flac": 0.1,
        }
    )
    first, second, mixed, left = generic.prepare(root)
    assert (first.text, first.path, first.extra) == (
        "one",
        str(root / "c.sph"),
        {"text_source": "human", "channel": "1"},
    )
    assert second.path == str(root / "a b.flac")
    assert mixed.extra == {"text_source": "human"}, "-c of sox is a number of channels"
    assert left.extra == {"text_source": "human", "channel": "0"}


@pytest.mark.parametrize(
    ("command", "recording"),
    [
        ("/usr/bin/sox a.wav -r 16000 -c 1 -b 16 -t wav - downsample |", "a.wav"),
        ("ffmpeg -i a.mp3 -f wav - |", "a.mp3"),
        ("sox a.wav b.wav |", None),
        ("flac -c -d -s a.flac | sox - -t wav - |", None),
        ("cat a.wav |", None),
        ("sox 'a.wav |", None),
        ("|", None),
    ],
)
def test_commands(command: str, recording: str | None) -> None:
    assert _decoded(command) == recording


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real recordings are not here")
@pytest.mark.parametrize(
    ("folder", "n_rows", "n_speakers"),
    [("librispeech-test-other-10spk", 100, 10), ("vctk-4spk", 40, 4)],
)
def test_real_recordings(folder: str, n_rows: int, n_speakers: int) -> None:
    prepared = generic.prepare(SHARED / folder)
    assert len(list(prepared)) == n_rows
    assert len(prepared.report.speakers) == n_speakers
    assert prepared.report.skipped == {}
