"""Waveforms out: sound small enough to travel inside a page."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE

OPUS_TYPE = "audio/ogg"
"""Media type of what `opus` returns."""
_BITS_PER_SECOND = 30_000  # of speech, with every sound up to 8 kHz


def opus(pieces: Iterable[np.ndarray]) -> bytes:
    """Return sound as an Ogg Opus file, about 12 MB an hour.

    Args:
        pieces: the waveform in parts, (n_samples,) float32, 16 kHz, at least one sample each. What
            lies outside of [-1, 1] is clipped.
    """
    import av  # slow to load

    file = io.BytesIO()
    n_written = 0
    # The same sound is the same file: no number of the stream that is drawn.
    with av.open(file, "w", format="ogg", options={"fflags": "+bitexact"}) as container:
        # libsndfile's own Opus takes four times as long for the same.
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = _BITS_PER_SECOND
        for piece in pieces:
            samples = piece.clip(-1.0, 1.0).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, n_written
            n_written += len(piece)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
