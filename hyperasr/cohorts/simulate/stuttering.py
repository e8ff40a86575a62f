"""Simulated stuttering: repetitions, prolongations, blocks and interjections.

Kinds and their names follow Wingate 1964, "A standard definition of stuttering" (J Speech Hear
Disord 29), and the labels of SEP-28k (Lea et al. 2021, ICASSP).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hyperasr.cohorts.simulate.align import count_syllables, word_spans
from hyperasr.cohorts.simulate.analysis import Analysis
from hyperasr.cohorts.simulate.labels import Event
from hyperasr.cohorts.simulate.spectrum import formants, murmur_curve, tilt_curve, warp
from hyperasr.cohorts.simulate.synthesis import Voice, render
from hyperasr.cohorts.simulate.timeline import Piece, Timeline, output_grid
from hyperasr.cohorts.simulate.traits import speaker_rng, utterance_rng

KINDS = (
    "sound_repetition",
    "syllable_repetition",
    "word_repetition",
    "prolongation",
    "block",
    "interjection",
)
_FUNCTION_WORDS = frozenset(
    "a an and as at but by for from in is it of on or the to with that this was".split()
)


@dataclass(frozen=True)
class StutteringProfile:
    """Traits of one simulated person who stutters, at one severity."""

    rate_per_word: float
    """Expected dysfluencies per word, 0 to 0.6. Percent syllables stuttered is the first measure of
    the Stuttering Severity Instrument (Riley 1972, J Speech Hear Disord 37); severe speakers
    pass 25 %."""
    kind_weights: tuple[float, ...]
    """Share of each of `KINDS`, sum 1. Types differ between speakers, part-word repetitions and
    prolongations being the core (Ambrose and Yairi 1999, J Speech Lang Hear Res 42)."""
    iterations: float
    """Mean extra iterations of a repetition, 1 to 4 (Ambrose and Yairi 1999: number of
    repetition units separates stuttering from normal dysfluency)."""
    block_s: float
    """Median length of a block in seconds, 0.2 to 1.5 (Riley 1972: mean of the longest events)."""
    prolongation_s: float
    """Median length of a prolongation in seconds, 0.2 to 1.2 (Riley 1972)."""
    gap_s: float
    """Silence between repetition units in seconds, 0.04 to 0.25. Shorter in stuttering than in
    normal repetition (Throneburg and Yairi 1994, J Speech Hear Res 37)."""
    filler: str
    """Habitual interjection: `um`, `uh` or `er` (Clark and Fox Tree 2002, Cognition 84)."""
    filler_s: float
    """Length of an interjection in seconds, 0.25 to 0.6."""
    tension: float
    """Physical tension, 0 to 1: raises pitch and hardens onsets after blocks (Riley 1972 scores
    physical concomitants)."""
    stretch: float
    """Habitual duration factor of fluent stretches, 0.85 to 1.25; slower as a rule
    (Bloodstein and Bernstein Ratner 2008, A Handbook on Stuttering)."""


def profile(speaker: str | int, severity: float) -> StutteringProfile:
    """Return the traits of a simulated speaker at a severity in [0, 1]."""
    rng = speaker_rng("stuttering", speaker)
    # A small concentration: most speakers have one or two habitual kinds.
    weights = rng.dirichlet(0.9 * np.array([1.4, 1.0, 0.9, 1.1, 1.1, 0.9]))
    top_rate, units = rng.uniform(0.25, 0.6), rng.uniform(1.5, 3.5)
    block, prolongation = rng.uniform(0.5, 1.4), rng.uniform(0.45, 1.0)
    gap, filler = rng.uniform(0.04, 0.2), ("um", "uh", "er")[rng.integers(3)]
    filler_s, tension, pace = rng.uniform(0.28, 0.55), rng.uniform(), rng.normal(0.08, 0.07)
    return StutteringProfile(
        rate_per_word=float(top_rate * severity),
        kind_weights=tuple(float(w) for w in weights),
        iterations=float(1.0 + (units - 1.0) * severity),
        block_s=float(0.2 + (block - 0.2) * severity),
        prolongation_s=float(0.2 + (prolongation - 0.2) * severity),
        gap_s=float(gap),
        filler=filler,
        filler_s=float(filler_s),
        tension=float(tension * severity),
        stretch=float(1.0 + np.clip(pace, -0.12, 0.22) * severity),
    )


def _locus_weight(index: int, word: str) -> float:
    """How likely a word is stuttered: first, long, consonant-initial, content words more.

    Source: Brown 1945, "The loci of stutterings in the speech sequence", J Speech Disord 10.
    """
    letters = re.sub(r"[\W_]", "", word.lower())
    weight = 1.35 if index == 0 else 1.0
    weight *= 1.2 if len(letters) >= 5 else 1.0
    weight *= 0.85 if letters[:1] in "aeiou" else 1.1
    return weight * (0.75 if letters in _FUNCTION_WORDS else 1.0)


@dataclass
class _Speaker:
    """Builds one utterance: timeline, heard words and events grow together."""

    analysis: Analysis
    traits: StutteringProfile
    words: list[str]
    spans: np.ndarray
    timeline: Timeline
    heard: list[str]
    events: list[Event]

    def note(self, kind: str, begin: float, index: int) -> None:
        self.events.append(Event(kind, begin, self.timeline.now, index))

    def repeat(self, index: int, kind: str, draw: np.ndarray) -> None:
        """Say a beginning (or the whole) of the word several times before the word."""
        start, end = self.spans[index]
        units = 1 + int(np.floor(-np.log1p(-0.95 * draw[0]) * (self.traits.iterations - 0.6)))
        spoken = _beginning(self.words[index], kind)
        length = end - start
        if kind == "sound_repetition":
            length = min(0.6 * length, 0.08 + 0.05 * draw[1])
        elif kind == "syllable_repetition":
            n_syllables = count_syllables(self.words[index])
            share = 0.95 / n_syllables if n_syllables > 1 else 0.6  # `li- light`: half of it
            length = min(max(0.12, share * length), end - start, 0.3)
        begin = self.timeline.now
        for unit in range(min(units, 6)):
            self.heard.append(spoken)
            pace = self.traits.stretch * (0.9 if kind == "word_repetition" else 1.0)
            self.timeline.play(start, start + length, pace, fade_in_s=0.006, fade_out_s=0.03)
            uneven = 0.6 + 0.8 * ((draw[2] * 7.3 + 0.37 * unit) % 1.0)
            self.timeline.pause(self.traits.gap_s * uneven)
        self.note(kind, begin, index)

    def prolong(self, index: int, draw: np.ndarray) -> None:
        """Hold a steady sound near the beginning of the word."""
        start, end = self.spans[index]
        middle = _steadiest(self.analysis, start + 0.02, start + 0.4 * (end - start))
        low, high = max(start, middle - 0.025), min(end, middle + 0.025)
        length = self.traits.prolongation_s * np.exp(0.7 * (draw[0] - 0.5))
        begin = self.timeline.now
        self.timeline.play(start, low, self.traits.stretch)
        held = self.timeline.now
        self.timeline.add(Piece(length, (low, high), hold=True))
        self.note("prolongation", held, index)
        self.timeline.play(high, end, self.traits.stretch)
        self.timeline.mark_word(index, begin)

    def block(self, index: int, draw: np.ndarray) -> None:
        """Fall silent before the word, then start it hard."""
        begin = self.timeline.now
        self.timeline.pause(self.traits.block_s * np.exp(1.2 * (draw[0] - 0.5)))
        self.note("block", begin, index)
        start, end = self.spans[index]
        burst = min(0.06, 0.5 * (end - start))
        begin, boost = self.timeline.now, 1.0 + 4.0 * self.traits.tension
        self.timeline.play(start, start + burst, gain_db=boost)
        self.timeline.play(start + burst, end, self.traits.stretch)
        self.timeline.mark_word(index, begin)

    def interject(self, index: int, draw: np.ndarray) -> None:
        """Put an um, uh or er before the word, made of the speaker's own vowel."""
        vowel = _filler_vowel(self.analysis)
        if vowel is None:
            return
        kind = self.traits.filler
        if draw[2] > 0.75:
            kind = {"um": "uh", "uh": "um", "er": "uh"}[kind]
        length = self.traits.filler_s * np.exp(0.6 * (draw[0] - 0.5))
        self.timeline.pause(0.05 + 0.1 * draw[1])
        begin = self.timeline.now
        ending = 0.45 * length if kind == "um" else 0.0
        self.timeline.add(
            Piece(
                length - ending, vowel, hold=True, gain_db=-3.0, fade_in_s=0.06,
                fade_out_s=0.0 if ending else 0.12, tag=kind,
            )
        )  # fmt: skip
        self.timeline.add(
            Piece(ending, vowel, hold=True, gain_db=-6.0, fade_out_s=0.06, tag="nasal")
        )
        self.heard.append(kind)
        self.note("interjection", begin, index)
        self.timeline.pause(0.08 + 0.25 * draw[3])

    def say(self, index: int, kind: str | None, draw: np.ndarray) -> None:
        """Say one word, with its dysfluency if it has one."""
        start, end = self.spans[index]
        if kind == "interjection":
            self.interject(index, draw)
        elif kind is not None and kind.endswith("repetition"):
            self.repeat(index, kind, draw)
        if kind == "prolongation":
            self.prolong(index, draw)
        elif kind == "block":
            self.block(index, draw)
        else:
            self.timeline.say(index, start, end, self.traits.stretch)
        self.heard.append(self.words[index])


def _beginning(word: str, kind: str) -> str:
    """What a repetition unit looks like in a verbatim transcript: `l-`, `ta-` or the word."""
    bare = re.sub(r"^[\W_]+|[\W_]+$", "", word)
    if kind == "word_repetition" or not bare:
        return bare or word
    onset = re.match(r"[^aeiouyAEIOUY\d]*", bare[:3]).group()  # type: ignore[union-attr]
    if kind == "syllable_repetition":
        nucleus = re.match(r"[aeiouyAEIOUY]+|.", bare[len(onset) :])
        return f"{onset}{nucleus.group() if nucleus else ''}-"
    return f"{onset or bare[0]}-"


def _flux(analysis: Analysis) -> np.ndarray:
    """Change of the envelope's shape around each frame, (n_frames,)."""
    shape = analysis.envelope[:, :160:4]
    step = np.abs(np.diff(shape, axis=0, prepend=shape[:1])).mean(axis=1)
    return ndimage.uniform_filter1d(step, 7, mode="nearest")


def _steadiest(analysis: Analysis, start_s: float, end_s: float) -> float:
    """Time of the steadiest audible frame between two times."""
    first, last = analysis.frame_at(np.array([start_s, max(end_s, start_s)]))
    frames = np.arange(first, last + 1)
    frames = frames[analysis.level_db[frames] > analysis.speech_db - 15.0]
    if not len(frames):  # a long closure: hold the loudest sound that follows
        frames = np.arange(first, min(last + 20, analysis.n_frames - 1) + 1)
        frames = frames[[analysis.level_db[frames].argmax()]]
    quiet = np.clip(analysis.speech_db - 8.0 - analysis.level_db[frames], 0.0, 40.0)
    score = _flux(analysis)[frames] + 0.04 * quiet
    return float(frames[score.argmin()]) / 100.0


def _filler_vowel(analysis: Analysis) -> tuple[float, float] | None:
    """The steadiest loud voiced 100 ms of the recording, or None where nothing is voiced."""
    inside = ndimage.binary_erosion(analysis.voiced, np.ones(9))
    frames = np.flatnonzero(inside)
    if not len(frames):
        frames = np.flatnonzero(ndimage.binary_erosion(analysis.voiced, np.ones(5)))
    if not len(frames):
        return None
    score = _flux(analysis)[frames] - 0.05 * (analysis.level_db[frames] - analysis.speech_db)
    middle = frames[score.argmin()] / 100.0
    return max(0.0, middle - 0.035), min(analysis.duration_s, middle + 0.035)


def _voice(analysis: Analysis, timeline: Timeline, traits: StutteringProfile) -> Voice:
    """Pitch and spectrum: tension everywhere, schwa and falling pitch in fillers."""
    grid = output_grid(analysis, timeline)
    tags = np.array([p.tag for p in timeline.pieces])[grid.piece]
    ratio = np.full(len(tags), 1.0 + 0.06 * traits.tension)
    filler = np.isin(tags, ["um", "uh", "er", "nasal"])
    if not filler.any():
        return Voice(pitch_ratio=ratio)
    flat = 0.93 * analysis.f0_median_hz / grid.f0_hz
    ratio = np.where(filler, flat * (1.0 - 0.05 * np.sin(2.0 * grid.time_s)), ratio)
    places = formants(analysis)
    spoken = places[analysis.voiced] if analysis.voiced.any() else places
    schwa = 0.5 * np.median(spoken, axis=0) + 0.5 * np.array([540.0, 1450.0, 2550.0])
    rows = grid.source[filler]
    goal = np.tile(schwa, (len(rows), 1))
    goal[tags[filler] == "er", 2] = 1850.0  # r-coloured: low F3
    target = np.full((len(tags), analysis.envelope.shape[1]), np.nan, dtype=np.float32)
    bent = warp(analysis.envelope[rows], places[rows], goal) + tilt_curve(-1.5)
    bent[tags[filler] == "nasal"] += murmur_curve()
    target[filler] = bent
    return Voice(pitch_ratio=ratio, target=target)


def perform(
    analysis: Analysis, words: list[str], severity: float, speaker: str | int, seed: int
) -> tuple[np.ndarray, Timeline, list[str], list[Event]]:
    """Say the words with stuttering; returns waveform, timeline, heard words and events."""
    traits, rng = profile(speaker, severity), utterance_rng("stuttering", speaker, seed)
    # All draws come first and do not depend on severity, so that more severe means the same
    # dysfluencies and further ones.
    draws = rng.random((len(words), 2, 6))
    spans = word_spans(analysis, words)
    person = _Speaker(analysis, traits, words, spans, Timeline(), [], [])
    edges = np.cumsum(traits.kind_weights)
    at = 0.0
    for index, word in enumerate(words):
        person.timeline.play(at, spans[index, 0], traits.stretch)
        chance = min(0.92, traits.rate_per_word * _locus_weight(index, word))
        kinds = [
            KINDS[min(int(np.searchsorted(edges, d[1])), 5)] if d[0] < limit else None
            for d, limit in zip(draws[index], (chance, 0.4 * chance), strict=True)
        ]
        # A second dysfluency on one word is an interjection before the other one.
        if kinds[0] is not None and kinds[0] != "interjection" and kinds[1] is not None:
            person.interject(index, draws[index, 1, 2:])
        person.say(index, kinds[0], draws[index, 0, 2:])
        at = spans[index, 1]
    person.timeline.play(at, analysis.duration_s, traits.stretch)
    voice = _voice(analysis, person.timeline, traits)
    waveform = render(analysis, person.timeline, voice, rng)
    return waveform, person.timeline, person.heard, person.events
