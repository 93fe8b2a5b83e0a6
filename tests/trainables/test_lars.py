"""LARS against plain numpy, written from the formula, and against lightly where the two definitions agree."""

import numpy as np
import pytest
import torch
from torch import nn

from trainables.optimizers.lars import LARS

LR, MOMENTUM, DECAY, ETA = 0.3, 0.9, 1e-2, 1e-3


def numpy_step(w, g, v, adapt):
    """One update of one array, in float64."""
    trust = 1.0
    if adapt:
        g = g + DECAY * w
        norms = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
        trust = ETA * norms[0] / norms[1] if min(norms) > 0 else 1.0
    v = MOMENTUM * v + LR * trust * g
    return w - v, v


def test_steps_of_a_network_follow_the_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 4, 2)).double()
    optimizer = LARS(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, eta=ETA)
    arrays = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    buffers = {name: np.zeros_like(a) for name, a in arrays.items()}
    adapted = {"0.weight", "3.weight"}
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 2, 4, 4, dtype=torch.float64)).square().mean().backward()
        for name, p in model.named_parameters():
            arrays[name], buffers[name] = numpy_step(
                arrays[name], p.grad.numpy().copy(), buffers[name], name in adapted
            )
        optimizer.step()
        for name, p in model.named_parameters():
            np.testing.assert_allclose(p.detach().numpy(), arrays[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_change_of_rate_acts_on_new_gradients_only():
    """The rate is inside the buffer: after it is set to 0, the old momentum still moves the weights."""
    p = nn.Parameter(torch.ones(3))
    optimizer = LARS([p], lr=1.0, momentum=0.5)
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 1 - 1.0 - 0.5))


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_trust_is_one_if_a_norm_is_zero(zero):
    value, gradient = torch.full((2, 2), 2.0), torch.full((2, 2), 3.0)
    p = nn.Parameter(torch.zeros(2, 2) if zero == "weight" else value.clone())
    p.grad = gradient if zero == "weight" else torch.zeros(2, 2)
    expected = p.detach() - p.grad
    LARS([p], lr=1.0, momentum=0.0, weight_decay=0.0).step()
    torch.testing.assert_close(p.detach(), expected)


def test_gradients_are_left_as_they_were():
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.full((2, 2), 0.5)
    LARS([p], lr=1.0).step()
    assert torch.equal(p.grad, torch.full((2, 2), 0.5))


def test_parameter_without_gradient_is_left_alone():
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.ones(2, 2)
    LARS([unused, used], lr=1.0).step()
    assert torch.equal(unused.detach(), torch.ones(2, 2))
    assert not torch.equal(used.detach(), torch.ones(2, 2))


def test_agrees_with_lightly_where_gradient_and_weight_are_parallel():
    """lightly divides by ||g|| + wd ||w||, we by ||g + wd w||: equal if g is a multiple of w (as of ||w||^2)."""
    lightly = pytest.importorskip("lightly.utils.lars")
    torch.manual_seed(0)
    start = torch.randn(4, 5, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [
        LARS([ours], lr=LR, momentum=MOMENTUM, weight_decay=DECAY, eta=ETA),
        lightly.LARS([theirs], lr=LR, momentum=MOMENTUM, weight_decay=DECAY, trust_coefficient=ETA, eps=0.0),
    ]
    for _ in range(20):
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (p.square().sum() / 2).backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert not torch.allclose(ours, start, rtol=1e-3)


def test_state_survives_saving(tmp_path):
    torch.manual_seed(0)
    gradients = torch.randn(4, 3, 2)

    def run(p, optimizer, steps):
        for g in gradients[steps]:
            p.grad = g.clone()
            optimizer.step()

    whole = nn.Parameter(torch.ones(3, 2))
    run(whole, LARS([whole], lr=LR), slice(0, 4))
    first = nn.Parameter(torch.ones(3, 2))
    optimizer = LARS([first], lr=LR)
    run(first, optimizer, slice(0, 2))
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    second = nn.Parameter(first.detach().clone())
    optimizer = LARS([second], lr=LR)
    optimizer.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    run(second, optimizer, slice(2, 4))
    assert torch.equal(whole, second)


def test_negative_setting_is_an_error():
    with pytest.raises(ValueError, match="momentum must be at least 0"):
        LARS([nn.Parameter(torch.ones(1))], lr=1.0, momentum=-0.1)
