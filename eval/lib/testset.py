"""What is tested: the settings that every evaluation program shares, the fixed test views, and the
files in which what was decoded of them is kept."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.progress import track

from eval.lib.scores import ATYPICAL, RECORDED, SIMULATED, in_order
from eval.lib.systems import BACKBONE, UNADAPTED
from eval.lib.tables import print_lines
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS, check_simulated
from hyperasr.cohorts.views import TYPICAL, View, plan_key, plan_views, render_view
from hyperasr.errors import ConfigError
from hyperasr.metrics.protocols import protocol
from hyperasr.util.files import atomic_write_text
from hyperasr.util.workers import WorkerPool
from train.data.split import some_of_each
from train.data.views import LONGEST_S, check_text, is_english, seconds

log = logging.getLogger(__name__)

SEVERITIES = (0.25, 0.5, 0.75, 1.0)
TEST_SEED = 9_000  # no training or development set of views uses it
_SURELY_FITS_S = LONGEST_S / 5  # the most that simulating was seen to make of a second is 3.5
_LENGTHS = "simulated_s"
_SAVED_TOGETHER = 100
_RESERVED = (ATYPICAL, "all", "everybody")  # in tables these are several cohorts

Found = tuple[str, str, str, str]  # cohort, domain, corpus, speaker of a recording


@dataclass(frozen=True)
class BenchConfig:
    """What every evaluation program has to know: systems, test set, protocol, where things lie."""

    systems: dict[str, Path] = field(default_factory=dict)
    """Folders of the systems by name."""
    unadapted: tuple[str, ...] = (BACKBONE,)
    """Ways to run the frozen backbone alone: ``backbone`` (always among them) by our search and
    limits, ``backbone_plain`` by transformers' own `generate`, ``backbone_trimmed`` on the real
    length and a margin of silence, ``backbone_trimmed_stop`` with the stop after the sound too."""
    test: Path = Path("runs/data/test.jsonl")
    """Manifest of recordings of held-out speakers."""
    per_speaker: int = 0
    """Recordings of each speaker, always the same ones; 0 for all."""
    train: tuple[Path, ...] = (Path("runs/data/train.jsonl"), Path("runs/data/dev.jsonl"))
    """Manifests of what was trained and chosen on, checked for leaks into the test."""
    simulate: tuple[str, ...] = COHORTS
    """Cohorts that are simulated on the typical recordings of the test; empty simulates nothing.
    Recordings of any other cohort are tested as they are."""
    apart: tuple[str, ...] = ()
    """Corpora (`source` in the manifest) with rows of their own alone, never in the headline."""
    prompt_overlap: str = "warn"
    """What the same text on both sides is: ``warn`` (closed domains repeat), ``error`` or
    ``ignore``."""
    backbone: str = "tiny.en"
    """The frozen Whisper of all adapted systems."""
    protocol: str = "whisper"
    """How to score: the name of one of `hyperasr.metrics.protocols.PROTOCOLS`."""
    controls_of: tuple[str, ...] | None = None
    """Systems that also get the controls; None for every one that listens to an embedding."""
    cache: Path = Path("runs/cache")
    """Folder of all caches of encoder states."""
    store: Path = Path("runs/eval")
    """Folder of hypotheses."""
    looks: Path | None = Path("results/test_looks.jsonl")
    """File that gets a line each time test speakers are looked at; None for none."""
    beam_size: int = 1
    """Beams, at least 1."""
    workers: int = 2
    """Processes that build the cache."""
    seed: int = 0
    """Of shuffling and bootstrap."""

    def __post_init__(self) -> None:
        protocol(self.protocol)
        for name, least in (("per_speaker", 0), ("beam_size", 1), ("workers", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        unknown = [name for name in self.unadapted if name not in UNADAPTED]
        if unknown or BACKBONE not in self.unadapted:
            raise ConfigError(
                f"unadapted is {list(self.unadapted)}; it holds {BACKBONE!r} and may hold "
                f"{', '.join(name for name in UNADAPTED if name != BACKBONE)}"
            )
        for cohort in self.simulate:
            check_simulated(cohort)
        if reserved := sorted(n for n in self.systems if n in UNADAPTED):
            raise ConfigError(f"a system cannot be called {reserved[0]!r}; choose another name")


@dataclass(frozen=True)
class TestSet:
    """A further test set, and what is different about it."""

    __test__ = False  # no test of pytest

    test: Path
    """Manifest."""
    protocol: str | None = None
    """How to score; None as the others."""
    apart: tuple[str, ...] = ()
    """Corpora that are not in the headline."""
    unadapted: tuple[str, ...] | None = None
    """Ways to run the frozen backbone alone; None as the others."""


def sets_of(bench: BenchConfig, more: Mapping[str, TestSet]) -> list[BenchConfig]:
    """Return the settings of a test set and of further ones."""
    return [bench] + [
        replace(
            bench,
            test=own.test,
            protocol=own.protocol or bench.protocol,
            apart=own.apart,
            unadapted=own.unadapted or bench.unadapted,
        )
        for own in more.values()
    ]


def fixed_views(config: BenchConfig) -> list[View]:
    """Return the fixed test views: recordings as they are, and typical ones in every simulated
    cohort, severities in turn.

    Recordings without text, those in other languages than English, whose prompt is not the one that
    training and decoding have, and whatever lasts more than 30 s, which Whisper does not hear at
    once, are left out; the log says how many.

    Raises:
        ConfigError: a cohort of which nobody knows what was said, or one with the name of several.
    """
    rows = read_manifest(config.test)
    if wrong := sorted({row.cohort for row in rows} & set(_RESERVED)):
        raise ConfigError(
            f"{config.test}: a cohort cannot be called {wrong[0]!r}, which in tables is several "
            "cohorts together; rename it"
        )
    check_text(rows, config.test)
    with_text = [row for row in rows if row.text]
    english = [row for row in with_text if is_english(row)]
    kept = short = [row for row in english if seconds(row) <= LONGEST_S]
    if config.per_speaker:
        kept = some_of_each(short, config.per_speaker)
    views = plan_views(
        kept, seed=TEST_SEED, cohorts=(*config.simulate, TYPICAL), severities=SEVERITIES
    )
    long = _too_long(views, config)
    made = [view for view in views if view.id not in long]
    for n, what in (
        (len(rows) - len(with_text), "recordings without text"),
        (len(with_text) - len(english), "recordings in other languages than English"),
        (len(english) - len(short), f"recordings of more than {LONGEST_S:g} s"),
        (len(long), f"simulated ones of more than {LONGEST_S:g} s"),
    ):
        if n:
            log.warning("%s: %d %s are left out", config.test, n, what)
    if not made:
        raise ConfigError(
            f"{config.test} has no recording in English with text of at most {LONGEST_S:g} s"
        )
    if all(row.cohort != TYPICAL for row in kept):
        log.warning(
            "%s has no typical speech: nothing is simulated, and whether adaptation does harm to "
            "typical speech cannot be told",
            config.test,
        )
    return made


def _too_long(views: Sequence[View], config: BenchConfig) -> set[str]:
    """Return the ids of simulated views that last more than Whisper hears at once.

    Only simulating tells: severe stuttering makes three seconds of one. What it told is
    kept beside the hypotheses.
    """
    unsure = [v for v in views if v.simulates and seconds(v.utterance) > _SURELY_FITS_S]
    if not unsure:
        return set()
    store = Store(config.store, plan_key(unsure))
    known = store.read(_LENGTHS)
    missing = [row for row in range(len(unsure)) if row not in known]
    if missing:
        with WorkerPool(config.workers) as pool:
            waiting = {row: pool.submit(_length_s, unsure[row]) for row in missing}
            for n, (row, made) in enumerate(track(waiting.items(), "simulating", transient=True)):
                known[row] = made.result()
                if n % _SAVED_TOGETHER == 0:
                    store.write(_LENGTHS, known, {})
        store.write(_LENGTHS, known, {})
    return {view.id for row, view in enumerate(unsure) if known[row] > LONGEST_S}


def _length_s(view: View) -> float:
    return len(render_view(view)[0]) / SAMPLE_RATE


def print_found(where: Path, found: Iterable[Found], simulate: Sequence[str] = ()) -> None:
    """Print recordings and speakers by cohort, domain and corpus, and what is simulated.

    Args:
        where: the manifest.
        found: of each recording or view.
        simulate: cohorts that are simulated on typical recordings.
    """
    found = list(found)
    n = Counter((cohort, domain, corpus) for cohort, domain, corpus, _ in found)
    speakers = Counter((cohort, domain, corpus) for cohort, domain, corpus, _ in set(found))
    order = in_order(cohort for cohort, *_ in n)
    places = sorted(n, key=lambda p: (p[1] == RECORDED, order.index(p[0]), p[2]))
    lines = [(*place, str(n[place]), str(speakers[place])) for place in places]
    print_lines(str(where), ("cohort", "domain", "corpus", "recordings", "speakers"), lines)
    shown = simulate if any(cohort == TYPICAL for cohort, *_ in n) else ()
    print(f"{SIMULATED} on typical recordings: {', '.join(shown) or 'nothing'}")


class Store:
    """Values by row number, in ``root/TEST SET/KEY.json``, so that nothing is decoded twice.

    Args:
        root: folder of all test sets.
        plan: what identifies the test set, from `hyperasr.cohorts.views.plan_key`.
    """

    def __init__(self, root: Path, plan: str) -> None:
        self.folder = Path(root) / plan

    def read(self, key: str) -> dict[int, Any]:
        """Return the values that are there; none where the file is missing or damaged."""
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return {int(row): value for row, value in content["rows"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged (%s); its rows are made again", path, error)
            return {}

    def write(self, key: str, rows: Mapping[int, Any], notes: Mapping[str, Any]) -> None:
        """Write the values whole or not at all; rows that another process added stay.

        Args:
            key: names the file.
            rows: a value of plain JSON for each row number.
            notes: further fields of the file, for a reader.
        """
        rows = self.read(key) | dict(rows)
        content = {"notes": dict(notes), "rows": {str(row): rows[row] for row in sorted(rows)}}
        text = json.dumps(content, ensure_ascii=False)
        atomic_write_text(self.folder / f"{key}.json", f"{text}\n")
