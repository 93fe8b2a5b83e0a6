"""Local attention against a loop over pixels and against plain unfolding; the layer, the block and the encoder."""

import itertools

import pytest
import torch
from torch import nn

from tests.benchmarks.sasa import PEERS
from trainables.context import StageError
from trainables.networks import attention_dot, attention_per_channel, build_network
from trainables.networks.sasa import ATTENTION, LocalAttention, SasaBottleneck
from trainables.settings import parse_network

VARIANTS = ["dot", "per-channel"]
# images, height, width, channels, heads, kernel
SIZES = [(2, 9, 13, 16, 2, 3), (1, 5, 5, 16, 4, 7), (2, 17, 20, 16, 2, 5), (3, 1, 1, 8, 2, 7), (1, 8, 31, 16, 8, 7)]


def layer_of(variant, channels, heads, kernel):
    return LocalAttention(channels, channels, kernel=kernel, heads=heads, attention=variant).double()


def inputs_of(size):
    """Query, key, value: one NCHW, one channels last, one a strided view."""
    n, height, width, channels = size[:4]
    planar = torch.randn(n, channels, height, width)
    last = torch.randn(n, channels, height, width).to(memory_format=torch.channels_last)
    strided = torch.randn(n, channels, 2 * height, 3 * width)[:, :, ::2, ::3]
    return [x.double().requires_grad_() for x in (planar, last, strided)]


def looped(query, key, value, layer):
    """The definition, pixel by pixel and neighbour by neighbour."""
    n, channels, height, width = query.shape
    kernel, heads, half = layer.rows.shape[1], layer.heads, channels // 2
    per_head = channels // heads
    result = torch.zeros_like(query)
    for image, y, x in itertools.product(range(n), range(height), range(width)):
        keys, values = [], []
        for dy, dx in itertools.product(range(kernel), repeat=2):
            at = y + dy - kernel // 2, x + dx - kernel // 2
            inside = 0 <= at[0] < height and 0 <= at[1] < width
            k = key[image, :, *at] if inside else torch.zeros(channels).double()
            values.append(value[image, :, *at] if inside else torch.zeros(channels).double())
            if layer.attention == "per-channel":
                offset = torch.cat([layer.rows[:, dy], layer.columns[:, dx]])
            else:
                rows, columns = (r[:, d].view(heads, -1) for r, d in ((layer.rows, dy), (layer.columns, dx)))
                offset = torch.cat([rows, columns], dim=1).flatten()
            assert offset.shape == (2 * half,)
            keys.append(k + offset)
        products = torch.stack(keys) * query[image, :, y, x]
        if layer.attention == "dot":
            summed = products.view(-1, heads, per_head).sum(dim=2, keepdim=True)
            products = summed.expand(-1, -1, per_head).reshape(-1, channels)
        result[image, :, y, x] = (products.softmax(dim=0) * torch.stack(values)).sum(dim=0)
    return result


def gradients(attend, inputs, layer, weight):
    return torch.autograd.grad((attend(*inputs, layer) * weight).sum(), [*inputs, layer.rows, layer.columns])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_peer_is_the_definition(variant):
    torch.manual_seed(0)
    size = (2, 4, 5, 8, 2, 3)
    layer, inputs = layer_of(variant, 8, 2, 3), inputs_of(size)
    expected = looped(*inputs, layer)
    for attend in [*PEERS[variant].values(), ATTENTION[variant]]:
        torch.testing.assert_close(attend(*inputs, layer), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", ["usual", "small"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_to_unfolding_in_outputs_and_gradients(variant, size, chunk, monkeypatch):
    if chunk == "small":  # so that one map is worked off in many pieces
        monkeypatch.setitem(attention_dot.CHUNK_BYTES, "cpu", 1000)
        monkeypatch.setitem(attention_per_channel.TILE_BYTES, "cpu", 500)
        monkeypatch.setattr(attention_per_channel, "CHANNELS", 4)
    torch.manual_seed(1)
    layer, inputs = layer_of(variant, *size[3:]), inputs_of(size)
    weight = torch.randn(size[0], size[3], size[1], size[2]).double()
    ours, plain = ATTENTION[variant], PEERS[variant]["unfold"]
    torch.testing.assert_close(ours(*inputs, layer), plain(*inputs, layer), rtol=0, atol=1e-10)
    for mine, theirs in zip(
        gradients(ours, inputs, layer, weight), gradients(plain, inputs, layer, weight), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradcheck(variant):
    torch.manual_seed(2)
    layer, inputs = layer_of(variant, 4, 1, 3), inputs_of((1, 3, 4, 4))
    parameters = (layer.rows, layer.columns)

    def attend(query, key, value, *_):
        return ATTENTION[variant](query, key, value, layer)

    assert torch.autograd.gradcheck(attend, (*inputs, *parameters))


@pytest.mark.parametrize("variant", VARIANTS)
def test_large_logits_overflow_nowhere(variant):
    """The softmax of logits of thousands, also of thousands below zero."""
    torch.manual_seed(3)
    layer, inputs = layer_of(variant, 8, 2, 3).float(), [100 * x.float() for x in inputs_of((1, 6, 6, 8))]
    ours, plain = ATTENTION[variant](*inputs, layer), PEERS[variant]["unfold"](*inputs, layer)
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-2)
    weight = torch.ones_like(ours)
    assert all(torch.isfinite(g).all() for g in gradients(ATTENTION[variant], inputs_grad(inputs), layer, weight))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_embeddings_of_halves_of_all_channels(heads):
    """One softmax a head, with rows on the first half of all channels: by hand, and with other results than per head.

    One head has both halves anyway."""
    torch.manual_seed(5)
    layer, inputs = layer_of("dot", 8, heads, 3), inputs_of((1, 3, 4, 8))
    usual = ATTENTION["dot"](*inputs, layer)
    layer.embeddings = "halves"
    found = ATTENTION["dot"](*inputs, layer)
    query, key, value = (x.detach() for x in inputs)
    for y, x in itertools.product(range(3), range(4)):
        logits, values = [], []
        for dy, dx in itertools.product(range(3), repeat=2):
            at = y + dy - 1, x + dx - 1
            inside = 0 <= at[0] < 3 and 0 <= at[1] < 4
            k, v = (t[0, :, *at] if inside else torch.zeros(8).double() for t in (key, value))
            offset = torch.cat([layer.rows[:, dy], layer.columns[:, dx]])
            logits.append((query[0, :, y, x] * (k + offset)).view(heads, -1).sum(1))
            values.append(v.view(heads, -1))
        shares = torch.stack(logits).softmax(dim=0)[:, :, None]
        expected = (shares * torch.stack(values)).sum(dim=0).flatten()
        torch.testing.assert_close(found[0, :, y, x], expected, rtol=0, atol=1e-12)
    assert torch.allclose(found, usual) == (heads == 1)


def test_embeddings_of_a_network():
    """The dial reaches every layer, and takes no parameter more."""
    networks = [
        build_network(parse_network({"name": "sasa-resnet50-unet", "width": 16, **given}), 1)
        for given in ({}, {"embeddings": "halves"})
    ]
    layers = [[m for m in network.modules() if isinstance(m, LocalAttention)] for network in networks]
    assert [{layer.embeddings for layer in found} for found in layers] == [{"per-head"}, {"halves"}]
    usual, other = ({name: t.shape for name, t in network.state_dict().items()} for network in networks)
    assert usual == other


def inputs_grad(inputs):
    return [x.detach().requires_grad_() for x in inputs]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_call_gives_the_same_digits(variant):
    torch.manual_seed(4)
    layer = LocalAttention(16, 16, heads=2, attention=variant)
    x = torch.randn(2, 16, 9, 11)
    first, second = layer(x), layer(x)
    assert torch.equal(first, second)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_projects_and_attends(variant):
    torch.manual_seed(5)
    layer = layer_of(variant, 16, 2, 7)
    x = torch.randn(2, 16, 5, 6).double()
    query, key, value = (
        torch.einsum("oi,nihw->nohw", c.weight[..., 0, 0], x) for c in (layer.query, layer.key, layer.value)
    )
    torch.testing.assert_close(layer(x), PEERS[variant]["unfold"](query, key, value, layer), rtol=0, atol=1e-10)
    assert sum(p.numel() for p in layer.parameters()) == 3 * 16 * 16 + 16 * 7
    assert layer.rows.shape == layer.columns.shape == (8, 7)


def test_heads_matter_for_dot_alone():
    x = torch.randn(1, 16, 6, 6)
    for variant, equal in (("dot", False), ("per-channel", True)):
        made = []
        for heads in (1, 4):
            torch.manual_seed(6)
            made.append(LocalAttention(16, 16, heads=heads, attention=variant)(x))
        assert torch.equal(*made) == equal


def test_no_autocast_inside():
    torch.manual_seed(7)
    layer = LocalAttention(16, 16, heads=2)
    x = torch.randn(1, 16, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(x)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, layer(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("pool", ["attention", "branch"])
@pytest.mark.parametrize("side", [8, 7])
def test_block_halves_odd_and_even_maps(pool, side):
    shortcut = nn.Sequential(nn.Conv2d(8, 64, 1, stride=2, bias=False), nn.BatchNorm2d(64))

    def attention(i, o):
        return LocalAttention(i, o, kernel=3, heads=2)

    block = SasaBottleneck(8, 16, 2, shortcut, make_attention=attention, pool=pool)
    assert block(torch.randn(2, 8, side, side)).shape == (2, 64, 4, 4)
    assert isinstance(block.pool2, nn.AvgPool2d) == (pool == "attention")
    assert isinstance(block.pool3, nn.AvgPool2d) == (pool == "branch")


def settings(**dials):
    return parse_network({"name": "sasa-resnet50-unet", **dials})


@pytest.mark.parametrize("attention", VARIANTS)
def test_parameters_of_the_encoder(attention):
    network = build_network(settings(attention=attention), 1)
    assert sum(p.numel() for p in network.encoder.parameters()) == 15_989_632
    assert sum(p.numel() for p in network.parameters()) == 25_002_705
    # With the 1000-way layer of ImageNet: the 18.0 M of the SASA paper.
    assert sum(p.numel() for p in network.encoder.parameters()) + 2048 * 1000 + 1000 == 18_038_632


def test_only_the_stem_has_a_large_kernel():
    kernels = [m.kernel_size for m in build_network(settings(), 1).encoder.modules() if isinstance(m, nn.Conv2d)]
    assert kernels[0] == (7, 7) and set(kernels[1:]) == {(1, 1)}


@pytest.mark.parametrize("attention", VARIANTS)
def test_small_network_learns_in_every_part(attention):
    torch.manual_seed(8)
    network = build_network(settings(width=16, heads=4, kernel=3, attention=attention), 1)
    logits = network(torch.rand(2, 3, 64, 64))
    logits.square().mean().backward()
    assert logits.shape == (2, 1, 64, 64)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"kernel": 4}, "network.kernel must be an odd number, but is 4"),
        ({"width": 8}, "network.width must be a multiple of 2 x heads = 16, but 8 is not"),
        ({"attention": "cross"}, "no attention 'cross'; there are dot, per-channel"),
    ],
)
def test_dials_that_do_not_fit(dials, message):
    with pytest.raises(StageError, match=message):
        build_network(settings(**dials), 1)


def test_registered_in_smp():
    smp = pytest.importorskip("segmentation_models_pytorch")
    from trainables.networks import smp_encoders  # noqa: F401

    network = smp.Unet("sasa-resnet50", encoder_weights=None)
    assert sum(p.numel() for p in network.parameters()) == 25_002_705
    ours = build_network(settings(normalise="none"), 1)
    weights = {name.replace("head.", "segmentation_head.0."): x for name, x in ours.state_dict().items()}
    network.load_state_dict(weights)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), ours.eval()(images))
    assert (
        len(
            smp.Unet("sasa-resnet50", encoder_weights=None, encoder_depth=4, decoder_channels=(64, 32, 16, 8)).encoder(
                images
            )
        )
        == 5
    )
