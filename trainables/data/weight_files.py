"""Files of pretrained weights: where each format is looked for, and what stands for its content. No torch.

Nothing is downloaded: a missing file is a message that says what to put where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.cache import cache_folder, read_json, write_json
from trainables.data.listing import DataError

FOLDER = "weights"
READ_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class WeightFormat:
    """A naming of tensors in a file.

    holds: what the file is, for messages; names: the usual names of the file below `weights/` in the data root; fits:
    the networks that take such weights, empty for all.
    """

    holds: str
    names: tuple[str, ...] = ()
    fits: tuple[str, ...] = ()


FORMATS: dict[str, WeightFormat] = {
    "torchvision-resnet18": WeightFormat(
        "a state dict of torchvision's resnet18 (conv1, bn1, layer1 to layer4; fc is left out), ImageNet weights as in "
        "ResNet18_Weights.IMAGENET1K_V1",
        ("resnet18-f37072fd.pth", "resnet18.pth", "resnet18.safetensors"),
        ("resnet18-unet",),
    ),
    "torchvision-resnet50": WeightFormat(
        "a state dict of torchvision's resnet50 (conv1, bn1, layer1 to layer4; fc is left out), ImageNet weights as in "
        "ResNet50_Weights.IMAGENET1K_V1",
        ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth", "resnet50.pth", "resnet50.safetensors"),
        ("resnet50-unet",),
    ),
    "genesis": WeightFormat(
        "the PyTorch weights of Models Genesis (down_tr64 to down_tr512, up_tr256 to up_tr64, out_tr), published as "
        "Genesis_Chest_CT.pt",
        ("Genesis_Chest_CT.pt", "Genesis_Chest_CT.safetensors"),
        ("genesis-unet3d",),
    ),
    "eccv16-colorizer": WeightFormat(
        "the state dict of the ECCV-2016 colorization network (model1 to model8, model_out), published as "
        "colorization_release_v2-9b330a0b.pth",
        ("colorization_release_v2-9b330a0b.pth", "colorization_release_v2.safetensors"),
    ),
    "transfergrid": WeightFormat(
        "weights exported by this program (encoder.*, and skips.*, decoder.*, head.* where they were trained)"
    ),
}


def weight_file(
    data_root: Path | str,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    cache_dir: Path | str | None = None,
) -> tuple[Path, str]:
    """Where the weights of a format lie, and the sha256 of the file.

    Args:
        name: a format in `FORMATS`.
        options: `file`, a path below the data root or absolute; without it the usual names below `weights/` are tried.
        cache_dir: where sums of unchanged files (same size and time) are kept; None: the default of `data.cache`.

    Raises:
        DataError: no such format or option, no such file, or one that cannot be read.
    """
    if name not in FORMATS:
        raise DataError(f"no format of weights {name!r}; there are {', '.join(FORMATS)}")
    if unknown := sorted(set(options or {}) - {"file"}):
        raise DataError(f"weights {name}: no option {', '.join(unknown)}; there is file")
    path = _find(Path(data_root), name, str((options or {}).get("file") or ""))
    return path, _sha256(path, cache_dir)


def _find(root: Path, name: str, file: str) -> Path:
    known = FORMATS[name]
    if not file and not known.names:
        raise DataError(f"weights {name}: expected the option file, a path below {root.absolute()} or an absolute one")
    candidates = [root / file] if file else [root / FOLDER / usual for usual in known.names]
    for path in candidates:
        if path.is_file():
            return path.absolute()
    others = f" (or {', '.join(path.name for path in candidates[1:])} there)" if len(candidates) > 1 else ""
    raise DataError(f"no weights {name}: put {known.holds}, at {candidates[0].absolute()}{others}")


def _sha256(path: Path, cache_dir: Path | str | None) -> str:
    """The file's sum, from the cache where size and time of the file are those of the last reading."""
    try:
        status = path.stat()
        stamp = [str(path), status.st_size, status.st_mtime_ns]
        entry = cache_folder(cache_dir) / "weights" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
        known = read_json(entry)
        if isinstance(known, dict) and known.get("stamp") == stamp:
            return str(known["sha256"])
        total = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(READ_AT_ONCE):
                total.update(part)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    write_json(entry, {"stamp": stamp, "sha256": total.hexdigest()})
    return total.hexdigest()
