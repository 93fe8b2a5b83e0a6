"""The import stage: weights from a file, under our names, for the stages below. Nothing in a file is ever executed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from trainables.context import Context, Result, StageError
from trainables.data.weight_files import FORMATS, weight_file
from trainables.networks import build_network
from trainables.networks.colorizer import Colorizer
from trainables.settings import AnyNetworkSettings, parse_network
from trainables.settings.networks import GenesisUNet3dSettings

# A counter that nothing reads while batch norm has a fixed momentum; old files lack it.
OPTIONAL = "num_batches_tracked"
# Where checkpoints keep the state dict, and what wrapping a model in DataParallel puts before its names.
NESTED, WRAPPED = ("state_dict", "model_state_dict", "model"), "module."


@dataclass(frozen=True)
class Naming:
    """How a file names what we name: our name -> the file's, None where it has none; and what is known but left out."""

    theirs: Callable[[str], str | None]
    left_out: str = "$^"


def import_weights(spec: Mapping[str, Any], context: Context) -> Result:
    """Run an import stage.

    Args:
        spec: format (a key of `weight_files.FORMATS`); network, its settings (none for eccv16-colorizer); file, a path
            below the data root or absolute, without which the format's usual names below `weights/` are tried.

    Returns:
        Weights under the names of the network. Facts: file, sha256, format, parts (those of the network that the file
        has), tensors (how many were taken) and left_out (how many were not).

    Raises:
        DataError: the file is missing or is another than planned.
        StageError: it is no file of tensors, or its tensors are not those of the network.
    """
    name = str(spec["format"])
    path, digest = weight_file(context.data_root, name, {"file": spec.get("file")}, cache_dir=context.cache_dir)
    context.check_data(f"weights {name}", digest)
    given = read_tensors(path, FORMATS[name].holds)
    weights = _of_colorizer(given, path) if name == COLORIZER else _of_network(given, path, name, spec["network"])
    facts = {
        "file": path.name,
        "sha256": digest,
        "format": name,
        "parts": sorted({ours.partition(".")[0] for ours in weights}) if name != COLORIZER else [],
        "tensors": len(weights),
        "left_out": len(given) - len(weights),
    }
    return Result(metrics={}, weights=weights, facts=facts)


def read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    """The tensors by name of a state dict in a file of safetensors or of `torch.save`, on the CPU.

    Args:
        expected: what the file should hold, for messages.

    Raises:
        StageError: not such a file, or one that holds code.
    """
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except UnpicklingError as error:
        raise StageError(
            f"{path}: refused, since it is no plain file of tensors and other objects could run code"
            f"{_quoted(error)}; expected {expected}"
        ) from None
    except Exception as error:  # a damaged file may fail at any step of reading it
        raise StageError(f"{path}: cannot be read as weights{_quoted(error)}; expected {expected}") from None
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise StageError(f"{path}: no tensors by name in it; expected {expected}")
    if all(key.startswith(WRAPPED) for key in tensors):
        tensors = {key.removeprefix(WRAPPED): value for key, value in tensors.items()}
    return tensors


def _quoted(error: Exception) -> str:
    """What of an error helps, in brackets: the object that was refused, or the first line of what went wrong.

    torch's advice how to read a refused file without its checks is left out.
    """
    text = str(error).strip()
    if found := re.search(r"GLOBAL ([\w.]{1,100})", text):
        return f" (it asks for {found[1]})"
    if "weights_only" in text:
        return " (it is a TorchScript archive)" if "TorchScript" in text else ""
    return f" ({type(error).__name__}: {_printable(text.partition(chr(10))[0])[:200]})"


def _printable(text: str) -> str:
    """A text out of a file without what steers terminals."""
    return "".join(character for character in text if character.isprintable())


def _of_colorizer(given: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    with torch.device("meta"):
        expected = Colorizer().state_dict()
    return take(given, expected, Naming(lambda ours: ours), path, FORMATS[COLORIZER].holds)


def _of_network(given: Mapping[str, Tensor], path: Path, name: str, network: Mapping[str, Any]) -> dict[str, Tensor]:
    settings, known = parse_network(network), FORMATS[name]
    if known.fits and settings.name not in known.fits:
        raise StageError(f"weights {name} fit network.name {' or '.join(known.fits)}, but it is {settings.name}")
    with torch.device("meta"):
        expected = build_network(settings, out_channels=1).state_dict()
    naming = NAMINGS[name](settings)
    if name == OWN:  # of decoder and head it has what was trained; a head for other classes stays out
        there = {key.partition(".")[0] for key in given} | {"encoder"}
        expected = {ours: x for ours, x in expected.items() if ours.partition(".")[0] in there}
        if any(
            ours.startswith("head.") and ours in given and given[ours].shape != x.shape for ours, x in expected.items()
        ):
            expected = {ours: x for ours, x in expected.items() if not ours.startswith("head.")}
            naming = Naming(naming.theirs, rf"{naming.left_out}|head\.")
    return take(given, expected, naming, path, f"{known.holds}, for {settings.name} of width {settings.width}")


def take(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], naming: Naming, path: Path, holds: str
) -> dict[str, Tensor]:
    """The tensors of a file under our names.

    Args:
        expected: our names with tensors of the right shape.
        holds: what the file should hold, for messages.

    Raises:
        StageError: names are missing or unexpected, or shapes differ; with the first of each.
    """
    theirs = {ours: key for ours in expected if (key := naming.theirs(ours)) is not None}
    found = {ours: key for ours, key in theirs.items() if key in given}
    missing = [key for key in theirs.values() if key not in given and not key.endswith(OPTIONAL)]
    used = set(theirs.values())
    unexpected = [key for key in given if key not in used and not re.match(naming.left_out, key)]
    unequal = [
        f"{key} of {list(given[key].shape)} instead of {list(expected[ours].shape)}"
        for ours, key in found.items()
        if given[key].shape != expected[ours].shape
    ]
    told = [
        f"{kind} {_printable(names[0])}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", unequal))
        if names
    ]
    if told:
        raise StageError(f"{path} does not fit: {'; '.join(told)}; expected {holds}")
    return {ours: given[key].contiguous() for ours, key in found.items()}


def _torchvision(settings: AnyNetworkSettings) -> Naming:
    prefix = "encoder."
    return Naming(lambda ours: ours.removeprefix(prefix) if ours.startswith(prefix) else None, r"fc\.")


def _genesis(settings: AnyNetworkSettings) -> Naming:
    """The PyTorch network of Models Genesis. Its decoder stands behind transposed convolutions, which ours has as
    `variant: pytorch` alone, so that otherwise the encoder is taken without it [genesis: pytorch/unet3d.py]."""
    if isinstance(settings, GenesisUNet3dSettings) and settings.variant == "pytorch":
        return Naming(_genesis_name)
    return Naming(lambda ours: _genesis_name(ours) if ours.startswith("encoder.") else None, r"(up_tr\d+|out_tr)\.")


def _genesis_name(ours: str) -> str | None:
    """encoder.blocks.L.I.0.weight -> down_tr64.ops.I.conv1.weight, and so on."""
    for pattern, make in GENESIS:
        if found := re.fullmatch(pattern, ours):
            return make(found)
    return None


_DOWN, _UP, _LAYER = ("64", "128", "256", "512"), ("256", "128", "64"), {"0": "conv1", "1": "bn1"}
GENESIS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"encoder\.blocks\.(\d)\.(\d)\.([01])\.(\w+)",
        lambda m: f"down_tr{_DOWN[int(m[1])]}.ops.{m[2]}.{_LAYER[m[3]]}.{m[4]}",
    ),
    (
        r"decoder\.blocks\.(\d)\.(\d)\.([01])\.(\w+)",
        lambda m: f"up_tr{_UP[int(m[1])]}.ops.{m[2]}.{_LAYER[m[3]]}.{m[4]}",
    ),
    (r"decoder\.ups\.(\d)\.(\w+)", lambda m: f"up_tr{_UP[int(m[1])]}.up_conv.{m[2]}"),
    (r"head\.(\w+)", lambda m: f"out_tr.final_conv.{m[1]}"),
)
COLORIZER, OWN = "eccv16-colorizer", "transfergrid"
NAMINGS: dict[str, Callable[[AnyNetworkSettings], Naming]] = {
    "torchvision-resnet18": _torchvision,
    "torchvision-resnet50": _torchvision,
    "genesis": _genesis,
    OWN: lambda settings: Naming(lambda ours: ours, r"pretext\."),
}
