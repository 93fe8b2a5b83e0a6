"""What finished models predict, beside the truth [P1 §5.1, Fig. 6; §5.2, Fig. 7a]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.analyses.choose import drawn, metric_name, open_all, table
from trainables.analyses.figures import PAGE
from trainables.analyses.grids import Entry, Panel, Row, draw_grid, has_void, overlay, picture, without_repeats
from trainables.analyses.models import load_segmentation, parent_weights
from trainables.context import Context, Result, StageError
from trainables.data import Listing, Survey, split
from trainables.data.contact_sheet import FEW
from trainables.data.stack import ImageStack, load_stack
from trainables.downstream.metrics import summarise, tally
from trainables.networks import SegmentationNetwork
from trainables.settings import BackendSettings, parse
from trainables.settings.analyses import PredictionsPanel, PredictionsSettings
from trainables.training import use_backend

OBJECT_COLOURS = (None, FEW[0])
NOTHING = 225  # grey of a picture that could not be had


@dataclass(frozen=True)
class _Shown:
    """A panel's images by name, and for each model of it the logits [N, 1, S, S]."""

    panel: PredictionsPanel
    target: str
    images: Sequence[str]
    stack: ImageStack
    logits: Mapping[str, Tensor]
    gaps: Sequence[str] = ()  # models without a result

    def dice(self, model: str, place: int) -> float:
        """Hard Dice of one image."""
        assert self.stack.masks is not None
        row = slice(place, place + 1)
        return summarise(tally(self.logits[model][row], self.stack.masks[row]))["dice"]


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Draw predictions side by side.

    Args:
        spec: analysis (`PredictionsSettings`), models (a list of name and network), panels (a list of data (reader,
            options), the fields of `PredictionsPanel` and, if any, gaps: names of models without a result), seed (of
            the cells: it says which images evaluate), backend.
        context: for each model a parent whose weights are a whole network with one output (a segmentation pretrain, or
            a finetune stage with `keep_weights`), its role the model's name.

    Returns:
        Files predictions.png and predictions.csv (panel, image, model, dice). Metrics dice/<panel>/<model>, the mean
        over the images shown.

    Raises:
        StageError: weights are missing or do not fit, or the panel has no such image or model.
        DataError: a dataset is missing or faulty.
    """
    use_backend(parse(BackendSettings, spec.get("backend", {})))
    settings, seed = parse(PredictionsSettings, spec["analysis"]), int(spec["seed"])
    networks = {
        m["name"]: load_segmentation(m["network"], parent_weights(context, m["name"]), m["name"], context.device)
        for m in spec["models"]
    }
    opened = open_all([panel["data"] for panel in spec["panels"]], context)
    shown = []
    for entry, pair in zip(spec["panels"], opened, strict=True):
        panel = parse(PredictionsPanel, {name: value for name, value in entry.items() if name not in ("data", "gaps")})
        if pair is None:
            raise StageError(f"predictions: expected a dataset for {panel.title}, but its data are prepared")
        found = _predict(panel, *pair, networks, settings.input_size, seed, context)
        shown.append(replace(found, gaps=tuple(entry.get("gaps", ()))))
    rows = [
        (s.panel.title, image, model, s.dice(model, place))
        for s in shown
        for place, image in enumerate(s.images)
        for model in s.logits
    ]
    return Result(
        _means(rows),
        files={
            "predictions.png": _draw(shown, settings.columns),
            "predictions.csv": table(("panel", "image", "model", "dice"), rows),
        },
    )


def _predict(
    panel: PredictionsPanel,
    listing: Listing,
    found: Survey,
    networks: Mapping[str, SegmentationNetwork],
    size: int,
    seed: int,
    context: Context,
) -> _Shown:
    if len(listing.classes) != 2:
        raise StageError(f"predictions: {listing.reader} has {len(listing.classes)} classes; expected a binary task")
    if unknown := [name for name in panel.models if name not in networks]:
        raise StageError(f"predictions: {panel.title} has no model {unknown[0]!r}; there are {', '.join(networks)}")
    numbers = _numbers(panel, listing, seed)
    stack = load_stack(listing, numbers, size, masks=True, fingerprint=found.fingerprint, cache_dir=context.cache_dir)
    inputs = stack.images.to(context.device).float() / 255
    with torch.no_grad():
        logits = {name: networks[name](inputs).cpu() for name in panel.models or networks}
    return _Shown(panel, listing.target, [listing.images[n] for n in numbers], stack, logits)


def _numbers(panel: PredictionsPanel, listing: Listing, seed: int) -> list[int]:
    evaluation = split(listing, panel.fraction, panel.n_train, seed).evaluation
    if not panel.images:
        return drawn(listing, evaluation, panel.count, seed)
    by_name = {listing.images[number]: number for number in evaluation}
    if lacking := [name for name in panel.images if name not in by_name]:
        raise StageError(f"predictions: {lacking[0]} is no evaluation image of {listing.reader} for seed {seed}")
    return [by_name[name] for name in panel.images]


def _means(rows: Sequence[tuple[str, str, str, float]]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for panel, _, model, dice in rows:
        groups.setdefault(metric_name("dice", panel, model), []).append(dice)
    return {name: sum(values) / len(values) for name, values in groups.items()}


def _draw(shown: Sequence[_Shown], columns: int) -> bytes:
    """Image, truth and predictions; more images in a line where they fit, more lines for an image where they do not."""
    rows: list[Row] = []
    for panel in shown:
        cells = [_cells(panel, place) for place in range(len(panel.images))]
        wide = 2 + len(panel.logits) + len(panel.gaps)
        if wide <= columns:
            step = columns // wide
            lines = [list(chain.from_iterable(cells[first : first + step])) for first in range(0, len(cells), step)]
        else:
            lines = [line[first : first + columns] for line in cells for first in range(0, wide, columns)]
        label = panel.panel.title if len(shown) > 1 else ""
        for line in lines:
            rows.append(Row(line, label, apart=wide > columns and line[0].title == "image" and bool(rows)))
    legend: list[Entry] = [(" / ".join(dict.fromkeys(panel.target for panel in shown)), FEW[0])]
    if any(panel.stack.masks is not None and has_void(panel.stack.masks, panel.stack.boxes) for panel in shown):
        legend.append(("hatched: not counted", None))
    legend += dict.fromkeys((panel.panel.note, None) for panel in shown if panel.panel.note)
    return draw_grid(without_repeats(rows), PAGE, columns=columns, legend=legend)


def _cells(shown: _Shown, place: int) -> list[Panel]:
    """The pictures of one image."""
    image, box, masks = shown.stack.images[place], shown.stack.boxes[place], shown.stack.masks
    assert masks is not None
    cells = [
        Panel(picture(image, box), "image"),
        Panel(overlay(image, masks[place], box, OBJECT_COLOURS), "truth"),
    ]
    for model, logits in shown.logits.items():
        predicted = (logits[place, 0] > 0).byte()
        title = model if len(shown.logits) > 1 else "prediction"
        note = f"Dice {100 * shown.dice(model, place):.1f} %"
        cells.append(Panel(overlay(image, predicted, box, OBJECT_COLOURS), title, note))
    empty = np.full_like(cells[0].pixels, NOTHING)
    return cells + [Panel(empty, model, "no result") for model in shown.gaps]
