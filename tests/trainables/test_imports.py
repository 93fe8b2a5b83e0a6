"""Weights from files: read exactly, refused with what is wrong, and never executed."""

import hashlib
import os
import pickle
import zipfile

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from trainables.context import Context, StageError
from trainables.data.listing import DataError
from trainables.data.weight_files import FORMATS, weight_file
from trainables.downstream.scenarios import transfer
from trainables.imports import import_weights
from trainables.networks import build_network
from trainables.networks.colorizer import Colorizer, load_colorizer
from trainables.settings import parse_network

RESNET18 = {"name": "resnet18-unet"}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data root" / "weights").mkdir(parents=True)
    return tmp_path / "data root"


@pytest.fixture(scope="module")
def resnet18():
    """torchvision's network, with statistics of batch norm that are not the initial ones."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    with torch.no_grad():
        model(torch.rand(8, 3, 64, 64))
    return model.eval()


def run(root, format, file="", network=RESNET18, fingerprint=None):
    spec = {"format": format, "file": file, "network": network}
    return import_weights(spec, Context(root, root / "work", fingerprint=fingerprint))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvisions_resnet18_loads_and_sees_the_same(root, resnet18, suffix):
    path = root / "weights" / f"resnet18.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save(resnet18.state_dict(), path)
    result = run(root, "torchvision-resnet18")
    network = build_network(parse_network(RESNET18), 1)
    taken = transfer(network, result.weights, "cls-enc")
    assert len(taken) == len(network.encoder.state_dict()) == result.facts["tensors"] == 120
    for name, tensor in network.encoder.state_dict().items():
        assert torch.equal(tensor, resnet18.state_dict()[name])
    images = torch.rand(2, 3, 64, 96)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    with torch.no_grad():
        found = network.eval().encoder(images)[-1]
        for part in (resnet18.conv1, resnet18.bn1, resnet18.relu, resnet18.maxpool):
            x = part(x)
        for part in (resnet18.layer1, resnet18.layer2, resnet18.layer3, resnet18.layer4):
            x = part(x)
    assert torch.equal(found, x)
    assert result.facts | {"sha256": ""} == {
        "file": path.name, "sha256": "", "format": "torchvision-resnet18", "parts": ["encoder"], "tensors": 120,
        "left_out": 2,
    }  # fmt: skip


def test_resnet50_in_a_checkpoint_of_data_parallel_without_counters(root):
    """Nested below `state_dict`, `module.` before each name, and as old files are, without num_batches_tracked."""
    state = torchvision.models.resnet50(weights=None).state_dict()
    wrapped = {f"module.{k}": x for k, x in state.items() if not k.endswith("num_batches_tracked")}
    torch.save({"epoch": 3, "state_dict": wrapped}, root / "r50.pt")
    network = {"name": "resnet50-unet", "normalise": "none"}
    result = run(root, "torchvision-resnet50", "r50.pt", network)
    taken = transfer(build_network(parse_network(network), 1), result.weights, "cls-enc")
    assert len(taken) == len(wrapped) - 2


class GenesisLike(nn.Module):
    """The modules of the published PyTorch network by their names, with ordinary batch norm."""

    def __init__(self):
        super().__init__()

        def double(i, m, o):
            def one(a, b):
                return nn.ModuleDict({"conv1": nn.Conv3d(a, b, 3, padding=1), "bn1": nn.BatchNorm3d(b)})

            return nn.ModuleDict({"ops": nn.ModuleList([one(i, m), one(m, o)])})

        for name, sizes in {
            "64": (1, 32, 64),
            "128": (64, 64, 128),
            "256": (128, 128, 256),
            "512": (256, 256, 512),
        }.items():
            self.add_module(f"down_tr{name}", double(*sizes))
        for name, below, level in (("256", 512, 256), ("128", 256, 128), ("64", 128, 64)):
            up = double(below + level, level, level)
            up["up_conv"] = nn.ConvTranspose3d(below, below, 2, stride=2)
            self.add_module(f"up_tr{name}", up)
        self.out_tr = nn.ModuleDict({"final_conv": nn.Conv3d(64, 1, 1)})

    def forward(self, x):
        def double(part, x):
            for one in part["ops"]:
                x = one["bn1"](one["conv1"](x)).relu()
            return x

        kept = []
        for name in ("64", "128", "256"):
            kept.append(double(self.get_submodule(f"down_tr{name}"), x))
            x = nn.functional.max_pool3d(kept[-1], 2)
        x = double(self.down_tr512, x)
        for name in ("256", "128", "64"):
            part = self.get_submodule(f"up_tr{name}")
            x = double(part, torch.cat([part["up_conv"](x), kept.pop()], dim=1))
        return self.out_tr["final_conv"](x)


@pytest.fixture(scope="module")
def genesis():
    torch.manual_seed(1)
    return GenesisLike().eval()


def test_genesis_as_a_whole_is_the_published_network(root, genesis):
    weights = {f"module.{k}": x for k, x in genesis.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": weights}, root / "weights" / "Genesis_Chest_CT.pt")
    network = {"name": "genesis-unet3d", "variant": "pytorch"}
    result = run(root, "genesis", network=network)
    assert result.facts["parts"] == ["decoder", "encoder", "head"] and result.facts["left_out"] == 0
    ours = build_network(parse_network(network), 1)
    transfer(ours, result.weights, "seg-enc-dec")
    cube = torch.rand(1, 1, 16, 16, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(cube), genesis(cube), rtol=1e-4, atol=1e-5)


def test_genesis_for_the_keras_network_is_the_encoder(root, genesis):
    torch.save(genesis.state_dict(), root / "g.pt")
    result = run(root, "genesis", "g.pt", {"name": "genesis-unet3d"})
    assert result.facts["parts"] == ["encoder"] and result.facts["left_out"] == 50
    transfer(build_network(parse_network({"name": "genesis-unet3d"}), 1), result.weights, "cls-enc")


def test_colorizer(root):
    torch.manual_seed(2)
    colorizer = Colorizer()
    torch.save(colorizer.state_dict(), root / "weights" / "colorization_release_v2-9b330a0b.pth")
    result = import_weights({"format": "eccv16-colorizer"}, Context(root, root / "work"))
    loaded = load_colorizer(result.weights)
    assert all(torch.equal(x, loaded.state_dict()[n]) for n, x in colorizer.state_dict().items())
    torch.save({"model1.0.weight": torch.zeros(64, 1, 3, 3), "gone": torch.zeros(1)}, root / "wrong.pth")
    with pytest.raises(
        StageError, match=r"missing model1\.0\.bias \(and \d+ more\); unexpected gone; expected the state"
    ):
        import_weights({"format": "eccv16-colorizer", "file": "wrong.pth"}, Context(root, root / "work"))


OWN = {"name": "conrec-unet", "width": 4}


def own_weights(channels=1):
    state = build_network(parse_network(OWN), channels).state_dict()
    return {**state, "pretext.projection.0.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("channels", "parts"), [(1, ["decoder", "encoder", "head", "skips"]), (3, ["decoder", "encoder", "skips"])]
)
def test_own_weights_come_back_without_the_pretext(root, channels, parts):
    save_file(own_weights(channels), root / "own.safetensors")
    result = run(root, "transfergrid", "own.safetensors", OWN)
    assert result.facts["parts"] == parts
    transfer(build_network(parse_network(OWN), 1), result.weights, "seg-enc-dec")


def test_own_encoder_alone(root):
    save_file({k: x for k, x in own_weights().items() if k.startswith("encoder.")}, root / "own.safetensors")
    assert run(root, "transfergrid", "own.safetensors", OWN).facts["parts"] == ["encoder"]


def test_a_part_of_the_decoder_is_not_enough(root):
    weights = own_weights()
    del weights["decoder.blocks.1.0.0.weight"]
    save_file(weights, root / "own.safetensors")
    with pytest.raises(StageError, match=r"missing decoder\.blocks\.1\.0\.0\.weight; expected weights exported"):
        run(root, "transfergrid", "own.safetensors", OWN)


def test_a_wrong_file_is_refused_with_the_first_names(root, resnet18):
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), root / "r34.pth")
    with pytest.raises(
        StageError, match=r"r34\.pth does not fit: unexpected layer1\.2\.conv1\.weight \(and \d+ more\)"
    ):
        run(root, "torchvision-resnet18", "r34.pth")
    torch.save(Colorizer().state_dict(), root / "c.pth")
    expected = (
        r"missing conv1\.weight \(and \d+ more\); unexpected model1\.0\.weight \(and \d+ more\); expected a state dict"
    )
    with pytest.raises(StageError, match=expected):
        run(root, "torchvision-resnet18", "c.pth")
    state = dict(resnet18.state_dict())
    del state["layer3.0.downsample.1.running_var"]
    torch.save(state, root / "short.pth")
    with pytest.raises(StageError, match=r"missing layer3\.0\.downsample\.1\.running_var; expected"):
        run(root, "torchvision-resnet18", "short.pth")


def test_another_width_is_refused_with_the_shapes(root, resnet18):
    torch.save(resnet18.state_dict(), root / "r.pth")
    expected = r"of another shape conv1\.weight of \[64, 3, 7, 7\] instead of \[8, 3, 7, 7\].*resnet18-unet of width 8"
    with pytest.raises(StageError, match=expected):
        run(root, "torchvision-resnet18", "r.pth", {"name": "resnet18-unet", "width": 8})


def test_another_network_is_refused(root, resnet18):
    torch.save(resnet18.state_dict(), root / "r.pth")
    with pytest.raises(StageError, match=r"fit network\.name resnet18-unet, but it is conrec-unet"):
        run(root, "torchvision-resnet18", "r.pth", OWN)


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", ["torch", "pickle", "nested"])
def test_a_pickle_with_code_is_not_executed(root, protocol):
    mark, path = root / "executed", root / "bomb.pth"
    if protocol == "pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": Bomb(mark)}))
    else:
        content = (
            {"state_dict": {"conv1.weight": torch.zeros(1), "x": Bomb(mark)}} if protocol == "nested" else Bomb(mark)
        )
        torch.save(content, path)
    with pytest.raises(
        StageError, match=r"bomb\.pth: refused, since it is no plain file of tensors.*could run code"
    ) as error:
        run(root, "torchvision-resnet18", "bomb.pth")
    assert ("(it asks for posix.mkdir)" in str(error.value)) is (protocol != "pickle")
    assert "weights_only" not in str(error.value) and str(error.value).isprintable()
    assert not mark.exists()
    torch.load(path, weights_only=False) if protocol != "pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the bomb was a real one


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02" + bytes(200), b"PK\x03\x04 cut off"])
def test_what_is_no_weights_is_one_message(root, name, content):
    (root / name).write_bytes(content)
    with pytest.raises(
        StageError, match=rf"{name}: (cannot be read as weights|refused).*expected a state dict"
    ) as error:
        run(root, "torchvision-resnet18", name)
    assert "\n" not in str(error.value)


def test_a_truncated_file(root, resnet18):
    torch.save(resnet18.state_dict(), root / "r.pth")
    whole = (root / "r.pth").read_bytes()
    (root / "r.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match="cannot be read as weights"):
        run(root, "torchvision-resnet18", "r.pth")
    assert not zipfile.is_zipfile(root / "r.pth")


def test_a_file_without_names(root):
    torch.save([torch.zeros(3)], root / "list.pth")
    with pytest.raises(StageError, match="no tensors by name in it; expected a state dict"):
        run(root, "torchvision-resnet18", "list.pth")


def test_a_missing_file_says_what_to_put_where(root):
    with pytest.raises(DataError) as error:
        run(root, "torchvision-resnet18")
    told = str(error.value)
    assert str(root / "weights" / "resnet18-f37072fd.pth") in told and "IMAGENET1K_V1" in told
    with pytest.raises(DataError, match=r"no weights genesis: put the PyTorch weights of Models Genesis.*my/g\.pt"):
        run(root, "genesis", "my/g.pt", {"name": "genesis-unet3d"})
    with pytest.raises(DataError, match="weights transfergrid: expected the option file"):
        weight_file(root, "transfergrid")


def test_unknown_formats_and_options():
    with pytest.raises(DataError, match="no format of weights 'caffe'; there are torchvision-resnet18"):
        weight_file(".", "caffe")
    with pytest.raises(DataError, match="no option path; there is file"):
        weight_file(".", "genesis", {"path": "x"})
    assert {"torchvision-resnet18", "torchvision-resnet50", "genesis", "transfergrid"} <= FORMATS.keys()


def test_the_sum_is_that_of_the_content(root, tmp_path):
    path = root / "elsewhere.pth"
    path.write_bytes(b"some weights")
    for file in ("elsewhere.pth", str(path)):
        found = weight_file(root, "genesis", {"file": file}, cache_dir=tmp_path / "cache")
        assert found == (path, hashlib.sha256(b"some weights").hexdigest())
    path.write_bytes(b"other weights")
    assert weight_file(root, "genesis", {"file": "elsewhere.pth"})[1] == hashlib.sha256(b"other weights").hexdigest()


def test_the_sum_of_an_unchanged_file_is_not_made_again(root, tmp_path):
    path = root / "w.pth"
    path.write_bytes(b"aaaa")
    time = path.stat().st_mtime_ns
    first = weight_file(root, "genesis", {"file": "w.pth"}, cache_dir=tmp_path / "cache")
    path.write_bytes(b"bbbb")
    os.utime(path, ns=(time, time))
    assert weight_file(root, "genesis", {"file": "w.pth"}, cache_dir=tmp_path / "cache") == first
    os.utime(path, ns=(time + 1, time + 1))
    assert weight_file(root, "genesis", {"file": "w.pth"}, cache_dir=tmp_path / "cache") != first


def test_another_file_than_planned_is_refused(root, resnet18):
    torch.save(resnet18.state_dict(), root / "r.pth")
    _, planned = weight_file(root, "torchvision-resnet18", {"file": "r.pth"})
    run(root, "torchvision-resnet18", "r.pth", fingerprint=planned)
    with pytest.raises(DataError, match=r"weights torchvision-resnet18 .* is not what the plan was made for"):
        run(root, "torchvision-resnet18", "r.pth", fingerprint="0" * 64)
