"""Fisher: channels, participants, uncertain words, tags in many spellings, shorten."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.cohorts.corpora import fisher
from tests.cohorts.corpora.conftest import Tree

SPH = "fe_03_p1_sph1/audio/000"
TRANS = "fe_03_p1_tran/data/trans/000"


def sphere(seconds: float = 4.0, channels: int = 2) -> bytes:
    content = BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, (round(8000 * seconds), channels))
    soundfile.write(content, samples, 8000, format="NIST", subtype="ULAW")
    return content.getvalue()


SHORTEN = b"NIST_1A\n   1024\nsample_coding -s26 ulaw,embedded-shorten-v2.00\nend_head\n".ljust(
    2000
)


def english(tree: Tree) -> Path:
    return tree(
        {
            f"{SPH}/fe_03_00004.sph": sphere(),
            f"{SPH}/fe_03_11487.sph": sphere(240.0, 1),
            "fisher_eng_tr_sp_d2/audio/000/fe_03_00005.sph": SHORTEN,
            f"{TRANS}/fe_03_00004.txt": (
                "# fe_03_00004.sph\n# Transcribed at the LDC\n\n"
                "0.38 1.78 A: an- so the [laugh] topic is \n\n"
                "1.00 2.10 B: right ((you know))\n"
                "2.50 2.60 B: (( ))\n"
                "2.60 2.90 B: [noise]\n"
                "0.5 C: broken\n"
                "7.00 7.50 B: too late\n"
            ),
            f"{TRANS}/fe_03_00005.txt": "# fe_03_00005.sph\n# LDC\n\n1.00 2.10 B: hello\n",
            f"{TRANS}/fe_03_00006.txt": "# fe_03_00006.sph\n# LDC\n\n1.00 2.10 B: hello\n",
            f"{TRANS}/fe_03_11487.txt": "# fe_03_11487.sph\n# BBN\n\n31.09 234.06 A: yeah\n",
            "fe_03_p1_tran/doc/fe_03_p1_calldata.tbl": (
                "CALL_ID,DATE,TOPICID,SIG_GRADE,CNV_GRADE,APIN,ASX.DL,A,B,C,BPIN,BSX.DL,D\n"
                "00004,20021213,ENG01,3,3,2602,f.a,H,5,10,1790,m.a,H\n"
                "00005,20021213,ENG01,3,3,,f.a,H,5,10,,m.a,H\n"
            ),
        }
    )


def test_english(tree: Tree) -> None:
    prepared = fisher.prepare(english(tree))
    first, fixed = prepared
    assert (first.id, first.text) == ("fe_03_00004-A-000038-000178", "an- so the topic is")
    assert (first.speaker, first.start_s, first.end_s) == ("fisher-en-2602", 0.38, 1.78)
    assert first.extra == {
        "text_source": "human",
        "raw_text": "an- so the [laugh] topic is",
        "channel": "0",
        "group": "fe_03_00004",
    }
    assert (fixed.start_s, fixed.speaker) == (231.09, "fe_03_11487-A")
    assert prepared.report.skipped == {
        "words that the transcriber was not sure of (option uncertain)": 2,
        "noise, no words": 1,
        "a line that is not: start end A: text": 1,
        "the times lie beyond the end of the recording": 1,
        "the recording is compressed (shorten): sph2pipe -f wav IN.sph OUT.wav": 1,
        "the recording is listed but absent": 1,
    }


def test_uncertain_words(tree: Tree) -> None:
    rows = {row.id: row for row in fisher.prepare(english(tree), uncertain=True)}
    unsure = rows["fe_03_00004-B-000100-000210"]
    assert (unsure.text, unsure.speaker) == ("right you know", "fisher-en-1790")
    assert unsure.extra is not None
    assert unsure.extra["channel"] == "1"
    assert "fe_03_00004-B-000250-000260" not in rows, "(( )) has no words"


def test_spanish(tree: Tree) -> None:
    name = "20050908_182943_22_fsp"
    head = (
        "file;unicode\tchannel;int\tstart;float\tend;float\tspeaker;unicode\tspeakerType;unicode\t"
        "speakerDialect;unicode\ttranscript;unicode\tsection;int\n;;MM sectionTypes\t[]\n;;MM x\n"
    )
    root = tree(
        {
            f"LDC2010S01/data/speech/{name}.sph": sphere(),
            f"LDC2010T04/fisher_spa_tr/data/transcripts/{name}.tdf": head
            + f"{name}.sph\t0\t0.18\t0.87\tjuan\tmale\tnative\t¿aló?\t0\n"
            + f"{name}.sph\t1\t0.9\t2.5\tann\tfemale\tnative\tes"
            + ' <foreign lang="English"> okay baby </foreign> <laugh>sí</laugh>\t0\n'
            + f"{name}.sph\t3\t1.0\t2.0\tann\tfemale\tnative\tno\t0\n"
            + f"{name}.sph\t1\t1.0\n",
            "LDC2010T04/fisher_spa_tr/doc/fsp_call.tbl": (
                "call_id,date,pin1,a,b,c,d,e,pin2\n22,2005,71,x,x,x,x,x,89\n"
            ),
        }
    )
    prepared = fisher.prepare(root)
    hello, mixed = prepared
    assert (hello.text, hello.language, hello.speaker) == ("aló?", "es", "fisher-es-71")
    assert (mixed.text, mixed.speaker) == ("es okay baby sí", "fisher-es-89")
    assert mixed.extra is not None
    assert (mixed.extra["tag"], mixed.extra["channel"]) == ("CS", "1")
    assert prepared.report.skipped == {"a line that is not a turn of a .tdf table": 2}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<foreing lang=English> yes </foreing> no", "yes no"),
        ("<foreign langenglish hello </foreign", "hello"),
        ('ah <foreign lang = "English"> bye </foreign> ya', "ah bye ya"),
        ("foreign> hey", "hey"),
        ("a foreign film", "a foreign film"),
        ("<lname>García</lname> <background>radio on</background> bien", "García bien"),
        ("<laugh/> [lipsmack] ya </b", "ya"),
        ("((tal vez)) sí", "tal vez sí"),
    ],
)
def test_clean(raw: str, text: str) -> None:
    assert fisher.clean(raw) == text
