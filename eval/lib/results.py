"""Result files: one JSON a program, with where its numbers come from and one measurement a row."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts, clipped_rate, macro_by_speaker
from hyperasr.metrics.normalisers import Normaliser
from hyperasr.metrics.protocols import Protocol
from hyperasr.metrics.statistics import Interval, holm
from hyperasr.types import Utterance
from hyperasr.util.files import atomic_write_text, writing

PACKAGES = ("torch", "transformers", "speechbrain", "datasets", "accelerate", "jiwer", "numpy")
ROOT = Path(__file__).resolve().parents[2]

Row = dict[str, Any]


# Rows


def error_row(
    system: str,
    place: Mapping[str, Any],
    interval: Interval,
    counts: Sequence[EditCounts],
    protocol: Protocol,
    speakers: Sequence[str] | None = None,
) -> Row:
    """Return one error rate as a row.

    Args:
        system: what was measured.
        place: on whom and in what: `cohort`, `domain` (``recorded`` or ``simulated``), `metric`
            (``wer`` or ``cer``), and the `severity` or a range of it where rows have one.
        interval: of the corpus rate, from `hyperasr.metrics.statistics`.
        counts: the edits of each utterance behind it.
        protocol: how it was scored; its name, and name and hash of its normaliser go into the row.
        speakers: of each utterance; where given, the row has the mean over speakers, ``macro``.
    """
    total = sum(counts, EditCounts())
    row = {"system": system, **place, **interval_fields(interval), **protocol.fields()}
    row |= {"errors": dataclasses.asdict(total), "clipped": clipped_rate(counts)}
    if speakers is not None and total.n_reference:
        row["macro"] = macro_by_speaker(counts, speakers)
    return row


def difference_row(
    system: str, against: str, place: Mapping[str, Any], interval: Interval, protocol: Protocol
) -> Row:
    """Return a paired difference as a row: `system` minus `against`, below 0 where it is better.

    The interval is of `hyperasr.metrics.statistics.SpeakerBootstrap.difference`; other arguments
    as in `error_row`.
    """
    names = {"system": system, "against": against}
    return {**names, **place, **interval_fields(interval), **protocol.fields()}


def interval_fields(interval: Interval) -> Row:
    """Return a measured value with its interval as fields; a reason and a p where there are."""
    measured = dataclasses.asdict(interval)
    return {k: v for k, v in measured.items() if k not in ("reason", "p") or v is not None}


def speed_row(
    benchmark: str,
    ratio: float,
    low: float | None,
    high: float | None,
    rounds: int,
    peer: str,
    setting: str,
) -> Row:
    """Return a comparison of speed as a row.

    Args:
        benchmark: name of the comparison.
        ratio: our throughput over the peer's; above 1 where ours is the faster.
        low, high: 95 % interval of the ratio over the rounds, None where there is none.
        rounds: paired measurements behind it.
        peer: what it is compared with, such as ``peft 0.21``.
        setting: batch, lengths, threads and device in words.
    """
    row: Row = {"benchmark": benchmark, "peer": peer, "setting": setting, "ratio": ratio}
    return row | {"low": low, "high": high, "rounds": rounds}


def with_holm(rows: Sequence[Row], family: Sequence[str]) -> list[Row]:
    """Return the rows with the p-values of each table adjusted for their number.

    Rows with a ``p`` get ``p_holm`` (Holm's method) and ``n_comparisons``, the size of the family.

    Args:
        rows: of all kinds, in any order.
        family: fields whose values make one table, such as ``("domain", "metric")``; all
            comparisons in it count together.
    """
    tables: dict[tuple[Any, ...], list[int]] = {}
    for index, row in enumerate(rows):
        if row.get("p") is not None:
            tables.setdefault(tuple(row.get(name) for name in family), []).append(index)
    made = [dict(row) for row in rows]
    for indices in tables.values():
        adjusted = holm([rows[i]["p"] for i in indices])
        for i, p in zip(indices, adjusted, strict=True):
            made[i] |= {"p_holm": p, "n_comparisons": len(indices)}
    return made


# Files


def save(
    program: str,
    config: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    protocol: str,
    normaliser: Normaliser | None = None,
    **more: Any,
) -> Path:
    """Write the rows of a program to its `config.out`, under the head of this process.

    Args:
        program: its module, as it follows ``python -m``.
        config, seed, protocol, normaliser: as `head` takes them.
        rows: the measurements.
        more: further fields of the head.
    """
    return write(config.out, head(program, config, seed, protocol, normaliser) | more, rows)


def write(path: str | Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write one result file, whole or not at all.

    The same head and rows give the same bytes; floats in rows are rounded to 6 decimals, each row
    has its own line. What is not finite becomes null.

    Raises:
        ConfigError: the file cannot be written, or a value has no place in JSON.
    """
    lines = [f" {json.dumps(key)}: {json.dumps(_plain(value))}" for key, value in head.items()]
    # Only rows are rounded: a learning rate of 1e-7 in the head must survive.
    body = ",\n".join("  " + json.dumps(_plain(row, 6)) for row in rows)
    lines.append(f' "rows": [\n{body}\n ]' if rows else ' "rows": []')
    return atomic_write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read(path: str | Path) -> dict[str, Any]:
    """Read a result file; its rows are under ``rows``.

    Raises:
        ConfigError: the file is missing or is not a result file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"cannot read the results {path}: {reason}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); write it again") from error
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path} is not a result file: it has no list of rows")
    return content


def _plain(value: Any, digits: int | None = None) -> Any:
    """Turn dataclasses, paths, tuples, arrays and numpy scalars into what JSON knows."""

    def known(other: Any) -> Any:
        if dataclasses.is_dataclass(other) and not isinstance(other, type):
            return dataclasses.asdict(other)
        if hasattr(other, "tolist"):
            return other.tolist()
        if isinstance(other, Path):
            return str(other)
        name = type(other).__name__
        raise ConfigError(f"a {name} cannot be written to a result file; use numbers")

    def number(text: str) -> float:
        # Adding 0.0 turns -0.0 into 0.0.
        return float(text) if digits is None else round(float(text), digits) + 0.0

    text = json.dumps(value, default=known)
    return json.loads(text, parse_float=number, parse_constant=lambda _: None)


# Where numbers come from


def head(
    program: str, config: Any, seed: int, protocol: str, normaliser: Normaliser | None
) -> dict[str, Any]:
    """Describe where the rows come from: command, code, packages, machine, settings.

    Args:
        program: its module, as it follows ``python -m``.
        config: a dataclass or a mapping; absolute paths in it are shortened (to the clone, else
            to ``~``), so that a committed file tells nothing about whose computer made it.
        seed: of every random generator.
        protocol: what was trained and scored on what, by name.
        normaliser: of both sides before scoring; None where nothing is scored.
    """
    import torch

    cuda = torch.cuda.is_available()
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {
        # Quoted so that a reader's shell takes it as it stands.
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "git_commit": _git_commit(ROOT),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "accelerator": torch.cuda.get_device_name() if cuda else None,
        },
        "config": _portable(_plain(config)),
        "seed": seed,
        "protocol": protocol,
        "normaliser": normaliser and {"name": normaliser.name, "hash": normaliser.hash},
    }


def note_look(
    looks: Path | None, test: Path, rows: Iterable[Utterance], systems: Sequence[str]
) -> None:
    """Append a line for a look at test speakers, where any row is of the split ``test``.

    Whoever looks at a test often enough has trained on it. The file only ever grows.

    Args:
        looks: the file; None writes nothing.
        test: manifest that is looked at.
        rows: of it.
        systems: that are run on it.
    Raises:
        ConfigError: the file cannot be written.
    """
    if looks is None or not any(row.split == "test" for row in rows):
        return
    words = [part for word in sys.argv[1:] for part in word.split("=", 1)]
    config = dict(itertools.pairwise(words)).get("--config")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = spec.name if spec else Path(sys.argv[0]).stem
    about = {"config": config, "test": test, "systems": list(systems)}
    made = head(program, about, 0, "", None)
    line = {name: made[name] for name in ("created", "git_commit", "command")} | made["config"]
    with writing(looks):
        looks.parent.mkdir(parents=True, exist_ok=True)
        # One write of a file that is only appended to: lines of several programs do not mix.
        with looks.open("ab", buffering=0) as file:
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def _portable(value: Any) -> Any:
    """Shorten absolute paths to the clone, to what lies beside it, or to the home folder."""
    if isinstance(value, dict):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner) for inner in value]
    if not isinstance(value, str) or not os.path.isabs(value):
        return value
    # A clone at the top of a disk has the whole disk beside it.
    near = ROOT if ROOT.parent == ROOT.parent.parent else ROOT.parent
    if Path(value).is_relative_to(near):
        return os.path.relpath(value, ROOT)
    if Path(value).is_relative_to(Path.home()):
        return str("~" / Path(value).relative_to(Path.home()))
    return value


def _git_commit(root: Path) -> str | None:
    """Return the short hash of the code, with "-dirty" where the clone has changes.

    None where the code is not in a git checkout: an installed copy inside somebody else's
    repository must not borrow its hash. Changes under results/ do not count, or the second
    program of a run would always find the first one's file.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "eval/lib/results.py") is None:
        return None
    commit = git("rev-parse", "--short", "HEAD")
    changes = git("status", "--porcelain", "--", ".", ":(exclude)results")
    return f"{commit}-dirty" if commit and changes else commit or None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", info.read_text() if info.is_file() else "", re.M)
    return found[1].strip() if found else (platform.processor() or platform.machine())
