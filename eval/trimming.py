"""What encoding only the real length of an utterance does to accuracy.

    python -m eval.trimming --config eval/configs/trimming.yaml

A published Whisper was trained on 30 s of audio whatever was said (*full*); several times faster is
the real length of each utterance (*trimmed*). Two recognisers go on from one Whisper, on the same
typical recordings for as many steps, one under each audio context. Each is decoded under both, and
hypernetworks are meta-trained for each in the contexts that `adapted` names: among them the one of
a published checkpoint, a recogniser trained on 30 s whose adapters are trained with trimming.

In the tables ``hypernet:full:trimmed`` is the hypernetwork of the recogniser that was trained on
30 s, itself trained and decoded on real lengths. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.folds import launch
from eval.lib.printed import print_rows
from eval.lib.scores import Scores
from eval.lib.systems import BACKBONE
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from hyperasr.util.config import to_dict
from hyperasr.util.files import atomic_write_text
from hyperasr.whisper.backbone import Backbone
from train.baselines import FineTuneConfig
from train.config import MetaConfig
from train.loop.program import read_config, run_program

__all__ = ["TrimmingConfig", "few", "joined", "pairs_of", "rows_of"]

log = logging.getLogger("eval.trimming")

CONTEXTS = ("trimmed", "full")
ADAPTED = "hypernet"
Case = tuple[str, str]  # the context a recogniser was trained in, and the one it hears


@dataclass(frozen=True)
class TrimmingConfig:
    """What is trained, on how much, and what is decoded."""

    recogniser: FineTuneConfig = field(default_factory=FineTuneConfig)
    """How both recognisers go on; its folders, manifests and context are set here."""
    adapter: MetaConfig = field(default_factory=MetaConfig)
    """How the hypernetworks are trained; the same are set here."""
    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set and protocol; its systems and recognisers are set here."""
    adapted: tuple[str, ...] = ("trimmed:trimmed", "full:full", "full:trimmed")
    """Recognisers that get a hypernetwork, as ``TRAINED:HEARD``."""
    per_speaker: dict[str, int] = field(default_factory=lambda: {"train": 6, "dev": 1, "test": 5})
    """First utterances of each speaker that are used: 30 s cost ten times as much."""
    runs: Path = Path("runs/trimming")
    """Folder of manifests, caches and trainings."""
    only_train: bool = False
    """Train and stop."""
    out: Path = Path("results/trimming.json")
    """Result file."""

    def __post_init__(self) -> None:
        known = [":".join(case) for case in product(CONTEXTS, CONTEXTS)]
        unknown = [name for name in self.adapted if name not in known]
        if unknown:
            raise ConfigError(f"adapted has {unknown[0]!r}; choose from {', '.join(known)}")
        if set(self.per_speaker) != {"train", "dev", "test"} or min(self.per_speaker.values()) < 1:
            raise ConfigError(
                f"per_speaker is {self.per_speaker}; give train, dev and test, each at least 1"
            )

    def manifest(self, part: str) -> Path:
        """Return the file of the chosen utterances of a part of the data."""
        return self.runs / f"{part}.jsonl"

    def recogniser_of(self, context: str) -> FineTuneConfig:
        """Return the training of a recogniser under an audio context."""
        out = self.runs / f"{BACKBONE}_{context}"
        return replace(self.recogniser, out=out, data=self._on(self.recogniser.data, context))

    def adapter_of(self, trained: str, heard: str) -> MetaConfig:
        """Return the training of the hypernetwork of a recogniser."""
        out = self.runs / f"{ADAPTED}_{trained}_{heard}"
        backbone = str(self.recogniser_of(trained).out / "best")
        return replace(self._on(self.adapter, heard), out=out, backbone=backbone)

    def bench_of(self, trained: str, heard: str) -> BenchConfig:
        """Return the bench of a recogniser, and of its hypernetwork where it has one."""
        has_one = f"{trained}:{heard}" in self.adapted
        systems = {ADAPTED: self.adapter_of(trained, heard).out / "best"} if has_one else {}
        return replace(
            self.bench,
            systems=systems,
            backbone=str(self.recogniser_of(trained).out / "best"),
            test=self.manifest("test"),
            train=(self.manifest("train"), self.manifest("dev")),
            cache=self.runs / "cache",
            controls_of=(),
        )

    def _on(self, data: MetaConfig, context: str) -> MetaConfig:
        return replace(
            data,
            audio_context=context,
            train=self.manifest("train"),
            dev=self.manifest("dev"),
            must_help=False,
            cache=self.runs / "cache",
        )


def few(rows: Sequence[Utterance], n: int) -> list[Utterance]:
    """Return the first n utterances of each speaker, found from any folder."""
    taken: dict[str, int] = {}
    kept = []
    for row in rows:
        taken[row.speaker] = taken.get(row.speaker, 0) + 1
        if taken[row.speaker] <= n:
            kept.append(replace(row, path=str(Path(row.path).resolve())))
    return kept


def write_manifests(config: TrimmingConfig) -> None:
    """Write what is trained, chosen and tested on, out of the whole manifests."""
    config.runs.mkdir(parents=True, exist_ok=True)
    data = config.adapter
    for part, whole in (("train", data.train), ("dev", data.dev), ("test", config.bench.test)):
        write_manifest(config.manifest(part), few(read_manifest(whole), config.per_speaker[part]))


def train(config: FineTuneConfig | MetaConfig) -> None:
    """Train to the end; a finished run returns at once."""
    settings = config.out / "settings.yaml"
    config.out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(settings, json.dumps(to_dict(config), indent=2) + "\n")
    program = "train.meta" if isinstance(config, MetaConfig) else "train.baselines"
    launch(["--config", str(settings)], config.out, f"training {config.out.name}", program)


def scored(config: TrimmingConfig, trained: str, heard: str) -> Scores:
    """Decode and score a recogniser, and its hypernetwork, under an audio context."""
    settings = config.bench_of(trained, heard)
    backbone = Backbone.from_pretrained(settings.backbone, offline=True, audio_context=heard)
    bench = Bench(settings, backbone)
    log.info("recogniser trained %s, hearing %s: decoding", trained, heard)
    return bench.scores(bench.systems)


def joined(found: Mapping[Case, Scores]) -> Scores:
    """Return all systems as ``SYSTEM:TRAINED:HEARD`` beside each other.

    Raises:
        ConfigError: they were not scored on the same utterances.
    """
    first = next(iter(found.values()))
    counts = {}
    for case, scores in found.items():
        if scores.meta != first.meta:
            raise ConfigError(f"{':'.join(case)} was scored on other utterances")
        counts.update({":".join((name, *case)): values for name, values in scores.counts.items()})
    return replace(first, counts=counts)


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is compared: each with what was trained and heard in full; the hypernetwork with
    its recogniser; another context heard than trained with the same."""
    pairs = []
    for name in names:
        system, trained, heard = name.split(":")
        against = [f"{system}:full:full", f"{system}:{trained}:{trained}"]
        against += [f"{BACKBONE}:{trained}:{heard}"] if system != BACKBONE else []
        pairs += [(name, b) for b in dict.fromkeys(against) if b in names and b != name]
    return pairs


def rows_of(scores: Scores) -> list[dict[str, Any]]:
    """Return the rows of the result file."""
    pairs = pairs_of(list(scores.counts))
    rows = [row for group in scores.groups() for row in scores.group_rows(group, pairs=pairs)]
    return results.with_holm(rows, ("corpus", "metric"))


def main() -> None:
    """Train what is missing, decode, write the JSON, print the tables."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = read_config(TrimmingConfig)
    write_manifests(config)
    for context in CONTEXTS:
        train(config.recogniser_of(context))
    for name in config.adapted:
        trained, _, heard = name.partition(":")
        train(config.adapter_of(trained, heard))
    if config.only_train:
        return
    scores = joined({case: scored(config, *case) for case in product(CONTEXTS, CONTEXTS)})
    rows = rows_of(scores)
    described = f"audio contexts, held-out speakers, {scores.protocol.name}"
    command = results.command("eval.trimming")
    normaliser = scores.protocol.normaliser
    results.write(
        config.out, results.head(command, config, config.bench.seed, described, normaliser), rows
    )
    metric = scores.metric
    print_rows(rows, title=f"{metric} in percent, SYSTEM:TRAINED:HEARD", metric=metric)
    print_rows(rows, title="differences", differences=True, metric=metric)


if __name__ == "__main__":
    run_program(main)
