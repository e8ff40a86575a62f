"""Scoring protocols: each by a case computed by hand."""

from __future__ import annotations

import pytest

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics.error_rates import EditCounts, clipped_rate, error_rate
from hyperasr.metrics.normalisers import normaliser
from hyperasr.metrics.protocols import PROTOCOLS, protocol

CLEAN = ["Turn the light on.", "stop"]
VERBATIM = ["t- t- turn the um light on", "stop stop"]
HYPOTHESES = ["turn the um light on", "stop stop stop stop"]


def scored(name: str, metric: str) -> list[EditCounts]:
    return protocol(name).score(HYPOTHESES, CLEAN, VERBATIM, metric)


def test_words_under_every_protocol() -> None:
    # "um" is an insertion; three surplus stops.
    assert scored("spoken", "wer") == [EditCounts(4, 0, 0, 1), EditCounts(1, 0, 0, 3)]
    # Two part-words are missing; two surplus stops.
    assert scored("verbatim", "wer") == [EditCounts(5, 0, 2, 0), EditCounts(2, 0, 0, 2)]
    # Whisper's normaliser deletes "um".
    assert scored("whisper", "wer") == [EditCounts(4), EditCounts(1, 0, 0, 3)]
    # The clean reference fits the first; both are 100 % wrong on the second: their mean.
    assert scored("sap2", "wer") == [EditCounts(4), EditCounts(1.5, 0, 0, 2.5)]


def test_sap2_is_characters_first_and_clipped() -> None:
    made = protocol("sap2")
    assert made.metrics[0] == "cer"
    assert made.clip
    counts = made.score(HYPOTHESES, CLEAN, VERBATIM)
    assert counts[0] == EditCounts(17)  # "turn the light on"
    # 4 + 15 and 9 + 10 characters, both above 100 %: 6.5 of which 6.5 count.
    assert counts[1] == EditCounts(6.5, 0, 0, 12.5)
    assert clipped_rate(counts) == pytest.approx(6.5 / 23.5)
    assert error_rate(counts) == pytest.approx(12.5 / 23.5)


def test_empty_references_and_hypotheses() -> None:
    made = protocol("spoken")
    assert made.score(["", "word", ""], ["", "", "word"]) == [
        EditCounts(),
        EditCounts(insertions=1),
        EditCounts(deletions=1),
    ]
    # Only a filler was said, and Whisper's normaliser leaves nothing of it.
    assert protocol("whisper").score(["um"], ["uh"]) == [EditCounts()]
    assert protocol("sap2").score([""], ["word"], ["word"]) == [EditCounts(deletions=4)]


def test_spelled_counts_a_name_or_a_number_as_one_word() -> None:
    references = ["u m n y h six", "enter four one two", "june first nineteen ninety"]
    written = ["UMNYH6", "Enter 413.", "June 1, 1990."]
    counts = protocol("spelled").score(written, references)
    assert counts == [EditCounts(2), EditCounts(1, 1), EditCounts(2)]
    assert error_rate(protocol("whisper").score(written, references)) > 1 / 3


def test_every_row_can_say_how_it_was_scored() -> None:
    for name, made in PROTOCOLS.items():
        norm = normaliser(made.normaliser_name)
        assert made.fields() == {
            "protocol": name,
            "normaliser": {"name": norm.name, "hash": norm.hash},
        }


def test_what_cannot_be_scored_says_so() -> None:
    with pytest.raises(ConfigError, match="did you mean 'spoken'"):
        protocol("spokn")
    with pytest.raises(ConfigError, match="'sap2' scores against verbatim references"):
        protocol("sap2").score(["a"], ["a"])
    with pytest.raises(ShapeError, match="1 references and 2 hypotheses"):
        protocol("verbatim").score(["a", "b"], ["a"], ["a"])
    with pytest.raises(ConfigError, match="'wer' or 'cer', not 'mer'"):
        protocol("spoken").score(["a"], ["a"], metric="mer")
