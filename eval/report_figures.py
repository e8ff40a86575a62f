"""Figures of the report: from rows of result files to images that stand in a page.

Colours and fonts are those of `eval.report_style`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.report_blocks import label
from eval.report_style import (
    BLACK,
    BLUE,
    CYCLE,
    DASHES,
    GREEN,
    GREY,
    MARKERS,
    MINUS,
    VERMILION,
    drawn,
    new_figure,
)

__all__ = [
    "COHORT_COLOURS",
    "forest",
    "lines_by_severity",
    "matrix_maps",
    "points_in_plane",
    "reliability_panels",
    "risk_coverage_panels",
    "stability_plasticity",
]

Row = Mapping[str, Any]

_LEAST_POINTS = 1.0  # to either side of zero, so that next to nothing looks like it

COHORT_COLOURS = {
    "atypical": BLACK,
    "stuttering": BLUE,
    "dysarthria": VERMILION,
    "parkinson": GREEN,
    "typical": GREY,
}
COHORT_MARKERS = {"stuttering": "o", "dysarthria": "s", "parkinson": "^", "typical": "x"}


@drawn
def forest(rows: Sequence[Row], panels: Sequence[tuple[str, Sequence[Row]]] | None = None) -> Any:
    """Draw differences with their intervals, a panel a cohort, a line a pair of systems.

    Panels have scales of their own: on typical speech a point matters, on stuttering ten do not.

    Args:
        rows: differences, fractions; drawn in percentage points.
        panels: title and rows of each panel; None for one a cohort, in the order of `rows`.
    """
    if panels is None:
        names = list(dict.fromkeys(map(label, rows)))
        panels = [(name, [row for row in rows if label(row) == name]) for name in names]
    against = {row["against"] for row in rows}
    pairs = list(dict.fromkeys((row["system"], row["against"]) for row in rows))
    labels = [a if len(against) == 1 else f"{a} {MINUS} {b}" for a, b in pairs]
    width = max(7.0, 2.0 + 1.75 * len(panels))
    size = (width, 1.0 + 0.27 * len(pairs))
    figure, axes = new_figure(*size, 1, len(panels), sharey=True)
    for axis, (title, own) in zip(axes[0], panels, strict=True):
        places = {pair: i for i, pair in enumerate(pairs)}
        for row in own:
            _interval_line(axis, row, places[row["system"], row["against"]])
        axis.axvline(0, color=BLACK, linewidth=0.9)
        low, high = axis.get_xlim()
        axis.set_xlim(min(low, -_LEAST_POINTS), max(high, _LEAST_POINTS))
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
        axis.set_title(f"{title}{_speakers(own)}")
        axis.tick_params(axis="y", length=0)
    axes[0][0].set_yticks(range(len(pairs)), labels)
    axes[0][0].set_ylim(len(pairs) - 0.5, -0.5)
    unit = str(rows[0]["metric"]).upper()
    figure.supxlabel(f"difference in {unit}, percentage points (left of 0: better)", fontsize=9)
    return figure


def _interval_line(axis: Any, row: Row, y: float) -> None:
    """Draw one difference: full and coloured where its interval leaves out zero."""
    value, low, high = (_percent(row.get(name)) for name in ("value", "low", "high"))
    if value is None:
        return
    if low is None or high is None:
        axis.plot(value, y, marker="x", color=GREY, markersize=6)
        return
    sure = low > 0 or high < 0
    colour = GREY if not sure else BLUE if high < 0 else VERMILION
    axis.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
    face = colour if sure else "white"
    axis.plot(value, y, "o" if not sure or high < 0 else "s", color=colour, mfc=face, markersize=5)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _speakers(rows: Iterable[Row]) -> str:
    numbers = {row.get("n_speakers") for row in rows} - {None}
    return f"\n{numbers.pop()} speakers" if len(numbers) == 1 else ""


@drawn
def stability_plasticity(target: Sequence[Row], typical: Sequence[Row]) -> Any:
    """Draw what each system gains on the target speech against what it costs on typical speech.

    Args:
        target, typical: differences to the backbone, one of each a system.
    """
    gains, costs = ({row["system"]: row for row in rows} for rows in (target, typical))
    names = [name for name in gains if name in costs and gains[name]["value"] is not None]
    names = [name for name in names if costs[name]["value"] is not None]
    figure, ((axis,),) = new_figure(8.6, 5.2)
    for i, name in enumerate(names):
        x, y = -100 * gains[name]["value"], 100 * costs[name]["value"]
        colour = CYCLE[i % len(CYCLE)]
        for row, flip in ((gains[name], -100), (costs[name], 100)):
            if row.get("low") is None or row.get("high") is None:
                continue
            ends = sorted((flip * row["low"], flip * row["high"]))
            across = (ends, [y, y]) if flip < 0 else ([x, x], ends)
            axis.plot(*across, color=colour, linewidth=0.8, alpha=0.45)
        marker = MARKERS[i % len(MARKERS)]
        axis.plot(x, y, marker, color=colour, markersize=8, label=name, linestyle="none")
    for line in (axis.axhline, axis.axvline):
        line(0, color=BLACK, linewidth=0.9)
    axis.grid()
    unit = str(target[0]["metric"]).upper()
    axis.set_xlabel(f"gain on atypical speech, {unit} points (right: better)")
    axis.set_ylabel(f"harm on typical speech, {unit} points (up: worse)")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@drawn
def lines_by_severity(rows: Sequence[Row], cohorts: Sequence[str]) -> Any:
    """Draw the error against severity, a panel a cohort, a line a system.

    Args:
        rows: error rows with a severity.
        cohorts: panels, as `eval.report_blocks.label` calls them.
    """
    systems = list(dict.fromkeys(row["system"] for row in rows))
    figure, axes = new_figure(2.3 * len(cohorts) + 2.2, 3.2, 1, len(cohorts), sharey=True)
    step = 0.14 / max(1, len(systems))
    for axis, cohort in zip(axes[0], cohorts, strict=True):
        own = [row for row in rows if label(row) == cohort and row["value"] is not None]
        for i, name in enumerate(systems):
            line = sorted((r for r in own if r["system"] == name), key=_severity)
            # Side by side, so that intervals do not hide each other.
            x = [_severity(r) + (i - len(systems) / 2) * step for r in line]
            y = [100 * r["value"] for r in line]
            style: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "label": name}
            axis.plot(x, y, MARKERS[i % len(MARKERS)] + DASHES[i % 4], markersize=4, **style)
            for at, row in zip(x, line, strict=True):
                if row.get("low") is not None and row.get("high") is not None:
                    ends = [100 * row["low"], 100 * row["high"]]
                    axis.plot([at, at], ends, color=style["color"], linewidth=0.8)
        axis.set_title(f"{cohort}{_speakers(own)}")
        axis.set_xticks(sorted({_severity(row) for row in own}))
        axis.grid(axis="y")
        axis.set_xlabel("severity")
    # After the last panel: they share an axis, which a limit would keep from growing with them.
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].set_ylabel(f"{str(rows[0]['metric']).upper()}, percent")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _severity(row: Row) -> float:
    """Return a severity as a number: of a range such as ``0.25-0.50`` its middle."""
    ends = [float(end) for end in str(row["severity"]).split("-")]
    return sum(ends) / len(ends)


def _panels(rows: Sequence[Row], height: float) -> Any:
    """Return a figure with a panel a system, at most four beside each other, and the axes."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    columns = min(4, len(systems))
    lines = -(-len(systems) // columns)
    width = max(4.5, 2.35 * columns)
    figure, axes = new_figure(width, 0.5 + height * lines, lines, columns, sharex=True, sharey=True)
    flat = list(axes.flat)
    for axis in flat[len(systems) :]:
        axis.set_visible(False)
    return figure, dict(zip(systems, flat, strict=False)), axes


def _by_score(rows: Sequence[Row]) -> dict[str, tuple[str, str, str]]:
    """Return colour, dash and marker of every kind of confidence."""
    kinds = list(dict.fromkeys(row["score"] for row in rows))
    return {k: (CYCLE[i + 1], DASHES[i % 4], MARKERS[i]) for i, k in enumerate(kinds)}


@drawn
def risk_coverage_panels(rows: Sequence[Row]) -> Any:
    """Draw the error that remains when the least certain part is left out, a panel a system.

    Args:
        rows: of ``aurc``, each with its curve; one a system and kind of confidence.
    """
    figure, axes, grid = _panels(rows, 2.2)
    styles = _by_score(rows)
    for row in rows:
        curve, axis = row["curve"], axes[row["system"]]
        colour, dash, _ = styles[row["score"]]
        coverage, risk = (100 * np.asarray(curve[k], dtype=float) for k in ("coverage", "risk"))
        axis.plot(coverage, risk, dash, color=colour, label=row["score"], linewidth=1.5)
    for name, axis in axes.items():
        axis.set_title(f"{name}{_speakers(r for r in rows if r['system'] == name)}")
        axis.grid()
        axis.set_ylim(bottom=0)
    _share_legend(figure, axes, len(styles))
    _edge_labels(grid, "coverage, percent", "error of what is kept, %")
    return figure


@drawn
def reliability_panels(rows: Sequence[Row]) -> Any:
    """Draw accuracy against confidence, a panel a system; on the diagonal a claim is kept.

    Args:
        rows: of a calibration error, each with its bins; one a system and kind of confidence.
    """
    figure, axes, grid = _panels(rows, 2.2)
    styles = _by_score(rows)
    for row in rows:
        axis, (colour, dash, marker) = axes[row["system"]], styles[row["score"]]
        x, y = ([100 * b[k] for b in row["bins"]] for k in ("confidence", "accuracy"))
        axis.plot(x, y, marker + dash, color=colour, label=row["score"], markersize=3.5)
    for name, axis in axes.items():
        axis.plot([0, 100], [0, 100], color=GREY, linewidth=0.8)
        axis.set_title(f"{name}{_speakers(r for r in rows if r['system'] == name)}")
        axis.grid()
    _share_legend(figure, axes, len(styles))
    _edge_labels(grid, "claimed, percent", "right, percent")
    return figure


def _share_legend(figure: Any, axes: Mapping[str, Any], n: int) -> None:
    found: dict[str, Any] = {}
    for axis in axes.values():
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    where = "outside lower center"
    figure.legend(list(found.values()), list(found), loc=where, ncols=min(n, 3), fontsize=8)


def _edge_labels(grid: Any, x: str, y: str) -> None:
    for column in grid.T:
        # The last line may be shorter than the others: what has nothing below it has the ticks.
        lowest = [axis for axis in column if axis.get_visible()][-1]
        lowest.set_xlabel(x)
        lowest.tick_params(labelbottom=True)
    for axis in grid[:, 0]:
        axis.set_ylabel(y)


@drawn
def matrix_maps(
    maps: Sequence[tuple[str, NDArray[np.float64], Sequence[str], Sequence[str]]],
    unit: str,
    *,
    columns: int = 3,
    limits: tuple[float, float] | None = None,
    decimals: int = 0,
) -> Any:
    """Draw heat maps with their numbers, all on one scale; a last column can hold the null.

    Args:
        maps: title, values (n, m) with nan where there are none, names of lines and of columns.
        unit: what the colour means.
        columns: maps beside each other.
        limits: ends of the scale; None for those of the values.
        decimals: of the numbers.
    """
    every = np.concatenate([values[np.isfinite(values)] for _, values, _, _ in maps])
    low, high = limits or (float(every.min()), float(every.max()))
    columns = min(columns, len(maps))
    lines = -(-len(maps) // columns)
    n, m = (max(values.shape[i] for _, values, _, _ in maps) for i in (0, 1))
    # A name of a line takes about a third of what a cell takes a letter.
    names = 0.075 * max(len(name) for _, _, names, _ in maps for name in names)
    # Titles stand side by side, and must not run into each other.
    titles = 0.078 * max(len(title) for title, _, _, _ in maps)
    width = max(0.52 * m + names, titles) + 0.3
    size = (columns * width + 0.9, lines * (0.34 * n + 1.25))
    figure, axes = new_figure(max(5.0, size[0]), max(2.0, size[1]), lines, columns)
    image = None
    for axis, (title, values, left, below) in zip(axes.flat, maps, strict=False):
        image = axis.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value < (low + high) / 2
                text = f"{value:.{decimals}f}"
                style = {"ha": "center", "va": "center", "fontsize": 7.5}
                axis.text(j, i, text, color="white" if dark else "black", **style)
        # The null stands apart from what was measured.
        if below[-1] == "chance":
            axis.axvline(len(below) - 1.5, color="white", linewidth=4)
        if left[-1] == "chance":
            axis.axhline(len(left) - 1.5, color="white", linewidth=4)
        axis.set_title(title)
        axis.set_yticks(range(len(left)), left)
        axis.set_xticks(range(len(below)), below, rotation=40, ha="right")
        axis.tick_params(length=0, labelsize=8)
        for side in axis.spines.values():
            side.set_visible(False)
    for axis in list(axes.flat)[len(maps) :]:
        axis.set_visible(False)
    figure.colorbar(image, ax=axes, label=unit, shrink=0.7, pad=0.02)
    return figure


@drawn
def points_in_plane(
    planes: Sequence[tuple[str, NDArray[np.float64]]],
    cohorts: Sequence[str],
    severities: Sequence[float],
) -> Any:
    """Draw embeddings twice for each projection: coloured by cohort and by severity, grey where
    nobody knows it.

    Args:
        planes: name of the projection and its coordinates (n, 2).
        cohorts: of each point.
        severities: of each point, 0 for typical speech, nan where nobody knows it.
    """
    figure, axes = new_figure(8.6, 3.7 * len(planes), len(planes), 2)
    known = list(COHORT_COLOURS)
    order = sorted(set(cohorts), key=lambda c: known.index(c) if c in known else len(known))
    who = np.asarray(cohorts)
    small = {"s": 9, "linewidths": 0.6, "rasterized": True}
    for (left, right), (name, places) in zip(axes, planes, strict=True):
        for i, cohort in enumerate(order):
            own = places[who == cohort]
            marker = COHORT_MARKERS.get(cohort, MARKERS[i % len(MARKERS)])
            colour = COHORT_COLOURS.get(cohort, CYCLE[i % len(CYCLE)])
            style: dict[str, Any] = {"marker": marker, "alpha": 0.6, **small}
            left.scatter(own[:, 0], own[:, 1], color=colour, label=cohort, **style)
        known = np.isfinite(severities)
        right.scatter(places[~known, 0], places[~known, 1], color=GREY, **small)
        coloured: dict[str, Any] = {"c": np.asarray(severities)[known], "cmap": "cividis", **small}
        shown = right.scatter(places[known, 0], places[known, 1], **coloured)
        figure.colorbar(shown, ax=right, label="severity")
        left.legend(markerscale=1.6, loc="best", frameon=True, framealpha=0.8)
        for axis, by in ((left, "cohort"), (right, "severity")):
            axis.set_title(f"{name}, by {by}")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(f"{name} 1")
        left.set_ylabel(f"{name} 2")
    return figure
