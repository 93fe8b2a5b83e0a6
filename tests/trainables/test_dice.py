"""The Dice loss against a loop over pixels."""

import math

import pytest
import torch

from trainables.losses.dice import dice_loss


def by_hand(logits, masks):
    hit = predicted = true = 0.0
    for logit, value in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        if value != 255:
            p = 1 / (1 + math.exp(-logit))
            hit, predicted, true = hit + p * value, predicted + p, true + value
    return 1 - (2 * hit + 1) / (predicted + true + 1)


@pytest.mark.parametrize("values", [(0, 1), (0, 1, 255), (0,), (255,)])
def test_equals_the_loop(values):
    torch.manual_seed(0)
    logits = torch.randn(3, 1, 5, 4)
    masks = torch.tensor(values, dtype=torch.uint8)[torch.randint(len(values), (3, 5, 4))]
    assert dice_loss(logits, masks).item() == pytest.approx(by_hand(logits, masks), abs=1e-6)


def test_pixels_not_counted_have_no_gradient():
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    masks = torch.tensor([[[0, 1], [255, 255]]], dtype=torch.uint8)
    dice_loss(logits, masks).backward()
    assert (logits.grad[0, 0, 1] == 0).all() and (logits.grad[0, 0, 0] != 0).all()


def test_falls_towards_zero_for_the_right_answer():
    masks = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    right = (masks.float() * 2 - 1)[:, None] * 50
    assert dice_loss(right, masks).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-right, masks).item() == pytest.approx(1 - 1 / 4, abs=1e-6)
