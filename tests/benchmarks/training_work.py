"""What `tests.benchmarks.training_step` times: one kind of training as the limit has it, and as the stage runs it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tests.benchmarks.training_clock import WARM_UP, Clock, Timing
from trainables.context import Context
from trainables.data import open_dataset
from trainables.downstream.examples import load_parts
from trainables.downstream.finetune import LOSSES, finetune
from trainables.networks import build_network, place
from trainables.numeric import apply_backend
from trainables.pretexts import Pretext, build_pretext
from trainables.pretexts.pretrain import pretrain
from trainables.pretexts.samples import load_samples
from trainables.randomness import seed_everything
from trainables.settings import (
    BackendSettings,
    FinetuneSettings,
    PretrainSettings,
    parse,
    parse_network,
    parse_pretext,
)
from trainables.training import make_optimizer

WORKS = ("finetune", "simclr", "reconstruction", "conrec", "segmentation", "classification", "byol", "moco-v2")
PHOTOS = "photos"
CLASSES = {"0": "background", "255": "object"}
N_TRAIN = 64  # images that finetuning sees
# What makes views and masks, by the names that the pretexts' modules have for it.
AUGMENTATION = ("two_views", "two_views_by", "draw_masks", "apply_masks", "draw_crops", "augment")


@dataclass(frozen=True)
class Setup:
    """What all contenders share: `folder` holds the photographs, `size` is the side of what the networks see, `backend`
    the dials of the numeric backend besides its threads."""

    folder: Path
    network: Mapping[str, Any]
    size: int
    batch: int
    device: torch.device
    threads: int = 1
    backend: Mapping[str, Any] = field(default_factory=dict)

    def context(self, kind: type[Context] = Context) -> Context:
        """Of a stage; all share what is decoded."""
        return kind(self.folder, self.folder / "work", cache_dir=self.folder / "cache", device=self.device)

    def spec(self, work: str, steps: int) -> dict[str, Any]:
        """As a plan has it; the points of the curve, one before training and one after it, are those of the paper."""
        base = {"network": dict(self.network), "backend": {"threads": self.threads, **self.backend}, "seed": 0}
        dials = {"batch": self.batch, "input_size": self.size, "steps": steps, "report_every": steps}
        data: dict[str, Any] = {"reader": "folder", "options": {"path": PHOTOS, "labels": "prefix", "classes": CLASSES}}
        if work == "finetune":
            data |= {"fraction": None, "n_train": N_TRAIN}
            return {**base, "scenario": "random-init", "frozen": False, "keep_weights": True, "data": data,
                    "finetune": dials}  # fmt: skip
        method: dict[str, Any] = {"method": work}
        if work == "byol":
            method["hidden"] = 64 * int(self.network["width"])
        adam = {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0}
        return {**base, "pretext": method, "data": data, "pretrain": {**dials, **adam}}

    def report_every(self, work: str) -> int:
        """Steps between two points of the paper's curve."""
        return (FinetuneSettings if work == "finetune" else PretrainSettings)().report_every


def write_photos(folder: Path, count: int, side: int) -> None:
    """`count` photographs as JPEG files with masks as PNG, textures as labels in their names."""
    listing = open_dataset("textures", folder, {"count": count, "size": side})
    for part in ("images", "masks"):
        (folder / PHOTOS / part).mkdir(parents=True)
    assert listing.draw is not None
    for number in range(count):
        image, mask = listing.draw(number)
        stem = f"{listing.label_names[int(listing.labels[number] or 0)]}_{number:06d}"
        Image.fromarray(image).save(folder / PHOTOS / "images" / f"{stem}.jpg", quality=90)
        Image.fromarray(mask * 255).save(folder / PHOTOS / "masks" / f"{stem}.png")


@dataclass(frozen=True)
class Model:
    """A freshly built model with its optimiser, and what it does after each step."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    after_step: Callable[[], None] = lambda: None

    @property
    def parameters(self) -> int:
        """Those that are trained."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def step(self, loss_of: Callable[[], Tensor]) -> None:
        loss = loss_of()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.after_step()


def new_model(setup: Setup, work: str) -> Model:
    """As the stage makes it: weights, memory layout and numeric backend included."""
    spec = setup.spec(work, 1)
    backend = parse(BackendSettings, spec["backend"])
    seed_everything(0, "init")
    network = parse_network(spec["network"])
    module: nn.Module
    if work == "finetune":
        module = build_network(network, out_channels=1)
        dials: Any = parse(FinetuneSettings, spec["finetune"])
    else:
        classes = {"segmentation": 2, "classification": 3}.get(work, 0)
        module = build_pretext(parse_pretext(spec["pretext"]), network, classes)
        dials = parse(PretrainSettings, spec["pretrain"])
    place(module, setup.device, backend.precision)
    apply_backend(module, backend, setup.device)
    module.train()
    after_step = module.after_step if isinstance(module, Pretext) else lambda: None
    return Model(module, make_optimizer(dials, module), after_step)


def bare_loss(setup: Setup, work: str, module: nn.Module, *, augmented: bool) -> Callable[[], Tensor]:
    """The loss of one batch that lies on the device.

    Args:
        augmented: the batch is of decoded images, of which every call makes new views; else they are made once.
    """
    if isinstance(module, Pretext):
        loss_of = _pretext_loss(setup, work, module)
        return loss_of if augmented else _with_fixed_views(loss_of, module)
    views = _finetune_views(setup)
    return partial(_finetune_loss, module, views if augmented else first_answer(views))


def _pretext_loss(setup: Setup, work: str, module: Pretext) -> Callable[[], Tensor]:
    spec, generator = setup.spec(work, 1), torch.Generator().manual_seed(0)
    method, dials = parse_pretext(spec["pretext"]), parse(PretrainSettings, spec["pretrain"])
    side = setup.size if method.needs else round(setup.size * dials.decode_scale)
    samples = load_samples(spec["data"], method.needs, side, 2, setup.context())
    batch = samples.batch(torch.arange(setup.batch), setup.size, setup.device)
    return lambda: module.loss(batch, generator)["loss"]


def _with_fixed_views(loss_of: Callable[[], Tensor], module: Pretext) -> Callable[[], Tensor]:
    """The method's own loss, its augmentation replaced by what that gave the first time."""
    place = sys.modules[type(module).__module__]
    fixed = {name: first_answer(getattr(place, name)) for name in AUGMENTATION if hasattr(place, name)}
    assert fixed, f"{place.__name__} has none of {AUGMENTATION}"

    def loss() -> Tensor:
        with swapped(place, fixed):
            return loss_of()

    return loss


@contextmanager
def swapped(place: ModuleType, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """A module with other functions for a while. `unittest.mock.patch` takes a tenth of a millisecond."""
    own = {name: getattr(place, name) for name in functions}
    vars(place).update(functions)
    try:
        yield
    finally:
        vars(place).update(own)


def _finetune_views(setup: Setup) -> Callable[[], tuple[Tensor, Tensor]]:
    spec, generator = setup.spec("finetune", 1), torch.Generator().manual_seed(0)
    dials = parse(FinetuneSettings, spec["finetune"])
    kept = load_parts(spec["data"], dials, 0, setup.context(), validate=False).training.to(setup.device)
    rows = torch.arange(setup.batch)
    return lambda: kept.training_batch(rows, dials, generator, setup.device)


def _finetune_loss(network: nn.Module, views: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
    images, masks = views()
    return LOSSES[FinetuneSettings().loss](network(images), masks)


def first_answer(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns what `function` returned at its first call."""
    known: list[Any] = []

    def answer(*args: Any, **named: Any) -> Any:
        if not known:
            known.append(function(*args, **named))
        return known[0]

    return answer


def time_stage(setup: Setup, work: str, steps: int, warm_up: int = WARM_UP) -> tuple[Timing, Mapping[str, Tensor]]:
    """(timing, weights) of the stage's own function; its data are decoded already if it ran before."""
    spec, context = setup.spec(work, warm_up + steps + 2), setup.context(Clock)
    assert isinstance(context, Clock)
    context.warm_up, context.measured = warm_up, steps
    shutil.rmtree(context.work_dir, ignore_errors=True)  # a checkpoint of the run before
    began = time.perf_counter()
    result = (finetune if work == "finetune" else pretrain)(spec, context)
    assert context.checkpoint > 0 and result.facts["resumed_from"] == 0
    first, last = context.marks[warm_up], context.marks[warm_up + steps]
    each = (last.wall - first.wall) / steps
    point = max(0.0, context.reports[warm_up + steps + 2] - context.marks[warm_up + steps + 1].wall - each)
    start = max(0.0, context.reports[0] - point - began)
    parts = {"start": start, "checkpoint": context.checkpoint, "point": point}
    return Timing.between(steps, first, last, **parts), result.weights
