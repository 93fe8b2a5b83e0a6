"""Weight files that are damaged or hold more than tensors: one clear message each, whatever the reader trips over."""

import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trainables.context import Context, StageError
from trainables.imports import import_weights, read_tensors


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript")
def test_objects_are_refused_without_torchs_advice_to_load_them(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "linear.pth")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pth")
    for name, says in (
        ("linear.pth", r"could run code \(it asks for torch\.nn\.modules\.linear\.Linear\); expected a state dict"),
        ("script.pth", r"cannot be read as weights \(it is a TorchScript archive\); expected a state dict"),
    ):
        with pytest.raises(StageError, match=says) as error:
            read_tensors(tmp_path / name, "a state dict")
        assert "weights_only" not in str(error.value) and str(error.value).isprintable()


def damaged(whole, draw):
    """The file with a few wrong bytes, cut off, or both."""
    content = bytearray(whole)
    for _ in range(draw.choice((0, 1, 2, 5))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return content[: draw.randrange(len(content))] if draw.random() < 0.5 else content


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["legacy", "zip", "safetensors"])
def test_a_damaged_file_is_one_message_or_still_holds_tensors(tmp_path, form):
    """Old files of `torch.save` fail at any step: struct.error, IndexError, AssertionError, and so on."""
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    state = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.bias": torch.ones(2)}
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(600):
        path.write_bytes(damaged(whole, draw))
        try:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_tensors(path, "a state dict").values())
        except StageError as error:
            refused += 1
            told = str(error)
            assert told.startswith(f"{path}: ") and told.endswith("; expected a state dict")
            assert told.isprintable() and "weights_only" not in told
    assert refused > 200


def test_want_of_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        read_tensors(tmp_path / "w.pth", "a state dict")


def test_names_in_a_file_steer_no_terminal(tmp_path):
    torch.save({"conv\x1b[1m": torch.zeros(1)}, tmp_path / "w.pth")
    spec = {"format": "torchvision-resnet18", "file": "w.pth", "network": {"name": "resnet18-unet"}}
    with pytest.raises(StageError, match=r"unexpected conv\[1m"):
        import_weights(spec, Context(tmp_path, tmp_path / "work"))
