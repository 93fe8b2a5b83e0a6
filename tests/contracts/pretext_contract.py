"""What every pretext must do. A test of a new one subclasses PretextContract and gives its settings."""

import math

import pytest
import torch

from trainables.data import open_dataset
from trainables.data.stack import load_stack
from trainables.networks import build_network
from trainables.pretexts import ImageBatch, build_pretext
from trainables.randomness import generator, seed_everything
from trainables.settings import NetworkSettings, PretextSettings

NETWORK = NetworkSettings(width=4)
SIZE = 32


class PretextContract:
    """`settings`: of the pretext; `parts`: the parts of the segmentation network whose weights it hands on."""

    settings: PretextSettings
    parts: tuple[str, ...]

    @pytest.fixture
    def batch(self, tmp_path):
        listing = open_dataset("shapes", tmp_path, {"count": 8})
        stack = load_stack(listing, range(8), 2 * SIZE, masks=False, cache_dir=tmp_path)
        return ImageBatch(stack.images, stack.boxes, SIZE)

    def fresh(self):
        seed_everything(0, "init")
        return build_pretext(self.settings, NETWORK)

    def steps(self, pretext, optimizer, batch, numbers):
        """Training steps on the same draws of the same batch; dropout follows from the step. Gives the losses."""
        losses = []
        for step in numbers:
            seed_everything(0, "step", step)
            loss = pretext.loss(batch, generator(0, "augment"))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def test_every_loss_is_a_finite_scalar_and_every_parameter_gets_a_gradient(self, batch):
        pretext = self.fresh()
        losses = pretext.loss(batch, generator(0))
        assert all(value.shape == () and math.isfinite(value.item()) for value in losses.values())
        losses["loss"].backward()
        assert [name for name, p in pretext.named_parameters() if p.grad is None] == []

    def test_training_lowers_the_loss(self, batch):
        pretext = self.fresh()
        losses = self.steps(pretext, torch.optim.Adam(pretext.parameters(), lr=3e-3), batch, range(25))
        assert sum(losses[-5:]) < 0.95 * sum(losses[:5])

    def test_the_generator_fixes_the_loss(self, batch):
        pretext = self.fresh().eval()
        first, again, other = (pretext.loss(batch, generator(seed))["loss"] for seed in (1, 1, 2))
        assert first == again and first != other

    def test_weights_go_by_the_names_of_the_segmentation_network(self, batch):
        pretext = self.fresh()
        weights = pretext.weights()
        network = build_network(NETWORK, out_channels=1)
        for part in self.parts:
            prefix = f"{part}."
            module = getattr(network, part)
            module.load_state_dict({n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)})
        known = (*self.parts, "pretext")
        assert {name.split(".")[0] for name in weights} == set(known)
        self.steps(pretext, torch.optim.Adam(pretext.parameters()), batch, range(1))
        moved = pretext.weights()
        assert any(not torch.equal(weights[name], moved[name]) for name in weights)  # copies, not views

    def test_a_loaded_state_goes_on_as_if_undisturbed(self, batch):
        undisturbed, first, second = self.fresh(), self.fresh(), self.fresh()
        optimizers = [torch.optim.Adam(p.parameters()) for p in (undisturbed, first, second)]
        expected = self.steps(undisturbed, optimizers[0], batch, range(6))
        losses = self.steps(first, optimizers[1], batch, range(3))
        second.load_state_dict(first.state_dict())
        optimizers[2].load_state_dict(optimizers[1].state_dict())
        assert losses + self.steps(second, optimizers[2], batch, range(3, 6)) == expected
        assert all(torch.equal(t, undisturbed.weights()[name]) for name, t in second.weights().items())
