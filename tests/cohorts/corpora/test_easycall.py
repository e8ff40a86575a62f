"""EasyCall: everything is in the file name; severity from a table."""

from __future__ import annotations

from hyperasr.cohorts.corpora import easycall
from tests.cohorts.corpora.conftest import Tree

FILES: dict[str, str | bytes | float] = {
    "EasyCall/f01/s1/f01_01_apri_rubrica.wav": 0.1,
    "EasyCall/f04/f04_02_uno.wav": 0.1,
    "EasyCall/m02/M02_01_Chiama.WAV": 0.1,
    "EasyCall/fc03/deep/er/fc03_01_vai_indietro.wav": 0.1,
    "EasyCall/m02/m02_01.wav": 0.1,
    "EasyCall/m02/m02_01__.wav": 0.1,
    "EasyCall/m02/test.wav": 0.1,
    "EasyCall/m02/m02_03_vuoto.wav": b"",
}
TABLE = "speaker,label,split,sex,severity\nF01,dys,test,f,2\nf04,dys,train,f,\nm02,dys,train,m,9\n"


def test_rows(tree: Tree) -> None:
    prepared = easycall.prepare(tree({**FILES, "easycall_meta.csv": TABLE}))
    rows = {row.speaker: row for row in prepared}
    assert set(rows) == {"f01", "f04", "m02", "fc03"}
    first = rows["f01"]
    assert (first.id, first.text) == ("f01_01_apri_rubrica", "apri rubrica")
    assert (first.cohort, first.language, first.split) == ("dysarthria", "it", "test")
    assert first.severity == 2 / 3
    assert first.extra == {"text_source": "prompt", "session": "01", "gender": "f"}
    control = rows["fc03"]
    assert (control.cohort, control.severity, control.split) == ("typical", None, "all")
    assert rows["m02"].text == "Chiama"
    assert (rows["f04"].severity, rows["m02"].severity) == (None, None)
    assert prepared.report.notes == {"a severity that is not a number from 0 to 3 was left out": 1}
    assert prepared.report.skipped == {
        "a name that is not SPEAKER_SESSION_word": 3,
        "the recording has 0 bytes": 1,
    }


def test_without_table_and_a_copy(tree: Tree) -> None:
    prepared = easycall.prepare(tree({**FILES, "copy/f04_02_uno.wav": 0.1}))
    assert all(row.severity is None for row in prepared)
    assert prepared.report.skipped["duplicate id"] == 1
