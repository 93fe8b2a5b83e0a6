"""Pictures in rows and columns, as in the figures of samples and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainables.analyses.figures import blank, heat, png, style
from trainables.data.contact_sheet import Colour
from trainables.data.listing import IGNORE

Pixels = NDArray[np.uint8]
Entry = tuple[str, Colour | None]  # of a legend
GAP, LINE = 0.06, 0.125  # inches: between pictures, and a line of text
TEXT = 7.0  # points
_OPACITY = 0.45


@dataclass(frozen=True)
class Panel:
    """A picture [H, W, 3], what stands above it and what stands below."""

    pixels: Pixels
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Panels side by side, None for a gap; what stands at their left, and whether more room is left above."""

    panels: Sequence[Panel | None]
    label: str = ""
    apart: bool = False


def draw_grid(
    rows: Sequence[Row], width: float, *, columns: int = 0, legend: Sequence[Entry] = (), scale: str = ""
) -> bytes:
    """A PNG of rows of pictures, the longer side of each as long as a column is wide; rows as high as they need.

    Args:
        width: of the figure, in inches.
        columns: as many as set the size of a panel; 0: those of the longest row.
        legend: names and colours, below; no colour for a remark.
        scale: what the colours of `figures.heat` mean, from 0 to 1; a bar below.
    """
    with style():
        columns = columns or max(len(row.panels) for row in rows)
        left = 2 * LINE + GAP if any(row.label for row in rows) else 0.0
        side = (width - left - GAP * (columns - 1)) / columns
        measure = blank(width, 1)
        texts = [[_wrapped(measure, [p.title if p else "" for p in row.panels], side),
                  _wrapped(measure, [p.note if p else "" for p in row.panels], side)] for row in rows]  # fmt: skip
        sizes = [(side, max(side * _aspect(row), _text_width(measure, row.label, TEXT + 1))) for row in rows]
        heights = [_height(a) + size[1] + _height(b) + GAP for (a, b), size in zip(texts, sizes, strict=True)]
        lines = _legend_lines(measure, legend, width - left)
        below_all = 1.3 * LINE * len(lines) + 3 * LINE * bool(scale)
        height = sum(heights) + 2 * GAP * sum(row.apart for row in rows) + below_all
        figure, top = blank(width, height), height
        for row, (above, below), size, needed in zip(rows, texts, sizes, heights, strict=True):
            top -= 2 * GAP * row.apart
            _draw_row(figure, row, above, below, (left, top - _height(above) - size[1], *size))
            top -= needed
        for number, line in enumerate(reversed(lines)):
            _draw_legend(figure, line, left, (1.3 * number + 0.2) * LINE + 3 * LINE * bool(scale))
        if scale:
            _draw_scale(figure, scale, left)
        return png(figure)


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """Titles only where they are others than those of the row above."""
    kept: list[Row] = []
    above: list[str] = []
    for row in rows:
        titles = [panel.title for panel in row.panels if panel]
        known = titles == above[: len(titles)]
        kept.append(replace(row, panels=[p and replace(p, title="") for p in row.panels]) if known else row)
        above = above if known else titles
    return kept


def _draw_row(
    figure: Figure, row: Row, above: list[list[str]], below: list[list[str]], place: tuple[float, float, float, float]
) -> None:
    """`place`: left end and bottom of the row, width and height of a cell of it, in inches."""
    left, bottom, side, high = place
    width, height = figure.get_size_inches()
    for column, panel in enumerate(row.panels):
        if panel is None:
            continue
        x = left + column * (side + GAP)
        axes = figure.add_axes((x / width, bottom / height, side / width, high / height))
        axes.set_axis_off()
        axes.imshow(panel.pixels, interpolation="hanning")
        middle = x + side / 2
        _write(figure, above[column], middle, bottom + high + 0.05 + LINE * (len(above[column]) - 1))
        _write(figure, below[column], middle, bottom - LINE)
    if row.label:
        x = (left - GAP - LINE / 2) / width
        figure.text(
            x, (bottom + high / 2) / height, row.label, rotation=90, va="center", ha="center", fontsize=TEXT + 1
        )


def _write(figure: Figure, lines: Sequence[str], middle: float, baseline: float) -> None:
    """Centred lines of text; `baseline` of the first, in inches."""
    width, height = figure.get_size_inches()
    for number, line in enumerate(lines):
        y = (baseline - number * LINE) / height
        figure.text(middle / width, y, line, ha="center", va="baseline", fontsize=TEXT)


def _legend_lines(figure: Figure, legend: Sequence[Entry], width: float) -> list[list[Entry]]:
    lines: list[list[Entry]] = []
    room = 0.0
    for name, colour in legend:
        needed = _text_width(figure, name) + 3 * LINE
        if needed > room:
            lines.append([])
            room = width
        lines[-1].append((name, colour))
        room -= needed
    return lines


def _draw_legend(figure: Figure, entries: Sequence[Entry], left: float, bottom: float) -> None:
    width, height = figure.get_size_inches()
    for name, colour in entries:
        if colour is not None:
            axes = figure.add_axes((left / width, bottom / height, 0.8 * LINE / width, 0.8 * LINE / height))
            axes.set_axis_off()
            axes.imshow(np.array(colour, np.uint8).reshape(1, 1, 3), aspect="auto")
            left += LINE
        figure.text(left / width, (bottom + 0.4 * LINE) / height, name, va="center_baseline", fontsize=TEXT)
        left += _text_width(figure, name) + 2 * LINE


def _draw_scale(figure: Figure, label: str, left: float) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 1.5 * LINE / height, 1.6 / width, 0.7 * LINE / height))
    axes.imshow(heat(np.linspace(0, 1, 256)[None]), aspect="auto", extent=(0, 1, 0, 1))
    axes.set(yticks=[], xticks=[0, 0.5, 1])
    axes.tick_params(length=2, pad=1)
    axes.grid(visible=False)
    figure.text((left + 1.75) / width, 1.85 * LINE / height, label, va="center_baseline", fontsize=TEXT)


def _wrapped(figure: Figure, texts: Sequence[str], width: float) -> list[list[str]]:
    """Each text in lines of at most `width` inches; a longer word stays whole."""
    wrapped = []
    for text in texts:
        lines: list[str] = []
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and _text_width(figure, longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        wrapped.append(lines if text else [])
    return wrapped


def _aspect(row: Row) -> float:
    """Height of the highest picture as a share of the longer sides."""
    shapes = (panel.pixels.shape for panel in row.panels if panel)
    return max((height / max(height, width) for height, width, _ in shapes), default=1.0)


def _text_width(figure: Figure, text: str, size: float = TEXT) -> float:
    """In inches."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    pixels, _, _ = renderer.get_text_width_height_descent(text, FontProperties(size=size), False)
    return float(pixels) / float(figure.dpi)


def _height(texts: list[list[str]]) -> float:
    lines = max(map(len, texts), default=0)
    return lines * LINE + (0.04 if lines else 0.0)


def picture(image: Tensor, box: Tensor | None = None) -> Pixels:
    """[H, W, 3] of an image [C, H, W], uint8 or float in [0, 1]; of `box` (top, left, height, width) alone."""
    values = image if not image.is_floating_point() else (image.clamp(0, 1) * 255).round().byte()
    pixels = values.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy().copy()
    return pixels if box is None else _cut(pixels, box.tolist())


def overlay(image: Tensor, mask: Tensor, box: Tensor, colours: Sequence[Colour | None]) -> Pixels:
    """The picture with every class in its colour and an outline, pixels that are not counted hatched.

    Args:
        image: uint8 [3, H, W]; mask: uint8 [H, W], class numbers and 255.
        box: top, left, height and width of what is not padding.
        colours: by class number; None: left as it is.

    Returns:
        The box alone, with twice the pixels, so that outlines are thinner than a pixel of the mask.
    """
    plain = Image.fromarray(picture(image, box))
    smooth = plain.resize((2 * plain.width, 2 * plain.height), Image.Resampling.BICUBIC)
    painted = np.asarray(smooth).astype(np.float64)
    classes = _cut(mask.cpu().numpy(), box.tolist()).repeat(2, axis=0).repeat(2, axis=1)
    edges = _edges(classes)
    for number, colour in enumerate(colours):
        if colour is not None:
            region = classes == number
            painted[region] = (1 - _OPACITY) * painted[region] + _OPACITY * np.array(colour)
            painted[region & edges] = colour
    rows, columns = np.indices(classes.shape)
    hatched = (classes == IGNORE) & ((rows + columns) % 8 < 3)
    painted[hatched] = 0.4 * painted[hatched] + 0.6 * 255
    return painted.round().astype(np.uint8)


def has_void(masks: Tensor, boxes: Tensor) -> bool:
    """Whether a mask of [N, H, W] has pixels that are not counted, its padding aside (boxes [N, 4])."""
    return any(
        bool((mask[top : top + height, left : left + width] == IGNORE).any())
        for mask, (top, left, height, width) in zip(masks, boxes.tolist(), strict=True)
    )


def _cut(pixels: Pixels, box: list[int]) -> Pixels:
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def _edges(classes: Pixels) -> NDArray[np.bool_]:
    """Pixels within two of another class."""
    edges = np.zeros(classes.shape, bool)
    for steps in (1, 2):
        down, across = classes[steps:] != classes[:-steps], classes[:, steps:] != classes[:, :-steps]
        edges[steps:] |= down
        edges[:-steps] |= down
        edges[:, steps:] |= across
        edges[:, :-steps] |= across
    return edges
