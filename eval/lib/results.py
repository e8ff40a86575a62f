"""Result files: one JSON a program, with a common head and one measurement a row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.lib.error_tables import markdown_table, print_table
from eval.lib.provenance import command, head, plain
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import (
    EditCounts,
    clipped_rate,
    macro_by_speaker,
)
from hyperasr.metrics.normalisers import Normaliser
from hyperasr.metrics.protocols import Protocol
from hyperasr.metrics.statistics import Interval, holm
from hyperasr.util.files import atomic_write_text

__all__ = [
    "BENCHMARKS",
    "DOMAINS",
    "command",
    "difference_row",
    "error_row",
    "head",
    "interval_fields",
    "markdown_table",
    "print_table",
    "read",
    "read_folder",
    "save",
    "speed_row",
    "with_holm",
    "write",
]

DOMAINS = ("recorded", "simulated")
BENCHMARKS = (
    "adapted_over_unadapted",
    "trimmed_adapted_over_unadapted",
    "beam_over_greedy",
    "over_peft_mixed_batch",
    "over_peft_swap",
    "over_faster_whisper_int8",
    "cached_over_uncached_training",
    "lora_over_variational_training",
    "simulate_over_real_time",
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
    "reason",
    "p",
    "p_holm",
    "n_comparisons",
    "errors",
    "clipped",
    "macro",
    "n_utterances",
    "n_speakers",
    "protocol",
    "normaliser",
)

Row = dict[str, Any]


def error_row(
    system: str,
    cohort: str,
    domain: str,
    interval: Interval,
    counts: Sequence[EditCounts],
    metric: str,
    severity: float | str | None = None,
    *,
    protocol: Protocol | None = None,
    speakers: Sequence[str] | None = None,
) -> Row:
    """Return one error rate as a row.

    Args:
        system, cohort, domain: what was measured on whom; `domain` is one of `DOMAINS`.
        interval: of the corpus rate, from `hyperasr.metrics.statistics`.
        counts: the edits of each utterance behind it.
        metric: ``wer`` or ``cer``.
        severity: of the simulated cohort, or a range of it; left out of the row if None.
        protocol: how it was scored; its name, and name and hash of its normaliser go into the row.
        speakers: of each utterance; where given, the row has the mean over speakers, ``macro``.
    """
    total = sum(counts, EditCounts())
    row = _measurement({"system": system}, cohort, domain, interval, metric, severity, protocol)
    row |= {"errors": dataclasses.asdict(total), "clipped": clipped_rate(counts)}
    if speakers is not None and total.n_reference:
        row["macro"] = macro_by_speaker(counts, speakers)
    return row


def difference_row(
    system: str,
    against: str,
    cohort: str,
    domain: str,
    interval: Interval,
    metric: str,
    severity: float | str | None = None,
    *,
    protocol: Protocol | None = None,
) -> Row:
    """Return a paired difference as a row: `system` minus `against`, below 0 where it is better.

    The interval is of `hyperasr.metrics.statistics.SpeakerBootstrap.difference`; other arguments
    as in `error_row`.
    """
    names = {"system": system, "against": against}
    return _measurement(names, cohort, domain, interval, metric, severity, protocol)


def _measurement(
    names: Mapping[str, str],
    cohort: str,
    domain: str,
    interval: Interval,
    metric: str,
    severity: float | str | None,
    protocol: Protocol | None,
) -> Row:
    row: Row = {**names, "cohort": cohort, "domain": domain, "metric": metric}
    if severity is not None:
        row["severity"] = severity
    return row | interval_fields(interval) | (protocol.fields() if protocol else {})


def interval_fields(interval: Interval) -> Row:
    """Return a measured value with its interval as fields; a reason and a p where there are."""
    measured = dataclasses.asdict(interval)
    return {k: v for k, v in measured.items() if k not in ("reason", "p") or v is not None}


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
    """
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
    about = head(command(program), config, seed, protocol, normaliser)
    return write(config.out, about | more, rows)


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


def read_folder(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Read every result file of a folder, by name without ending.

    Raises:
        ConfigError: the folder is missing, or a JSON file in it is none of ours.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"there is no results folder {folder}; run the evaluation programs first")
    contents = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    for name, content in contents.items():
        lacks = [field for field in HEAD_FIELDS if field not in content]
        if lacks or not all(isinstance(row, dict) for row in content["rows"]):
            what = f"its head has no {lacks[0]!r}" if lacks else "its rows are not measurements"
            raise ConfigError(
                f"{folder / name}.json is not a result file of this project: {what}; "
                "move it elsewhere"
            )
    return contents


def _ordered(values: Mapping[str, Any], fields: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the items in the order of `fields`, unknown keys after them by name."""
    known = [key for key in fields if key in values]
    return [(key, values[key]) for key in known + sorted(set(values) - set(fields))]


def _row_line(row: Mapping[str, Any]) -> str:
    fields = (f"{_json(k)}: {_json(v)}" for k, v in _ordered(_rounded(row), ROW_FIELDS))
    return "{" + ", ".join(fields) + "}"


def _json(value: Any) -> str:
    """Return one line of JSON; the keys of mappings are sorted."""
    return json.dumps(plain(value), sort_keys=True, allow_nan=False)


def _rounded(value: Any) -> Any:
    # Only rows are rounded: a learning rate of 1e-7 in the head must survive.
    value = plain(value)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    # Adding 0.0 turns -0.0 into 0.0.
    return round(value, 6) + 0.0 if isinstance(value, float) else value
