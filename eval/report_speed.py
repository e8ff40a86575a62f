"""Sections on time: throughput beside the peers', what training and the analysis cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.report_blocks import Block, from_table, generic_table

__all__ = ["analysis_blocks", "speed_blocks", "training_blocks"]

Row = Mapping[str, Any]
ANALYSES = {
    "neighbours": "angles, each utterance with the next, full rank",
    "leading": "angles, all pairs, ranks 1 and 4",
    "pairs": "angles, all pairs, ranks 1, 4 and full",
    "weights": "angles of W with W + delta W, rank 32",
    "bootstrap": "interval of one error rate",
}


def speed_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return the ratios; of rows of another kind a generic table."""
    ratios = [row for row in rows if "benchmark" in row and "ratio" in row]
    rest = [row for row in rows if row not in ratios]
    blocks = []
    if ratios:
        made = from_table(ratios, "Throughput, ours over the peer's")
        lines = tuple(((line[0][0].replace("_", " "), ""), *line[1:]) for line in made.lines)
        about = "Above 1: ours is the faster. Intervals are of the ratios of the rounds."
        blocks.append(replace(made, lines=lines, note=about))
    return blocks + ([generic_table(rest, "Other measurements")] if rest else [])


def analysis_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return what angles and intervals cost, beside what was aimed at."""
    lines = []
    for row in rows:
        aim = f"{row['aim_seconds']:g} s, {row['aim_gib']:g} GiB" if row["aim_seconds"] else ""
        texts = (
            ANALYSES.get(row["benchmark"], row["benchmark"]),
            row["setting"],
            f"{row['seconds']:.1f}",
            f"{row['cpu_seconds']:.1f}",
            f"{row['peak_gib']:.2f}",
            aim,
        )
        lines.append(tuple((text, "") for text in texts))
    header = ("what", "setting", "seconds", "CPU seconds", "peak memory, GiB", "aim: below")
    about = "CPU seconds are of all threads together. The peak is the whole process's."
    return [Block("table", "Time and memory", about, header, tuple(lines), words=True)]


def training_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return what a step of each training takes, and all of its steps."""
    lines = []
    for row in rows:
        texts = (
            row["system"],
            f"{1000 * row['step_s']:.0f}",
            f"{row['steps']:,}",
            f"{row['seconds'] / 60:.1f}",
            f"{row['peak_rss_mib']:.0f}",
        )
        lines.append(tuple((text, "") for text in texts))
    header = ("system", "a step, ms", "steps", "all steps, minutes", "peak memory, MiB")
    about = "Without evaluations and the making of caches. Pages of mapped files do not count."
    return [Block("table", "Time and memory", about, header, tuple(lines))]
