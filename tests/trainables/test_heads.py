"""Pooling and projection against published parameter counts and their formulas."""

import torch
from torch import nn

from trainables.pretexts.heads import AttentionPooling, ProjectionHead


def trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def statistics(module):
    """Numbers in running means and variances, which Keras counts as parameters."""
    return sum(b.numel() for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var")))


def test_counts_of_the_paper():
    assert (trainable(ProjectionHead(512)), statistics(ProjectionHead(512))) == (592_000, 2_304)
    assert (trainable(AttentionPooling(512)), statistics(AttentionPooling(512))) == (173_441, 896)


def test_projection_is_drawn_narrow_without_bias_and_its_last_norm_does_not_shift():
    torch.manual_seed(0)
    head = ProjectionHead(512)
    dense = [m for m in head if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features, m.bias) for m in dense] == [
        (512, 512, None), (512, 512, None), (512, 128, None)]  # fmt: skip
    assert all(abs(m.weight.std().item() / 0.01 - 1) < 0.02 for m in dense)
    assert [type(m).__name__ for m in head] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]  # fmt: skip
    with torch.no_grad():
        head[-1].weight.fill_(2.0)
    out = head(torch.randn(64, 512))
    torch.testing.assert_close(out.mean(0), torch.zeros(128), atol=1e-4, rtol=0)
    assert (out.std(0, correction=0) > 1.5).all()  # 2, but for eps beside the small variances of the first weights


def test_projection_of_another_width_keeps_its_shape():
    assert ProjectionHead(64)(torch.randn(4, 64)).shape == (4, 16)


def test_attention_pooling_is_the_weighted_mean():
    torch.manual_seed(0)
    pooling = AttentionPooling(16).eval()
    encoded = torch.randn(3, 16, 4, 5)
    norms = [m for m in pooling.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [(m.num_features, m.eps, m.momentum) for m in norms] == [(8, 1e-3, 0.01), (4, 1e-3, 0.01), (2, 1e-3, 0.01)]

    x = encoded
    convolutions = [m for m in pooling.modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions[:-1]:
        x = torch.einsum("nchw,oc->nohw", x, convolution.weight[:, :, 0, 0]) + convolution.bias[:, None, None]
        x = (x / (1 + 1e-3) ** 0.5).relu()  # norms at their start: mean 0, variance 1
    a = torch.sigmoid(torch.einsum("nchw,oc->nohw", x, convolutions[-1].weight[:, :, 0, 0]))
    expected = (a * encoded).sum((2, 3)) / a.sum((2, 3))
    torch.testing.assert_close(pooling(encoded), expected)


def test_dropout_acts_on_the_attention_only():
    torch.manual_seed(0)
    pooling, encoded = AttentionPooling(16), torch.randn(3, 16, 4, 5)
    assert not torch.equal(pooling(encoded), pooling(encoded))  # training: dropout draws anew
    last = [m for m in pooling.modules() if isinstance(m, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)  # an even attention: what is left is the mean of what was not dropped
    torch.testing.assert_close(pooling(encoded), encoded.mean((2, 3)))
