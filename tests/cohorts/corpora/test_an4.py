"""AN4: the distribution's lists, converted copies, and the real training part."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.audio.reading import load
from hyperasr.cohorts.corpora import an4
from tests.cohorts.corpora.conftest import Tree

SHARED = Path(__file__).parents[4] / "shared" / "data" / "an4-train"


def sphere() -> bytes:
    """A NIST SPHERE recording, 16-bit, big-endian, as the corpus has them."""
    content = BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, 1600)
    soundfile.write(content, samples, 16_000, format="NIST", subtype="PCM_16", endian="BIG")
    return content.getvalue()


def corpus(tree: Tree) -> Path:
    return tree(
        {
            "an4/etc/an4_train.transcription": (
                "<s> YES </s> (an251-fash-b)\n"
                "<s> ENTER  SIX </s> (cen1-fash-b)\n"
                "<s> LOST </s> (cen2-fash-b)\n"
                "<s> GONE </s> (an9-fash-b)\n"
                "no id at all\n\n"
            ),
            "an4/etc/an4_train.fileids": "an4_clstk/fash/an251-fash-b\nan4_clstk/fash/cen1-fash-b\n"
            "an4_clstk/fash/cen2-fash-b\nan4_clstk/../../../an9-fash-b\n",
            "an4/etc/an4_test.transcription": "GO (an391-mjwl-b)\n",
            "an4/etc/an4_test.fileids": "an4test_clstk/mjwl/an391-mjwl-b\n",
            "an4/wav/an4_clstk/fash/an251-fash-b.sph": sphere(),
            "an4/wav/an4_clstk/fash/an251-fash-b.raw": b"\x00\x01" * 100,
            "an4/wav/an4_clstk/fash/cen1-fash-b.sph": sphere(),
            "an4/wav/an4test_clstk/mjwl/an391-mjwl-b.raw": b"\x00\x01" * 100,
        }
    )


def test_rows(tree: Tree) -> None:
    prepared = an4.prepare(corpus(tree))
    yes, six = prepared
    assert (yes.id, yes.text, yes.speaker) == ("an251-fash-b", "yes", "fash")
    assert (yes.split, yes.cohort, yes.source) == ("train", "typical", "an4")
    assert yes.extra == {"text_source": "human", "gender": "f"}
    assert six.text == "enter six"
    assert len(load(yes.path)) == 1600
    assert prepared.report.skipped == {
        "a headerless .raw recording; take the release in SPHERE format": 1,
        "the recording is listed but absent": 1,
        "a listed path leaves the root": 1,
        "a transcription without an id in parentheses": 1,
    }


def test_a_folder_with_a_manifest(tree: Tree) -> None:
    root = tree(
        {
            "manifest.csv": "path,speaker,text,split\n"
            "fash/an251-fash-b.wav,fash,YES,train\n"
            "/etc/an1-x-b.wav,x,NO,train\n"
            "fash/an252-fash-b.wav,fash,,train\n"
            "fash/an253-fash-b.wav,fash,NO,train\n",
            "fash/an251-fash-b.wav": 0.1,
            "fash/an252-fash-b.wav": 0.1,
        }
    )
    prepared = an4.prepare(root)
    assert [(row.id, row.text, row.split) for row in prepared] == [("an251-fash-b", "yes", "train")]
    assert prepared.report.skipped == {
        "a listed path is absolute": 1,
        "the text is empty": 1,
        "the recording is listed but absent": 1,
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real recordings are not here")
def test_the_real_training_part() -> None:
    prepared = an4.prepare(SHARED)
    rows = list(prepared)
    assert len(rows) == 948
    assert prepared.report.skipped == {}
    assert len({row.speaker for row in rows}) == 74
    assert 41.0 < prepared.report.duration_s / 60 < 43.0
    assert {row.text for row in rows} > {"yes", "go"}
    assert all(row.text and row.text == row.text.lower() for row in rows)
