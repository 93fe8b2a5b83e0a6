"""What datasets look like and how much is in them [P1 Table 1, Fig. 2, 5a, 5b, 7b]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.analyses.choose import drawn, members, metric_name, open_all, table
from trainables.analyses.figures import COLUMN, PAGE
from trainables.analyses.grids import Entry, Panel, Row, draw_grid, has_void, overlay, picture, without_repeats
from trainables.analyses.models import parent_weights
from trainables.context import Context, Result, StageError
from trainables.data import Listing, Survey
from trainables.data.contact_sheet import Colour, class_colours
from trainables.data.decode import read_mask
from trainables.data.listing import Draw
from trainables.data.stack import ImageStack, load_stack
from trainables.randomness import generator
from trainables.settings import parse
from trainables.settings.analyses import SamplesPanel, SamplesSettings

PARTS = ("pretrain", "pool", "train", "validation", "evaluation")
NAMELESS = ("background", "object")  # the classes of masks whose object the data do not name
Count = tuple[str, str, str, str, int]  # panel, part, group (all, class, label), name, images


@dataclass(frozen=True)
class _Found:
    """What a panel shows: pictures, their labels' names ("" for none), the mask classes, the counts of it all, and the
    same pictures in colour [n, 3, S, S]."""

    panel: SamplesPanel
    stack: ImageStack
    labels: Sequence[str]
    classes: tuple[str, ...]
    counts: Sequence[Count]
    colored: Tensor | None = None


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Draw samples and count images.

    Args:
        spec: analysis (`SamplesSettings`), panels (a list of data (reader, options; or prepared) and the fields of
            `SamplesPanel`), seed (of the drawn order).
        context: where the data of a panel are `prepared`, their prepare stage as the parent of role "data", or of the
            `role` that stands there.

    Returns:
        Files samples.png; counts.csv (panel, part, group, name, images): of each part all images, those that hold
        each class of the masks, and those of each label; the part "task" are all images of the panel's part; and
        counts.md, a table of the parts with the published numbers. Metrics images/<panel>: the number of "task".

    Raises:
        StageError: an empty part, an unknown label, or no masks where they are to be shown.
        DataError: a dataset is missing or faulty.
    """
    settings, seed = parse(SamplesSettings, spec["analysis"]), int(spec["seed"])
    opened = open_all([panel["data"] for panel in spec["panels"]], context)
    shown = []
    for entry, pair in zip(spec["panels"], opened, strict=True):
        panel = parse(SamplesPanel, {name: value for name, value in entry.items() if name != "data"})
        role = entry["data"].get("role", "data")
        found = (
            _prepared(panel, role, seed, context) if pair is None else _listed(panel, *pair, settings, seed, context)
        )
        if panel.show in ("masks", "pairs") and found.stack.masks is None:
            raise StageError(f"samples: {panel.title} has no masks; expected them for show: {panel.show}")
        if panel.show == "colours" and found.colored is None:
            raise StageError(f"samples: {panel.title} has no colours; expected data that are prepared by colorize")
        shown.append(found)
    counts = [count for found in shown for count in found.counts]
    return Result(
        {metric_name("images", panel): n for panel, part, group, _, n in counts if (part, group) == ("task", "all")},
        files={
            "samples.png": _draw(shown, settings.columns),
            "counts.csv": table(("panel", "part", "group", "name", "images"), counts),
            "counts.md": _counts_table([found.panel for found in shown], counts),
        },
    )


def _listed(
    panel: SamplesPanel, listing: Listing, found: Survey, settings: SamplesSettings, seed: int, context: Context
) -> _Found:
    task = members(listing, panel.part)
    names = {number: _label_name(listing, number) for number in task}
    groups = _groups(panel, _in_order(listing, task))
    numbers = [
        number
        for name in groups
        for number in drawn(listing, [n for n in task if name in ("", names[n])], panel.count, seed)
    ]
    masked = panel.show in ("masks", "pairs")
    stack = load_stack(
        listing,
        numbers,
        settings.input_size,
        masks=masked,
        fingerprint=found.fingerprint,
        cache_dir=context.cache_dir,
    )
    if panel.label:
        task = tuple(number for number in task if names[number] == panel.label)
    counts = list(_counts(panel.title, listing, found, task))
    classes = ("background", panel.target) if listing.classes == NAMELESS else listing.classes
    return _Found(panel, stack, [names[n] for n in numbers], classes, counts)


def _label_name(listing: Listing, number: int) -> str:
    label = listing.labels[number]
    if label is None:
        return ""
    return listing.label_names[label] if listing.label_names else f"class {label}"


def _in_order(listing: Listing, numbers: Sequence[int]) -> list[str]:
    """The names of the labels that these images have, in the order of the labels' numbers."""
    found = {label: n for n in numbers if (label := listing.labels[n]) is not None}
    return [_label_name(listing, found[label]) for label in sorted(found)]


def _groups(panel: SamplesPanel, known: Sequence[str]) -> list[str]:
    """The labels that are shown one after another; [""]: whatever the label."""
    if panel.label and panel.label not in known:
        raise StageError(f"samples: {panel.title} has no label {panel.label!r}; it has {', '.join(known) or 'none'}")
    if panel.each_label and not known:
        raise StageError(f"samples: {panel.title} has no labels; expected them for each_label")
    return list(known) if panel.each_label else [panel.label]


def _counts(title: str, listing: Listing, found: Survey, task: Sequence[int]) -> Iterator[Count]:
    for part in ("task", *PARTS):
        numbers = task if part == "task" else getattr(listing, part)
        if not numbers:
            continue
        yield title, part, "all", "", len(numbers)
        if part != "pretrain":  # its masks, if it has any, are of no use there but to supervised pretexts
            held = Counter(name for number in numbers for name in _classes_of(listing, found, number))
            yield from ((title, part, "class", name, held[name]) for name in listing.classes)
        labels = Counter(_label_name(listing, number) for number in numbers)
        yield from ((title, part, "label", name, labels[name]) for name in _in_order(listing, numbers))


def _classes_of(listing: Listing, found: Survey, number: int) -> set[str]:
    """The classes that the mask of an image holds; the survey knows, but for images that are made from numbers."""
    mask = listing.masks[number]
    if mask is None and listing.draw is None:
        return set()
    values = found.files.get(mask or "", {}).get("values")
    if values is not None:
        held = {listing.mask_values.get(value) for value in values}
    else:
        held = set(_drawn_classes(listing.draw, number) if listing.draw else np.unique(read_mask(listing, number)))
    return {name for place, name in enumerate(listing.classes) if place in held}


@lru_cache(maxsize=10_000)
def _drawn_classes(draw: Draw, number: int) -> tuple[int, ...]:
    """Of an image that is made from a number, which takes a moment; panels may show the same set."""
    return tuple(np.unique(draw(number)[1]).tolist())


def _prepared(panel: SamplesPanel, role: str, seed: int, context: Context) -> _Found:
    """Of what a prepare stage made: images, labels and masks as it gives them."""
    tensors = parent_weights(context, role)
    labels = tensors.get("labels", torch.full((len(tensors["images"]),), -1))
    names = [_name(panel, label) for label in labels.tolist()]
    order = torch.randperm(len(names), generator=generator(seed, "samples")).tolist()
    known = [_name(panel, label) for label in sorted(set(labels.tolist()) - {-1})]
    groups = _groups(panel, known)
    numbers = [n for name in groups for n in [n for n in order if name in ("", names[n])][: panel.count]]
    images = tensors["images"]
    boxes = tensors.get("boxes", torch.tensor([0, 0, *images.shape[-2:]]).repeat(len(images), 1))
    masks = tensors["masks"][numbers] if "masks" in tensors and panel.show in ("masks", "pairs") else None
    task = [n for n, name in enumerate(names) if panel.label in ("", name)]
    counts = list(_prepared_counts(panel.title, tensors, task, names))
    stack = ImageStack(images[numbers], masks, boxes[numbers])
    colored = tensors["colored"][numbers] if "colored" in tensors else None
    return _Found(panel, stack, [names[n] for n in numbers], ("background", panel.target), counts, colored)


def _counts_table(panels: Sequence[SamplesPanel], counts: Sequence[Count]) -> bytes:
    """A Markdown table: a line for each panel, with its images, the published number, and the parts that it has."""
    images = {(title, part): n for title, part, group, _, n in counts if group == "all"}
    parts = [part for part in PARTS if any((panel.title, part) in images for panel in panels)]
    published = [panel.published for panel in panels]
    columns = ["data set", "images", *(["published"] if any(n is not None for n in published) else []), *parts]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for panel, known in zip(panels, published, strict=True):
        numbers = {"images": images.get((panel.title, "task")), "published": known}
        numbers |= {part: images.get((panel.title, part)) for part in parts}
        cells = ["" if (n := numbers[name]) is None else f"{n:,}" for name in columns[1:]]
        lines.append("| " + " | ".join([panel.title, *cells]) + " |")
    return "\n".join([*lines, ""]).encode()


def _name(panel: SamplesPanel, label: int) -> str:
    if label < 0:
        return ""
    return panel.labels[label] if label < len(panel.labels) else f"class {label}"


def _prepared_counts(
    title: str, tensors: Mapping[str, Tensor], task: Sequence[int], names: Sequence[str]
) -> Iterator[Count]:
    parts: dict[str, Sequence[int]] = {"task": task}
    if "part" in tensors:
        part = tensors["part"].tolist()
        parts |= {name: [n for n in task if part[n] == number] for number, name in enumerate(("train", "validation"))}
    for part_name, numbers in parts.items():
        yield title, part_name, "all", "", len(numbers)
        labels = Counter(names[n] for n in numbers if names[n])
        yield from ((title, part_name, "label", name, count) for name, count in sorted(labels.items()))


def _draw(shown: Sequence[_Found], columns: int) -> bytes:
    rows: list[Row] = []
    legend: dict[Entry, None] = {}
    targets = {found.classes[1] for found in shown if len(found.classes) == 2 and found.stack.masks is not None}
    target = targets.pop() if len(targets) == 1 else "object"
    void = False
    for found in shown:
        colours = class_colours(found.classes)
        cells = [cell for place in range(len(found.labels)) for cell in _cells(found, place, colours)]
        rows += [
            Row(
                cells[first : first + columns], found.panel.title if first == 0 else "", apart=first == 0 and bool(rows)
            )
            for first in range(0, len(cells), columns)
        ]
        masks = found.stack.masks
        if masks is not None:
            legend |= dict.fromkeys(_legend(found.classes, colours, masks, target))
            void = void or has_void(masks, found.stack.boxes)
    remarks = ["hatched: not counted"] if void else []
    remarks += dict.fromkeys(found.panel.note for found in shown if found.panel.note)
    width = COLUMN if columns == 1 else PAGE
    return draw_grid(
        without_repeats(rows), width, columns=columns, legend=[*legend, *((remark, None) for remark in remarks)]
    )


def _cells(found: _Found, place: int, colours: Sequence[Colour | None]) -> list[Panel]:
    image, box, masks = found.stack.images[place], found.stack.boxes[place], found.stack.masks
    title = found.labels[place] if found.panel.each_label else ""
    plain = Panel(picture(image, box), title)
    if found.panel.show == "colours" and found.colored is not None:
        return [replace(plain, title=title or "grey"), Panel(picture(found.colored[place], box), "in colour")]
    if masks is None or found.panel.show == "pictures":
        return [plain]
    marked = Panel(overlay(image, masks[place], box, colours), "" if found.panel.show == "pairs" else title)
    return [plain, marked] if found.panel.show == "pairs" else [marked]


def _legend(classes: Sequence[str], colours: Sequence[Colour | None], masks: Tensor, target: str) -> Iterator[Entry]:
    """The object of a binary task as `target`; of more classes those that are seen."""
    if len(classes) == 2:
        yield target, colours[1]
        return
    seen = set(np.unique(masks.numpy()).tolist())
    yield from ((name, colours[n]) for n, name in enumerate(classes) if n in seen and colours[n] is not None)
