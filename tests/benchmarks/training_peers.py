"""What others would write for the same work: DataLoaders with torchvision's transforms, and the loops of the libraries.

Each trains the modules that ours trains, by the same optimiser and in the same memory layout, so that only reading,
augmentation and the loop differ. A library that is missing, and what else a peer lacks, is said and no error.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.training_loaders import Batches, FlipAndCrop, OfImage, Photos, TwoViews, batches, to
from tests.benchmarks.training_work import N_TRAIN, PHOTOS, Model, Setup, new_model, swapped
from trainables.losses.dice import dice_loss
from trainables.networks import place
from trainables.pretexts import ImageBatch
from trainables.pretexts.views import Views
from trainables.settings import BYOLSettings, MoCoSettings, SimCLRSettings

Loss = Callable[[], Tensor]
SMP = "segmentation-models-pytorch" if find_spec("segmentation_models_pytorch") else "torch"


@dataclass(frozen=True)
class Peer:
    """A model and the loss of its next batch, read and augmented by the call."""

    model: Model
    loss_of: Loss

    def step(self) -> None:
        self.model.step(self.loss_of)


def segmentation(setup: Setup, work: str, workers: int) -> Peer:
    """A plain loop, for finetuning and for the pretext; with smp's Dice loss where smp is there, else with ours."""
    model, count = new_model(setup, work), N_TRAIN if work == "finetune" else None
    found = batches(setup, Photos(setup, FlipAndCrop(setup.size, masks=True), count), workers)
    network = model.module if work == "finetune" else model.module.get_submodule("network")
    criterion = _smp_dice() if SMP != "torch" else dice_loss

    def loss_of() -> Tensor:
        images, masks = to(setup, next(found))
        return criterion(network(images), masks)

    return Peer(model, loss_of)


def _smp_dice() -> Callable[[Tensor, Tensor], Tensor]:
    from segmentation_models_pytorch.losses import DiceLoss

    dice = DiceLoss("binary", smooth=1.0, ignore_index=255)
    return lambda logits, masks: dice(logits, masks[:, None].float())


def classification(setup: Setup, work: str, workers: int) -> Peer:
    """A plain loop."""
    model = new_model(setup, work)
    found = batches(setup, Photos(setup, FlipAndCrop(setup.size, masks=False)), workers)
    module: Any = model.module

    def loss_of() -> Tensor:
        images, labels = to(setup, next(found))
        return nn.functional.cross_entropy(module.logits(images), labels)

    return Peer(model, loss_of)


def decoding(setup: Setup, work: str, workers: int) -> Peer:
    """Reconstruction and ConRec, which no library has: views from a DataLoader, masks and losses are ours."""
    model = new_model(setup, work)
    found = batches(setup, Photos(setup, TwoViews(setup.size)), workers)
    module: Any = model.module
    place = sys.modules[type(module).__module__]
    batch, generator = ImageBatch(torch.empty(0), torch.empty(0), setup.size), torch.Generator().manual_seed(0)

    def views(*args: Any) -> Views:
        first, second, plain_first, plain_second = to(setup, next(found))
        return Views(torch.cat([first, second]), torch.cat([plain_first, plain_second]))

    def loss_of() -> Tensor:
        with swapped(place, {"two_views": views}):
            return module.loss(batch, generator)["loss"]

    return Peer(model, loss_of)


def _lightly(setup: Setup, transform: Any, workers: int) -> Batches:
    """Both views of every batch, from lightly's own data set."""
    from lightly.data import LightlyDataset

    data = LightlyDataset(str(setup.folder / PHOTOS / "images"), transform=transform)
    return (to(setup, views) for views, *_ in batches(setup, data, workers))


def lightly_simclr(setup: Setup, work: str, workers: int) -> Peer:
    """examples/pytorch/simclr.py of lightly."""
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    model = new_model(setup, work)
    found = _lightly(setup, SimCLRTransform(setup.size, normalize=None), workers)
    criterion, module = NTXentLoss(SimCLRSettings().temperature), model.module

    def embed(view: Tensor) -> Tensor:
        pooled = module.get_submodule("pretext.pooling")(module.get_submodule("encoder")(view)[-1])
        return module.get_submodule("pretext.projection")(pooled)

    def loss_of() -> Tensor:
        first, second = next(found)
        return criterion(embed(first), embed(second))

    return Peer(model, loss_of)


def lightly_byol(setup: Setup, work: str, workers: int) -> Peer:
    """examples/pytorch/byol.py of lightly."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.utils import update_momentum
    from lightly.transforms import BYOLTransform
    from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform

    model = new_model(setup, work)
    kinds = (BYOLView1Transform, BYOLView2Transform)
    found = _lightly(setup, BYOLTransform(*(kind(setup.size, normalize=None) for kind in kinds)), workers)
    criterion, part = NegativeCosineSimilarity(), model.module.get_submodule

    def project(side: str, projector: str, view: Tensor) -> Tensor:
        return part(projector)(part("pretext.pooling")(part(side)(view)[-1]))

    def loss_of() -> Tensor:
        momentum = BYOLSettings().momentum
        update_momentum(part("encoder"), part("target.encoder"), m=momentum)
        update_momentum(part("pretext.projector"), part("target.projector"), m=momentum)
        views = next(found)
        predicted = [part("pretext.predictor")(project("encoder", "pretext.projector", view)) for view in views]
        with torch.no_grad():
            aims = [project("target.encoder", "target.projector", view) for view in views]
        return 0.5 * (criterion(predicted[0], aims[1]) + criterion(predicted[1], aims[0]))

    return Peer(Model(model.module, model.optimizer), loss_of)


def byol_pytorch(setup: Setup, work: str, workers: int) -> Peer:
    """The README of byol-pytorch: its learner augments the batch that a DataLoader has read, all images alike."""
    from byol_pytorch import BYOL
    from torchvision.transforms import v2

    ours = new_model(setup, work)
    settings: Any = ours.module.settings
    network = nn.Sequential(_Last(copy.deepcopy(ours.module.get_submodule("encoder"))), nn.AdaptiveAvgPool2d(1))
    learner = BYOL(
        network, setup.size, hidden_layer=1, projection_size=settings.projection,
        projection_hidden_size=settings.hidden, moving_average_decay=settings.momentum,
        use_simplicial_embeddings=False,
    )  # fmt: skip
    place(learner, setup.device, setup.backend.get("precision", "float32"))
    learner.train()
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    resize = v2.Compose([v2.ToImage(), v2.Resize(setup.size), v2.ToDtype(torch.float32, scale=True)])
    found = batches(setup, Photos(setup, OfImage(resize)), workers)
    return Peer(Model(learner, optimizer, learner.update_moving_average), lambda: learner(*to(setup, [next(found)])))


class _Last(nn.Module):
    """The last map of an encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images)[-1]


def lightly_moco(setup: Setup, work: str, workers: int) -> Peer:
    """examples/pytorch/moco.py of lightly, with its memory bank."""
    from lightly.loss import NTXentLoss
    from lightly.models.utils import update_momentum
    from lightly.transforms import MoCoV2Transform

    model = new_model(setup, work)
    settings = MoCoSettings()
    found = _lightly(setup, MoCoV2Transform(setup.size, normalize=None), workers)
    criterion = NTXentLoss(settings.temperature, memory_bank_size=(settings.queue, settings.projection))
    criterion.to(setup.device)
    part = model.module.get_submodule

    def project(side: str, head: str, view: Tensor) -> Tensor:
        return part(head)(part("pretext.pooling")(part(side)(view)[-1]))

    def loss_of() -> Tensor:
        update_momentum(part("encoder"), part("target.encoder"), m=settings.momentum)
        update_momentum(part("pretext.projection"), part("target.projection"), m=settings.momentum)
        first, second = next(found)
        queries = project("encoder", "pretext.projection", first)
        with torch.no_grad():
            keys = project("target.encoder", "target.projection", second)
        return criterion(queries, keys)

    return Peer(Model(model.module, model.optimizer), loss_of)


# Work -> (package, what makes it).
PEERS: dict[str, list[tuple[str, Callable[[Setup, str, int], Peer]]]] = {
    "finetune": [(SMP, segmentation)],
    "simclr": [("lightly", lightly_simclr)],
    "reconstruction": [("torch", decoding)],
    "conrec": [("torch", decoding)],
    "segmentation": [(SMP, segmentation)],
    "classification": [("torch", classification)],
    "byol": [("lightly", lightly_byol), ("byol-pytorch", byol_pytorch)],
    "moco-v2": [("lightly", lightly_moco)],
}
