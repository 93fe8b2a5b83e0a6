"""Fused networks against the networks themselves: logits, gradients, statistics, one optimiser for all."""

import pytest
import torch

from trainables.networks import NETWORKS, build_network, place
from trainables.networks.fused import FusedNetwork
from trainables.optimizers.fused import FusedOptimizer
from trainables.randomness import seed_everything
from trainables.settings import FinetuneSettings, parse_network
from trainables.training import make_optimizer

CPU = torch.device("cpu")
CELLS = 3
CASES = [
    {"name": "conrec-unet", "width": 3},
    {"name": "resnet18-unet", "width": 8},
    {"name": "resnet50-unet", "width": 8},
    {"name": "sasa-resnet50-unet", "width": 16, "kernel": 3},
    {"name": "sasa-resnet50-unet", "width": 16, "kernel": 3, "heads": 2, "pool": "branch", "normalise": "none"},
    {"name": "classic-unet", "width": 3},
    {"name": "casser-unet", "width": 4},
    {"name": "genesis-unet3d", "width": 2},
    {"name": "genesis-unet3d", "width": 2, "variant": "pytorch"},
]


def named(case):
    return "-".join(map(str, case.values()))


def networks(case):
    made = []
    for seed in range(CELLS):
        seed_everything(seed, "init")
        made.append(build_network(parse_network(case), 2).double())
    return made


def inputs(case, count=3):
    torch.manual_seed(5)
    shape = (1, 16, 16, 8) if case["name"] == "genesis-unet3d" else (3, 32, 32)
    return torch.rand(CELLS, count, *shape, dtype=torch.float64)


def score(logits):
    return (logits.sigmoid() * torch.linspace(0, 1, logits.shape[-1], dtype=logits.dtype)).mean()


def test_every_network_is_tried():
    assert {case["name"] for case in CASES} == set(NETWORKS)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("case", CASES, ids=named)
def test_logits_gradients_and_statistics_are_those_of_the_networks(case, frozen):
    alone, together, images = networks(case), networks(case), inputs(case)
    for network in [*alone, *together]:
        if frozen:
            network.freeze_encoder()
    fused = FusedNetwork(together, CPU)
    fused.share(together)
    fused.train()
    fused.seed_dropout(range(CELLS))
    logits = fused(images)
    sum(score(own) for own in logits).backward()
    gradients = dict(fused.body.named_parameters())
    for cell, network in enumerate(alone):
        place(network, CPU)
        network.train()
        torch.manual_seed(cell)
        expected = network(images[cell])
        torch.testing.assert_close(logits[cell], expected)
        score(expected).backward()
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                found = gradients[name].grad.chunk(CELLS)[cell]
                torch.testing.assert_close(
                    found, parameter.grad, rtol=1e-6, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
                )
            else:
                assert gradients[name].grad is None
        torch.testing.assert_close(together[cell].state_dict(), network.state_dict())  # the statistics have moved
        network.eval()
        together[cell].eval()
        torch.testing.assert_close(together[cell](images[cell]), network(images[cell]))
    fused.eval()
    with torch.no_grad():
        torch.testing.assert_close(fused(images)[1], alone[1](images[1]))


def test_cells_see_nothing_of_each_other():
    """What one cell's images, or its faulty weights, do to its own logits they do to no other's."""
    case = CASES[0]
    made, images = networks(case), inputs(case)
    fused = FusedNetwork(made, CPU).train()
    before = fused(images)
    with torch.no_grad():
        made[1].decoder.blocks[0][0][0].weight.fill_(torch.nan)
    changed = images.clone()
    changed[1] = 0
    broken = FusedNetwork(made, CPU).train()
    after = broken(changed)
    assert after[1].isnan().all()
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    sum(score(own) for own in after).backward()
    for parameter in broken.body.parameters():
        parts = parameter.grad.chunk(CELLS)
        assert parts[0].isfinite().all() and parts[2].isfinite().all()


@pytest.mark.parametrize(
    "dials",
    [{"optimizer": "adam"}, {"optimizer": "adam", "weight_decay": 0.1}, {"optimizer": "sgd", "weight_decay": 0.1}],
    ids=str,
)
def test_the_optimiser_is_that_of_each_cell_at_its_own_rate(dials):
    """Without batch norm, as there Adam makes full steps of the rounding of gradients that are zero."""
    settings, case = FinetuneSettings(**dials, learning_rate=0.01), {"name": "casser-unet", "width": 4, "dropout": 0.0}
    alone, together, images = networks(case), networks(case), inputs(case)
    separate = [make_optimizer(settings, network) for network in alone]
    rates = [make_optimizer(settings, network) for network in together]
    fused = FusedNetwork(together, CPU).train()
    fused.share(together)
    optimizer = FusedOptimizer(settings, fused, rates, [own.state_dict() for own in rates])
    for step in range(4):
        if step == 2:
            for optimizers in (separate, rates):
                optimizers[1].param_groups[0]["lr"] *= 0.1
        optimizer.zero_grad()
        sum(score(own) for own in fused(images)).backward()
        optimizer.step()
        for network, own, its_images in zip(alone, separate, images, strict=True):
            place(network, CPU)
            own.zero_grad()
            score(network(its_images)).backward()
            own.step()
    for network, other in zip(together, alone, strict=True):
        torch.testing.assert_close(network.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-9)
    for found, own in zip(optimizer.state_dicts(), separate, strict=True):
        expected = own.state_dict()
        torch.testing.assert_close(found["state"], expected["state"], rtol=1e-6, atol=1e-9)
        assert found["param_groups"] == expected["param_groups"]
