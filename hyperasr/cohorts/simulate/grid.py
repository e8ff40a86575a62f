"""The output's 10 ms grid seen from the input: where each frame comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperasr.cohorts.simulate.analysis import Analysis
from hyperasr.cohorts.simulate.timeline import Timeline

__all__ = ["Grid", "output_grid"]


@dataclass(frozen=True)
class Grid:
    """One entry an output frame.

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
