"""The order of sounds in the output: pieces of the input, held sounds and silences."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hyperasr.cohorts.simulate.analysis import HOP, SAMPLE_RATE, Analysis
from hyperasr.cohorts.simulate.labels import WordTime


@dataclass(frozen=True)
class Piece:
    """A stretch of output and the input it comes from.

    Attributes:
        duration_s: length in the output.
        source: (start_s, end_s) in the input, or None for silence.
        hold: the source is swept to and fro instead of once through (a sustained sound).
        gain_db: level change.
        fade_in_s, fade_out_s: linear ramps at its ends.
        tag: of what is no plain speech, for the cohort's own use (`um`, `nasal`, ...).
    """

    duration_s: float
    source: tuple[float, float] | None
    hold: bool = False
    gain_db: float = 0.0
    fade_in_s: float = 0.0
    fade_out_s: float = 0.0
    tag: str = ""


@dataclass
class Timeline:
    """Pieces in order, and the words they say."""

    pieces: list[Piece] = field(default_factory=list)
    now: float = 0.0
    word_times: dict[int, tuple[float, float]] = field(default_factory=dict)

    def add(self, piece: Piece) -> None:
        """Append a piece; pieces without length are dropped."""
        if piece.duration_s > 1e-6:
            self.pieces.append(piece)
            self.now += piece.duration_s

    def play(self, start_s: float, end_s: float, stretch: float = 1.0, **options: object) -> None:
        """Append the input from start to end, `stretch` times as long."""
        length = max(0.0, end_s - start_s) * stretch
        self.add(Piece(length, (start_s, end_s), **options))  # type: ignore[arg-type]

    def pause(self, duration_s: float) -> None:
        """Append silence."""
        self.add(Piece(max(0.0, duration_s), None))

    def say(self, index: int, start_s: float, end_s: float, stretch: float = 1.0) -> None:
        """Append the complete utterance of word `index` and note its time."""
        begin = self.now
        self.play(start_s, end_s, stretch)
        self.mark_word(index, begin)

    def mark_word(self, index: int, begin_s: float) -> None:
        """Note that word `index` was said from `begin_s` until now."""
        self.word_times[index] = (begin_s, self.now)

    def words(self, words: list[str]) -> tuple[WordTime, ...]:
        """Times of the words, in order."""
        return tuple(WordTime(w, *self.word_times[i]) for i, w in enumerate(words))

    def frames(self) -> np.ndarray:
        """Times of the output's 10 ms grid, on which controls are given."""
        return np.arange(int(self.now * SAMPLE_RATE) // HOP + 2) * (HOP / SAMPLE_RATE)

    def piece_at(self, time_s: np.ndarray) -> np.ndarray:
        """Index of the piece at each output time."""
        ends = np.cumsum([p.duration_s for p in self.pieces])
        return np.minimum(np.searchsorted(ends, time_s, side="right"), len(self.pieces) - 1)

    def column(self, name: str) -> np.ndarray:
        """One attribute of all pieces as an array."""
        return np.array([getattr(p, name) for p in self.pieces])

    def locate(self, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where in the input each output time comes from.

        Returns:
            source times in seconds (0 in silence), linear gain (0 in silence), local stretch.
        """
        index = self.piece_at(time_s)
        duration = self.column("duration_s")
        start = np.concatenate([[0.0], np.cumsum(duration)[:-1]])
        low = np.array([p.source[0] if p.source else 0.0 for p in self.pieces])
        length = np.array([p.source[1] - p.source[0] if p.source else 0.0 for p in self.pieces])
        hold, silent = self.column("hold"), np.array([p.source is None for p in self.pieces])
        since = time_s - start[index]
        span = np.maximum(length, 1e-3)[index]
        once = since / duration[index] * length[index]
        sweep = span - np.abs((0.7 * since) % (2 * span) - span)
        source = low[index] + np.where(hold[index], sweep, once)
        gain = 10.0 ** (self.column("gain_db")[index] / 20) * ~silent[index]
        for ramp, distance in (("fade_in_s", since), ("fade_out_s", duration[index] - since)):
            length_s = self.column(ramp)[index]
            rise = np.clip(distance / np.maximum(length_s, 1e-9), 0.0, 1.0)
            gain = gain * np.where(length_s > 0.0, rise, 1.0)
        stretch = np.where(hold | silent, 4.0, duration / np.maximum(length, 1e-6))
        return source, gain, stretch[index]


@dataclass(frozen=True)
class Grid:
    """The output's 10 ms grid seen from the input: one entry an output frame.

    Attributes:
        time_s: (n_frames,) time in the output.
        source: (n_frames,) input frame.
        piece: (n_frames,) index into the timeline's pieces.
        silent: (n_frames,) whether the timeline inserted silence.
        f0_hz: (n_frames,) f0 of the input there.
        voiced: (n_frames,) whether it is voiced.
    """

    time_s: np.ndarray
    source: np.ndarray
    piece: np.ndarray
    silent: np.ndarray
    f0_hz: np.ndarray
    voiced: np.ndarray


def output_grid(analysis: Analysis, timeline: Timeline) -> Grid:
    """Relate every output frame to the input."""
    time_s = timeline.frames()
    source_s, _, _ = timeline.locate(time_s)
    source, piece = analysis.frame_at(source_s), timeline.piece_at(time_s)
    silent = np.array([p.source is None for p in timeline.pieces])[piece]
    return Grid(
        time_s, source, piece, silent, analysis.f0_hz[source], analysis.voiced[source] & ~silent
    )
