"""The probe stage: logistic regression on what a frozen encoder says of whole images [P2 §IV-B, Fig. 3a]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.context import Context, Result, StageError
from trainables.data import Listing, open_dataset, survey
from trainables.data.split import split_probe
from trainables.data.stack import load_stack
from trainables.devices import move
from trainables.downstream.class_metrics import confusion_csv, confusion_matrix, summarise_classes
from trainables.downstream.scenarios import transfer
from trainables.networks import build_network, place, require_input_size
from trainables.numeric import apply_backend
from trainables.randomness import batch_indices, seed_everything
from trainables.settings import BackendSettings, ProbeSettings, parse, parse_network
from trainables.training import make_optimizer, train, use_backend

# Fixed, since the digits of a convolution may depend on it.
FEATURE_BATCH = 64


@dataclass(frozen=True)
class Part:
    """Features float32 [n, D] and labels int64 [n] of the images of a part, on the training device."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def probe(spec: Mapping[str, Any], context: Context) -> Result:
    """Run a probe stage: features once, then a linear layer by cross-entropy; the best validation epoch counts.

    Args:
        spec: network, data (reader, options, fraction of the training part), probe, backend, seed; `pretrained: true`
            where the encoder is a parent's, else it is a random one.
        context: the parent's weights under the role "pretrain".

    Returns:
        Metrics on the evaluation part (`summarise_classes`), loss (cross-entropy there) and val_accuracy. Weights:
        probe.weight [C, D] and probe.bias [C] of the layer, for class activation maps, and confusion int64 [C, C],
        rows true. Facts: n_train, n_validation, n_eval, features (D), classes, confusion, best_step, transferred
        (tensors taken over), resumed_from. File confusion.csv.

    Raises:
        StageError: weights or sizes do not fit; Diverged: the loss was not finite.
        DataError: the dataset is missing, faulty, without labels or too small.
    """
    backend = parse(BackendSettings, spec.get("backend", {}))
    use_backend(backend)
    settings, seed = parse(ProbeSettings, spec["probe"]), int(spec["seed"])
    encoder, transferred = _encoder(spec, settings, backend.precision, context, seed)
    apply_backend(nn.ModuleDict({"encoder": encoder}), backend, context.device)
    training, validation, evaluation, classes = _parts(spec["data"], settings, encoder, seed, context)
    seed_everything(seed, "head")
    head = nn.Linear(training.features.shape[1], len(classes)).to(context.device)
    best = Best()
    batch = min(settings.batch, len(training))
    resumed_from = train(
        head,
        make_optimizer(settings, head),
        _loss(head, training, batch, seed),
        _curve(head, validation, best),
        steps=math.ceil(Fraction(str(settings.epochs)) * len(training) / batch),
        report_every=math.ceil(len(training) / batch),
        seed=seed,
        context=context,
        extra_state=[best],
    )
    head.load_state_dict(best.weights)
    loss, confusion = _measure(head, evaluation)
    metrics = {**summarise_classes(confusion), "loss": loss, "val_accuracy": best.accuracy}
    weights = {"probe.weight": head.weight.detach(), "probe.bias": head.bias.detach(), "confusion": confusion}
    facts = {
        "n_train": len(training),
        "n_validation": len(validation),
        "n_eval": len(evaluation),
        "features": training.features.shape[1],
        "classes": list(classes),
        "confusion": confusion.tolist(),
        "best_step": best.step,
        "transferred": transferred,
        "resumed_from": resumed_from,
    }
    return Result(metrics, weights, facts, {"confusion.csv": confusion_csv(confusion, classes)})


class Best:
    """The layer of the epoch with the highest validation accuracy, of equal ones that with the least loss."""

    def __init__(self) -> None:
        self.step, self.accuracy, self.loss = 0, -1.0, math.inf
        self.weights: dict[str, Tensor] = {}

    def point(self, step: int, accuracy: float, loss: float, head: nn.Module) -> None:
        """Take note of an epoch's end."""
        if (accuracy, -loss) > (self.accuracy, -self.loss):
            self.step, self.accuracy, self.loss = step, accuracy, loss
            self.weights = {name: tensor.clone() for name, tensor in head.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs."""
        return {"step": self.step, "accuracy": self.accuracy, "loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.step, self.accuracy, self.loss = state["step"], state["accuracy"], state["loss"]
        self.weights = dict(state["weights"])


def _encoder(
    spec: Mapping[str, Any], settings: ProbeSettings, precision: str, context: Context, seed: int
) -> tuple[nn.Module, int]:
    """The frozen encoder on its device, and the number of tensors taken over from the parent."""
    seed_everything(seed, "init")
    network = build_network(parse_network(spec["network"]), out_channels=1)
    require_input_size(network, settings.input_size)
    transferred = 0
    if spec.get("pretrained"):
        try:
            tensors = context.weights("pretrain")
        except KeyError:
            raise StageError("probe: expected the weights of a pretrain stage, but none were given") from None
        transferred = len(transfer(network, tensors, "probe"))
    network.freeze_encoder()
    place(network.encoder, context.device, precision)
    return network.encoder, transferred


def _parts(
    data: Mapping[str, Any], settings: ProbeSettings, encoder: nn.Module, seed: int, context: Context
) -> tuple[Part, Part, Part, tuple[str, ...]]:
    """Training, validation and evaluation part, and the names of the classes."""
    listing = open_dataset(data["reader"], context.data_root, data.get("options"), cache_dir=context.cache_dir)
    found = survey(listing, cache_dir=context.cache_dir, planned=context.fingerprint)
    found.check()
    context.check_data(data["reader"], found.fingerprint)
    parts = split_probe(listing, data.get("fraction"), settings.shares, seed)
    stack = load_stack(
        listing,
        listing.labelled,
        settings.input_size,
        masks=False,
        fingerprint=found.fingerprint,
        cache_dir=context.cache_dir,
    )
    assert stack.labels is not None  # `split_probe` refuses sets without
    features = pooled_features(encoder, stack.images, context)
    labels, row_of = stack.labels.to(context.device), {number: row for row, number in enumerate(listing.labelled)}

    def part(numbers: Sequence[int]) -> Part:
        rows = torch.tensor([row_of[number] for number in numbers], device=context.device)
        return Part(features[rows], labels[rows])

    return part(parts[0]), part(parts[1]), part(parts[2]), _classes(listing)


@torch.no_grad()
def pooled_features(encoder: nn.Module, images: Tensor, context: Context) -> Tensor:
    """The mean of the encoder's last map over its pixels: float32 [N, D] of images uint8 [N, 3, S, S], on the device.

    Not scaled (*open*: P2 says nothing of it).
    """
    encoder.eval()
    found = []
    for first in range(0, len(images), FEATURE_BATCH):
        batch = images[first : first + FEATURE_BATCH].to(context.device)
        found.append(encoder(batch.float() / 255)[-1].float().mean(dim=(2, 3)))
        context.progress(0, len(images))  # a stage that somebody took over ends here
    return torch.cat(found)


def _classes(listing: Listing) -> tuple[str, ...]:
    count = max(label for label in listing.labels if label is not None) + 1
    return listing.label_names or tuple(map(str, range(max(2, count))))


def _loss(head: nn.Module, training: Part, batch: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Step number -> the loss of that step's batch."""

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = move(batch_indices(len(training), batch, step, seed, "order"), training.labels.device)
        return {"loss": F.cross_entropy(head(training.features[rows]), training.labels[rows])}

    return loss_of


def _curve(head: nn.Module, validation: Part, best: Best) -> Callable[[int], dict[str, float]]:
    """Step number -> accuracy and loss of the validation part; `best` takes note, the untrained layer left out."""

    def point(step: int) -> dict[str, float]:
        loss, confusion = _measure(head, validation)
        accuracy = summarise_classes(confusion)["accuracy"]
        if step > 0:
            best.point(step, accuracy, loss, head)
        return {"val_accuracy": accuracy, "val_loss": loss}

    return point


@torch.no_grad()
def _measure(head: nn.Module, part: Part) -> tuple[float, Tensor]:
    """(cross-entropy, confusion matrix)."""
    logits = head(part.features)
    confusion = confusion_matrix(logits.argmax(dim=1), part.labels, logits.shape[1])
    return float(F.cross_entropy(logits, part.labels)), confusion
