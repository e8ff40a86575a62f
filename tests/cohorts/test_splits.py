"""Folds and leaks: what is held out stays held out, and what leaks is refused."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr.cohorts.splits import check_leaks, leave_one_out, severity_bin
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.types import Utterance

ROWS = st.lists(
    st.builds(
        Utterance,
        id=st.uuids().map(str),
        path=st.just("x.wav"),
        speaker=st.sampled_from("abcdefgh"),
        cohort=st.sampled_from(["stuttering", "dysarthria", "typical"]),
        severity=st.sampled_from([None, 0.0, 0.1, 0.25, 0.6, 1.0]),
    ),
    min_size=2,
    max_size=30,
)


@given(rows=ROWS, by=st.sampled_from(["cohort", "speaker", "severity"]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_fold_shares_a_speaker_or_loses_a_test_utterance(rows, by) -> None:
    folds = None
    with suppress(ConfigError):  # where a fold leaves nothing to train on
        folds = list(leave_one_out(rows, by))
    if folds is None:
        return
    for fold in folds:
        assert not {u.speaker for u in fold.train} & {u.speaker for u in fold.test}
        assert len(fold.train) + len(fold.test) + fold.n_dropped == len(rows)
    tested = [u.id for fold in folds for u in fold.test]
    assert sorted(tested) == sorted(u.id for u in rows)


def rows_of(*cells: tuple[str, str, float | None]) -> list[Utterance]:
    return [
        Utterance(id=str(i), path=f"{i}.wav", speaker=s, cohort=c, severity=v)
        for i, (s, c, v) in enumerate(cells)
    ]


def test_folds_by_hand() -> None:
    rows = rows_of(
        ("ann", "stuttering", 0.2),
        ("ann", "typical", None),  # the held-out person's other speech is in neither part
        ("bob", "dysarthria", 0.9),
        ("cay", "typical", None),
    )
    folds = {fold.name: fold for fold in leave_one_out(rows, "cohort")}
    assert list(folds) == ["dysarthria", "stuttering", "typical"]
    assert [u.id for u in folds["stuttering"].train] == ["2", "3"]
    assert [u.id for u in folds["stuttering"].test] == ["0"]
    assert folds["stuttering"].n_dropped == 1
    by_severity = {fold.name: fold for fold in leave_one_out(rows, "severity")}
    assert set(by_severity) == {"0.00-0.25", "0.75-1.00", "unknown"}
    assert [u.id for u in by_severity["unknown"].test] == ["1", "3"]
    bob = list(leave_one_out(rows, "speaker"))[1]
    assert (bob.name, [u.id for u in bob.train]) == ("bob", ["0", "1", "3"])


def test_ranges_of_severity() -> None:
    edges = (0.25, 0.5)
    found = [severity_bin(s, edges) for s in (0.0, 0.24, 0.25, 0.5, 1.0, None)]
    assert found == ["0.00-0.25", "0.00-0.25", "0.25-0.50", "0.50-1.00", "0.50-1.00", "unknown"]


def test_what_cannot_be_split_says_so() -> None:
    rows = rows_of(("ann", "stuttering", 0.5), ("ann", "typical", None))
    with pytest.raises(ConfigError, match="by cohort, speaker, severity, not by 'age'"):
        list(leave_one_out(rows, "age"))
    with pytest.raises(ConfigError, match="nothing is left to train on"):
        list(leave_one_out(rows, "cohort"))


@pytest.fixture
def sides(tmp_path: Path) -> tuple[list[Utterance], list[Utterance]]:
    """Two utterances to train on and two to test on, of other people, recordings and words."""
    rows = []
    for name, text in (("a", "one"), ("b", "two"), ("c", "three"), ("d", "four")):
        path = tmp_path / f"{name}.wav"
        path.write_bytes(name.encode() * 100)
        rows.append(Utterance(id=name, path=str(path), text=text, speaker=name))
    return rows[:2], rows[2:]


def test_a_clean_split_passes_without_a_word(sides) -> None:
    assert check_leaks(*sides) == []


@pytest.mark.parametrize("leak", ["speaker", "session", "audio"])
def test_each_leak_is_refused(sides, leak: str, tmp_path: Path) -> None:
    train, test = sides
    if leak == "speaker":
        test[0] = replace(test[0], speaker="a")
    elif leak == "session":  # another stretch of a recording that was trained on
        test[0] = replace(test[0], path=train[0].path, start_s=3.0)
    else:  # the same recording under another name
        copy = tmp_path / "copy.wav"
        copy.write_bytes(Path(train[0].path).read_bytes())
        test[0] = replace(test[0], path=str(copy))
    with pytest.raises(ManifestError, match="the split leaks: 1 of 2 test utterances") as caught:
        check_leaks(train, test)
    assert "\n" not in str(caught.value)
    assert ("byte for byte" if leak == "audio" else f"have a {leak} of") in str(caught.value)


def test_prompts_warn_unless_asked_to_refuse(sides, caplog) -> None:
    train, test = sides
    test = [replace(u, text="  Two! ") for u in test]
    (warning,) = check_leaks(train, test)
    assert warning == "2 of 2 test utterances say one of 1 texts that the training part has too"
    assert warning in caplog.text
    with pytest.raises(ManifestError, match="say one of 1 texts"):
        check_leaks(train, test, text="error")
    assert check_leaks(train, test, text="ignore") == []
    # Utterances without a text have none in common.
    empty = [[replace(u, text=None) for u in side] for side in sides]
    assert check_leaks(*empty, text="error") == []


def test_people_without_a_name_cannot_be_told_apart(sides) -> None:
    sides = [[replace(u, speaker="unknown") for u in side] for side in sides]
    with pytest.raises(ManifestError, match="name their speakers"):
        check_leaks(*sides)


def test_recordings_that_are_gone_are_counted(sides) -> None:
    train, test = sides
    Path(train[0].path).unlink()
    (warning,) = check_leaks(train, test, name="train.jsonl")
    assert warning.startswith("1 of 2 recordings of train.jsonl cannot be read")


def test_what_cannot_be_checked_says_so(sides) -> None:
    train, test = sides
    with pytest.raises(ConfigError, match="'warn', 'error' or 'ignore', not 'raise'"):
        check_leaks(train, test, text="raise")
    with pytest.raises(ConfigError, match="one side has none"):
        check_leaks(train, [])
