"""In a spliced recording every word still sounds as it did, in the order of the new text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.audio import SAMPLE_RATE, load
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from train import splice as program
from train.align import WordSpan
from train.splice import Piece, SpliceConfig, cut_at_pauses, pieces_of, splice
from train.typical import an4_utterances

PITCH_HZ = {"one": 400, "two": 700, "three": 1_000, "four": 1_300, "a": 1_600, "b": 1_900}
WORD_S, PAUSE_S = 0.3, 0.2


def spoken(*groups: str) -> tuple[np.ndarray, list[WordSpan]]:
    """Return a tone for each word, with a pause between groups, and where the words are."""
    sound, spans = [np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)], []
    for group in groups:
        for word in group.split():
            start_s = sum(map(len, sound)) / SAMPLE_RATE
            time_s = np.arange(round(WORD_S * SAMPLE_RATE)) / SAMPLE_RATE
            sound.append(np.sin(2 * np.pi * PITCH_HZ[word] * time_s).astype(np.float32))
            # As CTC has it: the peaks lie inside the word.
            spans.append(WordSpan(word, start_s + 0.05, start_s + WORD_S - 0.05))
        sound.append(np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32))
    return np.concatenate(sound), spans


def heard(waveform: np.ndarray) -> list[str]:
    """Return the words by their tones, each once however long it lasts."""
    names = []
    for start in range(0, len(waveform) - 800, 400):
        part = waveform[start : start + 800]
        if np.square(part).mean() > 0.2:
            pitch = np.abs(np.fft.rfft(part, 16_000)).argmax()
            names.append(min(PITCH_HZ, key=lambda word: abs(PITCH_HZ[word] - pitch)))
    # A join falls between two tones in one or two windows at most.
    return [name for name, run in groupby(names) if len(list(run)) > 3]


def pieces(*groups: str) -> list[Piece]:
    return cut_at_pauses(*spoken(*groups))


def test_cuts_fall_into_pauses_alone() -> None:
    found = pieces("one two", "three", "four one")
    assert [piece.words for piece in found] == [("one", "two"), ("three",), ("four", "one")]
    for piece in found:
        assert tuple(heard(piece.waveform)) == piece.words


def test_nothing_is_lost_between_the_first_and_the_last_word() -> None:
    waveform, spans = spoken("one", "two three", "four")
    joined = np.concatenate([piece.waveform for piece in cut_at_pauses(waveform, spans)])
    start = round((PAUSE_S + 0.05 - 0.2) * SAMPLE_RATE)
    np.testing.assert_array_equal(joined, waveform[start : start + len(joined)])
    assert tuple(heard(joined)) == ("one", "two", "three", "four")


def test_new_text_is_what_is_heard() -> None:
    recordings = [pieces("one two", "three"), pieces("four"), pieces("two", "one", "four three")]
    rng = np.random.default_rng(0)
    texts = set()
    for _ in range(30):
        new = splice(recordings, rng, n_words=5)
        assert len(new.words) >= 5
        assert heard(new.waveform) == [word for word, _ in groupby(new.words)]
        texts.add(new.words)
    assert len(texts) > 20


def test_letters_and_words_do_not_mix() -> None:
    recordings = [pieces("a", "b"), pieces("one", "two"), pieces("b a")]
    rng = np.random.default_rng(1)
    kinds = set()
    for _ in range(20):
        new = splice(recordings, rng, n_words=4)
        assert new.spelled or not any(len(word) == 1 for word in new.words)
        kinds.add(new.spelled)
    assert kinds == {True, False}


def test_runs_are_as_long_as_allowed() -> None:
    rng = np.random.default_rng(2)
    recordings = [pieces("one", "two", "three", "four")]
    runs = {splice(recordings, rng, n_words=1, longest_run=2).words for _ in range(40)}
    neighbours = {("one", "two"), ("two", "three"), ("three", "four")}
    assert runs == {("one",), ("two",), ("three",), ("four",)} | neighbours


def test_nobody_is_kept_without_a_piece(
    random_backbone_folder: Path, tmp_path: Path, voice: Callable[..., np.ndarray]
) -> None:
    soundfile.write(tmp_path / "short.wav", voice(0.2), SAMPLE_RATE)
    text = "far more words than anybody can say in so short a time"
    row = Utterance(id="a", path=str(tmp_path / "short.wav"), text=text, speaker="ann")
    config = SpliceConfig(backbone=str(random_backbone_folder), epochs=1)
    assert pieces_of([row], config) == {}


@pytest.mark.slow
def test_program_makes_new_sentences_of_real_people(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in an4_utterances(shared_data / "an4-train") if row.split == "train"][:60]
    write_manifest(tmp_path / "some.jsonl", rows)

    def run(out: Path) -> None:
        options = ["--manifest", str(tmp_path / "some.jsonl"), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["splice", *options, "--per_speaker", "5"])
        program.main()

    run(tmp_path / "new")
    found = read_manifest(tmp_path / "new" / "train.jsonl")
    kept, new = found[: len(rows)], found[len(rows) :]
    assert [row.text for row in kept] == [row.text for row in rows]
    assert all(Path(row.path).samefile(own.path) for row, own in zip(kept, rows, strict=True))
    speakers = sorted({row.speaker for row in rows})
    assert sorted({row.speaker for row in new}) == speakers
    assert len(new) == 5 * len(speakers)
    for row in new:
        vocabulary = {w for own in rows if own.speaker == row.speaker for w in own.text.split()}
        assert set(row.text.split()) <= vocabulary
        # From 0.05 s, which a letter takes at least, to a slow word and the pauses around it.
        assert 0.05 < len(load(row.path)) / SAMPLE_RATE / len(row.text.split()) < 2
        assert row.source == "an4"
        assert row.split == "train"
    run(tmp_path / "again")
    for row in new:
        again = tmp_path / "again" / Path(row.path).name
        assert again.read_bytes() == Path(row.path).read_bytes()


def test_manifest_without_the_corpus_is_refused(corpus: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["splice", "--manifest", str(corpus / "dev.jsonl")])
        with pytest.raises(ConfigError, match="holds no transcribed recording of an4"):
            program.main()
