"""The training rows: a cache of views, simulated and as recorded."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperasr.audio.mel import CHUNK_S
from hyperasr.audio.reading import duration_s
from hyperasr.cohorts.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.sampler import BalancedSampler
from hyperasr.cohorts.views import TYPICAL, View, plan_key, plan_views, verbatim_text
from hyperasr.errors import ConfigError
from hyperasr.types import Batch, Utterance
from hyperasr.util.files import atomic_write_text
from hyperasr.util.workers import WorkerPool
from hyperasr.whisper.backbone import Backbone
from train.config import MetaConfig
from train.data.split import some_of_each
from train.data.teacher import Teacher

log = logging.getLogger("train.meta")
LONGEST_S = float(CHUNK_S)
"""Of a recording that is used as it is, in seconds."""
LONGEST_SIMULATED_S = 20.0
"""Of one that is simulated on: leaves room in Whisper's 30 s for repetitions and pauses."""
_AT_ONCE = 256  # verbatim texts that are made before they are kept
_PEOPLE_PER_SPEAKER = 2  # simulated ones, who share a real voice in each cohort


class Views:
    """Batches by number, from a cache of views.

    Args:
        config: of `train.meta`.
        backbone: the frozen Whisper.

    Attributes:
        cache: the rows that are drawn from.
        recording: the id of each view's recording, where the teacher says something of it.
    """

    def __init__(self, config: MetaConfig, backbone: Backbone) -> None:
        plans = training_plans(config, config.train)
        words = training_plans(config, config.words) if config.words else []
        self.config = config
        self.teacher = Teacher.read(config.teacher, backbone) if config.teacher else None
        kept = CacheConfig(config.speaker, config.needs_mel)
        cache = of_cohorts(cached(config, [*plans, *words], backbone, kept), config.cohorts)
        self.cache = as_written(cache, [*plans, *words], config)
        # What the unadapted Whisper makes of atypical recordings is not worth learning, and it was
        # asked about what was meant.
        texts = zip(cache.meta["id"], cache.meta["text"], self.cache.meta["text"], strict=True)
        as_meant = {name for name, meant, said in texts if meant == said}
        self.recording = {
            view.id: view.utterance.id
            for plan in plans
            for view in plan
            if view.utterance.cohort == TYPICAL and view.id in as_meant
        }
        self.sampler = BalancedSampler(
            self.cache.meta["cohort"],
            [str(speaker) for speaker in self.cache.meta["speaker"]],
            config.loop.seed,
            self.cache.n_frames,
            speaker_power=config.speaker_power,
        )

    def __call__(self, number: int) -> Batch:
        """Return batch `number`."""
        batch = self.cache.batch(self.sampler.batch(number, self.config.batch_size))
        if self.teacher is not None:
            recordings = [self.recording.get(name) for name in batch.ids]
            batch = replace(batch, teacher=self.teacher.teach(batch, recordings))
        return batch


def cached(
    config: Any, plans: Sequence[Sequence[View]], backbone: Backbone, kept: CacheConfig
) -> Cache:
    """Open the caches of some plans as one, in their order; what is missing of them is built first.

    Where caches are, and how they are built, says the `config` of a program.
    """
    folders = [
        build_cache(
            config.cache,
            plan,
            config.backbone,
            kept,
            backbone=backbone,
            workers=config.workers,
            device=config.encode_on,
            progress=lambda done, n: log.info("cache: %d of %d parts", done, n),
        )
        for plan in plans
    ]
    return Cache(folders, backbone)


def as_written(cache: Cache, plans: Sequence[Sequence[View]], config: MetaConfig) -> Cache:
    """Return a cache whose texts are what `MetaConfig.writing` says.

    What is heard of simulated people is made once and kept beside the caches. The cache is of views
    of `plans`, with what was meant.
    """
    if config.writing == "intended":
        return cache
    wanted = set(cache.meta["id"])
    views = [v for plan in plans for v in plan if v.simulates and v.id in wanted]
    if not views:
        return cache
    path = config.cache / f"verbatim-{plan_key(views)}.json"
    texts: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    missing = [view for view in views if view.id not in texts]
    with WorkerPool(config.workers) as pool:
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            made = {view.id: pool.submit(verbatim_text, view) for view in part}
            texts |= {name: future.result() for name, future in made.items()}
            atomic_write_text(path, json.dumps(texts, ensure_ascii=False))
            log.info("verbatim texts: %d of %d", len(texts), len(views))
    return cache.with_texts(texts)


def trainable(rows: Sequence[Utterance], where: Path, simulate: Sequence[str]) -> list[Utterance]:
    """Return the English rows with text that are short enough; the log says what was left out.

    Typical rows, on which the cohorts `simulate` are simulated, have to be shorter than others.

    Raises:
        ConfigError: none is left, or a cohort has no text at all.
    """
    check_text(rows, where)
    lengths = usable(rows, where, simulate)
    for cohort, domain in sorted({(row.cohort, row.domain) for row in lengths}):
        own = [row for row in lengths if (row.cohort, row.domain) == (cohort, domain)]
        n_speakers, minutes = len({r.speaker for r in own}), sum(lengths[r] for r in own) / 60
        also = f"; simulated on: {', '.join(simulate)}" if simulate and cohort == TYPICAL else ""
        line = "%s: %s, %s: %d recordings of %d speakers, %.1f min%s"
        log.info(line, where, cohort, domain, len(own), n_speakers, minutes, also)
    if all(row.cohort != TYPICAL for row in lengths):
        log.warning(
            "%s: there is no typical speech, so nothing is simulated, and harm done to typical "
            "speech is neither measured nor penalised",
            where,
        )
    return list(lengths)


def check_text(rows: Sequence[Utterance], where: Path) -> None:
    """Refuse a cohort of which nobody knows what was said.

    Raises:
        ConfigError: the cohort, its corpus and what to do, in one line.
    """
    for cohort in sorted({row.cohort for row in rows} - {row.cohort for row in rows if row.text}):
        own = [row for row in rows if row.cohort == cohort]
        corpora = ", ".join(sorted({row.source for row in own if row.source})) or "no named corpus"
        raise ConfigError(
            f"{where}: none of the {len(own)} recordings of the cohort {cohort!r} ({corpora}) has "
            "a text, so there is nothing to learn or to score; add transcripts, or take its rows "
            "out of the manifest"
        )


def usable(
    rows: Sequence[Utterance], where: Path, simulate: Sequence[str]
) -> dict[Utterance, float]:
    """Return usable rows with their length in seconds; the log says how many are not, and why.

    Raises:
        ConfigError: no row is.
    """
    kept: dict[Utterance, float] = {}
    left_out: Counter[tuple[str, str]] = Counter()
    for row in rows:
        longest_s = LONGEST_SIMULATED_S if simulate and row.cohort == TYPICAL else LONGEST_S
        if not row.text:
            left_out[row.cohort, "without text"] += 1
        elif not is_english(row):
            left_out[row.cohort, "not in English"] += 1
        elif (length_s := seconds(row)) > longest_s:
            left_out[row.cohort, f"of more than {longest_s:g} s"] += 1
        else:
            kept[row] = length_s
    for (cohort, reason), n in sorted(left_out.items()):
        n_all = sum(row.cohort == cohort for row in rows)
        log.warning("%s: %d of %d %s recordings left out, %s", where, n, n_all, cohort, reason)
    if not kept:
        raise ConfigError(
            f"{where} has no utterance in English with text of at most {LONGEST_S:g} s"
        )
    return kept


def is_english(row: Utterance) -> bool:
    """Whether a row is in English, of whatever country: texts follow the English prompt."""
    return (row.language or "en").lower().startswith("en")


def seconds(row: Utterance) -> float:
    """Return the length of an utterance, by its recording's header where it has no end."""
    return (duration_s(row.path) if row.end_s is None else row.end_s) - row.start_s


def training_plans(config: MetaConfig, manifest: Path) -> list[list[View]]:
    """Return the views of a manifest's rows in plans, each of which has a cache of its own.

    People with mixed traits are apart from all others, so that trying a mixture does not build the
    others' cache again.
    """
    rows = trainable(read_manifest(manifest), manifest, config.simulate)
    plain = tuple(cohort for cohort in config.simulate if "+" not in cohort)
    plans = [training_plan(replace(config, simulate=plain), rows)]
    typical = [row for row in rows if row.cohort == TYPICAL]
    for mixture in (cohort for cohort in config.simulate if "+" in cohort):
        views = training_plan(replace(config, simulate=(mixture,)), typical)
        plans.append([view for view in views if view.simulates])
    return plans


def training_plan(config: MetaConfig, rows: Sequence[Utterance]) -> list[View]:
    """Return the views of a training: rows simulated on where typical, else as recorded."""
    return plan_views(
        rows,
        seed=0,
        cohorts=(*config.simulate, TYPICAL),
        people_per_speaker=_PEOPLE_PER_SPEAKER,
        # Beside simulated views typical ones are many; without, they are all there is.
        typical_share=config.typical_share if config.simulate else 1.0,
        variety=config.variety,
    )


def development_views(manifest: Path, simulate: Sequence[str], per_speaker: int = 0) -> list[View]:
    """Return the fixed views of held-out speakers that choose the best checkpoint.

    Of each speaker `per_speaker` recordings, always the same ones; 0 for all.
    """
    rows = read_manifest(manifest)
    if per_speaker:
        rows = some_of_each(rows, per_speaker)
    return development_plan(trainable(rows, manifest, simulate), simulate)


def development_plan(rows: Sequence[Utterance], simulate: Sequence[str]) -> list[View]:
    """Return the fixed views of some utterances: as recorded, and typical ones also simulated on.

    Simulated people are of three severities in turn.
    """
    cohorts = (*simulate, TYPICAL)
    return plan_views(rows, seed=7_000, cohorts=cohorts, severities=(0.3, 0.6, 0.9))


def of_cohorts(cache: Cache, cohorts: Sequence[str]) -> Cache:
    """Return the rows of some cohorts, over the same files; all rows where none is named.

    Raises:
        ConfigError: a cohort that no row is of.
    """
    if not cohorts:
        return cache
    there = sorted(set(cache.meta["cohort"]))
    if missing := sorted(set(cohorts) - set(there)):
        raise ConfigError(f"no row is of the cohort {missing[0]!r}; there are {', '.join(there)}")
    return cache.where(lambda row: cache.meta["cohort"][row] in cohorts)
