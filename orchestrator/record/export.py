"""A stage's weights as files that need nothing of this project's runs: safetensors, settings, and how to load them."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from orchestrator.record.store import Store

Record = Mapping[str, Any]
WEIGHTS, SETTINGS, README = "weights.safetensors", "settings.json", "README.md"
KEPT = ("key", "kind", "name", "spec", "labels", "metrics", "facts", "versions", "parents", "fingerprint", "finished")
# What segmentation-models-pytorch (smp) can do with the weights of a network.
_RESNET_IN_SMP = """\
At width 64 the encoder is segmentation-models-pytorch's {encoder}. There it wants images less their mean over their
deviation (the dial `normalise` of `settings.json`), which the network above does itself:

```python
import segmentation_models_pytorch as smp

model = smp.Unet("{encoder}", encoder_weights=None)
model.encoder.load_state_dict(encoder)
```
"""
WITH_SMP = {
    "resnet18-unet": _RESNET_IN_SMP.format(encoder="resnet18"),
    "resnet50-unet": _RESNET_IN_SMP.format(encoder="resnet50"),
    "conrec-unet": "`conrec-unet` is the U-Net of the ConRec code, not a network of segmentation-models-pytorch: smp "
    "has no encoder that these weights fit. In a training of your own, use the network above.",
}
TEXT = """\
# {name}

Weights of the {kind} stage `{key}`, network `{network}`. `settings.json` holds all its settings and metrics,
`weights.safetensors` these parts:

{parts}

In plain PyTorch, with the `trainables` package on the path (it needs torch, torchvision, NumPy, Pillow, SciPy and
safetensors; none of Ray, Optuna or MLflow):

```python
from safetensors.torch import load_file
from trainables.networks import build_network
from trainables.settings import parse_network

weights = load_file("weights.safetensors")
network = build_network(parse_network({settings}), out_channels=1)
encoder = {{name.removeprefix("encoder."): t for name, t in weights.items() if name.startswith("encoder.")}}
network.encoder.load_state_dict(encoder)
```

`network.encoder(images)` takes RGB images [N, 3, H, W] with values in [0, 1], sides a multiple of
`network.minimum_multiple`, and gives a list of feature maps, finest first. `pretext.*` belongs to the pretraining
alone.
{smp}"""


class ExportError(Exception):
    """There is nothing to export, or no place for it. The message is for the user."""


@dataclass(frozen=True)
class Export:
    """A finished stage whose weights were fetched, ready to be written."""

    record: Record
    weights: bytes  # safetensors, with our metadata
    parts: Mapping[str, int]  # encoder, decoder, pretext, ... -> numbers in it


def fetch(store: Store, prefix: str) -> Export:
    """The weights of the finished stage whose key begins with `prefix`.

    Raises:
        ExportError: no such stage, several, or one that is not finished or keeps no weights.
        StoreError: the store cannot be read, or the weights in it are damaged.
    """
    record = _find(store, prefix)
    path = record["artifacts"].get("weights")
    if path is None:
        parents = [f"its {role} is {key}" for role, key in record["parents"].items()]
        pruned = record["facts"].get("pruned_at")
        why = "only a pretrain does" if pruned is None else f"as it was given up at step {pruned}"
        raise ExportError("; ".join([f"{_told(record)} keeps no weights, {why}", *parents]))
    parts: Counter[str] = Counter()
    try:
        weights, shapes = describe(store.artifact(path), _metadata(record))
        for name, shape in shapes.items():
            parts[name.partition(".")[0]] += prod(shape)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise store.damaged(path, f"no whole safetensors file: {error}") from None
    return Export(record, weights, parts)


def write(export: Export, folder: Path) -> list[Path]:
    """Write the three files into `folder`, which must be empty or absent. Returns their paths.

    Raises:
        ExportError: the folder cannot be written, or something is there; nothing is ever overwritten.
    """
    settings = {name: export.record[name] for name in KEPT if name in export.record}
    files = {
        SETTINGS: (json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
        README: readme(export).encode(),
        WEIGHTS: export.weights,
    }
    require_empty(folder)
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            with (folder / name).open("xb") as file:
                written.append(folder / name)
                file.write(data)
    except OSError as error:
        for path in written:  # half an export is none
            with suppress(OSError):
                path.unlink()
        raise ExportError(
            f"cannot write {folder}: {error.strerror or error}; expected a new or empty folder"
        ) from error
    return written


def require_empty(folder: Path) -> None:
    """Raise ExportError unless `folder` is absent or an empty folder."""
    try:
        if any(folder.iterdir()):
            raise ExportError(f"{folder} is not empty; nothing is overwritten, so name a new folder")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ExportError(
            f"cannot write {folder}: {error.strerror or error}; expected a new or empty folder"
        ) from error


def readme(export: Export) -> str:
    """What the files are and how to load them, with code that runs as it stands."""
    network, record = export.record["spec"]["network"], export.record
    return TEXT.format(
        name=record["name"],
        kind=record["kind"],
        key=record["key"],
        network=str(network["name"]),
        settings=repr(dict(network)),
        parts="\n".join(f"- `{part}.*`: {count:,} numbers" for part, count in export.parts.items()),
        smp=f"\n{WITH_SMP[network['name']]}\n" if network["name"] in WITH_SMP else "",
    )


def describe(data: bytes, metadata: Mapping[str, str]) -> tuple[bytes, dict[str, list[int]]]:
    """A safetensors file with other metadata and the same tensors, byte for byte; and the tensors' shapes by name.

    The format: the header's length in eight bytes (little endian), the header (JSON, padded with blanks), the tensors.

    Raises:
        ValueError: this is no safetensors file, or a part of one.
    """
    if len(data) < 8 or len(data) < 8 + (length := struct.unpack("<Q", data[:8])[0]):
        raise ValueError("it ends before its header does")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
    end = max((facts["data_offsets"][1] for facts in tensors.values()), default=0)
    if len(data) != 8 + length + end:
        raise ValueError(f"its header names {end} bytes of tensors, but {len(data) - 8 - length} are there")
    text = json.dumps({"__metadata__": dict(metadata), **tensors}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    shapes = {name: facts["shape"] for name, facts in tensors.items()}
    return struct.pack("<Q", len(text)) + text + data[8 + length :], shapes


def _metadata(record: Record) -> dict[str, str]:
    spec = record["spec"]
    method = spec.get("pretext", {}).get("method", record["kind"])
    network = spec["network"]
    return {
        "format": "pt",
        "key": record["key"],
        "method": str(method),
        "network": str(network["name"]),
        "width": str(network["width"]),
    }


def _find(store: Store, prefix: str) -> Record:
    finished = {key for key in store.finished() if key.startswith(prefix)}
    if prefix in finished:
        finished = {prefix}
    planned = {} if prefix in finished else _planned(store, prefix)
    keys = sorted(finished | planned.keys())
    if not keys:
        raise ExportError(f"store {store.uri}: no stage has a key that begins with {prefix!r}")
    if len(keys) > 1:
        raise ExportError(f"store {store.uri}: {len(keys)} keys begin with {prefix!r}: {', '.join(keys[:5])}")
    if not finished:
        failure = store.failures(keys).get(keys[0])
        why = f"; {failure['outcome']}: {failure['error']}" if failure else "; run its grid first"
        raise ExportError(f"{_told(planned[keys[0]])} is not finished{why}")
    return store.commits(keys)[keys[0]]


def _planned(store: Store, prefix: str) -> dict[str, Record]:
    """The stages of all plans whose key begins so."""
    plans = (store.load_plan(grid, plan) for grid in store.grids() for plan in store.plans(grid))
    return {key: stage for plan in plans for key, stage in plan["stages"].items() if key.startswith(prefix)}


def _told(stage: Record) -> str:
    return f"stage {stage['key']} ({stage['kind']} {stage['name']})"
