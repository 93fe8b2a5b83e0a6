"""Dials of each segmentation network; every one has a `width`, so that small profiles can shrink it.

Beside the dials, what planning must know of a network without torch: what it `takes`, and the `multiple` that the sides
of its input must be (`trainables.settings.fitting`).

P2 is "Self-supervised semantic segmentation based on self-attention"; smp is segmentation-models-pytorch; sasa, casser
and genesis are the codes that the networks come from (CONTRIBUTING, "Sources").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from trainables.settings._dial import dial, parse

Normalisation = Literal["imagenet", "cem500k", "none"]
Held = Literal["pictures", "volumes"]


@dataclass(frozen=True)
class NetworkSettings:
    """The U-Net of ConRec [P1 §2.3]. `width` is the number of filters of its first block."""

    takes: ClassVar[Held] = "pictures"
    multiple: ClassVar[int] = 8

    name: Literal["conrec-unet"] = "conrec-unet"
    width: int = dial(64, ge=1)


@dataclass(frozen=True)
class ResNet18UNetSettings:
    """smp's U-Net on ResNet-18 [P1 §5.1]. ImageNet weights fit width 64 alone.

    `normalise`: mean and deviation that the encoder takes images of [0, 1] to be of (*open*: those of its weights).
    """

    takes: ClassVar[Held] = "pictures"
    multiple: ClassVar[int] = 32

    name: Literal["resnet18-unet"] = "resnet18-unet"
    width: int = dial(64, ge=8, multiple_of=8)
    normalise: Normalisation = "imagenet"


@dataclass(frozen=True)
class ResNet50UNetSettings:
    """smp's U-Net on ResNet-50 [P2 §IV]; dials as for ResNet-18."""

    takes: ClassVar[Held] = "pictures"
    multiple: ClassVar[int] = 32

    name: Literal["resnet50-unet"] = "resnet50-unet"
    width: int = dial(64, ge=8, multiple_of=8)
    normalise: Normalisation = "imagenet"


@dataclass(frozen=True)
class SasaResNet50UNetSettings:
    """smp's U-Net on ResNet-50 with local attention in place of its 3x3 convolutions [P2 §IV-A].

    `attention`: one softmax per head over q.(k + r), or one per channel over q*(k + r), which is what the code of
    [sasa] computes. `embeddings` of `dot`: each head has rows on its first half of channels and columns on its second
    (`per-head`, *open*: the paper joins half a row and half a column for each attention), or the first half of all
    channels has rows (`halves`), as in [sasa], so that the first heads see rows alone and the last ones columns.
    `per-channel` has always the latter. `width` is a multiple of 2 x `heads`, so that each head has as many channels
    for rows as for columns. `kernel` is odd. `pool`: where a block halves its map (*open*: after the attention, as its
    paper says; [sasa]: at the end of the block's branch).
    """

    takes: ClassVar[Held] = "pictures"
    multiple: ClassVar[int] = 32

    name: Literal["sasa-resnet50-unet"] = "sasa-resnet50-unet"
    width: int = dial(64, ge=8, multiple_of=8)
    attention: Literal["dot", "per-channel"] = "dot"
    embeddings: Literal["per-head", "halves"] = "per-head"
    heads: int = dial(8, ge=1)
    kernel: int = dial(7, ge=1)
    pool: Literal["attention", "branch"] = "attention"
    normalise: Normalisation = "imagenet"

    def misfit(self) -> str | None:
        """Why these dials do not go together; None where they do."""
        if self.kernel % 2 == 0:
            return f"kernel must be an odd number, but is {self.kernel}"
        if self.width % (2 * self.heads):
            return f"width must be a multiple of 2 x heads = {2 * self.heads}, but {self.width} is not"
        return None


@dataclass(frozen=True)
class ClassicUNetSettings:
    """The U-Net of Ronneberger et al. with batch norm and same padding (*open*: P2's "traditional" U-Net)."""

    takes: ClassVar[Held] = "pictures"
    multiple: ClassVar[int] = 16

    name: Literal["classic-unet"] = "classic-unet"
    width: int = dial(64, ge=1)


@dataclass(frozen=True)
class CasserUNetSettings:
    """The U-Net of P2's reference [2] [casser: unet.py]."""

    takes: ClassVar[Held] = "pictures"
    multiple: ClassVar[int] = 16

    name: Literal["casser-unet"] = "casser-unet"
    width: int = dial(16, ge=1)
    dropout: float = dial(0.2, ge=0, lt=1)


@dataclass(frozen=True)
class GenesisUNet3dSettings:
    """The 3D U-Net of Models Genesis [P1 §4; genesis]. `width` is the number of filters of its first convolution.

    `variant`: the Keras network (nearest upsampling), which finetuning in P1 used, or the PyTorch one (transposed
    convolutions), which the published PyTorch weights fit as a whole; the encoders are equal.
    """

    takes: ClassVar[Held] = "volumes"
    multiple: ClassVar[int] = 8

    name: Literal["genesis-unet3d"] = "genesis-unet3d"
    width: int = dial(32, ge=1)
    variant: Literal["keras", "pytorch"] = "keras"


AnyNetworkSettings = (
    NetworkSettings
    | ResNet18UNetSettings
    | ResNet50UNetSettings
    | SasaResNet50UNetSettings
    | ClassicUNetSettings
    | CasserUNetSettings
    | GenesisUNet3dSettings
)
NETWORK_SETTINGS: dict[str, type[AnyNetworkSettings]] = {
    "conrec-unet": NetworkSettings,
    "resnet18-unet": ResNet18UNetSettings,
    "resnet50-unet": ResNet50UNetSettings,
    "sasa-resnet50-unet": SasaResNet50UNetSettings,
    "classic-unet": ClassicUNetSettings,
    "casser-unet": CasserUNetSettings,
    "genesis-unet3d": GenesisUNet3dSettings,
}


def parse_network(values: Mapping[str, Any]) -> AnyNetworkSettings:
    """The settings object of the network that `values["name"]` names (default: conrec-unet).

    Raises:
        TypeError: no such network, or a dial that it has not.
    """
    name = values.get("name", "conrec-unet")
    if name not in NETWORK_SETTINGS:
        raise TypeError(f"no network {name!r}; there are {', '.join(NETWORK_SETTINGS)}")
    return parse(NETWORK_SETTINGS[name], values)
