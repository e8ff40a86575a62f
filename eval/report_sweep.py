"""The section on a sweep: target error against backward degradation, and the table it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report_blocks import Block, figure, of_table
from eval.report_style import BLACK, CYCLE, DASHES, GREY, MARKERS, drawn, new_figure
from eval.sweep_table import ALONG, LINES, Points, axes_of, curves, points_table, target_of

__all__ = ["sweep_blocks", "sweep_plane"]

SMALLEST, LARGEST = 4.0, 11.0  # markers, in points
_REFERENCE_MARKERS = "*XPH"


def sweep_blocks(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Return the plot and the table of a sweep."""
    along, lines = (names[axis] for names, axis in zip((ALONG, LINES), axes_of(rows), strict=True))
    found, references = curves(rows)
    speakers = {row.get("n_speakers") for row in rows} - {None}
    n = f", {speakers.pop()} speakers" if len(speakers) == 1 else ""
    unit = next(str(row["metric"]).upper() for row in rows if "against" not in row)
    note = (
        f"Unseen speakers{n}. Lines join points of equal {lines}; markers grow with {along}. To "
        f"the left: fewer errors ({target_of(rows)[1]}); below 0 typical speech got better. "
        "Intervals stand in the table."
    )
    plot = sweep_plane(found, references, (along, lines), unit)
    about = (
        "Percent, with 95 percent intervals from draws of speakers. Degradation, gain and target "
        'loss are explained under "All methods on equal terms".'
    )
    return [
        figure("Target error against backward degradation", note, plot),
        of_table(points_table(rows), "Every point", about),
    ]


@drawn
def sweep_plane(
    found: Mapping[Any, Points],
    references: Mapping[str, tuple[float, float]],
    names: tuple[str, str],
    unit: str,
) -> Any:
    """Draw the points of `eval.sweep_table.curves`.

    Args:
        found: points of each line: setting, target error and degradation in percent.
        references: target error and degradation of each.
        names: of the setting along a line, and of what tells lines apart.
        unit: of the errors.
    """
    from matplotlib.lines import Line2D

    figure, ((axis,),) = new_figure(8.0, 4.8)
    settings = sorted({setting for points in found.values() for setting, _, _ in points})
    step = (LARGEST - SMALLEST) / max(1, len(settings) - 1)
    size = {setting: SMALLEST + i * step for i, setting in enumerate(settings)}
    # Black and the first marker are left to the references.
    for i, (line, points) in enumerate(found.items(), start=1):
        colour, marker = CYCLE[i % len(CYCLE)], MARKERS[i % len(MARKERS)]
        x, y = [p[1] for p in points], [p[2] for p in points]
        shown = f"{line:g}" if isinstance(line, int | float) else str(line).replace("_", " ")
        style: dict[str, Any] = {"color": colour, "linestyle": DASHES[i % len(DASHES)]}
        axis.plot(x, y, linewidth=1.1, **style)
        for setting, *place in points:
            axis.plot(*place, marker, color=colour, mfc="white", mew=1.4, ms=size[setting])
        style |= {"marker": marker, "mfc": "white", "label": f"{names[1]} {shown}"}
        axis.plot([], [], **style)
    for i, (name, place) in enumerate(references.items()):
        marker = _REFERENCE_MARKERS[i % len(_REFERENCE_MARKERS)]
        axis.plot(*place, marker, color=BLACK, ms=10, label=name, linestyle="none")
    axis.axhline(0, color=GREY, linewidth=0.9)
    axis.grid()
    axis.set_xlabel(f"{unit} on atypical speech, percent (left: better)")
    axis.set_ylabel(f"backward degradation, {unit} points on typical speech (up: worse)")
    figure.legend(loc="outside right upper")
    blank: dict[str, Any] = {"marker": "o", "color": GREY, "mfc": "white", "linestyle": "none"}
    sizes = [Line2D([], [], ms=size[s], label=f"{names[0]} {s:g}", **blank) for s in settings]
    figure.legend(handles=sizes, loc="outside right lower")
    return figure
