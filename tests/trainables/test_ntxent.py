"""NT-Xent against the formula written as loops, and against lightly, whose loss is half of it."""

import math

import pytest
import torch
from torch.nn import functional as F

from trainables.losses.ntxent import ntxent


def by_hand(first, second, temperature):
    """The formula, term by term, on lists of floats."""
    a, b = (F.normalize(z, dim=1).tolist() for z in (first, second))

    def e(x, y):
        return math.exp(sum(p * q for p, q in zip(x, y, strict=True)) / temperature)

    def one_side(a, b):
        total = 0.0
        for i in range(len(a)):
            others = sum(e(a[i], a[j]) for j in range(len(a)) if j != i)
            total -= math.log(e(a[i], b[i]) / (sum(e(a[i], b[j]) for j in range(len(a))) + others))
        return total / len(a)

    return one_side(a, b) + one_side(b, a)


@pytest.mark.parametrize(("count", "temperature"), [(2, 0.5), (7, 0.5), (5, 0.1)])
def test_equals_the_formula(count, temperature):
    first, second = torch.randn(2, count, 6, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    assert ntxent(first, second, temperature).item() == pytest.approx(by_hand(first, second, temperature), rel=1e-12)


def test_is_twice_the_loss_of_lightly_with_twice_its_gradient():
    lightly = pytest.importorskip("lightly.loss")
    first, second = torch.randn(2, 16, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first.requires_grad_()
    ours, theirs = ntxent(first, second, 0.5), lightly.NTXentLoss(temperature=0.5)(first, second)
    assert ours.item() == pytest.approx(2 * theirs.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, first)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(gradients[0], 2 * gradients[1])


def test_all_alike_is_the_logarithm_of_the_number_of_candidates():
    same = torch.ones(4, 3)
    assert ntxent(same, same, 0.5).item() == pytest.approx(2 * math.log(7))


def test_needs_two_images():
    with pytest.raises(ValueError, match=r"N >= 2, but got \(1, 3\)"):
        ntxent(torch.ones(1, 3), torch.ones(1, 3), 0.5)
