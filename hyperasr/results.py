"""Result files: one JSON a program, with a common head and one measurement a row."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.files import atomic_write_text
from hyperasr.metrics import METRICS, EditCounts, Interval, clipped_rate
from hyperasr.tables import markdown_table, print_table
from hyperasr.text import Normaliser

__all__ = [
    "BENCHMARKS",
    "DOMAINS",
    "difference_row",
    "error_row",
    "head",
    "markdown_table",
    "print_table",
    "read",
    "speed_row",
    "write",
]

DOMAINS = ("synthetic", "real", "all")
BENCHMARKS = (
    "adapted_over_unadapted",
    "trimmed_adapted_over_unadapted",
    "over_peft_mixed_batch",
    "over_peft_swap",
    "over_faster_whisper_int8",
    "cached_over_uncached_training",
    "simulate_over_real_time",
)
PACKAGES = (
    "torch",
    "transformers",
    "speechbrain",
    "datasets",
    "accelerate",
    "jiwer",
    "numpy",
)
# The order of fields in the file; others follow in the order of their names.
HEAD_FIELDS = (
    "command",
    "git_commit",
    "created",
    "versions",
    "machine",
    "config",
    "seed",
    "protocol",
    "normaliser",
)
ROW_FIELDS = (
    "system",
    "against",
    "cohort",
    "domain",
    "severity",
    "metric",
    "benchmark",
    "peer",
    "setting",
    "value",
    "ratio",
    "low",
    "high",
    "rounds",
    "errors",
    "clipped",
    "n_utterances",
    "n_speakers",
)
ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, Any]


def head(
    command: str, config: Any, seed: int, protocol: str, normaliser: Normaliser | None
) -> dict[str, Any]:
    """Describe where the rows come from: command, code, packages, machine, settings.

    Args:
        command: the command line as a reader would type it in a clone.
        config: a dataclass or a mapping; absolute paths in it are shortened (to the clone, else
            to ``~``), so that a committed file tells nothing about whose computer made it.
        seed: of every random generator.
        protocol: what was trained and scored on what, by name.
        normaliser: of both sides before scoring; None where nothing is scored.
    """
    named = None if normaliser is None else {"name": normaliser.name, "hash": normaliser.hash}
    return {
        "command": command,
        "git_commit": _git_commit(ROOT),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "machine": _machine(),
        "config": _portable(_plain(config)),
        "seed": seed,
        "protocol": protocol,
        "normaliser": named,
    }


def error_row(
    system: str,
    cohort: str,
    domain: str,
    interval: Interval,
    counts: Sequence[EditCounts],
    metric: str,
    severity: float | str | None = None,
) -> Row:
    """Return one error rate as a row.

    Args:
        system, cohort, domain: what was measured on whom; `domain` is one of `DOMAINS`.
        interval: of the corpus rate, from `hyperasr.metrics.bootstrap`.
        counts: the edits of each utterance behind it.
        metric: ``wer`` or ``cer``.
        severity: of the simulated cohort, or a range of it; left out of the row if None.
    Raises:
        ConfigError: an unknown domain or metric, or no utterances.
        ShapeError: the interval is of another number of utterances.
    """
    if interval.n_utterances != len(counts):
        raise ShapeError(
            f"{system} on {cohort}: the interval is of {interval.n_utterances} utterances, the "
            f"edit counts of {len(counts)}; make both from the same list"
        )
    total = sum(counts, EditCounts())
    row = _measurement({"system": system}, cohort, domain, interval, metric, severity)
    return row | {"errors": dataclasses.asdict(total), "clipped": clipped_rate(counts)}


def difference_row(
    system: str,
    against: str,
    cohort: str,
    domain: str,
    interval: Interval,
    metric: str,
    severity: float | str | None = None,
) -> Row:
    """Return a paired difference as a row: `system` minus `against`, below 0 where it is better.

    The interval is of `hyperasr.metrics.bootstrap_difference`; other arguments and errors as in
    `error_row`.
    """
    names = {"system": system, "against": against}
    return _measurement(names, cohort, domain, interval, metric, severity)


def _measurement(
    names: Mapping[str, str],
    cohort: str,
    domain: str,
    interval: Interval,
    metric: str,
    severity: float | str | None,
) -> Row:
    if domain not in DOMAINS:
        raise ConfigError(f"the domain is one of {', '.join(DOMAINS)}, not {domain!r}")
    if metric not in METRICS:
        raise ConfigError(f"the metric is one of {', '.join(METRICS)}, not {metric!r}")
    row: Row = {**names, "cohort": cohort, "domain": domain, "metric": metric}
    if severity is not None:
        row["severity"] = severity
    return row | dataclasses.asdict(interval)


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
        benchmark: one of `BENCHMARKS`.
        ratio: our throughput over the peer's; above 1 where ours is the faster.
        low, high: 95 % interval of the ratio over the rounds, None where there is none.
        rounds: paired measurements behind it.
        peer: what it is compared with, such as ``peft 0.21``.
        setting: batch, lengths, threads and device in words.
    Raises:
        ConfigError: no benchmark has this name.
    """
    if benchmark not in BENCHMARKS:
        raise ConfigError(
            f"no benchmark is called {benchmark!r}; it is one of {', '.join(BENCHMARKS)}"
        )
    return {
        "benchmark": benchmark,
        "peer": peer,
        "setting": setting,
        "ratio": ratio,
        "low": low,
        "high": high,
        "rounds": rounds,
    }


def write(path: str | Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write one result file, whole or not at all.

    The same head and rows give the same bytes: fields stand in one order, floats in rows are
    rounded to 6 decimals, each row has its own line. What is not finite becomes null.

    Raises:
        ConfigError: the file cannot be written, or a value has no place in JSON.
    """
    lines = [f" {_json(key)}: {_json(value)}" for key, value in _ordered(head, HEAD_FIELDS)]
    body = ",\n".join("  " + _row_line(row) for row in rows)
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
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ConfigError(f"{path} is not a result file: it has no list of rows")
    return content


def _ordered(values: Mapping[str, Any], fields: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the items in the order of `fields`, unknown keys after them by name."""
    known = [key for key in fields if key in values]
    return [(key, values[key]) for key in known + sorted(set(values) - set(fields))]


def _row_line(row: Mapping[str, Any]) -> str:
    fields = (f"{_json(k)}: {_json(v)}" for k, v in _ordered(_rounded(row), ROW_FIELDS))
    return "{" + ", ".join(fields) + "}"


def _json(value: Any) -> str:
    """Return one line of JSON; the keys of mappings are sorted."""
    return json.dumps(_plain(value), sort_keys=True, allow_nan=False)


def _plain(value: Any) -> Any:
    """Turn dataclasses, paths, tuples, arrays and numpy scalars into what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [_plain(inner) for inner in items]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ConfigError(f"a {type(value).__name__} cannot be written to a result file; use numbers")


def _rounded(value: Any) -> Any:
    # Only rows are rounded: a learning rate of 1e-7 in the head must survive.
    value = _plain(value)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    # Adding 0.0 turns -0.0 into 0.0.
    return round(value, 6) + 0.0 if isinstance(value, float) else value


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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit(root: Path) -> str | None:
    """Return the short hash of the code, with "-dirty" where the clone has changes.

    None where the code is not in a git checkout: an installed copy inside somebody else's
    repository must not borrow its hash. Changes under results/ do not count, or the second
    program of a run would always find the first one's file.
    """
    if _git(root, "ls-files", "--error-unmatch", "hyperasr/results.py") is None:
        return None
    commit = _git(root, "rev-parse", "--short", "HEAD")
    if not commit:
        return None
    changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)results")
    return f"{commit}-dirty" if changes else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    """Describe the hardware without naming the machine or its owner."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if cuda else None,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else (platform.processor() or platform.machine())
