"""The ConRec U-Net against published and layer-by-layer counted parameters, shapes and initial values."""

import pytest
import torch
from torch import nn

from trainables.context import StageError
from trainables.networks import build_network, place, require_input_size
from trainables.settings import NetworkSettings


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def paper_network():
    return build_network(NetworkSettings(width=64), out_channels=1)


@pytest.fixture
def small():
    torch.manual_seed(0)
    return build_network(NetworkSettings(width=4), out_channels=2)


@pytest.mark.parametrize(("channels", "expected"), [(1, 7_875_905), (3, 7_876_035)])
def test_trainable_parameters_at_width_64(channels, expected):
    assert count(build_network(NetworkSettings(), channels)) == expected


def test_parameters_of_the_parts(paper_network):
    parts = [count(getattr(paper_network, part)) for part in ("encoder", "skips", "decoder", "head")]
    assert parts == [4_689_216, 87_360, 3_099_264, 65]
    assert [count(block) for block in paper_network.encoder.blocks] == [38_976, 221_952, 886_272, 3_542_016]
    assert [count(skip) for skip in paper_network.skips] == [4_288, 16_768, 66_304]
    assert [count(block) for block in paper_network.decoder.blocks] == [2_360_832, 590_592, 147_840]


def test_keras_count_with_batch_norm_statistics(paper_network):
    statistics = sum(b.numel() for name, b in paper_network.named_buffers() if name.endswith(("_mean", "_var")))
    assert count(paper_network) + statistics == 7_882_433


@pytest.mark.parametrize(("side", "encoded"), [(64, 8), (128, 16), (224, 28)])
def test_encoder_output(paper_network, side, encoded):
    with torch.no_grad():
        features = paper_network.encoder(torch.zeros(1, 3, side, side))
    assert features[-1].shape == (1, 512, encoded, encoded)
    assert paper_network.encoder_channels == 512
    assert [f.shape[1] for f in features] == [64, 128, 256, 512]


def test_forward_is_head_of_decode_of_encoder(small):
    images = torch.rand(2, 3, 32, 24)
    small.eval()
    decoded = small.decode(small.encoder(images))
    assert decoded.shape == (2, small.decoder_channels, 32, 24)
    assert torch.equal(small(images), small.head(decoded))
    assert small(images).shape == (2, 2, 32, 24)


def test_width_scales_every_part(small):
    """Counted by hand: a block of kernel k from i to o has (k*k*i + 1)*o + 2*o parameters."""

    def block(i, o, k):
        return (k * k * i + 1) * o + 2 * o

    pairs = [(3, 4), (4, 8), (8, 16), (16, 32)]
    assert count(small.encoder) == sum(block(i, o, 3) + block(o, o, 3) for i, o in pairs)
    assert count(small.skips) == sum(block(w, w, 1) for w in (4, 8, 16))
    assert count(small.decoder) == sum(block(i, o, 3) + block(o, o, 3) for i, o in [(48, 16), (24, 8), (12, 4)])


def test_initial_values_are_those_of_keras(paper_network):
    for module in paper_network.modules():
        if isinstance(module, nn.Conv2d):
            out, inputs, k, _ = module.weight.shape
            limit = (6 / (k * k * (inputs + out))) ** 0.5
            assert module.weight.abs().max() <= limit
            if module.weight.numel() > 5_000:
                assert module.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
            assert torch.count_nonzero(module.bias) == 0
        if isinstance(module, nn.BatchNorm2d):
            assert (module.momentum, module.eps) == (0.1, 1e-5)


def test_every_parameter_gets_a_gradient(small):
    small(torch.rand(2, 3, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in small.parameters())


def test_up_sampling_repeats_pixels_and_comes_before_the_skip(small):
    block = small.decoder.blocks[0]
    given = []
    block.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    features = small.encoder(torch.rand(1, 3, 16, 16))
    small.decode(features)
    repeated = features[-1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(given[0][:, :32], repeated)


def test_frozen_encoder_stays_as_it_is(small):
    small.freeze_encoder()
    before = {name: tensor.clone() for name, tensor in small.encoder.state_dict().items()}
    small.train()
    assert small.decoder.training and not any(m.training for m in small.encoder.modules())
    small(torch.rand(2, 3, 16, 16)).mean().backward()
    assert all(p.grad is None for p in small.encoder.parameters())
    assert all(p.grad is not None for p in small.decoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.encoder.state_dict().items())


def test_placing_changes_the_layout_only(small):
    small.eval()
    images = torch.rand(2, 3, 16, 16)
    before = small(images)
    weights = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    place(small, torch.device("cpu"))
    assert small.encoder.blocks[1][0][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in small.state_dict().items())
    torch.testing.assert_close(small(images), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [0, 4, 30, 100])
def test_input_size_that_does_not_fit(small, size):
    with pytest.raises(StageError, match=f"input_size: expected a multiple of 8 .* got {size}"):
        require_input_size(small, size)


def test_input_size_that_fits(small):
    require_input_size(small, 8)
    require_input_size(small, 224)


def test_unknown_network_and_width():
    with pytest.raises(StageError, match="no network 'unet'; there are conrec-unet"):
        build_network(NetworkSettings(name="unet"), 1)  # type: ignore[arg-type]
    with pytest.raises(StageError, match="width"):
        build_network(NetworkSettings(width=0), 1)
