"""Simulated cohorts: the promise of the API, severity, labels, seeds, bad input, speed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hyperasr.cohorts.simulate import (
    COHORTS,
    Simulated,
    _strengths,
    dysarthria,
    parkinson,
    simulate,
    stuttering,
)
from hyperasr.cohorts.simulate.analysis import SAMPLE_RATE, analyse
from hyperasr.errors import AudioError, ConfigError
from tests.cohorts.conftest import TEXT, talk

SPEAKERS = range(6)
PROFILE = {
    "stuttering": stuttering.profile,
    "dysarthria": dysarthria.profile,
    "parkinson": parkinson.profile,
}
MIXED = "dysarthria+parkinson+stuttering"
Speech = tuple[np.ndarray, str]


@cache
def run(cohort: str, severity: float, person: int = 0, seed: int = 1) -> Simulated:
    """Return the speech as one simulated person says it, made once; do not change it."""
    return simulate(talk(), TEXT, cohort, severity, seed=seed, speaker=person)


def digest(result: Simulated) -> str:
    plain = repr(replace(result, waveform=None))
    return hashlib.sha256(result.waveform.tobytes() + plain.encode()).hexdigest()


def clean(result: Simulated) -> str:
    """Take part-words, fillers and repeated words out of a verbatim transcript of stuttering."""
    kept: list[str] = []
    for token in result.verbatim.split():
        if not token.endswith("-") and token not in ("um", "uh", "er"):
            if not kept or kept[-1] != token:
                kept.append(token)
    return " ".join(kept)


def test_same_seeds_same_results_in_another_process() -> None:
    cohorts = [*COHORTS, MIXED]
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from tests.cohorts.test_simulate import digest, run\n"
        "for cohort in sys.argv[2:]: print(digest(run(cohort, 0.8, 3, 5)))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[2]), *cohorts]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout.split() == [digest(run(cohort, 0.8, 3, 5)) for cohort in cohorts]


@pytest.mark.parametrize("cohort", [*COHORTS, MIXED])
def test_seed_and_speaker_both_matter(cohort: str) -> None:
    first = run(cohort, 0.8, 3, 5).waveform
    for other in (run(cohort, 0.8, 3, 6), run(cohort, 0.8, 4, 5)):
        assert len(other.waveform) != len(first) or not np.array_equal(other.waveform, first)


@pytest.mark.parametrize("cohort", COHORTS)
def test_profile_belongs_to_the_speaker(cohort: str) -> None:
    assert PROFILE[cohort](5, 0.7) == PROFILE[cohort]("5", 0.7)
    assert PROFILE[cohort](np.int64(5), 0.7) == PROFILE[cohort](5, 0.7)
    assert len({repr(PROFILE[cohort](k, 0.7)) for k in range(20)}) == 20


@pytest.mark.parametrize("cohort", COHORTS)
def test_severity_zero_gives_the_recording_back(speech: Speech, cohort: str) -> None:
    result = run(cohort, 0.0)
    np.testing.assert_array_equal(result.waveform, speech[0])
    assert (result.text, result.verbatim, result.events) == (speech[1], speech[1], ())
    assert [w.word for w in result.words] == speech[1].split()


@pytest.mark.parametrize("severity", [0.3, 1.0])
@pytest.mark.parametrize("cohort", COHORTS)
def test_result_is_well_formed(speech: Speech, cohort: str, severity: float) -> None:
    for person in SPEAKERS:
        result = run(cohort, severity, person)
        duration = len(result.waveform) / SAMPLE_RATE
        assert result.waveform.dtype == np.float32
        assert np.isfinite(result.waveform).all()
        assert np.abs(result.waveform).max() <= 0.99
        assert result.text == speech[1]
        assert [w.word for w in result.words] == speech[1].split()
        for span in (*result.events, *result.words):
            assert 0.0 <= span.start_s < span.end_s <= duration
        starts = [w.start_s for w in result.words]
        assert starts == sorted(starts)
        assert [e.start_s for e in result.events] == sorted(e.start_s for e in result.events)
        for event in result.events:
            assert event.word_index is None or 0 <= event.word_index < len(result.words)


def test_stuttering_verbatim_and_events_agree(speech: Speech) -> None:
    seen: set[str] = set()
    for person in range(20):
        result = run("stuttering", 1.0, person)
        assert clean(result) == speech[1]
        kinds = [e.kind for e in result.events]
        tokens = result.verbatim.split()
        seen |= set(kinds)
        assert kinds.count("interjection") == sum(t in ("um", "uh", "er") for t in tokens)
        part_words = {e.word_index for e in result.events if e.kind[:2] in ("so", "sy")}
        assert len(part_words) <= sum(t.endswith("-") for t in tokens)
        assert ("word_repetition" in kinds) == any(
            a == b for a, b in pairwise(tokens) if not a.endswith("-")
        )
        for event in result.events:
            # a dysfluency comes before its word ends, and after the word before it
            assert event.word_index is not None
            assert event.end_s <= result.words[event.word_index].end_s + 1e-6
            if event.word_index:
                assert event.start_s >= result.words[event.word_index - 1].end_s - 1e-6
    assert len(seen) == 6


def test_stuttering_blocks_are_silent() -> None:
    blocks = 0
    for person in range(20):
        result = run("stuttering", 1.0, person)
        loud = np.sqrt(np.mean(result.waveform**2))
        for event in result.events:
            if event.kind == "block":
                blocks += 1
                inside = slice(*(round(t * SAMPLE_RATE) for t in (event.start_s, event.end_s)))
                middle = result.waveform[inside][400:-400]
                assert np.sqrt(np.mean(middle**2)) < 0.05 * loud
    assert blocks > 3


def test_stuttering_rises_with_severity() -> None:
    totals = []
    for severity in (0.0, 0.3, 0.6, 1.0):
        totals.append([len(run("stuttering", severity, k).events) for k in SPEAKERS])
    for low, high in pairwise(totals):
        assert all(a <= b for a, b in zip(low, high, strict=True))  # nobody gets better
        assert sum(low) < sum(high)


def test_dysarthria_slows_with_severity() -> None:
    for person in SPEAKERS:
        lengths = [len(run("dysarthria", s, person).waveform) for s in (0, 0.3, 0.6, 1)]
        assert lengths == sorted(set(lengths))
        assert lengths[-1] > 1.15 * lengths[0]


def test_parkinson_gets_quieter_and_decays_with_severity() -> None:
    falls = []
    for person in SPEAKERS:
        levels, slopes = [], []
        for severity in (0.0, 0.3, 0.6, 1.0):
            result = analyse(run("parkinson", severity, person).waveform)
            voice = result.level_db[result.voiced]
            levels.append(result.speech_db)
            slopes.append(np.mean(voice[-50:]) - np.mean(voice[:50]))
        assert levels == sorted(levels, reverse=True)
        falls.append(slopes[0] - slopes[-1])
    # tremor moves the ends of a single recording up or down, so over speakers
    assert np.mean(falls) > 1.0


@pytest.mark.parametrize("cohort", ["dysarthria", "parkinson"])
def test_pitch_flattens_with_severity(cohort: str) -> None:
    spread = []
    for severity in (0.0, 0.5, 1.0):
        stds = []
        for person in SPEAKERS:
            result = analyse(run(cohort, severity, person).waveform)
            semitones = 12 * np.log2(result.f0_hz[result.voiced])
            # between the quartiles: tremor and breaks are movement, too, but not intonation
            stds.append(np.subtract(*np.percentile(semitones, [75, 25])))
        spread.append(np.median(stds))
    assert spread[0] > 1.15 * spread[1] > 1.15 * spread[2]


def test_palilalia_repeats_the_last_words(speech: Speech) -> None:
    found = 0
    for person in range(20):
        result = run("parkinson", 1.0, person)
        assert result.verbatim.startswith(speech[1])
        extra = result.verbatim.split()[len(result.words) :]
        events = [e for e in result.events if e.kind == "palilalia"]
        assert len(events) == bool(extra)
        if events:
            found += 1
            phrase = speech[1].split()[events[0].word_index :]
            assert extra == phrase * (len(extra) // len(phrase))
            assert events[0].start_s >= result.words[-1].end_s - 1e-6
    assert 2 < found < 18


def test_cohorts_and_speakers_differ_in_direction() -> None:
    rates = [parkinson.profile(k, 1.0).stretch for k in range(40)]
    assert min(rates) < 0.85 < 1.05 < max(rates)
    f1 = [dysarthria.profile(k, 1.0).formant_scale[0] for k in range(40)]
    assert min(f1) < 0.92 < 1.08 < max(f1)
    nasal = [dysarthria.profile(k, 1.0).nasality for k in range(40)]
    assert min(nasal) < 0.2 < 0.8 < max(nasal)
    kinds = {int(np.argmax(stuttering.profile(k, 1.0).kind_weights)) for k in range(40)}
    assert len(kinds) >= 5


EDGES = {
    "10 ms": np.full(160, 0.1, np.float32),
    "one sample": np.ones(1, np.float32),
    "silence": np.zeros(16_000, np.float32),
    "clipped": np.sign(np.sin(np.arange(16_000) * 0.05)).astype(np.float32),
    "noise": np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32),
}


@pytest.mark.parametrize("text", ["", "light", "w " * 60, "¡Señor! 42 ... 你好"])
@pytest.mark.parametrize("name", list(EDGES))
@pytest.mark.parametrize("cohort", COHORTS)
def test_odd_recordings_do_not_crash(cohort: str, name: str, text: str) -> None:
    result = simulate(EDGES[name], text, cohort, 1.0, seed=0, speaker="x")
    assert len(result.waveform) > 0
    assert np.isfinite(result.waveform).all()
    assert np.abs(result.waveform).max() <= (1e-4 if name == "silence" else 0.99)
    assert len(result.words) == len(text.split())


def test_people_with_mixed_traits(speech: Speech) -> None:
    assert np.array_equal(run(MIXED, 0.0).waveform, speech[0])
    for person in SPEAKERS:
        mixed, strengths = run(MIXED, 0.8, person), _strengths(MIXED, 0.8, person)
        assert max(strengths.values()) == pytest.approx(0.8)
        assert min(strengths.values()) >= 0.05
        assert list(strengths) == [
            n for n in ("dysarthria", "parkinson", "stuttering") if n in strengths
        ]
        # The same one after the other, by hand.
        waveform, heard = speech
        for name, strength in strengths.items():
            part = simulate(waveform, heard, name, strength, seed=1, speaker=person)
            waveform, heard = part.waveform, part.verbatim
        assert np.array_equal(mixed.waveform, waveform)
        assert (mixed.text, mixed.verbatim, mixed.cohort) == (speech[1], heard, MIXED)
        assert (mixed.events, mixed.words) == ((), ())
    assert len({tuple(_strengths(MIXED, 1.0, person).items()) for person in SPEAKERS}) == 6
    assert set(_strengths("dysarthria+stuttering", 1.0, 3)) <= {"dysarthria", "stuttering"}


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'lisp'.*mixtures such as stuttering\+dysarthria"):
        run("stuttering+lisp", 0.5)
    with pytest.raises(ConfigError, match="with itself"):
        run("stuttering+stuttering", 0.5)
    with pytest.raises(ConfigError, match="stuttering, dysarthria, parkinson"):
        run("lisp", 0.5)
    for severity in (-0.1, 1.1, float("nan"), "high"):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            run("parkinson", severity)


def test_bad_recordings_are_named(speech: Speech) -> None:
    broken = speech[0].copy()
    broken[100] = np.nan
    for waveform in (broken, np.zeros((2, 100), np.float32), np.zeros(0, np.float32)):
        with pytest.raises(AudioError):
            simulate(waveform, "light", "parkinson", 0.5, seed=0)


@pytest.mark.parametrize("cohort", COHORTS)
def test_faster_than_real_time(speech: Speech, cohort: str) -> None:
    simulate(*speech, cohort, 1.0, seed=1, speaker=0)  # transforms are planned once
    start = time.process_time()
    for person in SPEAKERS:
        simulate(*speech, cohort, 1.0, seed=1, speaker=person)
    spent = time.process_time() - start
    assert spent < len(SPEAKERS) * len(speech[0]) / SAMPLE_RATE / 8.0


@pytest.mark.parametrize("cohort", COHORTS)
def test_real_recordings(shared_data: Path, cohort: str) -> None:
    sf = pytest.importorskip("soundfile")
    files = sorted((shared_data / "an4-train").rglob("*.flac"))[::200]
    if not files:
        pytest.skip("needs an4-train in ../shared/data")
    for k, path in enumerate(files):
        waveform, _ = sf.read(path, dtype="float32")
        result = simulate(waveform, "one two three", cohort, 1.0, seed=k, speaker=k)
        assert 0.4 * len(waveform) < len(result.waveform) < 8 * len(waveform)
