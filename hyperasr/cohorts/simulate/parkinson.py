"""Simulated Parkinson's speech: quiet, flat, hoarse, trembling, rushed, sometimes palilalic.

The picture follows Darley, Aronson and Brown 1969 (hypokinetic dysarthria; DAB below), Logemann,
Fisher, Boshes and Blonsky 1978 (J Speech Hear Disord 43) and Duffy, Motor Speech Disorders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hyperasr.cohorts.simulate.align import word_spans
from hyperasr.cohorts.simulate.analysis import Analysis
from hyperasr.cohorts.simulate.labels import Event
from hyperasr.cohorts.simulate.spectrum import formants, smooth_in_time, tilt_curve, warp
from hyperasr.cohorts.simulate.synthesis import Voice, add_room, render
from hyperasr.cohorts.simulate.timeline import Grid, Timeline, output_grid
from hyperasr.cohorts.simulate.traits import speaker_rng, utterance_rng


@dataclass(frozen=True)
class ParkinsonProfile:
    """Traits of one simulated person with Parkinson's disease, at one severity."""

    monopitch: float
    """Share of the pitch movement (log f0) that is lost, 0 to 0.95 (DAB; Canter 1963, J Speech
    Hear Disord 28)."""
    monoloudness: float
    """Share of the level movement between syllables that is lost, 0 to 0.8 (DAB)."""
    pitch_scale: float
    """Factor on mean f0, 0.92 to 1.2; often raised (Canter 1963)."""
    loudness_db: float
    """Level in dB, -11 to 0: hypophonia (Fox and Ramig 1997, Am J Speech Lang Pathol 6, found
    2 to 4 dB on average; severe speakers lose more)."""
    decay_db_per_s: float
    """Fall of level along a breath group in dB per second, 0 to 3, at most 8 dB in all (Ho,
    Iansek and Bradshaw 2001: motor instability in parkinsonian speech intensity)."""
    tilt_db: float
    """Spectral tilt in dB per octave above 400 Hz, -4.5 to 0: weak, soft voice."""
    jitter: float
    """Cycle-length perturbation, fraction, 0 to 0.03 (Rusz et al. 2011, JASA 129)."""
    shimmer_db: float
    """Cycle-level perturbation in dB, 0 to 1.2 (Rusz et al. 2011)."""
    breath_db: float
    """Breath and hoarse noise relative to the voice in dB, -40 to -6 (Logemann et al. 1978:
    laryngeal disorders in 89 %)."""
    tremor_hz: float
    """Rate of voice tremor in hertz, 4 to 7 (Winholtz and Ramig 1992, J Speech Hear Res 35)."""
    tremor_f0: float
    """Depth of tremor in f0, fraction, 0 to 0.1."""
    tremor_db: float
    """Depth of tremor in level, dB (amplitude of the sine), 0 to 4."""
    stretch: float
    """Habitual duration factor, 0.75 to 1.15 (Skodda and Schlegel 2008, Mov Disord 23; faster
    and slower speakers both exist: Canter 1963)."""
    rush_rate: float
    """Short rushes of speech started per word, 0 to 0.5 (DAB: short rushes, variable rate)."""
    rush_stretch: float
    """Duration factor at the height of a rush, 0.45 to 1 (DAB: increase of rate in segments)."""
    palilalia_rate: float
    """Chance that the end of the utterance is repeated, 0 to 0.8 (Boller, Albert and Denes 1975,
    "Palilalia", Br J Disord Commun 10; Benke et al. 2000, J Neurol Neurosurg Psychiatry 69)."""
    palilalia_words: int
    """Words in a palilalic repetition, 1 to 3."""
    palilalia_iterations: float
    """Mean number of repetitions, 1 to 4."""
    undershoot_s: float
    """Time constant of articulation in seconds, 0 to 0.03 (Logemann et al. 1978: stops and
    fricatives are undershot)."""
    centralisation: float
    """Share by which formants move to the speaker's mean, 0 to 0.4 (Sapir et al. 2010)."""
    formant_scale: tuple[float, float, float]
    """Factors on F1, F2, F3, 0.82 to 1.18: rigid jaw and lips; direction differs by speaker."""
    room_db: float
    """Room noise relative to the recording's original speech level in dB, -60 to -33."""


def profile(speaker: str | int, severity: float) -> ParkinsonProfile:
    """Return the traits of a simulated speaker at a severity in [0, 1]."""
    rng, s = speaker_rng("parkinson", speaker), severity
    draw = {
        "monopitch": rng.uniform(0.55, 0.95), "monoloudness": rng.uniform(0.3, 0.8),
        "loudness_db": rng.uniform(-11.0, -4.0), "decay_db_per_s": rng.uniform(0.5, 3.0),
        "tilt_db": rng.uniform(-4.5, -0.5), "jitter": rng.uniform(0.008, 0.028),
        "shimmer_db": rng.uniform(0.3, 1.1), "tremor_f0": rng.uniform(0.01, 0.1),
        "tremor_db": rng.uniform(0.5, 4.0), "rush_rate": rng.uniform(0.05, 0.5),
        "undershoot_s": rng.uniform(0.012, 0.03), "centralisation": rng.uniform(0.1, 0.4),
    }  # fmt: skip
    breath, tremor_hz = rng.uniform(-18.0, -6.0), rng.uniform(4.0, 7.0)
    pitch, pace, rush = rng.normal(1.06, 0.06), rng.uniform(0.72, 1.15), rng.uniform(0.45, 0.8)
    # Palilalia is not in everybody: half of the speakers hardly have it.
    palilalia = rng.uniform(0.3, 0.8) if rng.random() < 0.5 else rng.uniform(0.0, 0.15)
    n_words, iterations = int(rng.integers(1, 4)), rng.uniform(1.0, 3.0)
    scale = np.exp(rng.normal(0.0, [0.08, 0.07, 0.04]) * s)
    room = rng.uniform(-42.0, -33.0)
    return ParkinsonProfile(
        **{name: float(value * s) for name, value in draw.items()},
        breath_db=float(-40.0 + s * (40.0 + breath)),
        tremor_hz=float(tremor_hz),
        pitch_scale=float(np.clip(pitch, 0.92, 1.2) ** s),
        stretch=float(pace**s),
        rush_stretch=float(rush**s),
        palilalia_rate=float(palilalia * s),
        palilalia_words=n_words,
        palilalia_iterations=float(1.0 + (iterations - 1.0) * s),
        formant_scale=tuple(float(f) for f in np.clip(scale, 0.82, 1.18)),  # type: ignore[arg-type]
        room_db=float(-60.0 + s * (60.0 + room)),
    )


def _rush_factors(
    n_words: int, traits: ParkinsonProfile, draws: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Duration factor of each word and the rushes as (first, last) word."""
    factor, rushes, free = np.ones(n_words), [], 0
    for first in range(n_words):
        if first < free or draws[first, 0] >= traits.rush_rate:
            continue
        last = min(n_words - 1, first + 1 + int(3 * draws[first, 1]))
        # festination: faster and faster within the rush
        factor[first : last + 1] = traits.rush_stretch ** np.linspace(0.6, 1.0, last - first + 1)
        rushes.append((first, last))
        free = last + 2
    return factor, rushes


@dataclass
class _Plan:
    timeline: Timeline
    heard: list[str]
    events: list[Event]


def _plan(
    analysis: Analysis, words: list[str], traits: ParkinsonProfile, rng: np.random.Generator
) -> _Plan:
    """Words at the speaker's pace, rushes, and palilalia at the end."""
    spans, draws = word_spans(analysis, words), rng.random((len(words) + 1, 4))
    factor, rushes = _rush_factors(len(words), traits, draws)
    plan, at = _Plan(Timeline(), list(words), []), 0.0
    timeline = plan.timeline
    for index in range(len(words)):
        start, end = spans[index]
        # in a rush the pauses between words go too
        timeline.play(at, start, traits.stretch * factor[index] ** 1.5)
        timeline.say(index, start, end, traits.stretch * factor[index])
        at = end
    for first, last in rushes:
        times = timeline.word_times
        plan.events.append(Event("rush", times[first][0], times[last][1], first))
    if words and draws[-1, 0] < traits.palilalia_rate:
        _palilalia(plan, words, spans, traits, draws[-1])
    timeline.play(at, analysis.duration_s, traits.stretch)
    return plan


def _palilalia(
    plan: _Plan, words: list[str], spans: np.ndarray, traits: ParkinsonProfile, draw: np.ndarray
) -> None:
    """Repeat the last words, each time faster and softer."""
    first = max(0, len(words) - traits.palilalia_words)
    units = 1 + int(np.floor(-np.log1p(-0.9 * draw[1]) * (traits.palilalia_iterations - 0.5)))
    timeline, begin = plan.timeline, plan.timeline.now
    for unit in range(1, min(units, 5) + 1):
        timeline.pause(0.12 * 0.8**unit + 0.05 * draw[2])
        pace = max(0.45, traits.stretch * 0.85**unit)
        timeline.play(
            spans[first, 0], spans[-1, 1], pace,
            gain_db=-2.5 * unit, fade_in_s=0.01, fade_out_s=0.03,
        )  # fmt: skip
        plan.heard += [w.strip(".,;:!?") for w in words[first:]]
    plan.events.append(Event("palilalia", begin, timeline.now, first))


def _articulate(analysis: Analysis, traits: ParkinsonProfile) -> np.ndarray:
    """Target envelope of every input frame: mildly undershot and centralised, tilted."""
    voiced, places = analysis.voiced, formants(analysis)
    target = smooth_in_time(analysis, traits.undershoot_s)
    centre = places[voiced].mean(axis=0) if voiced.any() else places.mean(axis=0)
    goal = places + traits.centralisation * (centre - places) * voiced[:, None]
    goal = goal * np.array(traits.formant_scale)
    target = warp(target, places, ndimage.gaussian_filter1d(goal, 2.0, axis=0))
    return (target + tilt_curve(traits.tilt_db)).astype(np.float32)


def _level(
    grid: Grid, analysis: Analysis, timeline: Timeline, traits: ParkinsonProfile
) -> np.ndarray:
    """Level change in dB: flat, low, falling along the utterance."""
    contour = ndimage.gaussian_filter1d(analysis.level_db, 8.0)
    middle = np.median(contour[analysis.active]) if analysis.active.any() else 0.0
    flat = np.clip(middle - contour, -12.0, 12.0) * traits.monoloudness * analysis.active
    flat = ndimage.gaussian_filter1d(flat, 3.0)[grid.source]
    spoken = np.cumsum(analysis.active[grid.source] & ~grid.silent) / 100.0
    decay = np.minimum(traits.decay_db_per_s * spoken, 8.0)
    return flat + traits.loudness_db - decay


def _tremor(grid: Grid, traits: ParkinsonProfile, rng: np.random.Generator) -> np.ndarray:
    """Unit oscillation (n_frames,) at the speaker's rate, wandering a little in rate."""
    n_frames = len(grid.time_s)
    wander = ndimage.gaussian_filter1d(rng.standard_normal(n_frames + 1), 30.0)[:n_frames]
    rate = traits.tremor_hz * (1.0 + 0.3 * np.clip(wander, -0.3, 0.3))
    return np.sin(2 * np.pi * (np.cumsum(rate) / 100.0 + rng.random()))


def perform(
    analysis: Analysis, words: list[str], severity: float, speaker: str | int, seed: int
) -> tuple[np.ndarray, Timeline, list[str], list[Event]]:
    """Say the words with Parkinson's speech; waveform, timeline, heard words and events."""
    traits, rng = profile(speaker, severity), utterance_rng("parkinson", speaker, seed)
    plan_rng, tremor_rng, noise_rng = rng.spawn(3)
    plan = _plan(analysis, words, traits, plan_rng)
    grid = output_grid(analysis, plan.timeline)
    ratio = (analysis.f0_median_hz / grid.f0_hz) ** traits.monopitch * traits.pitch_scale
    wave = _tremor(grid, traits, tremor_rng)
    voice = Voice(
        pitch_ratio=ratio * (1.0 + traits.tremor_f0 * wave),
        gain_db=_level(grid, analysis, plan.timeline, traits) + traits.tremor_db * wave,
        target=_articulate(analysis, traits)[grid.source],
        breath_db=np.full(len(grid.time_s), traits.breath_db),
        jitter=traits.jitter,
        shimmer_db=traits.shimmer_db,
    )
    waveform = render(analysis, plan.timeline, voice, noise_rng)
    if analysis.speech_db > -90.0:
        waveform = add_room(waveform, analysis.speech_db + traits.room_db, noise_rng)
    return waveform, plan.timeline, plan.heard, sorted(plan.events, key=lambda e: e.start_s)
