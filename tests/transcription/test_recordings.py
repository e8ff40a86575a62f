"""Where recordings come from, and warnings that belong to the recording they are about."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hyperasr.errors import AudioError
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recordings import Reading, Recording, find_recordings


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


def samples_of(recording: Recording) -> np.ndarray:
    return np.concatenate([w for _, w in Reading(recording, 28.0, TranscribeOptions()).segments()])


def test_pipes_and_standard_input_are_read_as_the_file_is(
    tmp_path: Path, voice: Callable[..., np.ndarray]
) -> None:
    path, pipe = tmp_path / "a.wav", tmp_path / "folder" / "pipe.wav"
    sf.write(path, voice(2.0), 16_000)
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    (error,) = (r.error for r in find_recordings(str(pipe.parent)))
    assert isinstance(error, AudioError), "it is passed over, and nothing else is there"
    expected = samples_of(Recording("a", str(path)))
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    (piped,) = find_recordings(pipe)
    writer.join()
    standard_input = os.dup(0)
    try:
        reading, writing = os.pipe()
        os.write(writing, path.read_bytes()[:60_000])
        os.close(writing)
        os.dup2(reading, 0)
        os.close(reading)
        (typed,) = find_recordings("-")
    finally:
        os.dup2(standard_input, 0)
    assert np.array_equal(samples_of(piped), expected)
    assert (piped.id, typed.id) == (str(pipe), "stdin")
    assert len(samples_of(typed)) == (60_000 - 44) // 2
    # A name that is no name does not mean the whole folder.
    (nothing,) = find_recordings("")
    assert isinstance(nothing.error, AudioError)
