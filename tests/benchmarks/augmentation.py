"""Two augmented views of a batch of decoded images: ours, kornia and torchvision, in images per second on one thread.

    python -m tests.benchmarks.augmentation [--size 128] [--batch 16] [--repeats 7]

Each line is a peer with ours beside it, timed in turns, so that other load on the machine hits all alike. The *limit*
is one bicubic `grid_sample` of float images to the size of the views: what a batched crop costs, without colours.
Probabilities and ranges are the same for all. Left as they are: kornia draws one order of the jitter for a whole batch,
and torchvision's blur reflects at the border, where kornia's and ours pad with zeros.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.pretexts.masks import apply_masks, draw_masks
from trainables.pretexts.photometric import blur_radius
from trainables.pretexts.views import two_views

Augmentation = Callable[[Tensor], object]


def ours(size: int, batch: int) -> Augmentation:
    """`two_views` on pictures that fill their squares."""
    generator = torch.Generator().manual_seed(0)

    def run(images: Tensor) -> object:
        side = images.shape[-1]
        return two_views(images, torch.tensor([[0, 0, side, side]]).repeat(batch, 1), size, generator)

    return run


def with_kornia(size: int) -> Augmentation:
    """The same operators from kornia, batched."""
    from kornia import augmentation as K

    kernel = 2 * blur_radius(size) + 1
    operators = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), (0.1, 1.0), resample="bicubic", align_corners=False),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), border_type="constant", p=0.5),
    )
    return lambda images: operators(images.repeat(2, 1, 1, 1).float() / 255)


def with_torchvision(size: int) -> Augmentation:
    """The same operators from torchvision v2, image by image; crops on uint8, which is its fastest way."""
    from torchvision.transforms import v2

    operators = v2.Compose(
        [
            v2.RandomResizedCrop(size, (0.1, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=False),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(2 * blur_radius(size) + 1, (0.1, 2.0))], 0.5),
        ]
    )
    return lambda images: torch.stack([operators(image) for _ in range(2) for image in images])


def limit(size: int, batch: int) -> Augmentation:
    """One bicubic resampling of all views."""
    theta = torch.tensor([[0.6, 0, 0.1], [0, 0.6, 0.1]]).repeat(batch, 1, 1)
    grid = F.affine_grid(theta, [batch, 3, 2 * size, size], align_corners=False)
    return lambda images: F.grid_sample(images.float(), grid, mode="bicubic", align_corners=False)


def seconds(run: Augmentation, images: Tensor) -> float:
    started = time.perf_counter()
    run(images)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"size": 128, "batch": 16, "repeats": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, batch = options.size, options.batch
    coarse = torch.rand(batch, 3, size // 8, size // 8)
    images = (F.interpolate(coarse, size=(2 * size, 2 * size), mode="bilinear") * 255).byte()
    runs = {
        "kornia": with_kornia(size), "torchvision": with_torchvision(size), "ours": ours(size, batch),
        "limit": limit(size, batch),
    }  # fmt: skip
    for run in runs.values():
        run(images)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, images))
    rate = {name: 2 * batch / statistics.median(taken) for name, taken in times.items()}
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "kornia")))
    print(f"{batch} images {2 * size}x{2 * size}, views {size}x{size}, 1 thread, medians of {options.repeats}; views/s")
    print("peer | ours | limit | ratio")
    for name in ("kornia", "torchvision"):
        print(f"{name} {rate[name]:.0f} | {rate['ours']:.0f} | {rate['limit']:.0f} | {rate['ours'] / rate[name]:.2f}")
    views = two_views(images, torch.tensor([[0, 0, 2 * size, 2 * size]]).repeat(batch, 1), size, torch.Generator())
    masks = [
        seconds(lambda _: apply_masks(views.augmented, draw_masks(2 * batch, size, torch.Generator())), images)
        for _ in range(options.repeats)
    ]
    print(f"masks (no peer) | {2 * batch / statistics.median(masks):.0f} | - | -")


if __name__ == "__main__":
    main()
