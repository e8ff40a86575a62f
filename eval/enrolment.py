"""What enrolling is worth: people's other recordings, before and after a few clips of theirs.

    python -m eval.enrolment --config eval/configs/enrolment.yaml

As `hyperasr enrol` does it, texts included: the length of each person's training is chosen on
clips held back among the enrolled ones, and where none helps, the person keeps the model as it is.
The same other recordings are recognised before and after. A person that was done is not done again.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import track

from eval.lib import results
from eval.lib.tables import print_rows
from hyperasr.audio.loudness import audible
from hyperasr.audio.reading import duration_s
from hyperasr.audio.reading import load as read
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR, load
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol
from hyperasr.metrics.statistics import SpeakerBootstrap
from hyperasr.transcription.enrolment import STEPS, Clip, checked, enrol, errors_of, sentence
from hyperasr.types import Utterance
from hyperasr.util.files import atomic_write_text
from train.loop.program import read_config, run_program

BEFORE = "not_enrolled"


@dataclass(frozen=True)
class EnrolmentConfig:
    """Who enrols with how much."""

    manifest: Path = Path("runs/data/dev.jsonl")
    """Recordings with texts."""
    cohort: str = "nonnative"
    """Whose of them."""
    model: str = "tiny.en"
    """That they start from."""
    clips: tuple[int, ...] = (5,)
    """Enrolled clips of each person."""
    held_out: int = 10
    """Other recordings of each person, which are recognised."""
    runs: Path = Path("runs/enrolment")
    """Where each person's counts are kept."""
    threads: int = 2
    """Threads of torch."""
    seed: int = 0
    """Of the choice of clips, and of the bootstrap."""
    out: Path = Path("results/enrolment.json")
    """Result file."""


def people(config: EnrolmentConfig) -> dict[str, list[Clip]]:
    """Return each person's recordings of up to 30 s in an order drawn from person and seed.

    Raises:
        ConfigError: nobody has enough.
    """
    own: dict[str, list[Utterance]] = {}
    for row in read_manifest(config.manifest):
        ends_s = duration_s(row.path) if row.end_s is None else row.end_s
        if row.cohort == config.cohort and row.text and ends_s - row.start_s <= 30:
            own.setdefault(row.speaker, []).append(row)
    needed = max(config.clips) + config.held_out
    enough = {name: rows for name, rows in sorted(own.items()) if len(rows) >= needed}
    if not enough:
        raise ConfigError(f"nobody of {config.cohort} in {config.manifest} has {needed} recordings")
    for name, rows in enough.items():
        random.Random(f"{config.seed}/{name}").shuffle(rows)
    return {name: [_clip(row) for row in rows[-needed:]] for name, rows in enough.items()}


def _clip(row: Utterance) -> Clip:
    waveform = read(row.path, start_s=row.start_s, end_s=row.end_s)
    raised = audible(waveform)
    return Clip(waveform if raised is None else raised, sentence((row.text or "").lower()))


def worth_of(model: HyperASR, clips: Sequence[Clip], others: Sequence[Clip]) -> dict[str, object]:
    """Enrol one person; returns the steps chosen, and the edits of the others before and after."""
    before = errors_of(model, others)
    worth = checked(model, clips)
    steps = STEPS[0] if worth is None else worth.steps  # few clips are not checked
    after = before
    if steps:
        start = {name: value.clone() for name, value in model.source.state_dict().items()}
        enrol(model, clips, steps=steps)
        after = errors_of(model, others)
        model.source.load_state_dict(start)
    return {"steps": steps, "before": asdict(before), "after": asdict(after)}


def rows_of(config: EnrolmentConfig, made: dict[int, list[dict]]) -> Iterator[results.Row]:
    """Yield error rates before and after, and their difference, from what `worth_of` returned."""
    rules = protocol("whisper")
    names = [one["person"] for one in made[config.clips[0]]]
    bootstrap = SpeakerBootstrap(names, seed=config.seed)
    counts = {BEFORE: [EditCounts(**one["before"]) for one in made[config.clips[0]]]}
    for k in config.clips:
        counts[f"enrolled_{k}"] = [EditCounts(**one["after"]) for one in made[k]]
    place = {"cohort": config.cohort, "domain": "recorded", "metric": "wer"}
    for system, own in counts.items():
        row = results.error_row(system, place, bootstrap.rate(own), own, rules)
        if system != BEFORE:
            k = int(system.rpartition("_")[2])
            row["steps"] = {one["person"]: one["steps"] for one in made[k]}
        yield row
    for system, own in counts.items():
        if system != BEFORE:
            interval = bootstrap.difference(own, counts[BEFORE])
            yield results.difference_row(system, BEFORE, place, interval, rules)


def main() -> None:
    """Enrol everybody, write the JSON, print the table."""
    config = read_config(EnrolmentConfig)
    torch.set_num_threads(config.threads)
    model = load(config.model, device="cpu", dtype="float32", offline=True)
    made: dict[int, list[dict]] = {k: [] for k in config.clips}
    everybody = people(config)
    # Of everything that a person's counts depend on: who, on which recordings, from which weights.
    digest = hashlib.sha256(model.backbone.fingerprint().encode())
    for weights in model.source.state_dict().values():
        digest.update(weights.numpy().tobytes())
    for name, clips in everybody.items():
        for clip in clips:
            digest.update(f"{name}/{clip.text}".encode() + clip.waveform.tobytes())
    settings = f"{digest.hexdigest()[:16]}-{config.held_out}"
    for k in config.clips:
        for name, clips in track(everybody.items(), f"{k} clips"):
            path = config.runs / settings / str(k) / f"{name}.json"
            if not path.is_file():
                others = clips[max(config.clips) :]
                found = {"person": name, **worth_of(model, clips[:k], others)}
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_write_text(path, json.dumps(found) + "\n")
            made[k].append(json.loads(path.read_text(encoding="utf-8")))
    rows = list(rows_of(config, made))
    rules = protocol("whisper")
    how = {"protocol": rules.name, "normaliser": rules.normaliser}
    results.save("eval.enrolment", config, rows, seed=config.seed, **how)
    print_rows(rows, title="enrolment")


if __name__ == "__main__":
    run_program(main)
