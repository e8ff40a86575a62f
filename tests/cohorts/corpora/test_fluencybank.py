"""FluencyBank: transcripts join their recordings; verbatim and intended text side by side."""

from __future__ import annotations

from hyperasr.cohorts.corpora.fluencybank import prepare
from tests.cohorts.corpora.conftest import Tree

HEAD = (
    "@UTF8\n@Begin\n@Languages:\teng\n@Participants:\tPAR Participant, INV Investigator\n"
    "@ID:\teng|Voices-AWS|PAR|24;06.|female|stutter||Participant|||\n@Media:\t24fa, video\n"
)
TURNS = (
    "*INV:\thow are you ? \x150_90\x15\n"
    "*PAR:\t&-um I [/] I am\n\t↫f↫fine . \x15100_250\x15\n"
    "%mor:\tpro|I\n"
    "*PAR:\txxx there . \x15250_300\x15\n"
    "*PAR:\t&=laughs . \x15300_310\x15\n"
    "*PAR:\tno times .\n"
    "*PAR:\t&-um . \x15310_400\x15\n"
)


def test_rows(tree: Tree) -> None:
    root = tree(
        {
            "Voices-AWS/interview/24fa.cha": HEAD + TURNS,
            "Voices-AWS/interview/24fa.wav": 1.0,
            "Voices-AWS/reading/24fa.cha": HEAD + "*PAR:\tthe rainbow . \x150_500\x15\n",
            "Voices-AWS/reading/24fa.wav": 1.0,
            "Voices-AWS/reading/24fa.mp3": b"the same in another format",
            "Voices-CWS/reading/07mb.cha": "*CHI:\thi . \x150_500\x15\n",
            "Voices-CWS/reading/07mb.mp4": b"....ftypmp42",
            "Voices-CWS/reading/08mb.cha": "*CHI:\thi . \x150_500\x15\n",
        }
    )
    ready = prepare(root)
    rows = list(ready)
    assert [(row.id, row.text, row.text_clean) for row in rows] == [
        ("fluencybank/Voices-AWS/interview/24fa/0001", "um I I am f-fine", "I am fine"),
        ("fluencybank/Voices-AWS/interview/24fa/0005", "um", None),
        ("fluencybank/Voices-AWS/reading/24fa/0001", "the rainbow", "the rainbow"),
    ]
    first = rows[0]
    assert (first.start_s, first.end_s) == (0.1, 0.25)
    assert (first.speaker, first.cohort, first.etiology) == (
        "Voices-AWS-24f",
        "stuttering",
        "stutter",
    )
    assert first.extra == {
        "text_source": "human",
        "session": "24fa",
        "raw_text": "&-um I [/] I am ↫f↫fine .",
        "task": "interview",
        "gender": "f",
        "age": "24",
    }
    assert rows[2].path.endswith("reading/24fa.wav")
    assert ready.report.skipped == {
        "an utterance is unintelligible in part (xxx, yyy, www)": 1,
        "an utterance has no words (events and pauses only)": 1,
        "an utterance has no time mark": 1,
        "the recording's header cannot be read": 1,
        "there is no recording for a transcript": 1,
    }


def test_a_recording_is_never_given_to_the_wrong_transcript(tree: Tree) -> None:
    line = "*PAR:\tyes . \x150_50\x15\n"
    root = tree(
        {
            "interview/24fa.cha": line,
            "reading/24fa.cha": line,
            "media/24fa.wav": 0.1,  # of the interview or of the reading?
            "interview/30mb.cha": line,
            "media/30mb.wav": 0.1,
            "interview/31mb.cha": line,
            "reading/31mb.wav": 0.1,
        }
    )
    ready = prepare(root)
    assert [row.id for row in ready] == ["fluencybank/Voices/interview/30mb/0001"]
    assert ready.report.skipped == {
        "a transcript and a recording cannot be told to belong together": 2,
        "there is no recording for a transcript": 1,
    }


def test_casa(tree: Tree) -> None:
    table = (
        "media_file,annotator,start,end,label\n"
        "24fa.mp4,INV,0,100,how are you ?\n"
        "24fa.mp4,PAR,100,250,I [/] I &-um go .\n"
        "24fa.mp4,PAR,soon,250,no .\n"
        "30mb.mp4,PAR,0,100,left aside .\n"
        "../../etc/40m.mp4,PAR,0,100,no .\n"
    )
    root = tree(
        {
            "Voices-AWS/interview/transcripts.csv": table,
            "Voices-AWS/interview/24fa.wav": 0.5,
            "Voices-AWS/interview/30mb.wav": 0.5,
            "Voices-AWS/interview/30mb.cha": "*PAR:\tyes . \x150_50\x15\n",
            "other/transcripts.csv": "a,b\n1,2\n",
        }
    )
    ready = prepare(root)
    assert {row.id: (row.text, row.text_clean) for row in ready} == {
        "fluencybank/Voices-AWS/interview/24fa/0001": ("I I um go", "I go"),
        "fluencybank/Voices-AWS/interview/30mb/0001": ("yes", "yes"),
    }
    assert ready.report.skipped == {
        "a row's times are no numbers": 1,
        "there is no recording for a transcript": 1,
        "a transcripts.csv is not CASA's": 1,
    }
    assert ready.report.notes == {"CASA's rows are left aside where there is a CHAT file": 1}
