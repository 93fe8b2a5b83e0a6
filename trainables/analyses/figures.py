"""How all figures look: sizes in inches for a paper's column, one palette, PNG at 200 dots per inch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart; yellow last, as it is weak on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
GREY = "#777777"
COLUMN, PAGE = 3.5, 7.2
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.03,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all figures meanwhile."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def canvas(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure that no window and no global state belongs to, and its axes (as `Figure.subplots` gives them)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**grid)


def png(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes for the same content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()
