"""Networks of finished stages, built again from their weights, in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trainables.context import Context, StageError
from trainables.networks import SegmentationNetwork, build_network
from trainables.pretexts.classification import Classification
from trainables.pretexts.conrec import ConRec
from trainables.randomness import seed_everything
from trainables.settings import ClassificationSettings, ConRecSettings, DecodingTask, parse_network

Module = TypeVar("Module", bound=nn.Module)
CLASSIFIER = "pretext.classifier.weight"


def parent_weights(context: Context, role: str) -> dict[str, Tensor]:
    """The tensors of a parent. Raises StageError where there is none of that role."""
    try:
        return context.weights(role)
    except KeyError:
        raise StageError(f"expected the weights of {role!r}, but none were given") from None


def load_encoder(
    network: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str, device: torch.device
) -> nn.Module:
    """The encoder of any stage with weights.

    Args:
        network: its settings.
        tensors: its weights; those under `encoder.` count.
        name: of the model, for messages.

    Raises:
        StageError: a tensor is missing or has another shape.
    """
    encoder = build_network(parse_network(network), out_channels=1).encoder
    given = {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
    return _filled(encoder, given, name, device)


def encoder_of(model: Mapping[str, Any], context: Context, seed: int) -> nn.Module:
    """The encoder of a model in a spec: name, network, and `random: true` where it has no parent but random weights.

    Raises:
        StageError: no weights under its name, or they do not fit.
    """
    if not model.get("random"):
        name = str(model["name"])
        return load_encoder(model["network"], parent_weights(context, name), name, context.device)
    seed_everything(seed, "init")
    encoder: nn.Module = build_network(parse_network(model["network"]), out_channels=1).encoder
    return encoder.to(context.device).eval()


def load_segmentation(
    network: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str, device: torch.device
) -> SegmentationNetwork:
    """The whole network of a binary task, head included. Raises StageError where the weights are not of one."""
    if not any(tensor_name.startswith("head.") for tensor_name in tensors):
        raise StageError(f"{name}: expected weights with a head for a binary task (`head.*`), but it has none")
    built = build_network(parse_network(network), out_channels=1)
    return _filled(built, tensors, name, device)


def load_classifier(
    network: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str, device: torch.device, *, binary: bool = False
) -> Classification:
    """The classifier of a classification pretext; the number of classes is that of its weights.

    Args:
        binary: whether it was trained with `loss: binary`, which weights of more than two classes do not tell.
    """
    if CLASSIFIER not in tensors:
        raise StageError(f"{name}: expected the weights of a classification pretext, but {CLASSIFIER} is not there")
    outputs = len(tensors[CLASSIFIER])
    settings = ClassificationSettings(loss="binary" if binary or outputs == 1 else "cross-entropy")
    classifier = Classification(settings, parse_network(network), 2 if outputs == 1 else outputs)
    return _filled(classifier, tensors, name, device)


def load_conrec(
    network: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tasks: Sequence[DecodingTask],
    name: str,
    device: torch.device,
) -> ConRec:
    """A ConRec pretext with these decoding tasks, as it was when its stage ended."""
    pretext = ConRec(ConRecSettings(tasks=tuple(tasks)), parse_network(network))
    own = {key: key.removeprefix("network.") for key in pretext.state_dict()}  # the names that `Pretext.weights` gives
    return _filled(pretext, {key: tensors[given] for key, given in own.items() if given in tensors}, name, device)


def _filled(module: Module, tensors: Mapping[str, Tensor], name: str, device: torch.device) -> Module:
    own = module.state_dict()
    for key, tensor in own.items():
        if key not in tensors and key.endswith("num_batches_tracked"):
            continue  # a counter that other frameworks' weights lack
        if key not in tensors or tensors[key].shape != tensor.shape:
            found = list(tensors[key].shape) if key in tensors else "none"
            raise StageError(f"{name}: expected {key} of {list(tensor.shape)}, as the network has it, but got {found}")
        tensor.copy_(tensors[key])
    return module.to(device).eval()
