"""Fixtures of the command line's tests: calls in this process, with a random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile

from hyperasr.cli import commands, enrol, export
from hyperasr.cli.parser import main
from hyperasr.hub import HyperASR, load
from tests.cli.calling import RATE, Cli, Outcome, Voice


@pytest.fixture
def cli(
    model: HyperASR,
    random_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """Call the command line in this process, with the random model in place of the embedded one."""

    def opened(name: Any, **options: Any) -> HyperASR:
        if str(name) == "tiny.en" and options.get("dtype", "float32") == "float32":
            return model
        return load(name, **options)

    monkeypatch.setattr(commands, "load", opened)
    monkeypatch.setattr(export, "load", opened)
    # Enrolling trains its model, so it gets one of its own.
    own = {"tiny.en": random_model_folder}
    monkeypatch.setattr(enrol, "load", lambda name, **how: load(own.get(name, name), **how))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*argv: Any) -> Outcome:
        capsys.readouterr()
        status = main([str(arg) for arg in argv])
        seen = capsys.readouterr()
        return Outcome(status, seen.out, seen.err.splitlines())

    return call


@pytest.fixture
def good(tmp_path: Path, voice: Voice) -> Path:
    path = tmp_path / "good.wav"
    soundfile.write(path, voice(1.2), RATE)
    return path
