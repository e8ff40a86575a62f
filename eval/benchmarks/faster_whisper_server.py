"""faster-whisper's batched pipeline behind OpenAI's route: a peer of `eval.benchmarks.server`.

    python -m eval.benchmarks.faster_whisper_server FOLDER THREADS

FOLDER holds a Whisper in CTranslate2's layout, run in int8, greedily, without times. Who calls
while others are decoded is in the next batch, as with our own server. Prints its address when it
listens.
"""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future

import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile

_RATE = 16_000
_BATCH, _GATHER_S = 16, 0.005  # as our own server has them


def main() -> None:
    """Serve until SIGTERM."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel, decode_audio

    folder, threads = sys.argv[1], int(sys.argv[2])
    whisper = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads)
    pipeline = BatchedInferencePipeline(whisper)
    how = {"language": "en", "beam_size": 1, "without_timestamps": True, "batch_size": _BATCH}
    waiting: deque[tuple[np.ndarray, Future[str]]] = deque()
    decoding = threading.Lock()
    app = FastAPI()

    def decode() -> None:
        """Answer those who wait: the pipeline takes one recording, of which each is a clip."""
        taken = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
        ends = np.cumsum([len(waveform) for waveform, _ in taken]) / _RATE
        clips = [{"start": s, "end": e} for s, e in zip([0.0, *ends], ends, strict=False)]
        texts = [""] * len(taken)
        joined = np.concatenate([waveform for waveform, _ in taken])
        for segment in pipeline.transcribe(joined, clip_timestamps=clips, **how)[0]:
            # Its times are rounded, so that only the middle is surely inside its clip.
            texts[int(np.searchsorted(ends, (segment.start + segment.end) / 2))] += segment.text
        for (_, future), text in zip(taken, texts, strict=True):
            future.set_result(text.strip())

    @app.post("/v1/audio/transcriptions")
    def transcriptions(file: UploadFile) -> dict[str, str]:
        future: Future[str] = Future()
        waiting.append((decode_audio(io.BytesIO(file.file.read()), _RATE), future))
        with decoding:
            time.sleep(0 if future.done() else _GATHER_S)
            while not future.done():
                decode()
        return {"text": future.result()}

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        print("http://{}:{}/".format(*listening.getsockname()), flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
