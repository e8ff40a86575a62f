"""The quick look at a WAV says what the thorough one says, or nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.audio.reading import duration_s
from hyperasr.cohorts.corpora._header import wav_length_s
from hyperasr.errors import AudioError


def slow(path: Path) -> float | None:
    try:
        return duration_s(path)
    except AudioError:
        return None


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2)])
def test_ordinary_recordings(tmp_path: Path, subtype: str, rate: int, channels: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((777, channels)), rate, subtype=subtype)
    assert wav_length_s(path) == slow(path) == 777 / rate


@pytest.mark.parametrize("subtype", ["ULAW", "IMA_ADPCM"])
def test_other_codings_are_left_to_the_thorough_look(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(777), 8_000, subtype=subtype)
    assert wav_length_s(path) is None
    assert slow(path)


def test_damage_is_never_taken_for_order(tmp_path: Path, wav: Callable[..., Path]) -> None:
    """Bytes of the header changed at random, and the file cut or lengthened."""
    good = wav(tmp_path / "good.wav").read_bytes()
    path, rng, n_told = tmp_path / "bad.wav", random.Random(0), 0
    for _ in range(600):
        content = bytearray(good)
        for _ in range(rng.randrange(3)):
            content[rng.randrange(48)] = rng.choice((0, 1, 2, 16, 127, 255))
        cut = rng.choice((len(content), len(content), rng.randrange(len(content))))
        path.write_bytes(bytes(content[:cut]) + rng.choice((b"", b"", bytes(7), bytes(400))))
        quick = wav_length_s(path)
        if quick is not None:
            n_told += 1
            assert quick == pytest.approx(slow(path))
    assert n_told > 100


def test_no_file(tmp_path: Path) -> None:
    assert wav_length_s(tmp_path / "absent.wav") is None
    assert wav_length_s(tmp_path) is None
    assert wav_length_s("nul\0.wav") is None
