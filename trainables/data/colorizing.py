"""The prepare stage of colorization: each picture in grey and in the colours that a network (or a curve) gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainables.context import Context, Result, StageError
from trainables.data import Listing, open_dataset, survey
from trainables.data.decode import read_image
from trainables.data.stack import fit
from trainables.data.threads import in_threads
from trainables.networks.colorizer import SIDE, Colorizer, colorise, load_colorizer
from trainables.settings import BackendSettings, parse
from trainables.settings.datasets import ColorizeSettings
from trainables.training import use_backend

# Pictures that go through the network together; fixed, since its digits may depend on it.
BATCH = 16
PAPER = ("network", "rgb")  # colours and colourspace


def prepare_colours(spec: Mapping[str, Any], context: Context) -> Result:
    """Make the pairs of pictures that BYOL with colorization compares [P2 §IV-A, §V-B, Fig. 6].

    The network sees each picture with a long side of 256 pixels; its colours, brought to `size`, are joined with the
    lightness of the picture at `size`, as its authors do [color: colorizers/util.py].

    Args:
        spec: data (reader, options), prepare (`ColorizeSettings`), backend; nothing is drawn.
        context: the network's weights under the role "colorizer", unless `colours: pseudo`.

    Returns:
        As tensors images uint8 [N, 3, S, S] (grey, three equal channels), colored uint8 [N, 3, S, S] and boxes int64
        [N, 4], where the picture lies in its square (zero outside), for all pictures that pretraining sees. Facts:
        pictures, colours and colourspace as in the settings, paper (whether the colours are P2's).

    Raises:
        StageError: no weights where they are needed; no pictures.
        DataError: the dataset is missing or faulty.
    """
    use_backend(parse(BackendSettings, spec.get("backend", {})))
    settings = parse(ColorizeSettings, spec["prepare"])
    listing = _open(spec["data"], context)
    colorizer = _colorizer(settings, context)
    count, size = len(listing.pretrain), settings.size
    tensors = {
        "images": torch.zeros(count, 3, size, size, dtype=torch.uint8),
        "colored": torch.zeros(count, 3, size, size, dtype=torch.uint8),
        "boxes": torch.zeros(count, 4, dtype=torch.int64),
    }
    for first in range(0, count, BATCH):
        numbers = listing.pretrain[first : first + BATCH]
        pairs = _pairs(listing, numbers, settings, colorizer, context.device)
        for tensor, made in zip(tensors.values(), pairs, strict=True):
            tensor[first : first + len(numbers)] = made
        context.progress(first + len(numbers), count)
    facts = {
        "pictures": count,
        "colours": settings.colours,
        "colourspace": settings.colourspace,
        "paper": (settings.colours, settings.colourspace) == PAPER,
    }
    return Result({}, tensors, facts)


def _open(data: Mapping[str, Any], context: Context) -> Listing:
    listing = open_dataset(data["reader"], context.data_root, data.get("options"), cache_dir=context.cache_dir)
    if listing.kind != "pictures" or not listing.pretrain:
        raise StageError(f"colorize: {listing.reader} ({listing.folder}) has no pictures to pretrain on; expected some")
    found = survey(listing, cache_dir=context.cache_dir, planned=context.fingerprint)
    found.check()
    context.check_data(data["reader"], found.fingerprint)
    return listing


def _colorizer(settings: ColorizeSettings, context: Context) -> Colorizer | None:
    """The network on its device; None for pseudo-colours."""
    if settings.colours == "pseudo":
        return None
    try:
        weights = context.weights("colorizer")
    except KeyError:
        raise StageError(
            "colorize: expected the weights of the colorization network, but none were given; `colours: pseudo` takes "
            "a fixed curve from lightness to colour instead, with results that are not the paper's"
        ) from None
    return load_colorizer(weights).to(context.device)


def _pairs(
    listing: Listing,
    numbers: Sequence[int],
    settings: ColorizeSettings,
    colorizer: Colorizer | None,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Grey pictures, coloured ones, and their boxes."""
    decoded = list(in_threads(lambda number: read_image(listing, number).convert("L"), numbers))
    gray = _square(decoded, settings.size).to(device)
    seen = None if colorizer is None else _square(decoded, SIDE).to(device)
    colored = colorise(gray, colorizer, settings.colourspace, seen=seen)
    boxes = torch.tensor([fit(picture.height, picture.width, settings.size) for picture in decoded])
    pixels = (torch.cat([gray.expand(-1, 3, -1, -1), colored]) * 255).round().byte().cpu()
    outside = _outside(boxes, settings.size).repeat(2, 1, 1, 1)
    images, painted = pixels.masked_fill(outside, 0).chunk(2)
    return images, painted, boxes


def _square(pictures: Sequence[Image.Image], size: int) -> Tensor:
    """Grey pictures, each brought to `size` as in `trainables.data.stack`: float32 [n, 1, size, size] in [0, 1]."""
    squares = np.zeros((len(pictures), 1, size, size), np.uint8)
    for square, picture in zip(squares, pictures, strict=True):
        top, left, height, width = fit(picture.height, picture.width, size)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        square[0, top : top + height, left : left + width] = np.asarray(resized)
    return torch.from_numpy(squares).float() / 255


def _outside(boxes: Tensor, size: int) -> Tensor:
    """bool [N, 1, size, size]: the padding."""
    top, left, height, width = boxes[:, :, None].unbind(1)
    place = torch.arange(size)
    rows = (place >= top) & (place < top + height)
    columns = (place >= left) & (place < left + width)
    return ~(rows[:, None, :, None] & columns[:, None, None, :])
