"""Split prepared corpora into train, dev and test by speaker, so that nobody is in two of them.

    python -m train.data.split --manifest runs/torgo/corpus.jsonl --out runs/torgo

writes ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``. Speakers are drawn within every cohort,
the same ones whoever else is in the data. A corpus that has a split of its own by speaker keeps it;
where it publishes no test, or keeps the texts of it back, its dev is the test and dev speakers are
drawn from its train. A corpus that splits what the same people said (UA-Speech, by blocks of words)
has speakers drawn too: those of the test are tested on what it tests, the others train on what it
trains on, and the rest is left out.

``--leave_out speaker`` (or ``cohort``, ``severity``) writes leave-one-out folds instead: for every
part a folder with ``train.jsonl`` and ``test.jsonl``, each checked for leaks before any is written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.splits import check_leaks, leave_one_out
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from hyperasr.util.files import keep_inputs
from train.loop.program import read_config, run_program

PARTS = ("train", "dev", "test")
_NAMES = {"train": ("train",), "dev": ("dev", "val"), "test": ("test", "eval")}


@dataclass(frozen=True)
class SpeakerSplitConfig:
    """What to split, and how much goes where."""

    manifest: tuple[Path, ...]
    """Manifests as ``hyperasr prepare`` writes them. A name is one speaker in all of them."""
    out: Path
    """Folder of the three parts."""
    dev_share: float = 0.15
    """Share of each cohort's speakers that choose checkpoints, in (0, 0.5)."""
    test_share: float = 0.25
    """Share of each cohort's speakers that are tested, in (0, 0.5)."""
    dev_per_speaker: int = 0
    """Utterances kept of each development speaker, who are decoded at every evaluation; 0 for
    all."""
    seed: int = 0
    """Another one draws other speakers."""
    leave_out: str = ""
    """Leave out each ``speaker``, ``cohort`` or range of ``severity`` once; empty: three parts."""

    def __post_init__(self) -> None:
        for name in ("dev_share", "test_share"):
            if not 0 < getattr(self, name) < 0.5:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in (0, 0.5)")
        if self.dev_per_speaker < 0:
            raise ConfigError(f"dev_per_speaker is {self.dev_per_speaker}; it must be at least 0")


def split_by_speaker(
    rows: Sequence[Utterance], config: SpeakerSplitConfig
) -> dict[str, list[Utterance]]:
    """Return the rows of each part; what is in none of them is left out.

    Of a cohort of two speakers one is trained on and one tested, a single one is tested.

    Raises:
        ConfigError: too few speakers for three parts.
    """
    own, fixed, never_tested = _published(rows)
    part_of = dict(fixed)
    for speakers in by_cohort(rows).values():
        names = {row.speaker for row in speakers} - set(fixed)
        drawn = sorted(names, key=lambda name: _order(name, config.seed))
        free = [name for name in drawn if name not in never_tested]
        n_test = max(1, round(config.test_share * len(free))) if free else 0
        part_of |= {name: "test" for name in free[:n_test]}
        rest = [name for name in drawn if name not in part_of]
        n_dev = max(1, round(config.dev_share * len(rest))) if len(rest) > 1 else 0
        part_of |= {name: "dev" if i < n_dev else "train" for i, name in enumerate(rest)}
    parts: dict[str, list[Utterance]] = {part: [] for part in PARTS}
    for row in rows:
        part = part_of[row.speaker]
        # What a corpus itself tests is trained on by nobody, and nothing else of it is tested.
        if row.id not in own or (own[row.id] == "test") == (part == "test"):
            parts[part].append(replace(row, split=part, path=os.path.abspath(row.path)))
    if missing := [part for part in PARTS if not parts[part]]:
        raise ConfigError(
            f"nobody is left for {' and '.join(missing)}: there are "
            f"{len({row.speaker for row in rows})} speakers, and the three parts need one each"
        )
    if config.dev_per_speaker:
        parts["dev"] = some_of_each(parts["dev"], config.dev_per_speaker, config.seed)
    return parts


def by_cohort(rows: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Group rows by the cohort of their speaker; whoever is in several counts as atypical."""
    cohort_of: dict[str, str] = {}
    rows = list(rows)
    for row in rows:
        if cohort_of.setdefault(row.speaker, row.cohort) == TYPICAL:
            cohort_of[row.speaker] = row.cohort
    groups: dict[str, list[Utterance]] = {cohort: [] for cohort in sorted(set(cohort_of.values()))}
    for row in rows:
        groups[cohort_of[row.speaker]].append(row)
    return groups


def in_lower_case(rows: Sequence[Utterance]) -> list[Utterance]:
    """Take the texts of corpora that are all in capitals in lower case, and print which these are.

    Else adapters would learn to write so.
    """
    cased: set[str] = set()
    small: set[str] = set()
    for row in rows:
        if row.text and row.text.upper() != row.text.lower():
            (cased if row.text.isupper() else small).add(row.source)
    capitals = cased - small
    for source in sorted(capitals):
        print(f"{source or 'all'}: texts are in capitals, they are taken in lower case")

    def lower(row: Utterance) -> Utterance:
        texts = {name: getattr(row, name) for name in ("text", "text_clean")}
        return replace(row, **{name: text and text.lower() for name, text in texts.items()})

    return [lower(row) if row.source in capitals else row for row in rows]


def _published(rows: Sequence[Utterance]) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Return what corpora say themselves.

    Returns:
        Part by id, ``test`` or ``train``, in corpora that split what the same people said; part by
        speaker in corpora that split people; and speakers who are not the test of their corpus, of
        whom the dev ones are yet to be drawn.
    """
    of_rows: dict[str, str] = {}
    of_speakers: dict[str, str] = {}
    never_tested: set[str] = set()
    for source in sorted({row.source for row in rows}):
        own = [row for row in rows if row.source == source]
        published = {row.id: _part(row.split) for row in own}
        names = [part for part in PARTS if part in published.values()]
        if len(names) < 2:
            continue
        first, last = names[0], names[-1]
        parts = {row.id: published[row.id] or first for row in own}
        people = {part: {row.speaker for row in own if parts[row.id] == part} for part in names}
        if sum(map(len, people.values())) > len({row.speaker for row in own}):
            of_rows |= {name: "test" if part == last else "train" for name, part in parts.items()}
            continue
        of_speakers |= {name: "test" for name in people.pop(last)}
        if len(people) == 1:
            never_tested |= people[first]
        else:
            of_speakers |= {name: part for part in people for name in people[part]}
    return of_rows, of_speakers, never_tested


def _part(split: str) -> str | None:
    return next((part for part in PARTS if split.lower().startswith(_NAMES[part])), None)


def _order(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def some_of_each(rows: Sequence[Utterance], n: int, seed: int = 0) -> list[Utterance]:
    """Return n utterances of each speaker, always the same ones, in the order of the rows."""
    seen: Counter[str] = Counter()
    kept = set()
    for row in sorted(rows, key=lambda row: _order(row.id, seed)):
        seen[row.speaker] += 1
        if seen[row.speaker] <= n:
            kept.add(row.id)
    return [row for row in rows if row.id in kept]


def write_folds(rows: Sequence[Utterance], by: str, out: Path) -> None:
    """Write leave-one-out folds of all rows; nothing is written where one of them leaks.

    Raises:
        ConfigError: another `by`, or two parts whose folders would have one name.
        ManifestError: a fold leaks.
    """
    folds = list(leave_one_out(rows, by))
    names = [re.sub(r"[^\w.-]+", "-", fold.name).strip(".-") or "part" for fold in folds]
    if len(set(names)) < len(names):
        raise ConfigError(f"two parts would share a folder in {out}; rename them")
    for fold in folds:
        check_leaks(fold.train, fold.test, name=fold.name)
    for folder, fold in zip(names, folds, strict=True):
        for split, own in (("train", fold.train), ("test", fold.test)):
            placed = [replace(row, split=split, path=os.path.abspath(row.path)) for row in own]
            write_manifest(out / folder / f"{split}.jsonl", placed)
        print(
            f"{fold.name}: {len(fold.train)} to train on, {len(fold.test)} to test on, "
            f"{fold.n_dropped} left out"
        )


def main() -> None:
    """Split, write the three manifests, print who is where."""
    config = read_config(SpeakerSplitConfig)
    names = [f"{part}.jsonl" for part in PARTS]
    folders = config.out.iterdir() if config.leave_out and config.out.is_dir() else [config.out]
    written = [folder / name for folder in folders for name in names]
    keep_inputs(written, config.manifest, "choose another out")
    rows = [row for path in config.manifest for row in read_manifest(path)]
    if twice := [name for name, n in Counter(row.id for row in rows).items() if n > 1]:
        raise ConfigError(f"the id {twice[0]!r} stands in two manifests; one of them must change")
    rows = in_lower_case(rows)
    if config.leave_out:
        write_folds(rows, config.leave_out, config.out)
        return
    parts = split_by_speaker(rows, config)
    for part, own in parts.items():
        write_manifest(config.out / f"{part}.jsonl", own)
        for cohort in sorted({row.cohort for row in own}):
            said = [row for row in own if row.cohort == cohort]
            n_speakers = len({row.speaker for row in said})
            print(f"{part}: {cohort}: {len(said)} recordings of {n_speakers} speakers")
    print(f"left out: {len(rows) - sum(map(len, parts.values()))} recordings")


if __name__ == "__main__":
    run_program(main)
