"""What trainings were worth on development speakers, by their own records.

    python -m eval.development --config eval/configs/development.yaml

Every training decodes its development speakers at its evaluations and writes the word error rates
to ``log.txt`` (and those of the unadapted Whisper on 30 s to ``worth.json``). This program decodes
nothing; it gathers them. All runs need the same development speakers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eval.lib import results
from eval.lib.systems import BACKBONE
from eval.lib.tables import print_rows
from hyperasr.errors import ConfigError
from hyperasr.metrics.normalisers import normaliser
from train.loop.program import WORTH_FILE, read_config, run_program

_EVALUATION = re.compile(r"step (\d+): dev (.*)")


@dataclass(frozen=True)
class DevelopmentConfig:
    """Which trainings."""

    runs: dict[str, Path] = field(default_factory=dict)
    """Folder of each training by the name that the table gives it."""
    out: Path = Path("results/development.json")
    """Result file."""


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    """Return the error rates by cohort of each evaluation of a training, by its step.

    Raises:
        ConfigError: its log cannot be read or holds none.
    """
    path = run / "log.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}; train first") from error
    found = {}
    for step, line in _EVALUATION.findall(text):  # of a step done twice, the last
        words = line.split()
        found[int(step)] = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    if not found:
        raise ConfigError(f"{path} has no evaluation of development speakers")
    return found


def unadapted(runs: dict[str, Path]) -> dict[str, float]:
    """Return the error rates of the unadapted Whisper by cohort, as the trainings found them.

    Raises:
        ConfigError: they found different ones, so that their rows cannot be compared.
    """
    together: dict[str, float] = {}
    for run in runs.values():
        path = run / WORTH_FILE
        if path.is_file():
            own = json.loads(path.read_text(encoding="utf-8"))["unadapted"]
            for cohort, rate in own.items():
                if together.setdefault(cohort, rate) != rate:
                    raise ConfigError(f"{path}: {cohort} of another run differs; not one table")
    return together


def rows_of(config: DevelopmentConfig) -> Iterator[results.Row]:
    """Yield a row for each evaluation and cohort, those of the unadapted Whisper first."""
    systems = {BACKBONE: unadapted(config.runs)}
    for name, run in config.runs.items():
        for step, rates in evaluations(run).items():
            systems[f"{name}, {step} steps"] = rates
    for system, rates in systems.items():
        for cohort, rate in rates.items():
            if cohort != "score":
                about = {"system": system, "cohort": cohort, "domain": "development"}
                yield about | {"metric": "wer", "value": rate}


def main() -> None:
    """Gather, write the JSON, print the table."""
    config = read_config(DevelopmentConfig)
    rows = list(rows_of(config))
    how = {"protocol": "development speakers, as trainings score them"}
    results.save("eval.development", config, rows, normaliser=normaliser("whisper"), **how)
    print_rows(rows, ("cohort",), title="development speakers")


if __name__ == "__main__":
    run_program(main)
