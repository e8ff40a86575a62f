"""The committed lists of speakers."""

from __future__ import annotations

from train.data.splits import an4_splits, read_splits


def test_no_speaker_of_an4_is_in_two_splits() -> None:
    splits = an4_splits()
    names = [name for own in splits.values() for name in own]
    assert sorted(splits) == ["dev", "test", "train"]
    assert len(names) == len(set(names)) == 74
    assert read_splits().speakers["an4"] == splits
