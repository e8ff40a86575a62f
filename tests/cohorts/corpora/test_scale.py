"""A large corpus: seconds for a hundred thousand recordings, and memory that does not grow."""

from __future__ import annotations

import io
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.cohorts import corpora

N_RECORDINGS = 3_000
LIMIT_S = 60.0  # for 100,000 recordings
LIMIT_BYTES = 300  # a row, for what tells a duplicate


def ua_speech(root: Path, n: int) -> Path:
    """Write `n` recordings in the layout of UA-Speech, 700 a speaker, with their words."""
    file = io.BytesIO()
    soundfile.write(file, np.full(800, 0.1), 16_000, format="WAV", subtype="PCM_16")
    content = file.getvalue()
    for speaker in [f"{kind}{i:02d}" for i in range(1, 100) for kind in "FM"][: -(-n // 700)]:
        folder, mlf = root / "audio" / speaker, root / "mlf" / speaker / f"{speaker}_word.mlf"
        folder.mkdir(parents=True)
        mlf.parent.mkdir(parents=True)
        names = [f"{speaker}_B1_UW{word}" for word in range(1, 101)]
        mlf.write_text("#!MLF!#\n" + "".join(f'"*/{k}_M2.lab"\nWORD\n.\n' for k in names))
        for name in [f"{k}_M{mic}.wav" for k in names for mic in range(2, 9)][:n]:
            (folder / name).write_bytes(content)
        n -= 700
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ua_speech(tmp_path_factory.mktemp("large"), N_RECORDINGS)


def test_seconds(large: Path) -> None:
    start = time.process_time()
    ready = corpora.prepare("ua_speech", large)
    n = sum(1 for _ in ready)
    seconds = time.process_time() - start
    assert n == N_RECORDINGS
    assert not ready.report.skipped
    assert seconds * 100_000 / n < LIMIT_S


def test_memory(large: Path) -> None:
    first = 1_000
    tracemalloc.start()
    try:
        for n, _ in enumerate(corpora.prepare("ua_speech", large), start=1):
            if n == first:
                at_first = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == N_RECORDINGS
    # One folder's names and one speaker's words come and go.
    assert peak - at_first < LIMIT_BYTES * (N_RECORDINGS - first)
