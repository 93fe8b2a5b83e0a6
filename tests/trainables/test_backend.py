"""The numeric backend: what the default leaves of float64, what bfloat16 and the compiler leave of the default."""

import copy
import statistics

import pytest
import torch
from torch import nn

from tests.contracts.pretext_contract import NETWORK, SIZE
from trainables.context import Context, StageError
from trainables.data import open_dataset
from trainables.data.stack import load_stack
from trainables.downstream.examples import load_parts
from trainables.downstream.finetune import finetune
from trainables.downstream.fused import finetune_fused
from trainables.downstream.probe import probe
from trainables.networks import build_network
from trainables.numeric import apply_backend
from trainables.pretexts import ImageBatch, build_pretext
from trainables.pretexts.pretrain import pretrain
from trainables.randomness import batch_indices, generator, seed_everything
from trainables.settings import BackendSettings, FinetuneSettings, NetworkSettings, parse, parse_network, parse_pretext

SEEDS = range(6)
# Of the mean difference to the standard deviation over the seeds. That of each seed is larger, at most `EACH` in the
# root mean square: training multiplies the last digits, so that each seed goes its own way.
MARGIN, EACH = 0.25, 0.5
CPU = torch.device("cpu")
BFLOAT16 = {"precision": "bfloat16"}
METHODS = ("simclr", "reconstruction", "conrec", "byol", "moco-v2", "segmentation", "classification")


def spec(seed=0, *, backend=(), **dials):
    settings = {"steps": 6, "batch": 4, "input_size": 32, "report_every": 2, "curve_images": 8}
    return {
        "scenario": "random-init",
        "frozen": False,
        "network": {"name": "conrec-unet", "width": 4},
        "data": {"reader": "shapes", "options": {"count": 80, "size": 32}, "fraction": None, "n_train": 16},
        "finetune": settings | dials,
        "backend": {"threads": 1, **dict(backend)},
        "seed": seed,
        "keep_weights": True,
    }


def pretraining(method, *, backend=()):
    own = {"method": method, **({"hidden": 16} if method == "byol" else {})}
    sizes = {"steps": 4, "batch": 4, "input_size": 32, "report_every": 2, "optimizer": "adam", "learning_rate": 1e-3}
    return {
        "pretext": own,
        "network": {"name": "conrec-unet", "width": 4},
        "data": {"reader": "shapes", "options": {"count": 20, "size": 64}},
        "pretrain": sizes,
        "backend": {"threads": 1, **dict(backend)},
        "seed": 0,
    }


@pytest.fixture
def context(tmp_path):
    def make(name="work", cls=Context, **options):
        return cls(tmp_path, tmp_path / name, cache_dir=tmp_path / "cache", **options)

    return make


class Interrupted(Exception):
    """Stands for the loss of a worker."""


class LostAtStep3(Context):
    def progress(self, step, steps):
        if step == 3:
            raise Interrupted


# Within seed noise ---------------------------------------------------------------------------------------------------

TRAINED = {"steps": 30, "batch": 8, "flip": 0.0, "crop_area": 1.0, "report_every": 30}


def by_hand(seed, folder):
    """The Dice that a plain loop in float64 gets: contiguous tensors, no augmentation, the stage's order of images."""
    asked = spec(seed, **TRAINED)
    settings = parse(FinetuneSettings, asked["finetune"])
    where = Context(folder, folder, cache_dir=folder / "cache")
    parts = load_parts(asked["data"], settings, seed, where, validate=False)
    seed_everything(seed, "init")
    network = build_network(parse_network(asked["network"]), 1).double().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    images, masks = parts.training.images.double() / 255, parts.training.masks == 1
    for step in range(settings.steps):
        rows = batch_indices(len(images), settings.batch, step, seed, "order")
        p, y = torch.sigmoid(network(images[rows])[:, 0]), masks[rows].double()
        loss = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        found = network(parts.evaluation.images.double() / 255)[:, 0] > 0
    true = parts.evaluation.masks == 1
    assert not (parts.evaluation.masks == 255).any()
    hit, both = (found & true).sum((1, 2)), found.sum((1, 2)) + true.sum((1, 2))
    return float((2 * hit / both).mean())


@pytest.fixture(scope="module")
def in_float64(tmp_path_factory):
    folder = tmp_path_factory.mktemp("float64")
    return [by_hand(seed, folder) for seed in SEEDS]


@pytest.mark.parametrize("backend", [{}, BFLOAT16], ids=["default", "bfloat16"])
def test_results_are_those_of_float64_within_seed_noise(context, in_float64, backend):
    found = [
        finetune(spec(seed, backend=backend, **TRAINED), context(f"work {seed}")).metrics["dice"] for seed in SEEDS
    ]
    noise = statistics.stdev(in_float64)
    apart = [ours - theirs for ours, theirs in zip(found, in_float64, strict=True)]
    print(f"{backend or 'default'}: noise {noise:.4f}, apart {[round(value, 5) for value in apart]}")
    assert noise > 0.01
    assert abs(statistics.mean(apart)) < MARGIN * noise
    assert statistics.mean(value**2 for value in apart) ** 0.5 < EACH * noise
    assert any(apart)  # the digits are others


# bfloat16 ------------------------------------------------------------------------------------------------------------


def tensors_of(state):
    """All tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else []
    return [tensor for part in parts for tensor in tensors_of(part)]


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lars"])
def test_weights_statistics_and_the_optimisers_state_stay_float32(context, optimizer):
    where = context(checkpoint_seconds=0)
    result = finetune(spec(backend=BFLOAT16, optimizer=optimizer), where)
    state = where.resume()
    moments = tensors_of(state["optimizer"])
    assert moments and {t.dtype for t in moments} == {torch.float32}
    assert {t.dtype for t in tensors_of(state["modules"])} == {torch.float32, torch.int64}
    assert {t.dtype for t in result.weights.values()} == {torch.float32, torch.int64}
    default = finetune(spec(optimizer=optimizer), context("default"))
    assert result.weights.keys() == default.weights.keys()
    assert result.metrics["loss"] != default.metrics["loss"]


def test_convolutions_give_bfloat16_and_the_network_float32(context):
    network = build_network(NetworkSettings(width=4), 1)
    apply_backend(network, BackendSettings(precision="bfloat16"), CPU)
    given = {}
    for name, part in network.named_modules():
        if isinstance(part, (nn.Conv2d, nn.BatchNorm2d)):
            part.register_forward_hook(lambda part, inputs, output, name=name: given.update({name: output.dtype}))
    images = torch.rand(2, 3, 32, 32)
    assert network(images).dtype == torch.float32 and network.eval()(images).dtype == torch.float32
    assert len(given) == 35 and set(given.values()) == {torch.bfloat16}


def batch_of(tmp_path, method):
    listing, settings = open_dataset("shapes", tmp_path, {"count": 8}), parse_pretext({"method": method})
    stack = load_stack(listing, range(8), SIZE if settings.needs else 2 * SIZE, masks=True, cache_dir=tmp_path)
    return ImageBatch(stack.images, stack.boxes, SIZE, masks=stack.masks, labels=torch.arange(8) % 2)


@pytest.mark.parametrize("method", METHODS)
def test_of_a_pretext_only_the_networks_compute_in_bfloat16(tmp_path, method):
    """The views that reach an encoder are those of float32, bit for bit, and so are the parts of the loss."""
    seen = {}

    def run(backend):
        seed_everything(0, "init")
        pretext = build_pretext(parse_pretext(pretraining(method)["pretext"]), NETWORK, 2)
        names = list(pretext.state_dict())
        apply_backend(pretext, backend, CPU)
        assert list(pretext.state_dict()) == names
        encoder = pretext.get_submodule("network.encoder" if hasattr(pretext, "network") else "encoder")
        encoder.register_forward_pre_hook(lambda part, inputs: seen.setdefault(backend.precision, inputs[0].clone()))
        seed_everything(0, "step", 0)
        losses = pretext.loss(batch_of(tmp_path, method), generator(0))
        losses["loss"].backward()
        assert {p.grad.dtype for p in pretext.parameters() if p.grad is not None} == {torch.float32}
        return {name: value.detach() for name, value in losses.items()}

    exact, rounded = run(BackendSettings()), run(BackendSettings(precision="bfloat16"))
    assert torch.equal(seen["float32"], seen["bfloat16"])
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert rounded[name].item() == pytest.approx(value.item(), rel=0.1) and rounded[name] != value


def test_every_pretext_has_a_call_for_each_of_its_trained_parts():
    """Whatever has parameters is reached, so that nothing computes in float32 by oversight."""
    for method in METHODS:
        pretext = build_pretext(parse_pretext(pretraining(method)["pretext"]), NETWORK, 2)
        before = {name: type(part) for name, part in pretext.named_modules()}
        apply_backend(pretext, BackendSettings(precision="bfloat16"), CPU)
        changed = {name for name, part in pretext.named_modules() if type(part) is not before[name]}
        decoded = {"network.skips", "network.decoder"} if "network" in changed else set()
        for name, _ in pretext.named_parameters():
            assert any(name.startswith(f"{part}.") for part in changed | decoded), (method, name)


def test_a_probe_sees_features_of_bfloat16_in_float32(context):
    asked = {
        "scenario": "probe", "frozen": True, "network": {"name": "conrec-unet", "width": 4}, "seed": 0,
        "data": {"reader": "textures", "options": {"count": 60, "size": 32}, "fraction": None},
        "probe": {"epochs": 2, "batch": 16, "input_size": 32},
    }  # fmt: skip
    results = [probe({**asked, "backend": backend}, context(f"work {n}")) for n, backend in enumerate(({}, BFLOAT16))]
    assert {t.dtype for r in results for n, t in r.weights.items() if n != "confusion"} == {torch.float32}
    assert results[0].metrics["loss"] != results[1].metrics["loss"]
    assert results[0].metrics["loss"] == pytest.approx(results[1].metrics["loss"], rel=0.05)


def test_fused_cells_of_bfloat16_are_near_those_alone(context):
    """As near as float32 and bfloat16 are after six steps; and not those of float32."""
    specs = [spec(seed, backend={**BFLOAT16, "fused": True}) for seed in (0, 1)]
    fused = finetune_fused(specs, [context(f"fused {seed}") for seed in (0, 1)])
    alone = [finetune(one, context(f"alone {one['seed']}")) for one in specs]
    exact = [finetune(spec(seed), context(f"exact {seed}")) for seed in (0, 1)]
    for ours, theirs, other in zip(fused, alone, exact, strict=True):
        assert ours.metrics["loss"] == pytest.approx(theirs.metrics["loss"], rel=0.02)
        assert ours.metrics["loss"] != other.metrics["loss"]
        assert {t.dtype for t in ours.weights.values()} == {torch.float32, torch.int64}


def interrupted_and_resumed(run, asked, context):
    """(undisturbed, resumed) as (result, context)."""
    undisturbed = context("undisturbed")
    expected = run(asked, undisturbed)
    with pytest.raises(Interrupted):
        run(asked, context("lost", LostAtStep3, checkpoint_seconds=0))
    again = context("lost")
    result = run(asked, again)
    assert result.facts["resumed_from"] == 3
    return (expected, undisturbed), (result, again)


def assert_same(one, other):
    assert one[0].metrics == other[0].metrics and one[1].history == other[1].history
    assert one[0].weights.keys() == other[0].weights.keys()
    assert all(torch.equal(tensor, other[0].weights[name]) for name, tensor in one[0].weights.items())


@pytest.mark.parametrize("method", ["finetune", "conrec", "byol"])
def test_resumed_equals_undisturbed_digit_for_digit_in_bfloat16(context, method):
    run, asked = (finetune, spec(backend=BFLOAT16))
    if method != "finetune":
        run, asked = pretrain, pretraining(method, backend=BFLOAT16)
    assert_same(*interrupted_and_resumed(run, asked, context))


def test_a_copy_of_a_network_in_bfloat16_is_independent():
    network = build_network(NetworkSettings(width=4), 1)
    apply_backend(network, BackendSettings(precision="bfloat16"), CPU)
    twin, images = copy.deepcopy(network).eval(), torch.rand(1, 3, 16, 16)
    network.eval()
    before = twin(images)
    with torch.no_grad():
        network.head.weight.zero_()
    assert torch.equal(twin(images), before) and not torch.equal(network(images), before)


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    network = build_network(NetworkSettings(width=4), 1)
    with pytest.raises(StageError, match=r"backend\.precision: an old card has no bfloat16"):
        apply_backend(network, BackendSettings(precision="bfloat16"), torch.device("cuda"))
