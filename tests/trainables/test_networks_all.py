"""What holds for every network, and each against published counts, torchvision, smp, or its definition."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from trainables.networks import NETWORKS, build_network, place
from trainables.networks.resnet import STATISTICS, resnet18_encoder, resnet50_encoder
from trainables.settings import NETWORK_SETTINGS, NetworkSettings, parse_network

# name: parameters with one output channel, of the encoder, channels of E, side of the input per side of E
PUBLISHED = {
    "conrec-unet": (7_875_905, 4_689_216, 512, 8),
    "resnet18-unet": (14_328_209, 11_176_512, 512, 32),
    "resnet50-unet": (32_521_105, 23_508_032, 2048, 32),
    "sasa-resnet50-unet": (25_002_705, 15_989_632, 2048, 32),
    "classic-unet": (31_043_521, 18_851_136, 1024, 16),
    "casser-unet": (1_958_533, 1_178_480, 256, 16),
    "genesis-unet3d": (16_320_257, 7_027_776, 512, 8),
}
SMALL = {name: {"name": name, "width": 16} for name in NETWORKS}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(name, out_channels=1, **dials):
    torch.manual_seed(0)
    return build_network(parse_network({**SMALL[name], **dials}), out_channels)


def images_for(network, count=2, factor=(2, 3, 1)):
    """Random images of odd multiples of the least side."""
    is_3d = isinstance(network.head, nn.Conv3d)
    sides = [network.minimum_multiple * f for f in factor[: 3 if is_3d else 2]]
    return torch.rand(count, 1 if is_3d else 3, *sides)


def test_settings_and_networks_are_the_same_list():
    assert NETWORKS.keys() == NETWORK_SETTINGS.keys() == PUBLISHED.keys()
    assert all(settings().name == name for name, settings in NETWORK_SETTINGS.items())


def test_the_settings_of_the_conrec_unet_are_as_ever():
    assert parse_network({}) == parse_network({"name": "conrec-unet"}) == NetworkSettings("conrec-unet", 64)
    with pytest.raises(TypeError, match="no network 'unet'; there are conrec-unet, resnet18-unet"):
        parse_network({"name": "unet"})
    with pytest.raises(TypeError, match="ResNet18UNetSettings has no heads; it has name, normalise, width"):
        parse_network({"name": "resnet18-unet", "heads": 2})


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters(name):
    network = build_network(parse_network({"name": name}), 1)
    whole, encoder, channels, multiple = PUBLISHED[name]
    assert (count(network), count(network.encoder)) == (whole, encoder)
    assert (network.encoder_channels, network.minimum_multiple) == (channels, multiple)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_parts_and_gradients(name):
    network = small(name, out_channels=3)
    images = images_for(network)
    features = network.encoder(images)
    assert features[-1].shape[:2] == (2, network.encoder_channels)
    assert [s * network.minimum_multiple for s in features[-1].shape[2:]] == list(images.shape[2:])
    assert len(network.skips) == len(features) - 1
    sides = [f.shape[-1] for f in features]
    assert sides == sorted(sides, reverse=True)
    logits = network(images)
    assert logits.shape == (2, 3, *images.shape[2:])
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert {key.partition(".")[0] for key in network.state_dict()} <= {"encoder", "skips", "decoder", "head"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_decode_then_head_is_the_network(name):
    network = small(name).eval()
    images = images_for(network, 1)
    decoded = network.decode(network.encoder(images))
    assert decoded.shape[1] == network.decoder_channels
    assert torch.equal(network.head(decoded), network(images))


@pytest.mark.parametrize("name", PUBLISHED)
def test_placing_keeps_the_numbers(name):
    network = small(name).eval()
    images = images_for(network, 1)
    before = network(images)
    place(network, torch.device("cpu"))
    torch.testing.assert_close(network(images), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_seed_decides_the_start(name):
    first, second = small(name).state_dict(), small(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_only_the_networks_that_need_smp_import_it():
    """The others have to run where there is but torch, torchvision, NumPy, Pillow, SciPy and safetensors."""
    code = (
        "import sys; sys.modules['segmentation_models_pytorch'] = None\n"
        "from trainables.networks import build_network\nfrom trainables.settings import parse_network\n"
        "for name in ('conrec-unet', 'classic-unet', 'casser-unet', 'genesis-unet3d'):\n"
        "    build_network(parse_network({'name': name, 'width': 2}), 1)\n"
        "import trainables.networks.resnet, trainables.networks.sasa, trainables.imports\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_import_no_torch():
    code = (
        "import sys, trainables.settings, trainables.data.weight_files\n"
        "assert not {'torch', 'torchvision'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


RESNETS = {
    "resnet18-unet": (resnet18_encoder, torchvision.models.resnet18),
    "resnet50-unet": (resnet50_encoder, torchvision.models.resnet50),
}


def torchvision_features(model, x):
    stem = model.relu(model.bn1(model.conv1(x)))
    features = [stem, model.layer1(model.maxpool(stem))]
    for layer in (model.layer2, model.layer3, model.layer4):
        features.append(layer(features[-1]))
    return features


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("normalise", list(STATISTICS))
def test_resnet_is_torchvisions(name, normalise):
    ours, theirs = RESNETS[name][0](normalise=normalise).eval(), RESNETS[name][1](weights=None).eval()
    weights = {key: x for key, x in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(weights)
    images = torch.rand(1, 3, 64, 96)
    mean, deviation = (torch.tensor(x).view(1, 3, 1, 1) for x in STATISTICS[normalise])
    with torch.no_grad():
        found, expected = ours(images), torchvision_features(theirs, (images - mean) / deviation)
    assert torch.equal(found[0], images)
    for mine, other in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_unet_is_smps(name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    ours = build_network(parse_network({"name": name, "normalise": "none"}), 2)
    theirs = smp.Unet(name.removesuffix("-unet"), encoder_weights=None, classes=2)
    theirs.load_state_dict({k.replace("head.", "segmentation_head.0."): x for k, x in ours.state_dict().items()})
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-5, atol=1e-6)


def test_resnet_starts_as_torchvisions_do():
    for convolution in (m for m in resnet18_encoder().modules() if isinstance(m, nn.Conv2d)):
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        if convolution.weight.numel() > 5_000:
            assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_classic_unet_by_its_levels():
    network = small("classic-unet")

    def block(i, o):
        return 9 * i * o + o + 2 * o

    widths = [16, 32, 64, 128, 256]
    assert count(network.encoder) == sum(block(i, o) + block(o, o) for i, o in zip([3, *widths], widths, strict=False))
    pairs = [(256, 128), (128, 64), (64, 32), (32, 16)]
    assert count(network.decoder) == sum(4 * i * o + o + block(2 * o, o) + block(o, o) for i, o in pairs)


def keras_casser(network, images):
    """Layer by layer as the official code lists them, from the network's weights in order."""
    convolutions = iter([m for m in [*network.encoder.modules(), *ups_and_blocks(network)] if isinstance(m, nn.Conv2d)])

    def conv(x, same_by_keras=False):
        layer = next(convolutions)
        if same_by_keras:
            x = F.pad(x, (0, 1, 0, 1))
            return F.relu(F.conv2d(x, layer.weight, layer.bias))
        return F.relu(F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2))

    x, kept = images.mean(dim=1, keepdim=True), []
    for level in range(5):
        x = conv(conv(F.max_pool2d(x, 2) if level else x))
        kept.append(x)
    for level in (3, 2, 1, 0):
        up = conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), same_by_keras=True)
        x = conv(conv(torch.cat([kept[level], up], dim=1)))
    return network.head(conv(x))


def ups_and_blocks(network):
    for up, block in zip(network.decoder.ups, network.decoder.blocks, strict=True):
        yield up
        yield from block.modules()
    yield from network.decoder.last.modules()


def test_casser_unet_layer_by_layer():
    network = small("casser-unet").eval()
    images = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(network(images), keras_casser(network, images))
    ups = [(up.in_channels, up.out_channels) for up in network.decoder.ups]
    assert ups == [(256, 128), (128, 64), (64, 64), (32, 16)]


def test_casser_dropout_ends_the_two_deepest_levels():
    network = small("casser-unet", dropout=0.5)
    at = [name for name, m in network.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.5]
    assert at == ["encoder.blocks.3.4", "encoder.blocks.4.4"]
    torch.manual_seed(1)
    zeros = [(f == 0).float().mean().item() for f in network.train().encoder(torch.rand(4, 3, 64, 64))[-2:]]
    assert min(zeros) > 0.5


def test_casser_starts_he_normal():
    for layer in (m for m in small("casser-unet").encoder.modules() if isinstance(m, nn.Conv2d)):
        deviation = (2 / (9 * layer.in_channels)) ** 0.5
        if layer.weight.numel() > 5_000:
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert layer.weight.abs().max() <= 2 * deviation / 0.8796 + 1e-6
        assert torch.count_nonzero(layer.bias) == 0


def test_genesis_levels_and_variants():
    keras = build_network(parse_network({"name": "genesis-unet3d"}), 1)
    torch_like = build_network(parse_network({"name": "genesis-unet3d", "variant": "pytorch"}), 1)
    assert count(keras.decoder) + count(keras.head) == 9_292_481
    assert count(torch_like.decoder) + count(torch_like.head) == 12_045_889
    assert count(torch_like) == 19_073_665
    assert keras.encoder.state_dict().keys() == torch_like.encoder.state_dict().keys()
    channels = [(m.in_channels, m.out_channels) for m in keras.encoder.modules() if isinstance(m, nn.Conv3d)]
    assert channels == [(1, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    norms = {(m.eps, m.momentum) for m in keras.modules() if isinstance(m, nn.BatchNorm3d)}
    assert norms == {(1e-3, 0.01)}


def test_genesis_bottom_of_a_cube():
    network = small("genesis-unet3d", width=2)
    features = network.encoder(torch.rand(1, 1, 64, 64, 32))
    assert [tuple(f.shape[1:]) for f in features] == [(4, 64, 64, 32), (8, 32, 32, 16), (16, 16, 16, 8), (32, 8, 8, 4)]
