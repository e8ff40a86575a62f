"""A large corpus: seconds for a hundred thousand recordings, and memory that does not grow."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperasr.cohorts import corpora

N_RECORDINGS = 5_000
LIMIT_S = 60.0  # for 100,000 recordings
LIMIT_BYTES = 300  # a row, for what tells a duplicate


def ua_speech(root: Path, wav: Callable[..., Path], n: int) -> Path:
    """Write `n` recordings in the layout of UA-Speech, 700 a speaker, with their words."""
    first = wav(root / "first.wav")
    content = first.read_bytes()
    first.unlink()
    speakers = [f"{kind}{i:02d}" for i in range(1, 73) for kind in ("F", "M")]
    for speaker in speakers[: -(-n // 700)]:
        folder = root / "audio" / speaker
        folder.mkdir(parents=True)
        words = []
        for word in range(1, 101):
            words.append(f'"*/{speaker}_B1_UW{word}_M2.lab"\nWORD{word}\n.\n')
            for mic in range(2, 9):
                if n > 0:
                    (folder / f"{speaker}_B1_UW{word}_M{mic}.wav").write_bytes(content)
                    n -= 1
        mlf = root / "mlf" / speaker / f"{speaker}_word.mlf"
        mlf.parent.mkdir(parents=True)
        mlf.write_text("#!MLF!#\n" + "".join(words))
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, wav: Callable[..., Path]) -> Path:
    return ua_speech(tmp_path_factory.mktemp("large"), wav, N_RECORDINGS)


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
        for n, _ in enumerate(corpora.prepare("ua_speech", large, check_audio=False), start=1):
            if n == first:
                at_first = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == N_RECORDINGS
    # One folder's names and one speaker's words come and go.
    assert peak - at_first < LIMIT_BYTES * (N_RECORDINGS - first)
