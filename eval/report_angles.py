"""The section on subspace angles: heat maps with the null beside them, sizes, and the ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval import report_figures as figures
from eval.report_blocks import Block, figure, note
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError

__all__ = ["angle_blocks", "sparsity_blocks"]

Row = Mapping[str, Any]
Map = tuple[str, NDArray[np.float64], Sequence[str], Sequence[str]]
CHANCE = "chance"
RELATIONS = ("split_half", "same_person", "same_voice", "same_cohort", "other_cohort")
_PARTS = {"whole": "whole updates", "deviation": "what conditioning changes"}


def angle_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return the blocks of ``subspace_angles.json``."""
    measured = [row for row in rows if "measure" in row]
    if not measured:
        raise ConfigError("it has no angles; it was made by another program")
    angles = [row for row in measured if row["measure"] == "angle"]
    blocks: list[Block] = []
    for system, part in dict.fromkeys((r["system"], r["part"]) for r in angles):
        own = [r for r in angles if (r["system"], r["part"]) == (system, part)]
        name = f"{system}, {_PARTS.get(part, part)}"
        if maps := cohort_maps(own):
            blocks.append(figure(f"Angles between cohorts, {name}", _COHORTS, _degrees(maps)))
        if maps := layer_maps(own):
            blocks.append(figure(f"Angles by layer, {name}", _LAYERS, _degrees(maps)))
    sizes = [r for r in measured if r["measure"] == "relative_norm" and r.get("cohort") == "all"]
    for system, part in dict.fromkeys((r["system"], r["part"]) for r in sizes):
        own = [r for r in sizes if (r["system"], r["part"]) == (system, part)]
        plot = figures.matrix_maps([size_map(own)], "percent of the norm of W", decimals=1)
        name = f"{system}, {_PARTS.get(part, part)}"
        blocks.append(figure(f"How far weights move, {name}", _SIZES, plot))
    return blocks + ranking_blocks(rows)


_COHORTS = (
    "Mean principal angle in degrees between the subspaces that hold most of each cohort's "
    "energy, mean over layers; k is their dimension. On the diagonal two halves of the same "
    "cohort's speakers: noise (blank where a cohort has one update for all). The last column is "
    "chance, random subspaces of the same shape."
)
_LAYERS = (
    "Mean principal angle in degrees between updates of two utterances, mean over cohorts; the "
    "last line is chance."
)
_SIZES = "Frobenius norm of delta W over that of W, mean over utterances."


def _degrees(maps: Sequence[Map]) -> str:
    # One space a line: its maps differ in k alone.
    first = maps[0][0].partition(", k")[0]
    columns = sum(title.partition(", k")[0] == first for title, _, _, _ in maps)
    return figures.matrix_maps(maps, "degrees", columns=columns, limits=(0.0, 90.0))


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _places(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    return list(dict.fromkeys((r["target"], r["space"], r["rank"]) for r in rows))


def cohort_maps(rows: Sequence[Row]) -> list[Map]:
    """Return a map of cohorts by cohorts for each matrix type, space and k, chance at the right."""
    maps: list[Map] = []
    groups = [r for r in rows if r["level"] == "cohort"]
    for place in _places(groups):
        own = [r for r in groups if (r["target"], r["space"], r["rank"]) == place]
        names = sorted({r["cohort"] for r in own} | {r["with_cohort"] for r in own})
        values = np.full((len(names), len(names) + 1), np.nan)
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                pair = [r["value"] for r in own if {r["cohort"], r["with_cohort"]} == {a, b}]
                values[i, j] = _mean(pair)
        values[:, -1] = _mean(r.get("null") for r in own)
        target, space, rank = place
        maps.append((f"{target}, {space} space, k = {rank}", values, names, [*names, CHANCE]))
    return maps


def layer_maps(rows: Sequence[Row]) -> list[Map]:
    """Return a map of relations by layers for each matrix type, space and k, chance below."""
    maps: list[Map] = []
    pairs = [r for r in rows if r["level"] == "utterance"]
    for place in _places(pairs):
        own = [r for r in pairs if (r["target"], r["space"], r["rank"]) == place]
        relations = [name for name in RELATIONS if any(r["relation"] == name for r in own)]
        layers = sorted({r["layer"] for r in own})
        values = np.full((len(relations) + 1, len(layers)), np.nan)
        for j, layer in enumerate(layers):
            here = [r for r in own if r["layer"] == layer]
            for i, relation in enumerate(relations):
                values[i, j] = _mean(r["value"] for r in here if r["relation"] == relation)
            values[-1, j] = _mean(r.get("null") for r in here)
        target, space, rank = place
        names = [name.replace("_", " ") for name in relations] + [CHANCE]
        title = f"{target}, {space} space, k = {rank}"
        maps.append((title, values, names, [f"layer {layer}" for layer in layers]))
    return maps


def size_map(rows: Sequence[Row]) -> Map:
    """Return the map of relative norms, in percent: matrix types by layers."""
    targets = list(dict.fromkeys(r["target"] for r in rows))
    layers = sorted({r["layer"] for r in rows})
    values = np.full((len(targets), len(layers)), np.nan)
    for row in rows:
        values[targets.index(row["target"]), layers.index(row["layer"])] = 100 * row["value"]
    return "", values, targets, [f"layer {layer}" for layer in layers]


def ranking_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return matrix types by adaptation, the error of each adapted alone, and their correlation."""
    places = [r for r in rows if r.get("measure") == "ranking" and r["by"] == "relative_norm"]
    if not places:
        return []
    errors = [
        r
        for r in rows
        if r.get("budget") and r.get("cohort", TYPICAL) != TYPICAL and "against" not in r
    ]
    budgets = sorted({r["budget"] for r in errors})
    lines = []
    for place in sorted(places, key=lambda r: r["place"]):
        own = {r["budget"]: r for r in errors if r["target"] == place["target"]}
        cells = [_error(own.get(budget)) for budget in budgets]
        lines.append(((place["target"], ""), (f"{100 * place['value']:.2f}", ""), *cells))
    header = ("matrix type", "moves by, %", *(f"error at {100 * b:g} %" for b in budgets))
    title = "Matrix types by how far they move, and the error of each adapted alone"
    about = "Budgets are shares of the backbone's weights; n/a: not even rank 1 fits."
    blocks = [Block("table", title, about, header, tuple(lines))]
    checks = [r for r in rows if r.get("measure") == "ranking_check" and r["by"] == "relative_norm"]
    if checks:
        lines = [
            (
                (f"{100 * r['budget']:g} %", ""),
                (str(r["n_targets"]), ""),
                (f"{r['value']:+.2f}", ""),
                (f"{r['p']:.2g}", ""),
            )
            for r in checks
        ]
        head = ("budget", "matrix types", "correlation", "p")
        title = "Does what moves most help most? Spearman's correlation of size and error"
        text = "Negative: it does. Few matrix types make wide uncertainty."
        blocks.append(Block("table", title, text, head, tuple(lines)))
    else:
        blocks.append(note("Fewer than four matrix types at every budget: no correlation."))
    return blocks


def _error(row: Row | None) -> tuple[str, str]:
    if row is None or row["value"] is None:
        return "n/a", ""
    low, high = row.get("low"), row.get("high")
    interval = "" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * row['value']:.1f}", interval


_SPARSITY = {
    "below": "below 0.001, %",
    "adaptive": "below half a deviation, %",
    "top_energy": "energy of the top 1 %, %",
    "hoyer": "Hoyer",
    "effective_rank": "effective rank",
}
_MATRICES = {"delta_weight": "delta W", "A": "A", "B": "B"}


def sparsity_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return the sparsity of every system's updates and factors, mean over layers."""
    blocks = []
    for matrix, shown in _MATRICES.items():
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row["matrix"] == matrix:
                groups.setdefault((row["system"], row["target"]), []).append(row)
        lines = []
        for key, group in groups.items():
            means = {name: _mean(row[name] for row in group) for name in _SPARSITY}
            texts = [f"{100 * means[n]:.1f}" for n in ("below", "adaptive", "top_energy")]
            texts += [f"{means['hoyer']:.2f}", f"{means['effective_rank']:.1f}"]
            lines.append(tuple((text.replace("nan", "n/a"), "") for text in (*key, *texts)))
        if lines:
            header = ("system", "matrix type", *_SPARSITY.values())
            title = f"Sparsity of {shown}, mean over layers"
            about = Block("table", title, _ABOUT_SPARSITY, header, tuple(lines), n_names=2)
            blocks.append(about)
    if not blocks:
        raise ConfigError("it has no sparsity; it was made by another program")
    return blocks


_ABOUT_SPARSITY = (
    "Shares of entries below a fixed size depend on how large a matrix is; the other columns do "
    "not. A normal distribution has 38 % below half its deviation. Hoyer: 0 all entries equal in "
    "size, 1 a single one is not zero."
)
