"""Manifests of what trains, develops and is tested, from the corpora of ``../shared/data``.

    python -m train.data.manifests --data ../shared/data --out runs/data

- ``train.jsonl``, ``dev.jsonl``: prose (LibriSpeech, LJ Speech), recorded non-native speech
  (speechocean762) and, to train on, AN4.
- ``test.jsonl``: prose, in two sources: ``librispeech-test-other`` and ``librispeech-dev-clean``.
- ``test_nonnative.jsonl``: five recordings of each test speaker of speechocean762;
  ``test_nonnative_no_numbers.jsonl``: those of them in which nothing is counted or spelled.
- ``dev_an4.jsonl``, ``test_an4.jsonl``: AN4's speakers, to be scored by the protocol ``spelled``.
- ``test_other_24k.jsonl``: test-other as Ogg Opus of 24 kbit/s, as the training files are.

Who is where stands in `train.data.splits`. A sentence that is tested trains and develops nothing,
one that develops trains nothing; AN4, whose vocabulary is closed, is outside of this. Recordings
of more than 30 s, which Whisper does not hear at once, are left out. Everything is checked for
leaks before it is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile as sf
from rich.progress import track

from hyperasr.audio.mel import CHUNK_S
from hyperasr.cohorts.manifest import write_manifest
from hyperasr.cohorts.splits import check_leaks
from hyperasr.errors import ConfigError
from hyperasr.metrics.normalisers import normaliser
from hyperasr.types import Utterance
from hyperasr.util.files import atomic_folder
from train.data.corpora import LEFT_OUT, Recording, read_corpora
from train.data.splits import SPLITS, Splits, read_splits, words
from train.loop.program import read_config, run_program

__all__ = ["Built", "ManifestsConfig", "build", "counts", "has_numbers", "reencode"]

TEST_OTHER = "librispeech-test-other"
OPUS_BIT_S = 24_000
# libsndfile takes a level from 0 (256 kbit/s) to 1 (6 kbit/s) for one channel of Opus.
_OPUS_LEVEL = (256_000 - OPUS_BIT_S) / 250_000


@dataclass(frozen=True)
class ManifestsConfig:
    """From where to where."""

    data: Path = Path("../shared/data")
    """Folder of the corpora."""
    out: Path = Path("runs/data")
    """Folder of the manifests."""


@dataclass(frozen=True)
class Built:
    """What the manifests hold.

    Attributes:
        manifests: rows by the manifest's name without ending.
        duration_s: of every row, by id.
        left_out: number of recordings by reason.
    """

    manifests: dict[str, list[Utterance]]
    duration_s: dict[str, float]
    left_out: Counter[str]


def has_numbers(text: str) -> bool:
    """Whether something is counted or spelled in a text, so that it can be written in two ways.

    By Whisper's normaliser, which finds number words, ordinals among them; by the word "one", which
    it leaves; and by single letters that are no words.
    """
    normalised = normaliser("whisper")(text).split()
    letters = set(re.findall(r"(?<![\w'])[a-z](?![\w'])", text.lower()))
    return any(word == "one" or re.search(r"\d", word) for word in normalised) or bool(
        letters - {"a", "i"}
    )


def build(root: Path, splits: Splits) -> Built:
    """Put every recording where its speaker belongs, and refuse what leaks.

    Args:
        root: the data folder, absolute.
        splits: who is where.
    Raises:
        ConfigError: a corpus, a recording, or a speaker of the lists is not there.
        ManifestError: speakers, recordings or sentences are on two sides.
    """
    left_out: Counter[str] = Counter()
    by_split = _by_split(read_corpora(root), splits, left_out)
    kept = _without_shared_texts(by_split, left_out)
    duration_s: dict[str, float] = {}

    def rows(split: str, *names: str) -> list[Utterance]:
        chosen = {r.row(split, root): r for r in kept[split] if r.corpus.name in names}
        duration_s.update((row.id, r.duration_s) for row, r in chosen.items())
        return list(chosen)

    prose = ("librispeech", "ljspeech")
    tested = {name for names in splits.test_recordings.values() for name in names}
    nonnative = [u for u in rows("test", "speechocean762") if Path(u.path).stem in tested]
    manifests = {
        "train": rows("train", *prose, "speechocean762", "an4"),
        "dev": rows("dev", *prose, "speechocean762"),
        "test": rows("test", *prose),
        "test_nonnative": nonnative,
        "test_nonnative_no_numbers": [u for u in nonnative if not has_numbers(u.text or "")],
        "dev_an4": rows("dev", "an4"),
        "test_an4": rows("test", "an4"),
    }
    _check(manifests)
    return Built(manifests, duration_s, left_out)


def _by_split(
    recordings: Iterable[Recording], splits: Splits, left_out: Counter[str]
) -> dict[str, list[Recording]]:
    """Return the recordings of each split, every one once and none too long."""
    by_split: dict[str, list[Recording]] = {split: [] for split in SPLITS}
    seen: set[tuple[str, str]] = set()
    speakers: set[tuple[str, str]] = set()
    for recording in recordings:
        name = recording.corpus.name
        speakers.add((name, recording.speaker))
        split = splits.split_of(name, recording.speaker)
        if split is None:
            left_out["of a speaker in no list"] += 1
        elif (name, recording.stem) in seen:
            left_out["in two folders"] += 1
        elif recording.duration_s > CHUNK_S:
            left_out[f"longer than {CHUNK_S} s"] += 1
        else:
            seen.add((name, recording.stem))
            by_split[split].append(recording)
    listed = {
        (corpus, speaker)
        for corpus, own in splits.speakers.items()
        for names in own.values()
        for speaker in names
    }
    if absent := sorted(listed - speakers):
        corpus, speaker = absent[0]
        raise ConfigError(
            f"{len(absent)} speakers of the lists have no recording, such as {speaker} of "
            f"{corpus}; copy the corpora again"
        )
    return by_split


def _without_shared_texts(
    by_split: dict[str, list[Recording]], left_out: Counter[str]
) -> dict[str, list[Recording]]:
    """Take out of each split the sentences of the ones after it: test, dev, train."""
    held: set[str] = set()
    kept: dict[str, list[Recording]] = {}
    for split in reversed(SPLITS):
        own = by_split[split]
        kept[split] = [r for r in own if words(r.text) not in held]
        if held_out := len(own) - len(kept[split]):
            left_out[f"{split}: sentences held out"] = held_out
        # AN4's own tests are of words that everybody says.
        held |= {words(r.text) for r in own if r.corpus.name != "an4"}
    return kept


def _check(manifests: dict[str, list[Utterance]]) -> None:
    """Refuse speakers, recordings and sentences that are on two sides."""
    train, dev = manifests["train"], manifests["dev"]
    tests = [*manifests["test"], *manifests["test_nonnative"]]
    an4, an4_dev = manifests["test_an4"], manifests["dev_an4"]
    for name, first, second, text in (
        ("train", train, dev, "error"),
        ("train", train, tests, "error"),
        ("dev", dev, tests, "error"),
        ("train", train, [*an4_dev, *an4], "ignore"),
        ("dev", [*dev, *an4_dev], an4, "ignore"),
    ):
        check_leaks(first, second, text=text, name=name)


def reencode(rows: Sequence[Utterance], folder: Path) -> list[Utterance]:
    """Write recordings as Ogg Opus of 24 kbit/s, where they are not there yet.

    Args:
        rows: of test-other.
        folder: of the files; replaced as a whole.
    Returns:
        The rows of the new recordings, absolute paths, under a source of their own.
    Raises:
        ConfigError: the folder cannot be written there.
    """
    source = f"{TEST_OTHER}-24k"
    names = [Path(u.id).relative_to(u.source).with_suffix(".ogg") for u in rows]
    if not all((folder / name).is_file() for name in names):
        with atomic_folder(folder, replaces=("*/*.ogg",)) as temporary:
            for row, name in track(list(zip(rows, names, strict=True)), "Opus"):
                samples, rate = sf.read(row.path, dtype="float32")
                (temporary / name).parent.mkdir(exist_ok=True)
                sf.write(
                    temporary / name,
                    samples,
                    rate,
                    format="OGG",
                    subtype="OPUS",
                    compression_level=_OPUS_LEVEL,
                )
    return [
        replace(
            row,
            id=f"{source}/{name.as_posix()}",
            path=str((folder / name).resolve()),
            source=source,
        )
        for row, name in zip(rows, names, strict=True)
    ]


def counts(built: Built) -> list[tuple[str, str, str, int, int, float]]:
    """Return manifest, source, cohort, recordings, speakers and minutes, a row a source."""
    table = []
    for name, rows in built.manifests.items():
        for source, cohort in dict.fromkeys((u.source, u.cohort) for u in rows):
            own = [u for u in rows if (u.source, u.cohort) == (source, cohort)]
            minutes = sum(built.duration_s[u.id] for u in own) / 60
            table.append((name, source, cohort, len(own), len({u.speaker for u in own}), minutes))
    return table


def main() -> None:
    """Write the manifests and print what they hold."""
    config = read_config(ManifestsConfig)
    built = build(config.data.resolve(), read_splits())
    originals = [u for u in built.manifests["test"] if u.source == TEST_OTHER]
    again = reencode(originals, config.out / "test_other_24k")
    built.manifests["test_other_24k"] = again
    built.duration_s.update(
        (new.id, built.duration_s[old.id]) for new, old in zip(again, originals, strict=True)
    )
    for name, rows in built.manifests.items():
        write_manifest(config.out / f"{name}.jsonl", rows)
    form = "{:<26} {:<26} {:<10} {:>10} {:>8} {:>8}"
    print(form.format("manifest", "source", "cohort", "recordings", "speakers", "minutes"))
    for *start, minutes in counts(built):
        print(form.format(*start, f"{minutes:.1f}"))
    for reason, n in built.left_out.items():
        print(f"left out, {reason}: {n}")
    for folder, reason in LEFT_OUT.items():
        print(f"not used, {folder}: {reason}")
    bits = 8 * sum(Path(u.path).stat().st_size for u in again)
    rate = bits / sum(built.duration_s[u.id] for u in again)
    print(f"test_other_24k: {rate / 1000:.1f} kbit/s, files and all")


if __name__ == "__main__":
    run_program(main)
