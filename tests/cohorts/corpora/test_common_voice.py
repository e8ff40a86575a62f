"""Common Voice: lists with quotation marks, several languages, clips that are missing."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.audio.reading import load
from hyperasr.cohorts.corpora import common_voice
from hyperasr.errors import ConfigError

Tree = Callable[[dict[str, str | bytes | float]], Path]
HEAD = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment\n"
ANNA, BEN = "a" * 128, "b" * 128


def mp3() -> bytes:
    content = BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, 4800)
    soundfile.write(content, samples, 48_000, format="MP3")
    return content.getvalue()


def corpus(tree: Tree) -> Path:
    clip = mp3()
    return tree(
        {
            "cv/sv-SE/train.tsv": HEAD
            + f'{ANNA}\tone.mp3\t"Hej, sade hon.\t2\t0\tthirties\tfemale\t\tsv-SE\t\n'
            + f"{BEN}\ttwo.mp3\tHej då\t2\t0\t\t\t\tsv-SE\t\n"
            + f"{BEN}\t../../../../two.mp3\tUt\t2\t0\t\t\t\tsv-SE\t\n"
            + f"{BEN}\tsix.mp3\t \t2\t0\t\t\t\tsv-SE\t\n"
            + f"{BEN}\tseven.mp3\n",
            "cv/sv-SE/test.tsv": HEAD + f"{ANNA}\tone.mp3\tHej igen\t2\t0\t\t\t\tsv-SE\t\n",
            "cv/sv-SE/other.tsv": HEAD + f"{ANNA}\tfive\tAndra\t2\t0\t\t\t\tsv-SE\t\n",
            "cv/sv-SE/clip_durations.tsv": "clip\tduration[ms]\none.mp3\t100\n",
            "cv/sv-SE/clips/one.mp3": clip,
            "cv/sv-SE/clips/five.mp3": clip,
            "cv/sv-SE/clips/six.mp3": clip,
            "cv/de/dev.tsv": "client_id\tpath\tsentence\n" + f"{BEN}\tdrei.mp3\tGuten Tag\n",
            "cv/de/clips/drei.mp3": clip,
            "cv/fr/dev.tsv": "who\twhat\nx\ty\n",
        }
    )


def test_rows(tree: Tree) -> None:
    prepared = common_voice.prepare(corpus(tree))
    german, swedish = prepared
    assert (german.id, german.text, german.language) == ("drei", "Guten Tag", "de")
    assert (german.split, german.speaker) == ("dev", "b" * 16)
    assert swedish.text == '"Hej, sade hon.', "a quotation mark of the sentence groups nothing"
    assert (swedish.language, swedish.split) == ("sv", "train")
    assert swedish.extra == {
        "text_source": "prompt",
        "locale": "sv-SE",
        "gender": "female",
        "age": "thirties",
    }
    # The decoder adds a little at both ends.
    assert len(load(swedish.path)) >= 1600
    assert prepared.report.skipped == {
        "the recording is listed but absent": 1,
        "a listed path leaves the root": 1,
        "the text is empty": 1,
        "a row of a table has too many or too few fields": 1,
        "duplicate id": 1,
        "a list without the columns client_id, path and sentence": 1,
    }


def test_other_lists(tree: Tree) -> None:
    (row,) = common_voice.prepare(corpus(tree) / "cv" / "sv-SE", lists="other")
    assert (row.id, row.split, row.text) == ("five", "other", "Andra"), "no suffix in old releases"


@pytest.mark.parametrize("lists", ["trian", (), ("train", "tset")])
def test_no_such_list(lists: str | tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no list"):
        common_voice.prepare(tmp_path, lists=lists)
