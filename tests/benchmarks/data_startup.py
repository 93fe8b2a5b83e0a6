"""What a worker waits for before it can train: pictures decoded once for all workers of a node, or in every epoch.

    python -m tests.benchmarks.data_startup [--images 7000] [--side 500] [--size 128] [--repeats 2] [--out FILE]

7,000 images are a data set like Oxford Pets. JPEG files of `side` pixels with masks as PNG, brought to `size`; they
are in the page cache, as most are that were just copied. Each line is a new process; imports are not counted. Columns:

    first      seconds until all images and masks are there as tensors, with nothing in the cache. Ours looks through
               all files before (are they whole, of one size with their masks, of known values? The plan of a grid does
               that, once) and keeps what it decoded. The *limit* decodes and resizes, in as many threads; the peer is
               an epoch of a DataLoader that does so with 0 or 2 worker processes and collates batches of 32
    checked    of ours, the seconds of that look
    next       the same for the next worker on the node, and for every later run: ours maps what is there, the limit
               reads as many bytes into memory, a DataLoader decodes again, in each of its epochs
    ratio      first and next, by ours
    MB         memory beyond mapped files that `next` added, worker processes included: what k workers hold k times
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.common import Report, header, ratios, spread

PACKAGES = ("torch", "torchvision", "pillow", "numpy")
DIFFERENT = 50  # pictures that are painted; the rest are copies
BATCH = 32
Figures = dict[str, float]


def write_pictures(folder: Path, count: int, side: int) -> None:
    """A data set for the reader `folder`."""
    from PIL import Image

    from trainables.data import open_dataset

    listing = open_dataset("shapes", folder, {"count": DIFFERENT, "size": side})
    places = [folder / "set" / part for part in ("images", "masks")]
    for place in places:
        place.mkdir(parents=True)
    assert listing.draw is not None
    for number in range(count):
        paths = [place / f"{number:06d}.{kind}" for place, kind in zip(places, ("jpg", "png"), strict=True)]
        if number < DIFFERENT:
            image, mask = listing.draw(number)
            Image.fromarray(image).save(paths[0], quality=90)
            Image.fromarray(mask).save(paths[1])
        else:
            for path in paths:
                shutil.copyfile(path.with_stem(f"{number % DIFFERENT:06d}"), path)


def own_megabytes() -> float:
    """Memory of this process and of those that it started, mapped files not counted; shared pages count once."""
    here = os.getpid()
    pids = [here, *map(int, Path(f"/proc/{here}/task/{here}/children").read_text().split())]
    lines = (line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem"))) / 1024


def ours(folder: Path, size: int) -> Callable[[], Any]:
    """As a stage opens its data; all pages are touched."""
    from trainables.data import open_dataset, survey
    from trainables.data.stack import load_stack

    def ready() -> Any:
        began = time.perf_counter()
        listing = open_dataset("folder", folder, {"path": "set"})
        found = survey(listing, cache_dir=folder / "cache")
        found.check()
        checked = time.perf_counter() - began
        everything = range(len(listing.images))
        stack = load_stack(
            listing, everything, size, masks=True, fingerprint=found.fingerprint, cache_dir=folder / "cache"
        )
        assert stack.masks is not None and len(stack.images) == len(stack.masks) == len(everything)
        return stack, checked, int(stack.images.flatten()[::1024].sum()), int(stack.masks.flatten()[::1024].sum())

    return ready


def limit(folder: Path, size: int) -> Callable[[], Any]:
    """Decode and resize, or read the bytes of what was decoded."""
    import numpy as np
    from PIL import Image

    from trainables.data.threads import in_threads

    files = sorted((folder / "set" / "images").iterdir())
    kept = folder / "limit.npy"

    def one(path: Path) -> Any:
        with Image.open(path) as image, Image.open(folder / "set" / "masks" / f"{path.stem}.png") as mask:
            picture = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            truth = mask.convert("L").resize((size, size), Image.Resampling.NEAREST)
            return np.concatenate([np.asarray(picture).transpose(2, 0, 1), np.asarray(truth)[None]])

    def ready() -> Any:
        if kept.exists():
            return np.load(kept)
        return np.stack(list(in_threads(one, files)))

    def keep(arrays: Any) -> None:
        np.save(kept, arrays)

    ready.keep = keep  # type: ignore[attr-defined]
    return ready


class Files:
    """A data set as most are written: [4, size, size] of a number, the mask as the last channel."""

    def __init__(self, folder: Path, size: int) -> None:
        self._files, self._size = sorted((folder / "set" / "images").iterdir()), size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Any:
        import torch
        from PIL import Image
        from torchvision.transforms.v2 import functional as F

        path = self._files[number]
        with Image.open(path) as image, Image.open(path.parents[1] / "masks" / f"{path.stem}.png") as mask:
            picture = F.resize(image.convert("RGB"), [self._size, self._size])
            truth = F.resize(mask.convert("L"), [self._size, self._size], F.InterpolationMode.NEAREST)
            return torch.cat([F.pil_to_tensor(picture), F.pil_to_tensor(truth)])


def loader(workers: int) -> Callable[[Path, int], Callable[[], Any]]:
    def make(folder: Path, size: int) -> Callable[[], Any]:
        from torch.utils.data import DataLoader

        data: Any = Files(folder, size)
        batches = DataLoader(data, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

        def ready() -> Any:
            seen = sum(len(batch) for batch in batches)
            assert seen == len(data)
            return batches

        return ready

    return make


CONTENDERS: dict[str, Callable[[Path, int], Callable[[], Any]]] = {
    "ours": ours, "limit": limit, "DataLoader, 0 workers": loader(0), "DataLoader, 2 workers": loader(2),
}  # fmt: skip


def one(name: str, folder: Path, size: int) -> Figures:
    """In a process of its own."""
    import torch
    import torchvision.transforms.v2  # noqa: F401  imports are not counted

    torch.set_num_threads(1)
    ready = CONTENDERS[name](folder, size)
    before, began = own_megabytes(), time.perf_counter()
    held = ready()
    figures = {"seconds": time.perf_counter() - began, "megabytes": own_megabytes() - before}
    if name == "ours":
        figures["checked"] = held[1]
    if keep := getattr(ready, "keep", None):
        keep(held)
    return figures


def apart(name: str, folder: Path, size: int) -> Figures:
    command = [sys.executable, "-m", "tests.benchmarks.data_startup", "--one", name, "--folder", str(folder)]
    done = subprocess.run([*command, "--size", str(size)], stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[Figures]]]:
    """Name -> "first" and "next" -> figures of each repeat."""
    write_pictures(folder, options.images, options.side)
    found: dict[str, dict[str, list[Figures]]] = {name: {"first": [], "next": []} for name in CONTENDERS}
    for _ in range(options.repeats):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        (folder / "limit.npy").unlink(missing_ok=True)
        for name, figures in found.items():
            for which in ("first", "next"):
                if which == "next" and name.startswith("DataLoader"):
                    figures[which].append(figures["first"][-1])  # an epoch like any other
                else:
                    figures[which].append(apart(name, folder, options.size))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"images": 7000, "side": 500, "size": 128, "repeats": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="write the report there too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.folder, options.size)))
        return
    report = Report(options.out)
    report.line(header("tests.benchmarks.data_startup", PACKAGES))
    report.line(f"# {options.images} images of {options.side}x{options.side}, kept as {options.size}x{options.size}")
    with tempfile.TemporaryDirectory(prefix="data-startup-") as folder:
        found = measure(options, Path(folder))
    report.row("who", "first s", "checked s", "next s", "ratio first", "ratio next", "MB")
    seconds = {name: {w: [f["seconds"] for f in each] for w, each in both.items()} for name, both in found.items()}
    for name, both in seconds.items():
        report.row(
            *(name, spread(both["first"], 1)),
            spread([f["checked"] for f in found[name]["first"]], 1) if name == "ours" else "-",
            spread(both["next"], 2),
            *(spread(ratios(both[which], seconds["ours"][which]), 1) for which in ("first", "next")),
            f"{statistics.median(figures['megabytes'] for figures in found[name]['next']):.0f}",
        )


if __name__ == "__main__":
    main()
