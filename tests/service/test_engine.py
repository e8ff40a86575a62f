"""Many callers, one model: texts are those of lone calls, nobody waits long, nothing is lost."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hyperasr.errors import AudioError, ConfigError
from hyperasr.hub import HyperASR
from hyperasr.service.engine import Engine
from hyperasr.service.problems import Busy, InternalError, TooLong
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import BatchDecoder, transcribe
from hyperasr.transcription.recordings import Reading, Recording
from hyperasr.transcription.transcript import Result, to_dict
from tests.service.serving import RATE, Voice, until

Make = Callable[..., Engine]


@pytest.fixture
def make(model: HyperASR) -> Iterator[Make]:
    engines = []

    def made(**settings: Any) -> Engine:
        engines.append(Engine(model, **settings))
        return engines[-1]

    yield made
    for engine in engines:
        engine.close(60)


def alone(model: HyperASR, recording: Recording, options: TranscribeOptions) -> dict[str, Any]:
    """The slow obvious twin: a call of its own, its segments one by one."""
    (result,) = transcribe(model, [recording], replace(options, batch_size=1))
    return comparable(result)


def comparable(result: Result) -> dict[str, Any]:
    """Return the JSON; probabilities to the precision of float32."""
    plain = json.dumps(to_dict(result))
    return dict(json.loads(plain, parse_float=lambda text: round(float(text), 3)))


def test_texts_are_those_of_lone_calls(model: HyperASR, make: Make, voice: Voice) -> None:
    plain, full = TranscribeOptions(), TranscribeOptions(compare=True, mode="both", word_times=True)
    calls = [
        (Recording(f"{i}", waveform=voice(seconds, 90.0 + 25 * i)), full if i % 3 == 2 else plain)
        for i, seconds in enumerate([0.6, 2.5, 1.1, 12.0, 0.9, 3.0, 0.4, 1.7, 2.2])
    ]
    engine = make(batch_size=4)
    found: dict[str, Any] = {}

    def call(recording: Recording, options: TranscribeOptions) -> None:
        found[recording.id] = engine.submit(recording, options).future.result(120)

    threads = [threading.Thread(target=call, args=one) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {r.id: alone(model, r, options) for r, options in calls}
    for name, result in found.items():
        assert comparable(result) == expected[name], name
    assert len(found) == len(calls)
    assert len({values["text"] for values in expected.values()}) > 4, "else no mix-up could be seen"
    assert engine.n_batches < engine.n_segments, "nobody was decoded together"
    assert engine.n_waiting == 0


def test_who_is_read_first_waits_for_those_who_came_with_it(
    model: HyperASR, make: Make, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Reading.segments

    def slowly(self: Reading) -> Iterator[tuple[float, np.ndarray]]:
        time.sleep(0.02 * int(self.recording.id))
        yield from read(self)

    monkeypatch.setattr(Reading, "segments", slowly)
    monkeypatch.setattr("hyperasr.service.engine._LONGEST_GATHER_S", 20.0)  # on a busy machine
    engine = make(batch_size=16)
    options = TranscribeOptions()
    jobs = [engine.submit(Recording(f"{i}", waveform=voice(0.5)), options) for i in range(5)]
    assert all(job.future.result(60).transcript for job in jobs)
    assert (engine.n_segments, engine.n_batches) == (5, 1)


def test_a_long_recording_does_not_keep_others_waiting(make: Make, voice: Voice) -> None:
    engine = make(batch_size=2)
    long = engine.submit(Recording("long", waveform=voice(40.0)), TranscribeOptions())
    other = TranscribeOptions(word_times=True)  # not decoded together with the long one
    shorts = [
        engine.submit(Recording("short", waveform=voice(0.5, 100.0 + i)), o)
        for i, o in enumerate([TranscribeOptions(), other])
    ]
    for short in shorts:
        assert short.future.result(60).transcript
        assert not long.future.done()
    transcript = long.future.result(120).transcript
    assert transcript is not None
    assert len(transcript.segments) >= 4


def test_more_than_may_wait_are_refused(make: Make, voice: Voice) -> None:
    engine = make(batch_size=1, most_waiting=2)
    recording = Recording("a", waveform=voice(6.0))
    jobs = [engine.submit(recording, TranscribeOptions()) for _ in range(2)]
    with pytest.raises(Busy, match="2 recordings wait"):
        engine.submit(recording, TranscribeOptions())
    texts = [job.future.result(120).transcript for job in jobs]
    assert texts[0] == texts[1]
    assert engine.submit(recording, TranscribeOptions()).future.result(120).transcript == texts[0]


def test_who_gives_up_costs_no_more(make: Make, voice: Voice) -> None:
    engine = make(batch_size=1)
    shown: list[Any] = []
    job = engine.submit(
        Recording("a", waveform=voice(150.0)), TranscribeOptions(), on_segment=shown.append
    )
    until(lambda: shown)
    job.future.cancel()
    with pytest.raises(CancelledError):
        job.future.result()
    until(lambda: not engine.n_waiting)
    assert engine.n_segments < 12


def test_segments_come_in_order_and_make_the_whole(make: Make, voice: Voice) -> None:
    shown: list[Any] = []
    job = make(batch_size=2).submit(
        Recording("a", waveform=voice(45.0)), TranscribeOptions(), on_segment=shown.append
    )
    transcript = job.future.result(120).transcript
    assert transcript is not None
    assert tuple(shown) == transcript.segments
    assert len(shown) > 4


def test_what_cannot_be_read_is_its_own_fault(make: Make, tmp_path: Path, voice: Voice) -> None:
    (tmp_path / "text.wav").write_text("no sound at all\n" * 30)
    soundfile.write(tmp_path / "long.wav", np.zeros(5 * RATE, np.float32), RATE)
    soundfile.write(tmp_path / "just.wav", np.zeros(3 * RATE, np.float32), RATE)
    engine = make(longest_s=3.0)
    names = ("text", "long", "just", "absent")
    paths = {name: str(tmp_path / f"{name}.wav") for name in names}
    jobs = {n: engine.submit(Recording(n, p), TranscribeOptions()) for n, p in paths.items()}
    good = engine.submit(Recording("good", waveform=voice(1.0)), TranscribeOptions())
    with pytest.raises(AudioError, match="is text"):
        jobs["text"].future.result(60)
    with pytest.raises(AudioError, match="no file"):
        jobs["absent"].future.result(60)
    with pytest.raises(TooLong, match=r"longer than 0\.05 minutes"):
        jobs["long"].future.result(60)
    assert jobs["just"].future.result(60).transcript.text == ""  # type: ignore[union-attr]
    assert good.future.result(60).transcript.text  # type: ignore[union-attr]


def test_length_is_measured_where_no_header_tells_it(make: Make, voice: Voice) -> None:
    job = make(longest_s=1.0).submit(Recording("a", waveform=voice(1.5)), TranscribeOptions())
    with pytest.raises(TooLong):
        job.future.result(60)


def test_what_the_model_cannot_do_is_said_at_once(make: Make, voice: Voice) -> None:
    recording = Recording("a", waveform=voice(1.0))
    engine = make()
    for options in (
        TranscribeOptions(task="translate"),
        TranscribeOptions(language="de"),
        TranscribeOptions(samples=2),
        TranscribeOptions(vad="silero"),
    ):
        with pytest.raises(ConfigError):
            engine.submit(recording, options)
    assert engine.n_waiting == 0


def test_a_failure_of_ours_ends_no_more_than_its_batch(
    make: Make, voice: Voice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decode, fails = BatchDecoder.decode, [True]

    def once(self: BatchDecoder, window: Any) -> None:
        if fails.pop():
            raise RuntimeError("what somebody said, and /where/it/is")
        decode(self, window)

    monkeypatch.setattr(BatchDecoder, "decode", once)
    engine = make()
    first = engine.submit(Recording("a", waveform=voice(1.0)), TranscribeOptions())
    with caplog.at_level(logging.DEBUG), pytest.raises(InternalError):
        first.future.result(60)
    assert "RuntimeError in once" in caplog.text
    assert "somebody" not in caplog.text
    assert "/where" not in caplog.text
    monkeypatch.undo()
    second = engine.submit(Recording("a", waveform=voice(1.0)), TranscribeOptions())
    assert second.future.result(60).transcript


def test_a_caller_that_fails_is_alone(make: Make, voice: Voice) -> None:
    def fails(_: Any) -> None:
        raise RuntimeError("the loop of this caller is closed")

    engine, recording = make(), Recording("a", waveform=voice(1.0))
    bad = engine.submit(recording, TranscribeOptions(), on_segment=fails)
    good = [engine.submit(recording, TranscribeOptions()) for _ in range(2)]
    with pytest.raises(InternalError):
        bad.future.result(60)
    assert all(job.future.result(60).transcript for job in good)
    assert engine.submit(recording, TranscribeOptions()).future.result(60).transcript


def test_closing_finishes_what_waits(make: Make, voice: Voice) -> None:
    engine = make(batch_size=1)
    jobs = [
        engine.submit(Recording("a", waveform=voice(4.0, 100.0 + i)), TranscribeOptions())
        for i in range(4)
    ]
    engine.close(120)
    assert all(job.future.done() and job.future.result().transcript for job in jobs)
    with pytest.raises(Busy):
        engine.submit(Recording("a", waveform=voice(1.0)), TranscribeOptions())
