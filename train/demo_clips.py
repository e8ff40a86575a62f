"""Demonstration clips: held-out voices, typical and in every simulated cohort.

    python -m train.demo_clips --recordings runs/recordings/test.jsonl
    python -m train.demo_clips --recordings runs/recordings/test.jsonl --source an4 --per_cohort 3 \
        --out runs/demo_an4

Which clips is decided by the seed alone, never by how well they are recognised. Short OGG files
with a manifest go to ``hyperasr/assets/demo``, or to a folder for ``hyperasr demo --folder``. Only
synthetic voices are bundled; with a corpus at hand, real people take their place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile as sf

from hyperasr.audio import SAMPLE_RATE
from hyperasr.backbone import ASSETS
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL, View, realise
from hyperasr.errors import ConfigError
from hyperasr.files import atomic_folder
from hyperasr.types import Utterance
from train.program import read_config, run_program


@dataclass(frozen=True)
class DemoConfig:
    """Which clips to bundle."""

    recordings: Path = Path("runs/recordings/test.jsonl")
    """Manifest of held-out recordings."""
    source: str = "synthetic"
    """Whose recordings are taken, by the field of this name in the manifest."""
    out: Path = ASSETS / "demo"
    """Folder of the clips."""
    per_cohort: int = 4
    """Clips of each cohort, of as many voices."""
    seed: int = 2024
    """Decides voices, texts, severities and people."""


def choose(config: DemoConfig) -> list[View]:
    """Return the views: every clip another voice, three words or more.

    Raises:
        ConfigError: fewer voices than clips.
    """
    rng = random.Random(config.seed)
    rows = [u for u in read_manifest(config.recordings) if u.source == config.source]
    rows = [u for u in rows if len((u.text or "").split()) >= 3]
    voices, wanted = {u.speaker for u in rows}, config.per_cohort * (1 + len(COHORTS))
    if len(voices) < wanted:
        raise ConfigError(
            f"{config.recordings} has {len(voices)} voices of source {config.source!r} who say "
            f"three words or more, {wanted} are needed; give --source or a smaller --per_cohort"
        )
    rng.shuffle(rows)
    used: set[str] = set()
    views = []
    for cohort in (*COHORTS, TYPICAL):
        for index in range(config.per_cohort):
            utterance = next(u for u in rows if u.speaker not in used)
            used.add(utterance.speaker)
            severity = 0.0 if cohort == TYPICAL else 0.4 + 0.6 * index / config.per_cohort
            person = f"demo-{utterance.speaker}"
            views.append(View(utterance, cohort, severity, person, rng.getrandbits(31)))
    return views


def main() -> None:
    """Write the clips and their manifest."""
    config = read_config(DemoConfig)
    rows = []
    with atomic_folder(config.out, replaces=("manifest.jsonl",)) as temporary:
        for number, view in enumerate(choose(config), start=1):
            waveform, text = realise(view)
            name = f"{number:02d}-{view.cohort}.ogg"
            sf.write(temporary / name, waveform, SAMPLE_RATE, format="OGG", subtype="VORBIS")
            row = Utterance(
                id=name.removesuffix(".ogg"),
                path=name,
                text=text,
                speaker=view.utterance.speaker,
                cohort=view.cohort,
                source="simulated" if view.severity else config.source,
            )
            rows.append(replace(row, severity=round(view.severity, 2) or None))
        write_manifest(temporary / "manifest.jsonl", rows)
    print(f"{len(rows)} clips in {config.out}")


if __name__ == "__main__":
    run_program(main)
