"""Many recordings, several processes: shards that are there whole or not at all, merged in order.

    torchrun --nproc_per_node 2 -m hyperasr transcribe manifest.jsonl --out FOLDER --shards

A shard is the outcome of a few recordings that follow each other, one JSON a line, between a head
that says what it was made of and a foot that says how much it holds. What was interrupted goes on:
a shard is believed only when it is whole and was made of the same recordings, by the same model
with the same options. So a corrected recording costs its own shard alone, and a manifest that has
grown only what is new.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from hyperasr.errors import ConfigError
from hyperasr.files import atomic_text, atomic_write_text
from hyperasr.metrics import EditCounts
from hyperasr.model import HyperASR
from hyperasr.recordings import Recording

__all__ = [
    "ONE_FILE",
    "Outcome",
    "Shards",
    "merge",
    "model_digest",
    "n_launched",
    "processes",
    "run_shards",
]

log = logging.getLogger(__name__)

FOLDER = "shards"
ERRORS = "errors.jsonl"
ONE_FILE = {"txt": "transcripts.txt", "json": "transcripts.jsonl", "csv": "transcripts.csv"}
"""Formats that are merged into one file, and its name; the others give one for each recording."""
_LAYOUT = 1
# Who is done waits for the slowest.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Outcome:
    """What is kept of one recording.

    Attributes:
        id: of the recording.
        text: as it stands in the merged file, or the content of its own; None where it failed.
        error: why there is no text.
        counts: edits against the reference, by system; None without one.
    """

    id: str
    text: str | None = None
    error: str | None = None
    counts: tuple[EditCounts, ...] | None = None

    def to_line(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Outcome:
        """Read what `to_line` wrote."""
        values = json.loads(line)
        counts = values.pop("counts")
        made = None if counts is None else tuple(EditCounts(**c) for c in counts)
        return cls(**values, counts=made)


class Shards:
    """Where the outcomes of many recordings lie.

    Args:
        out: folder of the results; shards are in a folder of their own below.
        recordings: all of them, in order.
        size: recordings in a shard, at least 1.
        identity: of model and options; shards of another one are made again.
    Raises:
        ConfigError: a size under 1.
    """

    def __init__(
        self, out: Path, recordings: Sequence[Recording], size: int, identity: str
    ) -> None:
        if size < 1:
            raise ConfigError(f"a shard of {size} recordings; give at least 1")
        self.folder = out / FOLDER
        self.recordings, self.size, self.identity = recordings, size, identity

    def __len__(self) -> int:
        return -(-len(self.recordings) // self.size)

    def part(self, index: int) -> Sequence[Recording]:
        """Return the recordings of a shard."""
        return self.recordings[index * self.size : (index + 1) * self.size]

    def path(self, index: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{index:06d}.jsonl"

    def key(self, index: int) -> str:
        """Return 16 hex digits of what a shard is made of."""
        digest = hashlib.sha256(f"{_LAYOUT}/{self.identity}".encode())
        for recording in self.part(index):
            digest.update(repr(_told_apart(recording)).encode())
        return digest.hexdigest()[:16]

    def is_whole(self, index: int) -> bool:
        """Say whether a shard is there, complete, and of these recordings, model and options."""
        try:
            data = self.path(index).read_bytes()
        except OSError:
            return False
        body, _, last = data.rstrip(b"\n").rpartition(b"\n")
        try:
            head, foot = json.loads(body.partition(b"\n")[0]), json.loads(last)
            expected = {"key": self.key(index)}, {"sha256": hashlib.sha256(body).hexdigest()}
        except ValueError:
            return False
        return (head, foot) == expected

    def write(self, index: int, outcomes: Iterator[Outcome]) -> None:
        """Write a shard, outcome by outcome; it takes its name when it is whole.

        Raises:
            ConfigError: it cannot be written there.
        """
        digest = hashlib.sha256()
        with atomic_text(self.path(index)) as file:
            line = json.dumps({"key": self.key(index)})
            digest.update(line.encode())
            file.write(line)
            for outcome in outcomes:
                line = "\n" + outcome.to_line().rstrip("\n")
                digest.update(line.encode())
                file.write(line)
            file.write("\n" + json.dumps({"sha256": digest.hexdigest()}) + "\n")

    def read(self, index: int) -> Iterator[Outcome]:
        """Yield the outcomes of a shard.

        Raises:
            ConfigError: it is not whole.
        """
        if not self.is_whole(index):
            raise ConfigError(
                f"{self.path(index)} is missing, damaged or of other recordings; run the same "
                "command again, it goes on from the shards that are whole"
            )
        with open(self.path(index), encoding="utf-8") as file:
            next(file)
            for line, _ in zip(file, self.part(index), strict=False):
                yield Outcome.from_line(line)

    def remove_others(self) -> None:
        """Remove shards beyond the last, of a manifest that was longer."""
        for path in self.folder.glob("[0-9]*.jsonl"):
            if path.stem.isdecimal() and int(path.stem) >= len(self):
                path.unlink(missing_ok=True)


def run_shards(
    shards: Shards,
    outcomes: Callable[[Sequence[Recording]], Iterator[Outcome]],
    state: Any,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Make the shards that are missing, each process its share, and wait for the others.

    Args:
        shards: what is to be done.
        outcomes: transcribes the recordings of one shard.
        state: from `processes`.
        progress: called with the shards this process has done, and how many it has to do.
    Returns:
        How many shards were whole before.
    Raises:
        ConfigError: a shard cannot be written.
    """
    from accelerate.utils import broadcast_object_list

    # One process looks: another could see a shard that a third one has finished meanwhile.
    todo: list[Any] = [None]
    if state.is_main_process:
        todo = [[i for i in range(len(shards)) if not shards.is_whole(i)]]
    if state.num_processes > 1:
        broadcast_object_list(todo)
    own = todo[0][state.process_index :: state.num_processes]
    for done, index in enumerate(own):
        if progress is not None:
            progress(done, len(own))
        shards.write(index, outcomes(shards.part(index)))
    if progress is not None:
        progress(len(own), len(own))
    state.wait_for_everyone()
    return len(shards) - len(todo[0])


def merge(
    shards: Shards, out: Path, form: str, names: Sequence[str]
) -> tuple[list[tuple[str, str]], int, list[EditCounts]]:
    """Put the outcomes together in the order of the recordings.

    Formats of `ONE_FILE` become one file, others one for each recording. Recordings that failed
    stand in ``errors.jsonl``, an object with ``id`` and ``error`` a line.
    The texts are read and written one by one.

    Args:
        shards: all whole.
        out: folder of the results.
        form: of the texts.
        names: file names, one for each recording.
    Returns:
        Id and reason of what failed, the number of recordings with a reference, and the sum of
        their edits by system.
    Raises:
        ConfigError: a shard is not whole, or the folder cannot be written.
    """
    failed: list[tuple[str, str]] = []
    sums: list[EditCounts] = []
    n_scored = 0
    outcomes = (o for index in range(len(shards)) for o in shards.read(index))
    with ExitStack() as stack:
        file: TextIO | None = None
        if form in ONE_FILE:
            file = stack.enter_context(atomic_text(out / ONE_FILE[form]))
        first = True
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome.text is None:
                failed.append((outcome.id, outcome.error or "unknown"))
                continue
            if file is None:
                atomic_write_text(out / name, outcome.text)
            elif form == "csv" and not first:
                file.write(outcome.text.partition("\n")[2])  # one header is enough
            else:
                file.write(outcome.text)
            first = False
            if outcome.counts is not None:
                n_scored += 1
                sums = sums or [EditCounts()] * len(outcome.counts)
                sums = [a + b for a, b in zip(sums, outcome.counts, strict=True)]
    if failed:
        lines = [json.dumps({"id": i, "error": e}, ensure_ascii=False) + "\n" for i, e in failed]
        atomic_write_text(out / ERRORS, "".join(lines))
    else:
        (out / ERRORS).unlink(missing_ok=True)
    return failed, n_scored, sums


def n_launched() -> int:
    """Return how many processes torchrun or accelerate has started; 1 without them."""
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def processes() -> Any:
    """Return this process's place among all (an `accelerate.PartialState`)."""
    import torch
    from accelerate import PartialState

    # Without cpu=True Accelerate ignores torchrun's processes on a machine that has no GPU.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def model_digest(model: HyperASR) -> str:
    """Return 16 hex digits of what a model says: backbone, speaker encoder and source.

    The backbone's own weights come in by their fingerprint.
    """
    told = f"{model.backbone.fingerprint()}/{model.speaker_config}/{model.source_config}"
    digest = hashlib.sha256(told.encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("backbone."):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _told_apart(recording: Recording) -> tuple[Any, ...]:
    """Return what tells a recording from another: its row, and size and time of its file."""
    file: tuple[int, ...] = ()
    if recording.path is not None:
        try:
            found = os.stat(recording.path)
            file = (found.st_size, found.st_mtime_ns)
        except OSError:
            pass  # when it appears it is another recording
    r = recording
    row = (r.id, r.path, r.start_s, r.end_s, r.channel, r.reference, r.cohort, r.severity)
    sound = b"" if r.waveform is None else hashlib.sha256(r.waveform.tobytes()).digest()
    return (*row, *file, sound, str(r.error))
