"""Speech Accessibility Project: markup, two references, layouts, ratings, privacy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyperasr.cohorts.corpora import sap
from hyperasr.cohorts.corpora._sap_text import references, stretches
from hyperasr.errors import ManifestError
from tests.cohorts.corpora.conftest import Tree

ANN = "0A1B-AAAA"
BEN = "0C2D-BBBB"


def entry(name: str, transcript: str | None, **more: Any) -> dict[str, Any]:
    prompt = {
        "Prompt Text": "Turn on the light",
        "Transcript": transcript,
        "Category Description": "Digital Assistant Commands",
        "Sub Category Description": "Lights",
    }
    return {"Filename": name, "Prompt": prompt, "Ratings": [], **more}


def person(name: str, files: list[Any], etiology: str | None = "Parkinson's Disease") -> str:
    values = {"Contributor ID": name, "Files": files}
    return json.dumps(values | ({"Etiology": etiology} if etiology else {}))


RATINGS = [
    {"Level": "3", "Dimension Description": "Intelligibility"},
    {"Level": "4", "Dimension Description": "Intelligibility"},
    {"Level": "2", "Dimension Description": "Monopitch"},
    {"Level": None, "Dimension Description": "Harsh voice"},
]
FILES: dict[str, str | bytes | float] = {
    f"Train/{ANN}/{ANN}.json": person(
        ANN,
        [
            entry("0a1b-aaaa_1_2.wav", "(And) And turn it (cs: dear) on", Ratings=RATINGS),
            entry("0a1b-aaaa_1_2.wav", "again"),
            entry("0a1b-aaaa_1_3.wav", "nov"),
            entry("0a1b-aaaa_1_4.wav", None),
            entry("0a1b-aaaa_1_5.wav", "turn {w: 2} on"),
            entry("0a1b-aaaa_1_6.wav", "gone"),
            entry("../../../0a1b-aaaa_1_7.wav", "#dis\nfirst\nsecond"),
            entry("0a1b-aaaa_1_8.wav", "empty"),
            entry("0a1b-aaaa_1_9.wav", "[the tester talks]"),
            {"Prompt": {}},
            "no dictionary",
        ],
    ),
    f"Train/{ANN}/{ANN}_1_2.wav": 0.1,
    f"Train/{ANN}/{ANN}_1_3.wav": 0.1,
    f"Train/{ANN}/{ANN}_1_4.wav": 0.1,
    f"Train/{ANN}/{ANN}_1_5.wav": 0.1,
    f"Train/{ANN}/{ANN}_1_7_16kHz.wav": 0.1,
    f"Train/{ANN}/{ANN}_1_8.wav": b"",
    f"Train/{ANN}/{ANN}_1_9.wav": 0.1,
    f"Train/{BEN}/{BEN}.json": "{ not json",
    "Train/SpeechAccessibility_2024-11-30_Split.json": json.dumps({"train": {}}),
    "Train/SpeechAccessibility_2024-11-30_001.tar": b"x",
}


def test_rows(tree: Tree) -> None:
    prepared = sap.prepare(tree(FILES))
    first, joined = prepared
    assert first.text == "And And turn it dear on"
    assert first.text_clean == "And turn it dear on"
    assert (first.cohort, first.etiology, first.split) == (
        "parkinson",
        "Parkinson's Disease",
        "train",
    )
    assert first.severity is None
    assert first.extra == {
        "text_source": "human",
        "raw_text": "(And) And turn it (cs: dear) on",
        "prompt": "Turn on the light",
        "task": "Digital Assistant Commands",
        "subtask": "Lights",
        "rating: Intelligibility": "3 4",
        "rating: Monopitch": "2",
    }
    assert (joined.text, joined.text_clean) == ("first second", "first second")
    assert joined.path.endswith("_1_7_16kHz.wav")
    assert prepared.report.skipped == {
        "an archive that is not unpacked": 1,
        "a JSON file that is damaged": 1,
        "a file listed twice by one contributor": 1,
        "the transcript is a code for an unusable recording": 1,
        "no transcript": 1,
        "words that nobody understood (option unknown_words)": 1,
        "the recording is listed but absent": 1,
        "the recording has 0 bytes": 1,
        "a transcript without words": 1,
        "an entry without a file name": 2,
    }


def test_contributor_ids_are_hashed(tree: Tree) -> None:
    prepared = sap.prepare(tree(FILES))
    rows = list(prepared)
    shown = " ".join([*(row.id + row.speaker for row in rows), *prepared.report.lines()]).lower()
    assert ANN.lower() not in shown
    assert BEN.lower() not in shown
    assert rows[0].id == f"{rows[0].speaker}_1_2"
    salted = next(iter(sap.prepare(prepared.root, salt="secret")))
    assert salted.speaker != rows[0].speaker
    kept = next(iter(sap.prepare(prepared.root, keep_ids=True)))
    assert (kept.id, kept.speaker) == ("0a1b-aaaa_1_2", ANN.lower())


def test_unknown_words_on_demand(tree: Tree) -> None:
    rows = list(sap.prepare(tree(FILES), unknown_words=True))
    assert "turn UNK UNK on" in {row.text for row in rows}


LAYOUTS = {
    "raw": ("raw/Dev/{p}/{p}.json", "raw/Dev/{p}/{f}.wav", "dev"),
    "processed": ("processed/test1/{p}/{p}.json", "processed/test1/{p}/{f}_16kHz.wav", "test1"),
    "flat": ("Train/{p}.json", "Train/{p}/{f}.wav", "train"),
    "all in one": ("Train/{p}.json", "Train/{f}.wav", "train"),
    "apart": ("dev/metadata/{p}.json", "dev/audio/{p}/{f}.wav", "dev"),
    "apart and flat": ("dev/metadata/{p}/{p}.json", "dev/audio/{f}.WAV", "dev"),
    "no split": ("{p}/{p}.json", "{p}/{f}.flac", "all"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tree: Tree) -> None:
    where, audio, split = LAYOUTS[layout]
    name = f"{ANN.lower()}_7_8"
    root = tree(
        {
            where.format(p=ANN): person(ANN, [entry(f"{name}.wav", "yes")], "Stroke"),
            audio.format(p=ANN, f=name.upper()): 0.1,
        }
    )
    (row,) = sap.prepare(root)
    assert (row.text, row.split, row.cohort) == ("yes", split, "stroke")


def test_etiology_and_split_from_lists(tree: Tree) -> None:
    files = {
        f"{p}/{p}.json": person(p, [entry(f"{p}_1_1.wav", "yes")], None) for p in (ANN, BEN, "C-1")
    }
    sounds: dict[str, str | bytes | float] = {f"{p}/{p}_1_1.wav": 0.1 for p in (ANN, BEN, "C-1")}
    lists: dict[str, str | bytes | float] = {
        "dev.txt": f"data/{ANN}_1_1.wav\tALS\nodd line\n",
        "lists/test2.tsv": "/their/root\nC-1/C-1_1_1.wav\t1600\n",
        "SpeechAccessibility_Contributors.json": json.dumps({"dev": [ANN], "train": [BEN], "x": 1}),
    }
    root = tree({**files, **sounds, **lists})
    prepared = sap.prepare(root)
    found = [(row.cohort, row.etiology, row.split) for row in prepared]
    assert found == [("als", "ALS", "dev"), ("unknown", None, "train"), ("unknown", None, "test2")]
    assert prepared.report.notes == {
        "a recording whose etiology nothing tells (option etiology)": 2
    }
    given = [row.cohort for row in sap.prepare(root, etiology="Cerebral Palsy")]
    assert given == ["als", "cerebral_palsy", "cerebral_palsy"]
    assert next(iter(sap.prepare(root, etiology="Down Syndrome"))).etiology == "ALS"


def test_nothing_but_archives(tree: Tree) -> None:
    with pytest.raises(ManifestError, match="an archive that is not unpacked"):
        list(sap.prepare(tree({"Train/a_001.tar": b"x", "b.7z.001": b"x"})))


@pytest.mark.parametrize(
    ("raw", "verbatim", "clean"),
    [
        ("(And) And so", "And And so", "And so"),
        ("(s-) stop", "s- stop", "stop"),
        ("(f-*)Find it", "f- Find it", "Find it"),
        ("go (cs: come on) home", "go come on home", "go come on home"),
        ("go (ss: wait, no)", "go wait, no", "go wait, no"),
        ("the {g: cat} sat", "the cat sat", "the cat sat"),
        ("the {cat} sat", "the cat sat", "the cat sat"),
        ("{f: hola} there", "hola there", "hola there"),
        ("{w: 3} there {u: }", "UNK UNK UNK there UNK", "UNK UNK UNK there UNK"),
        ("{w:} there { }", "there UNK", "there UNK"),
        ("[prompt: say hello] hello [NAME].", "hello.", "hello."),
        ("of a prompt] hello", "hello", "hello"),
        ("spell ~J ~E", "spell J E", "spell J E"),
        ("(um, (I) ) I went (", "um, I I went", "I went"),
        ("half (open", "half open", "half"),
        ("(uh)", "uh", ""),
    ],
)
def test_references(raw: str, verbatim: str, clean: str) -> None:
    both = references(raw)
    assert (both.verbatim, both.clean) == (verbatim, clean)
    assert both.n_unknown == verbatim.count("UNK")


@pytest.mark.parametrize(
    ("transcript", "parts"),
    [
        ("one\ntwo", [("one two", None, None)]),
        ("#dis\r\none", [("one", None, None)]),
        ("#dis", []),
        ("nod", []),
        ("[BGN]", []),
        ("nod your head", [("nod your head", None, None)]),
        ("Cut.", []),
        (" \n", []),
        (
            "#ts\n0.5 2 one two\n3.25 4.0 three\nbad\n5 6 ",
            [("one two", 0.5, 2), ("three", 3.25, 4)],
        ),
    ],
)
def test_stretches(transcript: str, parts: list[tuple[str, float, float]]) -> None:
    assert [(s.raw, s.start_s, s.end_s) for s in stretches(transcript)] == parts


def test_timed_transcripts_become_rows_with_times(tree: Tree) -> None:
    text = "#ts\n0.1 0.5 one (uh) two\n0.6 0.9 three"
    root = tree({"a/a.json": person("a", [entry("a_1_1.wav", text)]), "a/a_1_1.wav": 1.0})
    first, second = sap.prepare(root)
    assert (first.text, first.text_clean, first.start_s, first.end_s) == (
        "one uh two",
        "one two",
        0.1,
        0.5,
    )
    assert second.id == first.id[:-2] + "01"
