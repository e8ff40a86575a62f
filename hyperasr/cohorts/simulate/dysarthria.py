"""Simulated dysarthria: slow, undershot, nasal, breathy, flat speech of three characters.

The deviant dimensions and their grouping follow Darley, Aronson and Brown 1969, "Differential
diagnostic patterns of dysarthria" and "Clusters of deviant speech dimensions in the dysarthrias"
(J Speech Hear Res 12), called DAB below. The hypokinetic kind is in `parkinson`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hyperasr.cohorts.simulate.align import count_syllables, word_spans
from hyperasr.cohorts.simulate.analysis import Analysis
from hyperasr.cohorts.simulate.labels import Event
from hyperasr.cohorts.simulate.spectrum import (
    formants,
    nasal_curve,
    reduce_contrast,
    smooth_in_time,
    speaker_mean,
    warp,
)
from hyperasr.cohorts.simulate.synthesis import Voice, render
from hyperasr.cohorts.simulate.timeline import Grid, Timeline, output_grid
from hyperasr.cohorts.simulate.traits import speaker_rng, utterance_rng


@dataclass(frozen=True)
class DysarthriaProfile:
    """Traits of one simulated person with dysarthria, at one severity."""

    character: str
    """`spastic`, `flaccid` or `ataxic`: which of DAB's clusters dominates."""
    stretch: float
    """Mean duration factor, 1 to 2.2 (DAB: slow rate; Turner, Tjaden and Weismer 1995, J Speech
    Hear Res 38)."""
    irregularity: float
    """Standard deviation of the log duration factor between syllables, 0 to 0.45 (DAB: irregular
    articulatory breakdown, prolonged phonemes, mostly ataxic)."""
    pause_rate: float
    """Inappropriate pauses per word boundary, 0 to 0.5 (DAB: short phrases, prolonged
    intervals)."""
    pause_s: float
    """Median length of such a pause in seconds, 0.1 to 0.6."""
    undershoot_s: float
    """Time constant of articulation in seconds, 0 to 0.042: shallower formant transitions (Kent et
    al. 1989, J Speech Hear Disord 54; Weismer and Martin 1992; model: Lindblom 1963, JASA 35)."""
    contrast_loss: float
    """Share by which spectral shapes move to the speaker's neutral one, 0 to 0.35 (imprecise
    consonants, distorted vowels: DAB)."""
    centralisation: float
    """Share by which formants move to the speaker's mean, 0 to 0.7 (smaller vowel space: Turner
    et al. 1995; Sapir et al. 2010, J Speech Lang Hear Res 53)."""
    formant_scale: tuple[float, float, float]
    """Factors on F1, F2, F3, 0.8 to 1.2: habitual tongue, jaw and lip posture of this speaker."""
    nasality: float
    """Hypernasality, 0 to 1 (DAB; acoustics: Hawkins and Stevens 1985, JASA 77; Chen 1997,
    JASA 102)."""
    nasal_pole_hz: float
    """Lowest nasal pole in hertz, 250 to 300."""
    nasal_zero_hz: float
    """Antiformant in hertz, 480 to 900."""
    breath_db: float
    """Aspiration noise relative to the voice in dB, -40 to 0 (DAB: breathy voice, flaccid most;
    Klatt and Klatt 1990, JASA 87)."""
    monopitch: float
    """Share of the pitch movement (log f0) that is lost, 0 to 0.95 (DAB: monopitch)."""
    pitch_scale: float
    """Factor on mean f0, 0.8 to 1.15 (DAB: pitch low in spastic dysarthria)."""
    pitch_break_rate: float
    """Pitch breaks per second of voice, 0 to 0.9 (DAB: spastic)."""
    consonant_db: float
    """Level of voiceless consonants in dB, -12 to 0 (DAB: imprecise consonants; weak pressure
    consonants with a leaking velum)."""
    voicing: float
    """Share of voiceless consonants that are voiced, 0 to 0.7 (Kent et al. 1989: voicing
    errors)."""
    stress_loss: float
    """Share of the level movement between syllables that is lost, 0 to 0.7 (DAB: reduced stress,
    excess and equal stress)."""


# Ranges at severity 1 by character: (low, high).
_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "spastic": {
        "stretch": (1.5, 2.2), "irregularity": (0.08, 0.22), "nasality": (0.3, 0.85),
        "breath_db": (-24.0, -12.0), "monopitch": (0.6, 0.95), "pitch_scale": (0.8, 0.95),
        "pitch_break_rate": (0.3, 0.9), "consonant_db": (-9.0, -3.0), "voicing": (0.2, 0.7),
        "stress_loss": (0.3, 0.7), "undershoot_s": (0.022, 0.042),
    },
    "flaccid": {
        "stretch": (1.2, 1.7), "irregularity": (0.05, 0.15), "nasality": (0.6, 1.0),
        "breath_db": (-10.0, -1.0), "monopitch": (0.5, 0.9), "pitch_scale": (0.92, 1.1),
        "pitch_break_rate": (0.0, 0.2), "consonant_db": (-12.0, -5.0), "voicing": (0.0, 0.3),
        "stress_loss": (0.2, 0.5), "undershoot_s": (0.015, 0.035),
    },
    "ataxic": {
        "stretch": (1.35, 2.0), "irregularity": (0.25, 0.45), "nasality": (0.0, 0.25),
        "breath_db": (-26.0, -14.0), "monopitch": (0.2, 0.6), "pitch_scale": (0.92, 1.15),
        "pitch_break_rate": (0.0, 0.4), "consonant_db": (-8.0, -2.0), "voicing": (0.1, 0.5),
        "stress_loss": (0.4, 0.7), "undershoot_s": (0.015, 0.040),
    },
}  # fmt: skip


def profile(speaker: str | int, severity: float) -> DysarthriaProfile:
    """Return the traits of a simulated speaker at a severity in [0, 1]."""
    rng = speaker_rng("dysarthria", speaker)
    character = ("spastic", "flaccid", "ataxic")[rng.integers(3)]
    full = {name: rng.uniform(*bounds) for name, bounds in _RANGES[character].items()}
    pause_rate, pause = rng.uniform(0.1, 0.5), rng.uniform(0.12, 0.5)
    contrast, centre = rng.uniform(0.1, 0.35), rng.uniform(0.25, 0.7)
    scale = np.exp(rng.normal(0.0, [0.11, 0.10, 0.06]) * severity)
    pole, zero = rng.uniform(250.0, 300.0), rng.uniform(480.0, 900.0)
    plain = {
        name: float(severity * full[name])
        for name in (
            "irregularity", "nasality", "monopitch", "pitch_break_rate", "consonant_db",
            "voicing", "stress_loss", "undershoot_s",
        )
    }  # fmt: skip
    return DysarthriaProfile(
        character=character,
        stretch=float(full["stretch"] ** severity),
        pause_rate=float(severity * pause_rate),
        pause_s=float(pause),
        contrast_loss=float(severity * contrast),
        centralisation=float(severity * centre),
        formant_scale=tuple(float(f) for f in np.clip(scale, 0.8, 1.2)),  # type: ignore[arg-type]
        nasal_pole_hz=float(pole),
        nasal_zero_hz=float(zero),
        breath_db=float(-40.0 + severity * (40.0 + full["breath_db"])),
        pitch_scale=float(full["pitch_scale"] ** severity),
        **plain,
    )


def _plan(
    analysis: Analysis, words: list[str], traits: DysarthriaProfile, rng: np.random.Generator
) -> tuple[Timeline, list[Event]]:
    """Words stretched unevenly, syllable by syllable, with pauses between some."""
    spans = word_spans(analysis, words)
    draws = rng.random((len(words) + 1, 3))
    timeline, events, at = Timeline(), [], 0.0
    for index, word in enumerate(words):
        start, end = spans[index]
        timeline.play(at, start, traits.stretch**0.5)
        if index and draws[index, 0] < traits.pause_rate:
            begin = timeline.now
            timeline.pause(traits.pause_s * np.exp(draws[index, 1] - 0.5))
            events.append(Event("pause", begin, timeline.now, index))
        begin, n = timeline.now, count_syllables(word)
        pace = np.clip(rng.standard_normal(12), -2.0, 2.0) * traits.irregularity
        edges = np.linspace(start, end, n + 1)
        for left, right, log_pace in zip(edges[:-1], edges[1:], np.resize(pace, n), strict=True):
            stretch = max(0.6, traits.stretch * np.exp(log_pace))
            timeline.play(left, right, stretch)
        timeline.mark_word(index, begin)
        at = end
    timeline.play(at, analysis.duration_s, traits.stretch**0.5 if words else traits.stretch)
    return timeline, events


def _articulate(analysis: Analysis, traits: DysarthriaProfile) -> np.ndarray:
    """Target envelope of every input frame: undershot, centralised, nasal, with weak bursts."""
    voiced = analysis.voiced
    target = smooth_in_time(analysis, traits.undershoot_s)
    places = formants(analysis)
    centre = places[voiced].mean(axis=0) if voiced.any() else places.mean(axis=0)
    goal = places + traits.centralisation * (centre - places)
    # voiceless sounds have no formants to centralise; the posture still shapes them
    goal = np.where(voiced[:, None], goal, places) * np.array(traits.formant_scale)
    target = warp(target, places, ndimage.gaussian_filter1d(goal, 2.0, axis=0))
    share = ndimage.gaussian_filter1d(np.where(voiced, 1.0, 0.6), 2.0)
    target = reduce_contrast(target, speaker_mean(analysis), traits.contrast_loss * share)
    nasal = nasal_curve(traits.nasality, traits.nasal_pole_hz, traits.nasal_zero_hz)
    amount = ndimage.gaussian_filter1d(voiced.astype(np.float32), 2.0)[:, None]
    target = target + amount * nasal
    weak = traits.consonant_db * np.log(10.0) / 20.0
    return (target + (1.0 - amount) * np.float32(weak)).astype(np.float32)


def _pitch(
    grid: Grid, analysis: Analysis, traits: DysarthriaProfile, rng: np.random.Generator
) -> tuple[np.ndarray, list[Event]]:
    """Flattened, shifted pitch with breaks: sudden jumps down or up for 60 to 200 ms."""
    median = analysis.f0_median_hz
    ratio = (median / grid.f0_hz) ** traits.monopitch * traits.pitch_scale
    n_frames = len(grid.time_s)
    chance, length = rng.random(n_frames), rng.integers(6, 20, n_frames)
    jump = np.where(rng.random(n_frames) < 0.6, 0.55, 1.6)
    starts = np.flatnonzero(grid.voiced & (chance < traits.pitch_break_rate / 100.0))
    events: list[Event] = []
    free = 0
    for start in starts.tolist():
        stop = min(start + int(length[start]), n_frames - 1)
        if start < free or not grid.voiced[start:stop].all():
            continue
        ratio[start:stop] *= jump[start]
        events.append(Event("pitch_break", start / 100.0, stop / 100.0, None))
        free = stop + 20
    return ratio, events


def _voicing_sources(
    grid: Grid, analysis: Analysis, traits: DysarthriaProfile, rng: np.random.Generator
) -> np.ndarray | None:
    """Input times of neighbouring voice to be used in voiceless consonants that get voiced."""
    gaps = np.asarray(ndimage.label(analysis.active & ~analysis.voiced)[0])
    at = np.flatnonzero(analysis.voiced)
    draws = rng.random(int(gaps.max()) + 1)
    if not len(at) or traits.voicing <= 0:
        return None
    chosen = (gaps > 0) & (draws[gaps] < traits.voicing)
    after = np.clip(np.searchsorted(at, np.arange(analysis.n_frames)), 1, len(at) - 1)
    before = at[after - 1] if len(at) > 1 else at[after * 0]
    after = at[np.minimum(after, len(at) - 1)]
    frames = np.arange(analysis.n_frames)
    near = np.where(frames - before <= after - frames, before, after)
    chosen &= np.abs(near - frames) < 8  # consonants, not pauses
    # mirrored at the edge of the voice, so that no cycle is heard twice in a row
    mirrored = np.clip(2 * near - frames, 0, analysis.n_frames - 1)
    near = np.where(analysis.voiced[mirrored], mirrored, near)
    times = np.where(chosen, near / 100.0, np.nan)[grid.source]
    times[grid.silent] = np.nan
    return times


def perform(
    analysis: Analysis, words: list[str], severity: float, speaker: str | int, seed: int
) -> tuple[np.ndarray, Timeline, list[str], list[Event]]:
    """Say the words with dysarthria; returns waveform, timeline, heard words and events."""
    traits, rng = profile(speaker, severity), utterance_rng("dysarthria", speaker, seed)
    plan_rng, pitch_rng, voicing_rng, noise_rng = rng.spawn(4)
    timeline, events = _plan(analysis, words, traits, plan_rng)
    grid = output_grid(analysis, timeline)
    ratio, breaks = _pitch(grid, analysis, traits, pitch_rng)
    contour = ndimage.gaussian_filter1d(analysis.level_db, 8.0)
    middle = np.median(contour[analysis.active]) if analysis.active.any() else 0.0
    flatten = np.clip(middle - contour, -10.0, 10.0) * traits.stress_loss * analysis.active
    voice = Voice(
        pitch_ratio=ratio,
        gain_db=ndimage.gaussian_filter1d(flatten, 3.0)[grid.source],
        target=_articulate(analysis, traits)[grid.source],
        breath_db=np.full(len(grid.time_s), traits.breath_db),
        jitter=0.008 * severity,
        shimmer_db=0.4 * severity,
        excite_s=_voicing_sources(grid, analysis, traits, voicing_rng),
    )
    waveform = render(analysis, timeline, voice, noise_rng)
    events = sorted([*events, *breaks], key=lambda e: e.start_s)
    return waveform, timeline, list(words), events
