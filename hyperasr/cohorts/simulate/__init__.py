"""Simulated cohorts: make a recording of atypical speech from a typical one, on the fly.

`simulate` turns any recording and its text into one of a *simulated* person who stutters, has
dysarthria or has Parkinson's disease. A speaker seed fixes who the person is (their traits), an
utterance seed what happens in this recording. These are simulations after published clinical
descriptions, made to train and test models; they are not recordings of patients.

Names joined by ``+``, such as ``dysarthria+stuttering``, are a cohort of people with mixed traits:
each has the traits of all of them, one at the person's severity, the others at strengths of their
own. A disorder that no simulation describes may lie between those that are described.
"""

from __future__ import annotations

import numpy as np

from hyperasr.cohorts.simulate import dysarthria, parkinson, stuttering
from hyperasr.cohorts.simulate.align import word_spans
from hyperasr.cohorts.simulate.analysis import SAMPLE_RATE, analyse
from hyperasr.cohorts.simulate.labels import Event, Simulated, WordTime
from hyperasr.cohorts.simulate.synthesis import finish
from hyperasr.cohorts.simulate.traits import speaker_rng
from hyperasr.errors import AudioError, ConfigError

# Raise it whenever the same arguments give another waveform: caches depend on it.
VERSION = 1
_MODULES = {"stuttering": stuttering, "dysarthria": dysarthria, "parkinson": parkinson}
COHORTS = tuple(_MODULES)
# Stuttering last: what is repeated is the sound as this person makes it.
_ORDER = ("dysarthria", "parkinson", "stuttering")
_WEAKEST = 0.05  # strength of a mixed trait; below it the recording is not worth another synthesis


def check_simulated(cohort: str) -> tuple[str, ...]:
    """Return the simulated cohorts whose traits the people of a cohort have.

    Args:
        cohort: one of `COHORTS`, or several joined by ``+``.
    Raises:
        ConfigError: anything else.
    """
    names = tuple(cohort.split("+"))
    if unknown := [name for name in names if name not in COHORTS]:
        raise ConfigError(
            f"no cohort {unknown[0]!r} to simulate; there are {', '.join(COHORTS)}, and mixtures "
            f"such as {'+'.join(COHORTS[:2])}"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"{cohort!r} mixes a cohort with itself")
    return names


def simulate(
    waveform: np.ndarray,
    text: str,
    cohort: str,
    severity: float,
    *,
    seed: int,
    speaker: str | int = 0,
) -> Simulated:
    """Make a recording of a simulated speaker out of a typical recording.

    Args:
        waveform: (n_samples,) float, 16 kHz mono, in [-1, 1].
        text: what is said in it; may be empty, which leaves out everything that needs words.
        cohort: one of `COHORTS`, or several joined by ``+`` for mixed traits.
        severity: in [0, 1]; 0 gives the recording back.
        seed: moment-to-moment variation; the same seed gives the same result in every process.
        speaker: who it is, any string or integer; the same one is the same person in every process.
    Returns:
        Simulated, with times in the new recording. Word times are estimates, see `align`. Mixed
        traits leave out events and word times: each synthesis moves what the one before it timed.
    Raises:
        ConfigError: unknown cohort or severity outside [0, 1].
        AudioError: waveform is not one-dimensional, is empty, or has NaN or infinite samples.
    """
    names = check_simulated(cohort)
    if not (isinstance(severity, (int, float, np.number)) and 0.0 <= float(severity) <= 1.0):
        raise ConfigError(f"severity is {severity!r}; give a number from 0 to 1")
    severity = float(severity)
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    if waveform.ndim != 1 or not len(waveform):
        raise AudioError(f"simulate needs mono samples (n_samples,), got shape {waveform.shape}")
    if not np.isfinite(waveform).all():
        raise AudioError("simulate got NaN or infinite samples; repair or leave out the recording")
    if len(names) > 1:
        strengths = _strengths(cohort, severity, speaker)
        verbatim = text
        for name, strength in strengths.items():
            said = simulate(waveform, verbatim, name, strength, seed=seed, speaker=speaker)
            waveform, verbatim = said.waveform, said.verbatim
        return Simulated(finish(waveform), text, verbatim, (), cohort, severity, ())
    words, analysis = text.split(), analyse(waveform)
    if severity == 0.0:
        spans = word_spans(analysis, words)
        times = tuple(WordTime(w, *map(float, s)) for w, s in zip(words, spans, strict=True))
        return Simulated(finish(waveform), text, text, (), cohort, severity, times)
    out, timeline, heard, events = _MODULES[cohort].perform(
        analysis, words, severity, speaker, seed
    )
    limit = len(out) / SAMPLE_RATE
    times = tuple(
        WordTime(w.word, min(float(w.start_s), limit), min(float(w.end_s), limit))
        for w in timeline.words(words)
    )
    bounded = tuple(
        Event(e.kind, min(float(e.start_s), limit), min(float(e.end_s), limit), e.word_index)
        for e in events
    )
    verbatim = " ".join(heard)
    return Simulated(finish(out), text, verbatim, bounded, cohort, severity, times)


def _strengths(cohort: str, severity: float, speaker: str | int) -> dict[str, float]:
    """Return the severity of each trait of a person with mixed traits, in order of synthesis."""
    drawn = speaker_rng(cohort, speaker).uniform(0.0, 1.0, len(COHORTS))
    shares = {name: d for name, d in zip(_ORDER, drawn, strict=True) if name in cohort.split("+")}
    strengths = {name: severity * d / max(shares.values()) for name, d in shares.items()}
    return {name: float(s) for name, s in strengths.items() if s >= _WEAKEST or s == severity}
