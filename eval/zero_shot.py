"""Zero-shot transcription of speakers nobody trained on: every system on the same recordings.

    python -m eval.zero_shot --config eval/configs/zero_shot.yaml

The cohorts are simulated. Rows: by cohort, by severity, on typical speech; synthetic voices and
real recordings apart, and within the real ones AN4 and FSDD apart (field ``corpus``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from hyperasr import results
from hyperasr.backbone import Backbone
from hyperasr.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL, plan_views
from hyperasr.decode import decode_rows
from hyperasr.metrics import EditCounts, bootstrap, bootstrap_difference, score
from hyperasr.model import HyperASR
from hyperasr.search import SearchConfig
from hyperasr.text import normaliser
from train.program import read_config

SEVERITIES = (0.25, 0.5, 0.75, 1.0)
TEST_SEED = 9_000  # no training or development set of views uses it


@dataclass(frozen=True)
class ZeroShotConfig:
    """Which models to compare, on what."""

    test: Path = Path("runs/recordings/test.jsonl")
    """Manifest of typical recordings of held-out speakers."""
    backbone: str = "micro"
    """The frozen Whisper of all adapted models."""
    models: dict[str, Path] = field(default_factory=dict)
    """Model folders by system name; the one called ``hypernet`` also gets the controls."""
    decoder_ft: Path | None = None
    """A backbone folder whose decoder was fine-tuned, the upper line, or none."""
    cache: Path = Path("runs/cache")
    """Folder of all caches."""
    out: Path = Path("results/zero_shot.json")
    """Result file."""
    beam_size: int = 1
    """Beams, at least 1."""
    workers: int = 2
    """Processes that build the cache."""
    seed: int = 0
    """Of shuffling and bootstrap."""


@dataclass(frozen=True)
class TestSet:
    """The rows of the test cache, with what tables group them by."""

    cache: Cache
    n_rows: int

    def pick(self, test: Callable[[int], bool]) -> list[int]:
        """Return the rows that pass a test."""
        return [i for i in range(self.n_rows) if test(i)]

    def column(self, name: str) -> list[Any]:
        """Return a column of the cache."""
        return self.cache.meta[name]


def shuffled_across_speakers(speakers: Sequence[str], seed: int) -> list[int]:
    """Return for each row another row, of another speaker, each used once where possible."""
    generator = torch.Generator().manual_seed(seed)
    order = sorted(range(len(speakers)), key=lambda i: speakers[i])
    # Rotating rows sorted by speaker by more than the largest speaker always changes the speaker.
    largest = max(speakers.count(s) for s in set(speakers))
    span = max(len(order) - 2 * largest + 1, 1)
    shift = largest + int(torch.randint(span, (1,), generator=generator))
    partner = [0] * len(order)
    for position, row in enumerate(order):
        partner[row] = order[(position + shift) % len(order)]
    return partner


def training_mean(model: HyperASR) -> torch.Tensor:
    """Return the mean embedding of the training rows, which the hypernetwork keeps."""
    return model.source.emb_mean  # type: ignore[return-value]


def run_systems(config: ZeroShotConfig, test: TestSet, backbone: Backbone) -> dict[str, list[str]]:
    """Decode every row with every system."""
    search = SearchConfig(beam_size=config.beam_size)
    texts: dict[str, list[str]] = {}
    models = {
        name: HyperASR.from_pretrained(folder, backbone=backbone)
        for name, folder in config.models.items()
    }
    jobs: list[tuple[str, Callable[[], list[str]]]] = []
    first = next(iter(models.values()))
    jobs.append(("backbone", lambda: decode_rows(first, test.cache, search=search, adapt=False)))
    for name, model in models.items():
        jobs.append((name, lambda model=model: decode_rows(model, test.cache, search=search)))
    if "hypernet" in models and test.cache.keeps_embeddings:
        model, embs = models["hypernet"], test.cache.embeddings()
        partner = shuffled_across_speakers(test.column("speaker"), config.seed)
        mean = training_mean(model).expand(test.n_rows, -1)
        for name, changed in (("shuffled", embs[partner]), ("mean", mean)):
            jobs.append(
                (
                    f"hypernet_{name}",
                    lambda changed=changed: decode_rows(
                        model, test.cache, search=search, embeddings=changed
                    ),
                )
            )
    for name, job in track(jobs, "systems"):
        texts[name] = job()
    if config.decoder_ft:
        tuned = Backbone.from_pretrained(config.decoder_ft)
        model = HyperASR(tuned, first.speaker_config, first.source_config)
        texts["decoder_ft"] = decode_rows(model, test.cache, search=search, adapt=False)
    return texts


def rows_of(test: TestSet, counts: dict[str, list[EditCounts]], seed: int) -> list[dict[str, Any]]:
    """Return all rows of the result file."""
    cohort, source = test.column("cohort"), test.column("source")
    severity, speakers = test.column("severity"), test.column("speaker")
    rows: list[dict[str, Any]] = []

    def add(chosen: list[int], name: str, domain: str, **extra: Any) -> None:
        if not chosen:
            return
        level = extra.pop("severity", None)
        who = [speakers[i] for i in chosen]
        for system, values in counts.items():
            picked = [values[i] for i in chosen]
            interval = bootstrap(picked, who, seed=seed)
            row = results.error_row(system, name, domain, interval, picked, "wer", level)
            rows.append({**row, **extra})
        for system, against in differences(counts):
            interval = bootstrap_difference(
                [counts[system][i] for i in chosen],
                [counts[against][i] for i in chosen],
                who,
                seed=seed,
            )
            row = results.difference_row(system, against, name, domain, interval, "wer", level)
            rows.append({**row, **extra})

    places: list[tuple[str, dict[str, str], Callable[[int], bool]]] = [
        ("all", {}, lambda i: True),
        ("synthetic", {}, lambda i: source[i] == "synthetic"),
        ("real", {}, lambda i: source[i] != "synthetic"),
        ("real", {"corpus": "an4"}, lambda i: source[i] == "an4"),
        ("real", {"corpus": "fsdd"}, lambda i: source[i] == "fsdd"),
    ]
    for domain, extra, here in places:
        near = test.pick(here)
        add([i for i in near if cohort[i] != TYPICAL], "atypical", domain, **extra)
        for name in (*COHORTS, TYPICAL):
            own = [i for i in near if cohort[i] == name]
            add(own, name, domain, **extra)
            if extra or name == TYPICAL:
                continue
            for level in SEVERITIES:
                add([i for i in own if severity[i] == level], name, domain, severity=level)
    return rows


def differences(systems: Sequence[str] | dict[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs that the paper's claims rest on, as far as the systems are there."""
    pairs = [("hypernet", other) for other in systems if other != "hypernet"]
    pairs += [("global_lora", "backbone"), ("hypernet_encoder_decoder", "backbone")]
    pairs += [("hypernet_encoder_decoder", "hypernet")]
    return [(a, b) for a, b in pairs if a in systems and b in systems]


def main() -> None:
    """Evaluate, write the JSON, print the tables."""
    config = read_config(ZeroShotConfig)
    backbone = Backbone.from_pretrained(config.backbone)
    any_model = HyperASR.from_pretrained(next(iter(config.models.values())), backbone=backbone)
    views = plan_views(read_manifest(config.test), seed=TEST_SEED, severities=SEVERITIES)
    folder = build_cache(
        config.cache,
        views,
        config.backbone,
        CacheConfig(any_model.speaker_config, keep_mel=True),
        workers=config.workers,
        progress=lambda done, n: print(f"cache: {done} of {n} parts", file=sys.stderr),
    )
    cache = Cache([folder], backbone)
    test = TestSet(cache, len(cache))
    texts = run_systems(config, test, backbone)
    norm = normaliser("spoken")
    counts = {s: score(test.column("text"), hyps, norm, "wer") for s, hyps in texts.items()}
    rows = rows_of(test, counts, config.seed)
    command = "python -m eval.zero_shot " + " ".join(sys.argv[1:])
    head = results.head(
        command, config, config.seed, "simulated cohorts, held-out speakers, spoken", norm
    )
    results.write(config.out, head, rows)
    for domain in ("all", "synthetic", "real"):
        results.print_table(
            rows,
            title=f"word error rate in percent, {domain} recordings",
            domain=domain,
            corpus=None,
        )
    results.print_table(
        rows, differences=True, title="paired differences", domain="all", corpus=None
    )


if __name__ == "__main__":
    main()
