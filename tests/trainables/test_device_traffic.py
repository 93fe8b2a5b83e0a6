"""What a training step says to its device, followed on torch's `meta` device: copies that do not wait, and nothing is
asked back. And which data lie there."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables import devices
from trainables.devices import fit
from trainables.downstream.examples import Pictures, Volumes
from trainables.downstream.finetune import _loss as finetune_loss
from trainables.downstream.fused_training import _Feed
from trainables.downstream.probe import Part
from trainables.downstream.probe import _loss as probe_loss
from trainables.losses.dice_bce import dice_bce_loss
from trainables.networks import build_network, place
from trainables.networks.attention_dot import Blocks, _Positions, dot_attention
from trainables.networks.fused import FusedNetwork
from trainables.pretexts import build_pretext, samples
from trainables.pretexts.samples import Samples
from trainables.randomness import generator
from trainables.settings import FinetuneSettings, parse_network, parse_pretext

CPU, META, CUDA = (torch.device(name) for name in ("cpu", "meta", "cuda"))
SIZE, COUNT = 32, 8
WARPS = {"vertical_flip": 0.5, "rotation": 0.5, "blur": 0.5}


class Waits(TorchDispatchMode):
    """Notes what would make the host wait for the device: copies in either direction but for those that run while it
    goes on, and questions about values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        result, name = function(*args, **kwargs), str(function)
        there = {t.device.type for t in [*given, *(r for r in tree_leaves(result) if isinstance(r, torch.Tensor))]}
        # A number of the CPU goes along as an argument of the kernel.
        mixed = "meta" in there and any(t.device.type == "cpu" and (t.ndim or "copy" in name) for t in given)
        asked = "meta" in there and any(word in name for word in ("_local_scalar", "nonzero", "is_nonzero"))
        if asked or (mixed and not kwargs.get("non_blocking")):
            self.found.append(name)
        return result


@pytest.fixture
def waits(monkeypatch):
    """Pinned memory needs a GPU; here it is any memory."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    return Waits()


def pictures(count=COUNT):
    images = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, SIZE, SIZE], [4, 0, 24, SIZE]] * (count // 2))
    return Pictures(images, torch.randint(2, (count, SIZE, SIZE), dtype=torch.uint8), boxes)


def small(name="conrec-unet"):
    return build_network(parse_network({"name": name, "width": 2}), 1)


def test_what_waits_is_seen(waits):
    with waits:
        torch.zeros(3).to(META)
        torch.zeros(3, device=META)[torch.tensor([0, 2])]
        torch.zeros(3, device=META) + torch.tensor(2.0)
        devices.move(torch.zeros(3), META)
    assert [name.partition(".")[2] for name in waits.found] == ["_to_copy.default", "index.Tensor"]


@pytest.mark.parametrize("dials", [{}, {**WARPS, "loss": "dice-bce"}], ids=["P1", "P2"])
def test_a_finetuning_step(waits, dials):
    network, settings = small().to(META), FinetuneSettings(batch=4, input_size=SIZE, **dials)
    loss_of = finetune_loss(network, pictures(), settings, 0, META)
    with waits:
        for step in range(3):
            loss_of(step)["loss"].backward()
    assert not waits.found


def test_a_finetuning_step_on_volumes(waits):
    shape = (COUNT, 16, 16, 8)
    volumes = Volumes(torch.ones(shape, dtype=torch.uint8), torch.ones(shape, dtype=torch.uint8), 4)
    settings = FinetuneSettings(batch=4, input_size=16)
    loss_of = finetune_loss(small("genesis-unet3d").to(META), volumes, settings, 0, META)
    with waits:
        loss_of(0)["loss"].backward()
    assert not waits.found


@pytest.mark.parametrize("dials", [{}, WARPS], ids=["P1", "P2"])
def test_a_step_of_fused_cells(waits, dials):
    settings = FinetuneSettings(batch=4, input_size=SIZE, **dials)
    cells = [
        SimpleNamespace(parts=SimpleNamespace(training=pictures(6 + 2 * n)), seed=n, batch=4, settings=settings)
        for n in range(3)
    ]
    network, feed = FusedNetwork([small() for _ in cells], META).train(), _Feed(cells, META)
    with waits:
        for step in range(3):
            inputs, masks = feed.batch(step)
            torch.vmap(dice_bce_loss)(network(inputs), masks).sum().backward()
    assert not waits.found


def test_a_step_of_a_probe(waits):
    part = Part(torch.ones(9, 5, device=META), torch.zeros(9, dtype=torch.int64, device=META))
    loss_of = probe_loss(torch.nn.Linear(5, 2, device=META), part, 4, 0)
    with waits:
        loss_of(2)["loss"].backward()
    assert not waits.found


def test_local_attention(waits):
    query, key, value = (torch.zeros(2, 9, 10, 2, 4, device=META, requires_grad=True) for _ in range(3))
    rows, columns = (torch.zeros(2, 9, 10, 2, 3, device=META, requires_grad=True) for _ in range(2))
    with waits:
        dot_attention(query, key, value, rows, columns).sum().backward()
    assert not waits.found


def test_the_slots_of_local_attention_are_one_for_the_row_and_one_for_the_column_of_a_key():
    blocks = Blocks.of(9, 10, 5)
    places = _Positions(blocks, torch.zeros(1, dtype=torch.float64)).places
    assert places.dtype == torch.float64 and places.is_contiguous()
    for key in range(blocks.tall * blocks.wide):
        row, column = divmod(key, blocks.wide)
        assert places[:, key].nonzero()[:, 0].tolist() == [row, blocks.tall + column]
    assert places.max() == 1


# Data on the device --------------------------------------------------------------------------------------------------


def some_samples(needs=()):
    drawn = pictures()
    labels = torch.arange(COUNT) % 3 if "labels" in needs else None
    return Samples(
        drawn.images,
        drawn.boxes,
        masks=drawn.masks if "masks" in needs else None,
        labels=labels,
        colored=drawn.images.flip(1) if "colored" in needs else None,
        part=torch.zeros(COUNT, dtype=torch.int64),
        classes=2,
    )


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("method", ["simclr", "segmentation", "classification"])
def test_a_pretraining_step(waits, monkeypatch, method, near):
    monkeypatch.setattr(samples, "fit", lambda tensors, device: near)
    settings = parse_pretext({"method": method})
    given = some_samples(settings.needs).near(META)
    assert given.images.device == (META if near else CPU)
    assert given.boxes.device == given.part.device == CPU
    pretext = build_pretext(settings, parse_network({"name": "conrec-unet", "width": 2}), 3).to(META)
    with waits:
        for step in range(2):
            batch = given.batch(torch.tensor([5, 0, 3, 3]), SIZE, META)
            pretext.loss(batch, generator(0, "augment", step))["loss"].backward()
    assert not waits.found and batch.images.shape == (4, 3, SIZE, SIZE)
    assert batch.images.device == META and batch.boxes.device == CPU
    moved = {"masks", "labels", "colored"} & settings.needs
    assert all(getattr(batch, name).device == META for name in moved)


def test_batches_are_the_same_wherever_the_images_lie(monkeypatch):
    here, rows = some_samples({"masks", "labels", "colored"}), torch.tensor([5, 0, 3, 3])
    monkeypatch.setattr(samples, "fit", lambda tensors, device: True)
    near = here.near(CPU)  # the way of images on the device, but on a CPU
    for batch in (here.batch(rows, SIZE, CPU), near.batch(rows, SIZE, CPU)):
        for name in ("images", "boxes", "masks", "labels", "colored"):
            assert torch.equal(getattr(batch, name), getattr(here, name)[rows])


def test_an_eighth_of_what_the_process_may_take_is_for_data(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=64_000))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 0.5)
    tensors = [torch.zeros(2000, dtype=torch.uint8), torch.zeros(1000, dtype=torch.float16)]
    assert fit(tensors, CUDA) and fit(tensors, torch.device("cuda", 0))
    assert not fit([*tensors, torch.zeros(1, dtype=torch.uint8)], CUDA)
    assert not fit(tensors, CPU) and some_samples().near(CPU).images.device == CPU
    monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction")  # an older torch: an eighth of an eighth
    assert fit([torch.zeros(1000, dtype=torch.uint8)], CUDA) and not fit(tensors, CUDA)


@pytest.mark.parametrize(
    ("device", "precision", "last"),
    [(CPU, "float32", True), (CPU, "bfloat16", True), (META, "float32", False), (META, "bfloat16", True)],
)
def test_channels_come_last_on_a_cpu_and_in_bfloat16(device, precision, last):
    network, volumes = small(), small("genesis-unet3d")
    kept = {name: t.clone() for name, t in network.state_dict().items()}
    place(network, device, precision)
    place(volumes, device, precision)
    fused = FusedNetwork([small(), small()], device, precision)
    every = [*network.parameters(), *fused.parameters()]
    kernels = [p for p in every if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) is last for p in kernels)
    assert all(p.is_contiguous() for p in volumes.parameters())
    if device == CPU:
        assert all(torch.equal(t, kept[name]) for name, t in network.state_dict().items())
