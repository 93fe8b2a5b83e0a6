"""Models Genesis [P1 §4; genesis: utils.py, pytorch/Genesis_Chest_CT.py]: a 3D network learns to undo deformations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.context import StageError
from trainables.data.cube_stack import as_images
from trainables.networks import build_network, require_input_size
from trainables.networks._base import takes_volumes
from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.volume_transforms import deform, draw_deformations
from trainables.settings import AnyNetworkSettings, ModelsGenesisSettings


class ModelsGenesis(Pretext):
    """The segmentation network with one output, as finetuning has it: 16,320,257 parameters at width 32.

    Raises:
        StageError: the network takes pictures.
    """

    def __init__(self, settings: ModelsGenesisSettings, network: AnyNetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network = build_network(network, out_channels=1)
        if not takes_volumes(self.network):
            raise StageError(f"models-genesis: expected a network of volumes (genesis-unet3d), but got {network.name}")
        self.minimum_multiple = self.network.minimum_multiple

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss"}: the mean squared error of sigmoid(network(deformed)) against the cube, flipped as the input is."""
        cubes = as_images(batch.images)
        x, y, z = cubes.shape[2:]
        for side in (x, y, z):
            require_input_size(self.network, side)
        deformed, target = deform(cubes, draw_deformations(len(cubes), (x, y, z), self.settings, generator))
        return {"loss": F.mse_loss(torch.sigmoid(self.network(deformed)), target)}
