"""Warnings belong to the recording that they are about, whatever else is read meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recordings import Reading, Recording


def test_recordings_that_are_read_at_once_keep_their_own_warnings(
    tmp_path: Path, voice: Callable[..., np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    wave = voice(12.0, 120.0)
    for name in ("sound", "broken"):
        sf.write(tmp_path / f"{name}.wav", wave, 16_000)
    content = (tmp_path / "broken.wav").read_bytes()
    (tmp_path / "broken.wav").write_bytes(content[: len(content) // 2])
    readings = [
        Reading(Recording(name, str(tmp_path / f"{name}.wav")), 4.0, TranscribeOptions())
        for name in ("sound", "broken")
    ]
    segments = [reading.segments() for reading in readings]
    for _ in range(20):
        for one in segments:
            next(one, None)
    sound, broken = (reading.warnings for reading in readings)
    assert sound == []
    assert len(broken) == 1
    assert "breaks off after 6.00 s" in broken[0]
    assert not caplog.records, "told to the reader, and to nobody else"
