"""Text, JSON, SRT and WebVTT of a result, and file names that never clash."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr.errors import AudioError, ConfigError
from hyperasr.transcription.disfluency import apply_edits, clean_edits
from hyperasr.transcription.pipeline import Result
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import FORMATS, SCHEMA_VERSION, file_names, render, to_dict
from hyperasr.types import Segment, Transcript, Unclear, Word

SCHEMA = Path(__file__).parents[2] / "hyperasr" / "assets" / "transcript.schema.json"
SEGMENTS = (
    Segment(0.0, 2.5, "turn on", -0.1, (Word("turn", 0.9), Word("on", 0.4))),
    Segment(2.5, 3.0, "", 0.0),
    Segment(3661.0016, 3725.5, "the <light> --> & more", -0.5, (Word("the", 0.99),)),
)
TRANSCRIPT = Transcript("a.wav", "turn on the <light>", SEGMENTS, 3726.0, ("it is clipped",))
RESULT = Result(Recording("a.wav", "a.wav", reference="turn on the light"), TRANSCRIPT)
COMPARED = Result(RESULT.recording, TRANSCRIPT, base=Transcript("a.wav", "turn of"))


WORDS = ("um", "the", "the", "light", "[unclear]")
TIMES = tuple((1.0 + 0.5 * i, 1.4 + 0.5 * i) for i in range(5))
EDITS = clean_edits(WORDS, TIMES)
FULL = Transcript(
    "b.wav",
    " ".join(WORDS),
    (
        Segment(
            1.0,
            4.0,
            " ".join(WORDS),
            -0.3,
            tuple(
                Word(text, probability, *times, doubt)
                for text, probability, times, doubt in zip(
                    WORDS, (0.9, 0.8, 0.3, 0.9, 0.0), TIMES, (0.0, 0.1, 0.2, 0.75, 0.0), strict=True
                )
            ),
            EDITS,
            " ".join(apply_edits(WORDS, EDITS)),
            (Unclear(3.0, 3.4, "no end of text", "na na na", 4),),
        ),
    ),
    4.0,
    clean="the light [unclear]",
    discarded_s=1.0,
)


def files(*paths: str) -> list[Recording]:
    return [Recording(path, path) for path in paths]


def test_text_of_a_comparison_names_each_system() -> None:
    assert render(COMPARED, "txt").splitlines() == [
        "reference:    turn on the light",
        "unadapted:    turn of",
        "personalised: turn on the <light>",
    ]
    assert render(replace(COMPARED, transcript=FULL), "txt", "both").splitlines() == [
        "reference:              turn on the light",
        "unadapted, verbatim:    turn of",
        "unadapted, clean:       turn of",
        "personalised, verbatim: um the the light [unclear]",
        "personalised, clean:    the light [unclear]",
    ]


def test_json_holds_everything() -> None:
    values = json.loads(render(COMPARED, "json"))
    assert values == to_dict(COMPARED)
    assert values["id"] == "a.wav"
    assert values["text"] == TRANSCRIPT.text
    assert values["duration_s"] == 3726.0
    assert values["warnings"] == ["it is clipped"]
    assert values["reference"] == "turn on the light"
    assert values["base"]["text"] == "turn of"
    written = render(Result(Recording("å", "å"), Transcript("å", "grün")), "json")
    assert '"text": "grün"' in written
    assert values["segments"][0] == {
        "start_s": 0.0,
        "end_s": 2.5,
        "text": "turn on",
        "logprob": -0.1,
        "words": [
            {"word": "turn", "probability": 0.9, "doubtful": False},
            {"word": "on", "probability": 0.4, "doubtful": True},
        ],
    }


def test_json_of_times_edits_and_doubt() -> None:
    values = to_dict(Result(Recording("b.wav", "b.wav"), FULL))
    assert values["schema_version"] == SCHEMA_VERSION
    assert values["discarded_s"] == 1.0
    assert values["clean"] == "the light [unclear]"
    (segment,) = values["segments"]
    assert segment["words"][1] == {
        "word": "the",
        "probability": 0.8,
        "doubtful": False,
        "start_s": 1.5,
        "end_s": 1.9,
        "uncertainty": 0.1,
    }
    assert segment["edits"][0] == {
        "first": 0,
        "last": 1,
        "kind": "filler",
        "text": "um",
        "replacement": "",
        "start_s": 1.0,
        "end_s": 1.4,
    }
    (unclear,) = segment["unclear"]
    assert unclear["text"] == "na na na"
    assert segment["words"][unclear["word"]]["word"] == "[unclear]"


@pytest.mark.parametrize(
    "result",
    [RESULT, COMPARED, Result(RESULT.recording, FULL), Result(RESULT.recording, FULL, base=FULL)],
)
def test_json_is_what_the_schema_says(result: Result) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    validator = jsonschema.Draft202012Validator(schema)
    values = json.loads(render(result, "json"))
    validator.validate(values)
    for broken in (
        values | {"schema_version": SCHEMA_VERSION + 1},
        values | {"unknown": 1},
        {key: value for key, value in values.items() if key != "discarded_s"},
        values | {"segments": [{"start_s": 0.0}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(broken)


def test_each_mode_shows_its_text() -> None:
    full = Result(Recording("b.wav", "b.wav"), FULL)
    assert render(full, "txt") == "um the the light [unclear]\n"
    assert render(full, "txt", "clean") == "the light [unclear]\n"
    assert render(full, "txt", "both") == (
        "verbatim: um the the light [unclear]\nclean:    the light [unclear]\n"
    )
    assert "um the the" in render(full, "srt", "both")
    assert render(full, "srt", "clean") == (
        "1\n00:00:01,000 --> 00:00:04,000\nthe light [unclear]\n"
    )
    assert render(RESULT, "txt", "clean") == render(RESULT, "txt"), "nobody asked for clean text"


def test_vtt_has_word_times_and_doubtful_words() -> None:
    lines = render(Result(Recording("b.wav", "b.wav"), FULL), "vtt").splitlines()
    assert lines[3] == (
        "um <00:00:01.500>the <00:00:02.000><c.doubtful>the</c> "
        "<00:00:02.500><c.doubtful>light</c> <00:00:03.000>[unclear]"
    )
    clean = render(Result(Recording("b.wav", "b.wav"), FULL), "vtt", "clean")
    assert clean.splitlines()[3] == "<c.doubtful>the</c> <c.doubtful>light</c> [unclear]"
    words = (Word("日", 0.9, 0.1, 0.4), Word("本", 0.2, 0.4, 0.9))
    joined = Transcript("j", "日本", (Segment(0.0, 1.0, "日本", -0.1, words),), 1.0)
    cue = render(Result(Recording("j", "j"), joined), "vtt").splitlines()[3]
    assert cue == "<00:00:00.100>日<00:00:00.400><c.doubtful>本</c>", "no blanks that nobody wrote"


@pytest.mark.parametrize(
    ("form", "mode", "text"),
    [
        ("txt", "verbatim", "um the [?the] [?light] [unclear]\n"),
        ("txt", "clean", "[?the] [?light] [unclear]\n"),
        (
            "txt",
            "both",
            "verbatim: um the [?the] [?light] [unclear]\nclean:    [?the] [?light] [unclear]\n",
        ),
        ("srt", "clean", "1\n00:00:01,000 --> 00:00:04,000\n[?the] [?light] [unclear]\n"),
    ],
)
def test_doubtful_words_are_marked_in_text_where_asked(form: str, mode: str, text: str) -> None:
    assert render(Result(Recording("b.wav", "b.wav"), FULL), form, mode, marks=True) == text


SILENT = Transcript("s", "", (), 1.0)


@pytest.mark.parametrize(
    ("transcript", "form", "expected"),
    [
        (TRANSCRIPT, "txt", "turn on the <light>\n"),
        (
            TRANSCRIPT,
            "srt",
            "1\n00:00:00,000 --> 00:00:02,500\nturn on\n\n"
            "2\n01:01:01,002 --> 01:02:05,500\nthe <light> -> & more\n",
        ),
        (
            TRANSCRIPT,
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nturn <c.doubtful>on</c>\n\n"
            "01:01:01.002 --> 01:02:05.500\nthe &lt;light&gt; -&gt; &amp; more\n",
        ),
        (SILENT, "txt", "\n"),
        (SILENT, "srt", ""),
        (SILENT, "vtt", "WEBVTT\n"),
    ],
)
def test_formats_letter_by_letter(transcript: Transcript, form: str, expected: str) -> None:
    assert render(Result(Recording("x", "x"), transcript), form) == expected


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["verbatim", "clean", "both"])
def test_every_format_takes_every_mode(form: str, mode: str) -> None:
    for transcript in (TRANSCRIPT, FULL, SILENT):
        text = render(Result(Recording("x", "x"), transcript), form, mode)
        assert text == "" or text.endswith("\n")


def test_what_cannot_be_written_says_so() -> None:
    with pytest.raises(ConfigError, match="txt, json, srt, vtt, csv, textgrid, chat, html"):
        render(RESULT, "doc")
    with pytest.raises(ConfigError, match=r"a\.wav has no transcript"):
        render(Result(RESULT.recording, error=AudioError("x")), "txt")


def test_a_file_is_named_by_its_stem() -> None:
    assert file_names(files("x/a.wav", "y/b b.flac", "./x/c.mp3"), "srt") == [
        "a.srt",
        "b b.srt",
        "c.srt",
    ]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("x/a.wav", "x/a.flac"), ["a.wav.txt", "a.flac.txt"]),
        (("x/a.wav", "y/a.wav"), ["x/a.wav.txt", "y/a.wav.txt"]),
        (("x/a.wav", "x/A.wav"), ["a.wav.txt", "A.wav-2.txt"]),
        (("x/a.wav", "x/a.wav", "b.wav"), ["x/a.wav.txt", "x/a.wav-2.txt", "b.txt"]),
        (("a.wav", "x/a.wav", "a"), ["a.wav.txt", "x/a.wav.txt", "a.txt"]),
        (("../x/a.wav", "../y/a.wav"), ["x/a.wav.txt", "y/a.wav.txt"]),
    ],
)
def test_one_stem_two_files(paths: tuple[str, ...], expected: list[str]) -> None:
    assert file_names(files(*paths), "txt") == expected


def test_chat_is_named_as_it_says_inside(tmp_path: Path) -> None:
    pylangacq = pytest.importorskip("pylangacq")
    names = [
        "spk1/utt.2",
        "p1.s2",
        "My Rec",
        "My_Rec",
        "s_1.0-2.0",
        "base|x",
        'a"b',
        "a,b",
        "日 本",
    ]
    recordings = [Recording(name, "base.wav") for name in [*names, ".hid", "é\u0301", "x" * 300]]
    recordings += files("x/My Rec.wav", "y/My Rec.wav", "y/My,Rec.wav", "z/a.wav", "z/a.flac")
    made = file_names(recordings, "chat")
    assert len(set(made)) == len(recordings)
    for recording, name in zip(recordings, made, strict=True):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(render(Result(recording, TRANSCRIPT), "chat", name=name), encoding="utf-8")
        assert pylangacq.read_chat(str(path)).words()[:2] == ["turn", "on"]
        assert not set(path.stem) & set(" .,\"'|")
    assert "@Media:\ts_1_0-2_0, audio" in render(Result(recordings[4], TRANSCRIPT), "chat")


def test_rows_of_a_manifest_are_named_by_id_and_stay_in_the_folder() -> None:
    rows = [Recording(id, "x.wav") for id in ("u1", "../../etc/passwd", "a/b", "..", "n" * 900)]
    names = file_names(rows, "json")
    assert names[0] == "u1.json"
    assert all(PurePosixPath(name).parts == (name,) for name in names)
    assert not any(name.startswith(".") for name in names)
    assert max(len(name) for name in names) < 200


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(
                lambda i: Recording(i, "x.wav"),
                st.text("aAsß./\\ é日-_\x00\n", min_size=1, max_size=6),
            ),
            st.builds(
                lambda parts: files("/".join(parts))[0],
                st.lists(st.sampled_from(["a", "A", "b.wav", "a.wav", "a-2"]), min_size=1),
            ),
        ),
        max_size=8,
    ),
    st.sampled_from(FORMATS),
)
def test_names_never_clash_or_leave_the_folder(recordings: list[Recording], form: str) -> None:
    names = file_names(recordings, form)
    assert len({name.casefold() for name in names}) == len(recordings)
    for name in names:
        assert name.endswith({"textgrid": ".TextGrid", "chat": ".cha"}.get(form, f".{form}"))
        assert not PurePosixPath(name).is_absolute()
        assert ".." not in PurePosixPath(name).parts
