"""What every pretext must do. A test of a new one subclasses PretextContract and gives its settings."""

import math

import pytest
import torch

from trainables.context import StageError
from trainables.data import open_dataset
from trainables.data.stack import load_stack
from trainables.networks import build_network
from trainables.pretexts import ImageBatch, build_pretext
from trainables.randomness import generator, seed_everything
from trainables.settings import ENCODER_ONLY, NetworkSettings, PretextSettings

NETWORK = NetworkSettings(width=4)
SIZE = 32


class PretextContract:
    """`settings`: of the pretext; `parts`: the parts of the segmentation network whose weights it hands on; `classes`:
    of the masks or labels, for those that need them."""

    settings: PretextSettings
    parts: tuple[str, ...]
    classes = 0

    @pytest.fixture
    def batch(self, tmp_path):
        """Eight shapes with all that a method may need: object or ground, its place, a recoloured copy."""
        listing = open_dataset("shapes", tmp_path, {"count": 8})
        side = SIZE if self.settings.needs else 2 * SIZE
        stack = load_stack(listing, range(8), side, masks=True, cache_dir=tmp_path)
        masks = stack.masks if self.classes == 2 else stack.masks + (stack.images[:, 0] > 127)
        return ImageBatch(
            stack.images,
            stack.boxes,
            SIZE,
            masks=masks.where(stack.masks < 255, stack.masks),
            labels=torch.arange(8) % max(self.classes, 1),
            colored=stack.images.flip(1),
        )

    def fresh(self):
        seed_everything(0, "init")
        return build_pretext(self.settings, NETWORK, self.classes)

    def steps(self, pretext, optimizer, batch, numbers):
        """Training steps on the same draws of the same batch; dropout follows from the step. Gives the losses."""
        losses = []
        for step in numbers:
            seed_everything(0, "step", step)
            loss = pretext.loss(batch, generator(0, "augment"))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pretext.after_step()
            losses.append(loss.item())
        return losses

    def test_every_loss_is_a_finite_scalar_and_every_parameter_gets_a_gradient(self, batch):
        pretext = self.fresh()
        losses = pretext.loss(batch, generator(0))
        assert all(value.shape == () and math.isfinite(value.item()) for value in losses.values())
        losses["loss"].backward()
        trained = {name: p for name, p in pretext.named_parameters() if p.requires_grad}
        assert [name for name, p in trained.items() if p.grad is None] == []
        # What is not trained is a copy that follows, and no optimiser sees it.
        others = [name for name, p in pretext.named_parameters() if name not in trained]
        assert all(name.startswith("target.") for name in others)

    def test_validation_gives_the_losses_and_what_the_metrics_are_made_of(self, batch):
        pretext = self.fresh().eval()
        with torch.no_grad():
            losses, rows = pretext.validate(batch, generator(0))
            again, _ = pretext.validate(batch, generator(1))
        assert set(losses) == set(pretext.loss(batch, generator(0)))
        assert bool(losses["loss"] != again["loss"]) is pretext.random_validation
        found = {"val_loss"} | {f"val_{name}" for name in (pretext.summarise(rows) if rows is not None else {})}
        metric, better = self.settings.metric
        assert metric in found and better in ("min", "max")
        assert rows is None or len(rows) == len(batch.images)

    def test_training_lowers_the_loss(self, batch):
        pretext = self.fresh()
        losses = self.steps(pretext, torch.optim.Adam(pretext.parameters(), lr=3e-3), batch, range(25))
        assert sum(losses[-5:]) < 0.95 * sum(losses[:5])

    def test_the_generator_fixes_the_loss(self, batch):
        pretext = self.fresh().eval()
        first, again, other = (pretext.loss(batch, generator(seed))["loss"] for seed in (1, 1, 2))
        assert first == again and (first != other or "colored" in self.settings.needs)

    def test_weights_go_by_the_names_of_the_segmentation_network(self, batch):
        pretext = self.fresh()
        weights = pretext.weights()
        assert all(name.split(".")[0] in (*self.parts, "pretext") for name in weights)
        network = build_network(NETWORK, out_channels=1)
        for part in self.parts:
            prefix = f"{part}."
            module = getattr(network, part)
            module.load_state_dict({n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)})
        self.steps(pretext, torch.optim.Adam(pretext.parameters()), batch, range(1))
        moved = pretext.weights()
        assert any(not torch.equal(weights[name], moved[name]) for name in weights)  # copies, not views

    def test_grids_know_whether_there_is_a_decoder_to_take_over(self):
        assert ("decoder" not in self.parts) == (self.settings.method in ENCODER_ONLY)
        handed_on = {name.split(".")[0] for name in self.fresh().weights()}
        assert ("decoder" in handed_on) == ("decoder" in self.parts)

    def test_an_encoder_to_start_from_replaces_the_random_one(self, batch):
        seed_everything(7, "another")
        given = {f"encoder.{n}": t for n, t in build_network(NETWORK, out_channels=1).encoder.state_dict().items()}
        counters = [name for name in given if name.endswith("num_batches_tracked")]
        pretext = self.fresh()
        pretext.start_from({n: t for n, t in given.items() if n not in counters} | {"head.bias": torch.ones(1)})
        weights, state = pretext.weights(), pretext.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in given.items())
        copied = {name.removeprefix("target."): t for name, t in state.items() if name.startswith("target.encoder.")}
        assert all(torch.equal(copied[name], given[name]) for name in copied)
        pretext.loss(batch, generator(0))["loss"].backward()
        first = next(iter(given))
        with pytest.raises(StageError, match=f"expected {first} of .* but got none"):
            pretext.start_from({name: t for name, t in given.items() if name != first})
        with pytest.raises(StageError, match=rf"expected {first} of .* but got \[2\]"):
            pretext.start_from(given | {first: torch.ones(2)})

    def test_a_loaded_state_goes_on_as_if_undisturbed(self, batch):
        undisturbed, first, second = self.fresh(), self.fresh(), self.fresh()
        optimizers = [torch.optim.Adam(p.parameters()) for p in (undisturbed, first, second)]
        expected = self.steps(undisturbed, optimizers[0], batch, range(6))
        losses = self.steps(first, optimizers[1], batch, range(3))
        second.load_state_dict(first.state_dict())
        optimizers[2].load_state_dict(optimizers[1].state_dict())
        assert losses + self.steps(second, optimizers[2], batch, range(3, 6)) == expected
        assert all(torch.equal(t, undisturbed.weights()[name]) for name, t in second.weights().items())
