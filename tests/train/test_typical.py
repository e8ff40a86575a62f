"""AN4 and FSDD through the package's readers are the rows that their tables list."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from train.typical import an4_splits, an4_utterances, fsdd_utterances


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(800, 0.1), 8_000)


def listed(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def as_listed(root: Path, row: dict[str, str], source: str, split: str) -> Utterance:
    """Return a row of a table, the slow and obvious way."""
    return Utterance(
        id=f"{source}/{row['path']}",
        path=str((root / row["path"]).resolve()),
        text=row["text"].lower(),
        speaker=f"{source}-{row['speaker']}",
        split=split,
        source=source,
    )


def test_no_speaker_is_in_two_splits() -> None:
    splits = an4_splits()
    names = [name for own in splits.values() for name in own]
    assert sorted(splits) == ["dev", "test", "train"]
    assert len(names) == len(set(names)) == 74


def test_an4_is_what_its_table_lists(shared_data: Path) -> None:
    root = shared_data / "an4-train"
    split_of = {name: split for split, names in an4_splits().items() for name in names}
    expected = [as_listed(root, row, "an4", split_of[row["speaker"]]) for row in listed(root)]
    assert an4_utterances(root) == expected
    assert len(expected) == 948


def test_a_folder_may_be_named_by_a_detour(shared_data: Path) -> None:
    root = shared_data / "an4-train"
    detour = shared_data / "fsdd-4spk" / ".." / "an4-train"
    assert an4_utterances(detour) == an4_utterances(root)


def test_fsdd_is_the_first_takes_of_its_table(shared_data: Path) -> None:
    root = shared_data / "fsdd-4spk"
    expected, seen = [], dict[tuple[str, str], int]()
    for row in listed(root):
        key = (row["speaker"], row["text"])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 3:
            expected.append(as_listed(root, row, "fsdd", "test"))
    assert fsdd_utterances(root) == expected
    assert len(expected) == 4 * 10 * 3


def test_an4_as_it_is_distributed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "an4_train.transcription").write_text(
        "<s> YES </s> (an251-fash-b)\n<s> GO </s> (an253-nobody-b)\n<s> NO </s> (an254-fash-b)\n"
    )
    for name in ("fash/an251-fash-b", "nobody/an253-nobody-b"):
        sound(tmp_path / "wav" / "an4_clstk" / f"{name}.wav")
    (row,) = an4_utterances(tmp_path)
    assert row.id == "an4/wav/an4_clstk/fash/an251-fash-b.wav"
    assert (row.text, row.speaker, row.split) == ("yes", "an4-fash", "train")
    assert "listed but absent" in capsys.readouterr().out


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        an4_utterances(tmp_path / "absent")
    with pytest.raises(ConfigError, match="there is no folder"):
        fsdd_utterances(tmp_path / "absent")
