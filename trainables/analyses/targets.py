"""ConRec's input and its decoding targets [P1 §2.2, Fig. 3]; below them, if there is a model, what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainables.analyses.choose import drawn, members, open_checked
from trainables.analyses.figures import PAGE
from trainables.analyses.grids import Panel, Row, draw_grid, picture
from trainables.analyses.models import load_conrec, parent_weights
from trainables.context import Context, Result
from trainables.data.stack import ImageStack, load_stack
from trainables.pretexts.decoding import TASKS, DecodingHeads
from trainables.pretexts.masks import KINDS, MaskDraws, Masked, apply_masks, draw_masks
from trainables.pretexts.views import Views, two_views
from trainables.randomness import generator
from trainables.settings import BackendSettings, parse
from trainables.settings.analyses import TargetsSettings
from trainables.training import use_backend

NAMES = {
    "reconstruction": "reconstruction",
    "color": "original colours",
    "mask": "masked regions",
    "fill": "masks filled with black",
}
KIND_NAMES = {"shuffle": "pixels shuffled", "in-paint": "in-painting", "out-paint": "out-painting"}


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Draw what the decoder sees and what it is asked for. The images take the three kinds of masks in turn.

    Args:
        spec: analysis (`TargetsSettings`), data (reader, options), seed, backend; network: where a model answers.
        context: optionally a ConRec pretrain as the parent of role "model", with the tasks of the settings.

    Returns:
        File targets.png: a row for each image, with the input and the target of each task; a second row with the
        model's answers. Facts: images (their names), kinds of masks. With a model the metrics mse/<task> on these.

    Raises:
        StageError: the weights do not fit. DataError: the dataset is missing or faulty.
    """
    use_backend(parse(BackendSettings, spec.get("backend", {})))
    settings, seed = parse(TargetsSettings, spec["analysis"]), int(spec["seed"])
    listing, found = open_checked(spec["data"], context)
    numbers = drawn(listing, members(listing, "pretrain"), settings.count, seed)
    stack = load_stack(
        listing,
        numbers,
        2 * settings.input_size,
        masks=False,
        fingerprint=found.fingerprint,
        cache_dir=context.cache_dir,
    )
    views, masked, kinds = _views(stack, settings.input_size, seed)
    targets: dict[str, Tensor] = {task: TASKS[task][1](views, masked) for task in settings.tasks}
    answers = _answers(spec, settings, masked.images, context)
    drawing = draw_grid(_rows(masked.images, targets, answers, kinds), PAGE)
    errors = {f"mse/{task}": float((answer - targets[task]).square().mean()) for task, answer in answers.items()}
    names = [listing.images[number] for number in numbers]
    return Result(errors, facts={"images": names, "kinds": kinds}, files={"targets.png": drawing})


def _rows(inputs: Tensor, targets: dict[str, Tensor], answers: dict[str, Tensor], kinds: list[str]) -> list[Row]:
    """For each image its input and targets, with titles above the first, and the answers below."""
    names = ["input", *(NAMES[task] for task in targets)]
    titles = [f"({letter}) {name}" for letter, name in zip("abcde", names, strict=False)]
    rows = []
    for place, kind in enumerate(kinds):
        shown = [inputs[place], *(target[place] for target in targets.values())]
        panels = [Panel(picture(image), titles[n] if place == 0 else "") for n, image in enumerate(shown)]
        rows.append(Row(panels, KIND_NAMES[kind], apart=bool(answers) and place > 0))
        if answers:
            rows.append(Row([None, *(Panel(picture(answer[place])) for answer in answers.values())], "answer"))
    return rows


def _views(stack: ImageStack, size: int, seed: int) -> tuple[Views, Masked, list[str]]:
    """One view of each image, masked; image i by kind i modulo 3."""
    count = len(stack.images)
    both = two_views(stack.images, stack.boxes, size, generator(seed, "targets"))
    views = Views(both.augmented[:count], both.cropped[:count])
    kinds = [KINDS[place % len(KINDS)] for place in range(count)]
    single = [
        apply_masks(views.augmented[place : place + 1], _draw_of(kind, size, seed, place))
        for place, kind in enumerate(kinds)
    ]
    masked = Masked(torch.cat([m.images for m in single]), torch.cat([m.mask for m in single]))
    return views, masked, kinds


def _draw_of(kind: str, size: int, seed: int, place: int) -> MaskDraws:
    """The first draw of this kind; each kind comes in a third of the draws."""
    attempt = 0
    while True:
        draws = draw_masks(1, size, generator(seed, "targets", "masks", place, attempt))
        if KINDS[int(draws.kinds)] == kind:
            return draws
        attempt += 1


@torch.no_grad()
def _answers(spec: Mapping[str, Any], settings: TargetsSettings, images: Tensor, context: Context) -> dict[str, Tensor]:
    """Task -> what the model answers to the input, [N, C, H, W] in [0, 1]; empty without a model."""
    if "network" not in spec:
        return {}
    weights = parent_weights(context, "model")
    model = load_conrec(spec["network"], weights, settings.tasks, "the model", context.device)
    decoded = model.network.decode(model.network.encoder(images.to(context.device)))
    heads = model.pretext["decoding"]
    assert isinstance(heads, DecodingHeads)
    return {task: torch.sigmoid(head(decoded)).cpu() for task, head in heads.items()}
