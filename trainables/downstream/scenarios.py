"""Scenario -> which tensors of the pretrained network the finetuned one starts from [P1 §1, Fig. 1].

The encoder is the convolution blocks with their batch-norm statistics. The 1x1 skip convolutions count as decoder
(SimCLR and classification never train them); the output convolution goes with the decoder where its shape fits,
unless it is to start at random.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.context import StageError
from trainables.networks import SegmentationNetwork

ENCODER = ("encoder.",)
DECODER = ("skips.", "decoder.")

SCENARIOS: dict[str, tuple[str, ...]] = {
    "random-init": (),
    "cls-enc": ENCODER,
    "seg-enc-dec": ENCODER + DECODER,
    "seg-enc": ENCODER,
    "probe": ENCODER,
}
# A counter that nothing reads while batch norm has a fixed momentum; other frameworks' weights lack it.
OPTIONAL = "num_batches_tracked"
NAMED_IN_ERRORS = 3


def transferred_parts(scenario: str) -> tuple[str, ...]:
    """Prefixes of the tensor names that `scenario` takes over. Raises StageError for an unknown scenario."""
    if scenario not in SCENARIOS:
        raise StageError(f"no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[scenario]


@torch.no_grad()
def transfer(
    network: SegmentationNetwork, tensors: Mapping[str, Tensor], scenario: str, head: str = "fitting"
) -> list[str]:
    """Copy what `scenario` takes over from `tensors` into `network`; the names of the tensors copied.

    Args:
        head: what becomes of the output convolution where the decoder is taken over: "fitting" takes it too, if it has
            the network's shape; "random" leaves it as it is.

    Raises:
        StageError: a tensor to be taken over is missing or has another shape (the head may: it then stays random).
    """
    parts = transferred_parts(scenario)
    state = network.state_dict()
    wanted = [name for name in state if name.startswith(parts)] if parts else []
    missing = [name for name in wanted if name not in tensors and not name.endswith(OPTIONAL)]
    if missing:
        raise StageError(f"scenario {scenario}: the pretrained weights lack {_first(missing)}")
    names = [name for name in wanted if name in tensors]
    unequal = [_shapes(name, tensors[name], state[name]) for name in names if tensors[name].shape != state[name].shape]
    if unequal:
        raise StageError(
            f"scenario {scenario}: expected the shapes of the network to be finetuned (same name and width as in "
            f"pretraining), but got {_first(unequal)}"
        )
    if "decoder." in parts and head == "fitting":
        names += _fitting_head(state, tensors)
    for name in names:
        state[name].copy_(tensors[name])
    return names


def _fitting_head(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """The output convolution's tensors if all of them are there in the network's shape, else none."""
    head = [name for name in state if name.startswith("head.")]
    fits = all(name in tensors and tensors[name].shape == state[name].shape for name in head)
    return head if fits else []


def _shapes(name: str, given: Tensor, expected: Tensor) -> str:
    return f"{name} of {list(given.shape)} instead of {list(expected.shape)}"


def _first(items: list[str]) -> str:
    more = len(items) - NAMED_IN_ERRORS
    return ", ".join(items[:NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
