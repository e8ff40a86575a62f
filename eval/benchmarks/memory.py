"""What `hyperasr transcribe` takes of memory, however long a recording and however many they are.

    python -m eval.benchmarks.memory --config eval/configs/memory.yaml

The command runs as its users run it, by the default model: once over a recording of `minutes`, to
its end; once over a manifest of `rows` recordings, for its first `seconds`. A row is the most that
the process held in memory, by Linux's count.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from eval.lib import results
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import HyperASRError
from train.loop.program import read_config, run_program


@dataclass(frozen=True)
class MemoryConfig:
    """What is transcribed."""

    clips: Path = Path("hyperasr/assets/demo/manifest.jsonl")
    """Manifest whose recordings are repeated."""
    minutes: float = 30.0
    """Of the long recording."""
    rows: int = 100_000
    """Of the manifest."""
    seconds: float = 90.0
    """After which the second run is ended."""
    out: Path = Path("results/memory.json")
    """Result file."""


def measure(config: MemoryConfig) -> list[results.Row]:
    """Return a row for each of the two."""
    clips = list(read_manifest(config.clips))
    sound = np.concatenate([load(row.path) for row in clips])
    n_repeats = int(np.ceil(60 * config.minutes * SAMPLE_RATE / len(sound)))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        long, manifest = scratch / "long.wav", scratch / "many.jsonl"
        soundfile.write(long, np.tile(sound, n_repeats), SAMPLE_RATE)
        clips = [replace(row, path=str(Path(row.path).resolve())) for row in clips]
        many = (replace(clips[i % len(clips)], id=str(i)) for i in range(config.rows))
        write_manifest(manifest, many)
        measured = {
            f"a recording of {config.minutes:g} minutes": peak_mib(long, None),
            f"a manifest of {config.rows:,} rows": peak_mib(manifest, config.seconds),
        }
    return [
        {"benchmark": "memory", "setting": f"tiny.en, {setting}", "mib": mib}
        for setting, mib in measured.items()
    ]


def peak_mib(source: Path, seconds: float | None) -> float:
    """Transcribe a recording or manifest and return the most memory held, in MiB.

    After so many seconds the command is ended; None lets it come to its end.

    Raises:
        HyperASRError: the command failed, or was over before it was to be ended.
    """
    out = source.with_suffix(".out")
    command = [sys.executable, "-m", "hyperasr.cli", "transcribe", str(source)]
    command += ["--format", "jsonl", "--out", str(out)]
    peak, started, ended = 0, time.monotonic(), False
    # A file, because a pipe that nobody empties would stop who writes much.
    with (
        tempfile.TemporaryFile("w+") as messages,
        subprocess.Popen(command, stderr=messages) as process,
    ):
        while process.poll() is None:
            # Linux keeps the most that it held, so that no peak falls between two looks.
            with suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                peaks = [int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line]
                peak = max([peak, *peaks])  # none once it has ended
            if seconds is not None and time.monotonic() - started > seconds and not ended:
                process.terminate()
                ended = True
            time.sleep(0.1)
        messages.seek(0)
        said = messages.read().strip()
    if ended != (seconds is not None) or (not ended and process.returncode):
        raise HyperASRError(f"{' '.join(command)} ended with {process.returncode}: {said[-500:]}")
    return peak / 1024


def main() -> None:
    """Measure, write the JSON, print it."""
    config = read_config(MemoryConfig)
    rows = measure(config)
    results.save("eval.benchmarks.memory", config, rows, protocol="memory")
    for one in rows:
        print(f"{one['setting']}: {one['mib']:.0f} MiB")


if __name__ == "__main__":
    run_program(main)
