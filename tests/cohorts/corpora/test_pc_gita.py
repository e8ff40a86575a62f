"""PC-GITA: tasks by folder, normalised copies, the user's texts, and the table of people."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from hyperasr.cohorts.corpora import pc_gita
from hyperasr.errors import ConfigError
from tests.cohorts.corpora.conftest import Tree

TOP = "PC-GITA_per_task_44100Hz/PC-GITA_per_task_44100Hz"
FILES: dict[str, str | bytes | float] = {
    f"{TOP}/read text/ayerfuialmedico/sin normalizar/hc/AVPEPUDEAC0001_readtext.wav": 0.1,
    f"{TOP}/read text/ayerfuialmedico/sin normalizar/pd/AVPEPUDEA0002readtext.wav": 0.1,
    f"{TOP}/sentences/rosita/sin normalizar/PD/AVPEPUDEA0001_rosita.wav": 0.1,
    f"{TOP}/sentences/rosita/con normalizar/PD/AVPEPUDEA0001_rosita.wav": 0.1,
    f"{TOP}/sentences/luisa/con_normalizar/PD/AVPEPUDEA0001_luisa.wav": 0.1,
    f"{TOP}/sentences2/1_viste/non-normalized/hc/AVPEPUDEAC0001_viste.wav": 0.1,
    f"{TOP}/monologue/sin normalizar/pd/AVPEPUDEA0001-Monologo-NR.wav": 0.1,
    f"{TOP}/DDK analysis/pataka/sin normalizar/pd/AVPEPUDEA0001_pataka.wav": 0.1,
    f"{TOP}/Vowels/Control/A/AVPEPUDEAC0001a1.wav": 0.1,
    f"{TOP}/sentences/rosita/sin normalizar/PD/notes.wav": 0.1,
    f"{TOP}/sentences/rosita/sin normalizar/PD/AVPEPUDEA0003_rosita.wav": b"",
    f"{TOP}/__old/rosita/AVPEPUDEA0009_rosita.wav": 0.1,
}
TEXTS = {"Rosita": "Rosita pinta bien", "ayerfuialmedico": "Ayer fui", "viste": "Viste", "x": "y"}


def metadata(root: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (
        [
            "RECODING ORIGINAL NAME",
            "UPDRS",
            "UPDRS-speech",
            "H/Y",
            "SEX",
            "AGE",
            "time after diagnosis",
        ],
        ["AVPEPUDEA0001", 28, 1, 2, "M", 64, 3.5],
        ["AVPEPUDEA0002", 41, "n.a.", 3, "F", 70, 12],
        ["AVPEPUDEAC0001", None, None, None, "F", 61, None],
        [None, None, None, None, None, None, None],
    ):
        sheet.append(row)
    book.save(root / "Copia de PCGITA_metadata.xlsx")


def test_rows(tree: Tree) -> None:
    root = tree(FILES)
    metadata(root)
    prepared = pc_gita.prepare(root, texts=TEXTS)
    rows = {row.id: row for row in prepared}
    assert set(rows) == {
        "AVPEPUDEA0001-monologue-monologo_nr",
        "AVPEPUDEA0001-sentence-luisa",
        "AVPEPUDEA0001-sentence-rosita",
        "AVPEPUDEA0002-read-ayerfuialmedico-readtext",
        "AVPEPUDEAC0001-read-ayerfuialmedico-readtext",
        "AVPEPUDEAC0001-sentence-viste",
    }
    rosita = rows["AVPEPUDEA0001-sentence-rosita"]
    assert (rosita.text, rosita.speaker, rosita.cohort) == (
        "Rosita pinta bien",
        "AVPEPUDEA0001",
        "parkinson",
    )
    assert "sin normalizar" in rosita.path
    assert (rosita.severity, rosita.etiology, rosita.language) == (
        0.25,
        "Parkinson's disease",
        "es",
    )
    assert rosita.extra == {
        "text_source": "passage",
        "task": "sentence",
        "item": "rosita",
        "updrs": "28",
        "updrs_speech": "1",
        "hoehn_yahr": "2",
        "gender": "m",
        "age": "64",
        "years_since_diagnosis": "3.5",
    }
    control = rows["AVPEPUDEAC0001-sentence-viste"]
    assert (control.text, control.cohort, control.severity) == ("Viste", "typical", None)
    assert rows["AVPEPUDEA0002-read-ayerfuialmedico-readtext"].severity is None
    monologue = rows["AVPEPUDEA0001-monologue-monologo_nr"]
    assert monologue.text is None
    assert monologue.extra is not None
    assert monologue.extra["text_source"] == "none"
    report = prepared.report
    assert report.skipped == {
        "vowels and syllables, no words (option wordless)": 2,
        "a normalised copy of another recording": 1,
        "a name without a speaker (AVPEPUDEA and four digits)": 1,
        "the recording has 0 bytes": 1,
        "a text whose item has no recording": 1,
    }
    assert report.notes == {
        "a speech item of the UPDRS that is no number from 0 to 4 gives no severity": 1
    }


def test_without_texts_and_with_vowels(tree: Tree) -> None:
    rows = list(pc_gita.prepare(tree(FILES), wordless=True))
    assert all(row.text is None for row in rows)
    tasks = {row.extra["task"] for row in rows if row.extra}
    assert tasks == {"read", "sentence", "monologue", "ddk", "vowel"}
    assert "AVPEPUDEAC0001-vowel-a-a1" in {row.id for row in rows}


def test_texts_from_a_file_and_one_task_alone(tree: Tree) -> None:
    root = tree({**FILES, f"{TOP}/texts.csv": "item,text\nrosita,Rosita\n"})
    (row,) = pc_gita.prepare(root / TOP / "sentences" / "rosita", texts=root / TOP / "texts.csv")
    # The folder of the item is the root's name; the task above it is out of sight.
    assert (row.id, row.text) == ("AVPEPUDEA0001-unknown-rosita", "Rosita")
    sentences = list(pc_gita.prepare(root / TOP / "sentences", texts={"rosita": "Rosita"}))
    assert {row.text for row in sentences} == {"Rosita", None}


def test_a_damaged_table_and_a_csv(tree: Tree) -> None:
    row = "RECODING ORIGINAL NAME,UPDRS-speech\nAVPEPUDEA0001,2\n"
    root = tree({**FILES, "a_metadata.xlsx": b"PK nothing", "metadata.csv": row})
    prepared = pc_gita.prepare(root)
    severities = {row.speaker: row.severity for row in prepared}
    assert severities["AVPEPUDEA0001"] == 0.5
    assert prepared.report.skipped["a table of metadata cannot be read"] == 1


def test_an_empty_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an item has an empty text"):
        pc_gita.prepare(tmp_path, texts={"rosita": " "})
