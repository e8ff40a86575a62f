"""What a user may write, for mypy --strict; see test_public.py. Nothing runs it."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import hyperasr

model: hyperasr.HyperASR = hyperasr.load("tiny.en", device="cpu", dtype="float32", offline=True)
model.to("cpu").to(dtype="int8")

one: hyperasr.Transcript = model.transcribe("my.wav", beam_size=5, word_times=True)
line: str = one.text + one.to_text(marks=True) + one.to_srt() + one.to_vtt() + one.to_json()
doubtful: list[str] = [word.text for word in one.words if word.doubtful and word.probability < 0.3]
starts: list[float | None] = [word.start for segment in one.segments for word in segment.words]

samples = np.zeros(16_000, dtype=np.float32)
texts: list[str] = [
    model.transcribe(samples, sampling_rate=16_000, mode="clean").text,
    model.transcribe((16_000, samples)).text,
    model.transcribe({"array": samples, "sampling_rate": 16_000}).text,
    model.transcribe(io.BytesIO(b""), pauses="stuttering").text,
    model.transcribe(Path("my.wav").read_bytes(), vad="silero").text,
]

segments: Iterator[hyperasr.Segment] = model.transcribe("my.wav", stream=True, batch_size=1)
results: Iterator[hyperasr.Result] = model.transcribe([Path("clips"), "my.wav"], compare=True)
for result in results:
    if result.transcript is not None and result.base is not None:
        print(result.id, result.transcript.to_text(), result.base.text)
    elif isinstance(result.error, hyperasr.HyperASRError):
        print(result.error)
