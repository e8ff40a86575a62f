"""Fixtures of the readers' tests: tiny recordings, and a corpus from a table of files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

Tree = Callable[[dict[str, str | bytes | float]], Path]
"""Makes a corpus from contents by path and returns its root."""


@cache
def sound(seconds: float, rate: int, channels: int, form: str) -> bytes:
    """Return a recording of noise."""
    samples = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))
    content = BytesIO()
    soundfile.write(content, samples, rate, format=form, subtype="PCM_16")
    return content.getvalue()


@pytest.fixture(scope="session")
def wav() -> Callable[..., Path]:
    """Write a tiny recording, WAV by default; call it with path, seconds, rate, channels, form."""

    def make(
        path: Path, seconds: float = 0.05, rate: int = 16_000, channels: int = 1, form: str = "WAV"
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound(seconds, rate, channels, form))
        return path

    return make


@pytest.fixture
def tree(tmp_path: Path, wav: Callable[..., Path]) -> Tree:
    """Make a corpus from contents by path: text, bytes, or seconds of a WAV recording."""

    def make(files: dict[str, str | bytes | float]) -> Path:
        root = tmp_path / "corpus"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                wav(path, content)
        return root

    return make
