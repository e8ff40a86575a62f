"""What all figures of the report share: colours, fonts, and the way into the page.

Colours are those of Okabe and Ito (2008, Color Universal Design); what colour says, a marker or a
dash says too, so that a print in grey can be read. Every figure comes as an SVG in a data address.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from hyperasr.errors import MissingExtra

__all__ = [
    "BLACK",
    "BLUE",
    "CYCLE",
    "DASHES",
    "GREEN",
    "GREY",
    "MARKERS",
    "MINUS",
    "ORANGE",
    "PURPLE",
    "SKY",
    "VERMILION",
    "YELLOW",
    "drawn",
    "new_figure",
]

P = ParamSpec("P")

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000 #E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7".split()
)
GREY = "#767676"
# Yellow is left out: a yellow line on white paper cannot be seen.
CYCLE = (BLACK, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY)
MARKERS = "osD^vPX*<>h"
DASHES = ("-", "--", "-.", ":")
MINUS = "\N{MINUS SIGN}"

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "hyperasr",
    "font.family": ["sans-serif"],
}


def drawn(draw: Callable[P, Any]) -> Callable[P, str]:
    """Let a function draw in our style, and return its figure as a data address.

    The same figure gives the same bytes.
    """

    @wraps(draw)
    def address(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            from matplotlib import rc_context
        except ImportError as error:
            raise MissingExtra(
                "figures need matplotlib; install it with pip install -e .[report]"
            ) from error
        stream = io.BytesIO()
        with rc_context(STYLE):
            draw(*args, **kwargs).savefig(stream, format="svg", metadata={"Date": None}, dpi=150)
        code = base64.b64encode(stream.getvalue()).decode("ascii")
        return f"data:image/svg+xml;base64,{code}"

    return address


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> Any:
    """Return a figure and its axes (rows, columns), without the global state of pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)
