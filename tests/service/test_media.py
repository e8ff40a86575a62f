"""Bytes as they come become samples: PCM, and containers as browsers record them."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperasr.audio.reading import load
from hyperasr.errors import AudioError
from hyperasr.service.media import Container, Pcm
from tests.service.serving import RATE, Voice, heard, pcm


def opus(waveform: np.ndarray, form: str) -> bytes:
    """Return sound as MediaRecorder would: Opus, 48 kHz, in a container without an index."""
    import io

    import av

    file = io.BytesIO()
    options = {"live": "1"} if form == "webm" else {}
    with av.open(file, "w", format=form, options=options) as container:
        track = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(heard(pcm(waveform))[None], format="flt", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler("flt", "mono", 48_000)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    return file.getvalue()


def decoded(form: str, data: bytes, step: int) -> tuple[np.ndarray, Any]:
    """Return all samples, and how it ended."""
    sounds: queue.Queue[Any] = queue.Queue()
    stream = Pcm(sounds.put) if form == "pcm" else Container(form, sounds.put)
    for first in range(0, len(data), step):
        stream.write(data[first : first + step])
    stream.end()
    parts = [np.zeros(0, np.float32)]
    while isinstance(sound := sounds.get(timeout=30), np.ndarray):
        parts.append(sound)
    return np.concatenate(parts), sound


@pytest.mark.parametrize("step", [1, 3, 320, 100_000])
def test_a_sample_cut_in_two_is_one_sample(step: int, voice: Voice) -> None:
    data = pcm(voice(0.2))
    samples, end = decoded("pcm", data + b"\x01", step)
    assert end is None
    np.testing.assert_array_equal(samples, heard(data))


@pytest.mark.parametrize("form", ["webm", "ogg"])
def test_a_container_in_pieces_is_the_file_it_makes(
    form: str, voice: Voice, tmp_path: Path
) -> None:
    data = opus(voice(1.5), form)
    (tmp_path / f"a.{form}").write_bytes(data)
    whole = load(tmp_path / f"a.{form}")
    samples, end = decoded(form, data, 500)
    assert end is None
    n = min(len(samples), len(whole))
    assert abs(len(samples) - len(whole)) < 0.03 * RATE
    assert n > 1.4 * RATE
    best = max(
        float(np.corrcoef(samples[shift:n], whole[: n - shift])[0, 1]) for shift in range(0, 400, 4)
    )
    assert best > 0.95


@pytest.mark.parametrize("form", ["webm", "ogg"])
@pytest.mark.parametrize("data", [b"", b"no container " * 900, bytes(50_000)])
def test_what_is_no_container_is_an_error(form: str, data: bytes) -> None:
    samples, end = decoded(form, data, 1_000)
    assert len(samples) == 0
    assert isinstance(end, AudioError)
    assert f"no sound in {form}" in str(end)


def test_a_container_that_breaks_off_gives_what_came(voice: Voice) -> None:
    data = opus(voice(2.0), "webm")
    samples, _ = decoded("webm", data[: len(data) // 2], 700)
    assert 0.5 * RATE < len(samples) < 1.5 * RATE
