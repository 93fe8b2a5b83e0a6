"""A picture of a dataset: some of its images with the outlines of their masks, and a legend of the classes."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from trainables.data.cubes import open_cubes, unit_scale
from trainables.data.decode import read_image, read_mask
from trainables.data.listing import IGNORE, DataError, Listing
from trainables.data.scans import read_scan
from trainables.data.split import drawn_order

COLUMNS, ROWS = 6, 4
CELL, GAP, MARGIN = 200, 14, 28
CAPTION = 36
PAPER, INK, GREY, PALE = (255, 255, 255), (24, 24, 27), (110, 110, 118), (236, 236, 239)
# A magenta that few photographs have, then Okabe and Ito's colours; the background has none.
FEW = ((235, 0, 139), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (230, 159, 0))

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class _Sample:
    """One cell: picture [H, W, 3], mask [H, W] or None, and two lines of text; no picture where it is broken."""

    picture: Pixels | None
    mask: Pixels | None
    lines: tuple[str, str]


def draw_sheet(listing: Listing, title: str, counts: Mapping[str, int], path: Path) -> None:
    """Write a PNG with up to 24 images of the task (else of the labelled ones, else of the pretraining images).

    Args:
        counts: class name -> number of images that hold it, for the legend.

    Raises:
        DataError: the file cannot be written.
    """
    numbers = listing.annotated or listing.labelled or listing.pretrain
    samples = [_sample(listing, number) for number in drawn_order(listing, numbers, 0)[: COLUMNS * ROWS]]
    colours = class_colours(listing.classes)
    legend = _legend(listing, samples, counts, colours)
    rows = -(-len(samples) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * CELL + (COLUMNS - 1) * GAP
    per_line = max(1, (width - 2 * MARGIN) // 230)
    top = MARGIN + 40
    below = top + rows * (CELL + CAPTION + GAP)
    height = below + (-(-len(legend) // per_line)) * 26 + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), _shortened(title, 22, width - 2 * MARGIN), INK, _font(22))
    for place, sample in enumerate(samples):
        x = MARGIN + place % COLUMNS * (CELL + GAP)
        y = top + place // COLUMNS * (CELL + CAPTION + GAP)
        _draw_sample(sheet, draw, sample, (x, y), colours)
    for place, (name, colour) in enumerate(legend):
        x, y = MARGIN + place % per_line * 230, below + place // per_line * 26
        _swatch(draw, (x, y + 2, x + 16, y + 18), colour)
        draw.text((x + 24, y), _shortened(name, 14, 200), INK, _font(14))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG")
    except OSError as error:
        raise DataError(f"{path}: the contact sheet cannot be written ({error.strerror or error})") from None


def class_colours(classes: Sequence[str]) -> list[Colour | None]:
    """One colour for each class; none for the background."""
    shown = [name != "background" for name in classes]
    made: list[Colour | None] = []
    for number in range(len(classes)):
        place = sum(shown[:number])
        if not shown[number]:
            made.append(None)
        elif sum(shown) <= len(FEW):
            made.append(FEW[place])
        else:  # hues a golden section apart, in three brightnesses
            red, green, blue = colorsys.hsv_to_rgb(place * 0.618034 % 1, 0.85, (1.0, 0.75, 0.9)[place % 3])
            made.append((round(255 * red), round(255 * green), round(255 * blue)))
    return made


def _sample(listing: Listing, number: int) -> _Sample:
    name = listing.images[number]
    part = next((p for p in ("train", "validation", "evaluation") if number in getattr(listing, p)), "")
    label = listing.labels[number]
    says = "" if label is None else listing.label_names[label] if listing.label_names else f"class {label}"
    lines = (name.rpartition("/")[2], ", ".join(text for text in (part, says) if text))
    try:
        if listing.kind == "pictures":
            picture = np.asarray(read_image(listing, number))
            return _Sample(picture, None if listing.masks[number] is None else read_mask(listing, number), lines)
        return _Sample(*_slice(listing, number), lines)
    except DataError as error:
        return _Sample(None, None, (lines[0], str(error).partition(": ")[2]))


def _slice(listing: Listing, number: int) -> tuple[Pixels, Pixels | None]:
    """The slice of a volume with the largest object, else the middle one; X to the right, Y down."""
    volume, truth = _volume(listing, number)
    depth = volume.shape[2] // 2 if truth is None or not truth.any() else int((truth == 1).sum((0, 1)).argmax())
    picture = np.repeat(volume[:, :, depth].T[..., None], 3, axis=2)
    return picture, None if truth is None else truth[:, :, depth].T


def _volume(listing: Listing, number: int) -> tuple[Pixels, Pixels | None]:
    if listing.draw is not None:
        return listing.draw(number)
    name, mask = listing.images[number], listing.masks[number]
    if listing.kind == "scans":
        scan = read_scan(listing.folder / name).astype(np.float32)
        return (np.clip((scan + 1000) / 1400, 0, 1) * 255).astype(np.uint8), None
    cubes = open_cubes(listing.folder / listing.file(name))
    cube = np.asarray(cubes[int(name.rpartition("#")[2])])
    grey = (np.clip(cube / unit_scale(cube), 0, 1) * 255).astype(np.uint8)
    if mask is None:
        return grey, None
    return grey, open_cubes(listing.folder / listing.file(mask))[int(mask.rpartition("#")[2])].astype(np.uint8)


def _draw_sample(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, sample: _Sample, place: tuple[int, int], colours: list[Colour | None]
) -> None:
    x, y = place
    draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), PALE)
    if sample.picture is None:
        draw.text((x + CELL // 2, y + CELL // 2), "broken", GREY, _font(16), anchor="mm")
    else:
        height, width = sample.picture.shape[:2]
        scale = CELL / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        picture = np.asarray(Image.fromarray(sample.picture).resize(size, how))
        if sample.mask is not None:
            mask = np.asarray(Image.fromarray(sample.mask).resize(size, Image.Resampling.NEAREST))
            picture = _with_outlines(picture, mask, colours)
        sheet.paste(Image.fromarray(picture), (x + (CELL - size[0]) // 2, y + (CELL - size[1]) // 2))
    draw.text((x, y + CELL + 3), _shortened(sample.lines[0], 13, CELL), INK, _font(13))
    draw.text((x, y + CELL + 18), _shortened(sample.lines[1], 13, CELL), GREY, _font(13))


def _with_outlines(picture: Pixels, mask: Pixels, colours: list[Colour | None]) -> Pixels:
    """Each region's rim in the colour of its class, two pixels wide, with a dark line inside it; 255 is hatched."""
    painted = picture.copy()
    rows, columns = np.indices(mask.shape)
    painted[(mask == IGNORE) & ((rows + columns) % 6 < 2)] = (255, 255, 255)
    border = _differs(mask)
    for number in np.unique(mask):
        colour = colours[number] if number < len(colours) else None
        if colour is None:
            continue
        region = mask == number
        rim = region & border
        second, third = (region & _grown(rim, steps) for steps in (1, 2))
        painted[third] = (0, 0, 0)
        painted[second] = colour
    return painted


def _differs(mask: Pixels) -> NDArray[np.bool_]:
    """Pixels with a neighbour of another value."""
    differs = np.zeros(mask.shape, bool)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    differs[:, 1:] |= across
    differs[:, :-1] |= across
    differs[1:] |= down
    differs[:-1] |= down
    return differs


def _grown(region: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    for _ in range(steps):
        padded = np.pad(region, 1)
        region = region | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return region


def _legend(
    listing: Listing, samples: Sequence[_Sample], counts: Mapping[str, int], colours: list[Colour | None]
) -> list[tuple[str, Colour | None]]:
    """(text, colour) of each class that the sheet shows; None: the hatching of what is not counted."""
    shown = {int(value) for sample in samples if sample.mask is not None for value in np.unique(sample.mask)}
    lines: list[tuple[str, Colour | None]] = []
    for number, (name, colour) in enumerate(zip(listing.classes, colours, strict=True)):
        if number in shown and colour is not None:
            of = f" ({counts[name]} image{'' if counts[name] == 1 else 's'})" if name in counts else ""
            lines.append((name + of, colour))
    return lines + ([("not counted", None)] if IGNORE in shown else [])


def _swatch(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: Colour | None) -> None:
    draw.rectangle(box, colour if colour is not None else PALE, GREY)
    if colour is None:
        for offset in range(4, 28, 6):
            first = (box[0] + max(0, offset - 16), box[1] + min(16, offset))
            draw.line((first, (first[1] - box[1] + box[0], first[0] - box[0] + box[1])), GREY)


def _font(size: int) -> FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, FreeTypeFont)
    return font


def _shortened(text: str, size: int, width: int) -> str:
    """The text, with its middle left out where it is too long for `width` pixels."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}") > width:
        kept -= 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
