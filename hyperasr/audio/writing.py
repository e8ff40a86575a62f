"""Waveforms out: sound small enough to travel inside a page."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import soundfile

from hyperasr.audio.mel import SAMPLE_RATE

__all__ = ["OPUS_TYPE", "opus"]

OPUS_TYPE = "audio/ogg"
"""Media type of what `opus` returns."""
_COMPRESSION = 0.9  # of libsndfile: about 30 kbit/s for speech, with every sound up to 8 kHz


def opus(pieces: Iterable[np.ndarray]) -> bytes:
    """Return sound as an Ogg Opus file, about 13 MB an hour.

    Args:
        pieces: the waveform in parts, (n_samples,) float32, 16 kHz. What lies outside of [-1, 1] is
            clipped.
    """
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", SAMPLE_RATE, 1, "OPUS", format="OGG", compression_level=_COMPRESSION
    ) as sound:
        for piece in pieces:
            sound.write(piece.clip(-1.0, 1.0))
    return file.getvalue()
