"""Colour jitter, grayscale and blur of a batch, every sample with its own draws and its own order of operators.

The operators are torchvision's (`transforms.v2.functional.adjust_*`). Why by hand: torchvision applies one draw to a
whole batch, so per-sample draws need a Python loop over images, and its blur cannot pad with zeros as the reference
code does; kornia has per-sample factors, but one order for the batch. Neither takes a generator. Times:
tests/benchmarks/augmentation.py.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

GRAY = (0.2989, 0.587, 0.114)  # torchvision's luma weights
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
OWN_HUES = (0.0, 2.0, -2.0)  # of red, green, blue in sixths of a turn


def blend_matrices(order: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness, contrast and saturation as one form: x <- f x + (1 - f) reference, a 3x3 matrix and a gray offset.

    Args:
        order: int64 [V, 3], a permutation of the three for each view.
        factors: float32 [V, 3], by operator; 1 leaves the picture alone.

    Returns:
        matrices [V, 3, 3, 3] by position in the order; offsets [V, 3], the multiple of the picture's mean gray to add.
    """
    factor = factors.gather(1, order)
    gray = torch.tensor(GRAY).expand(3, 3)
    towards_gray = torch.where(order == SATURATION, 1 - factor, 0.0)
    matrices = factor[..., None, None] * torch.eye(3) + towards_gray[..., None, None] * gray
    return matrices, torch.where(order == CONTRAST, 1 - factor, 0.0)


def blend_(pixels: Tensor, matrices: Tensor, offsets: Tensor) -> None:
    """One operator for each view, in place: pixels [V, 3, P], matrices [V, 3, 3], offsets [V]. Clipped to [0, 1]."""
    red, green, blue = pixels.mean(dim=2).unbind(1)
    offset = (offsets * (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue))[:, None, None]
    torch.clamp(torch.baddbmm(offset.expand(-1, 3, 1), matrices, pixels), 0, 1, out=pixels)


def hue_(pixels: Tensor, shifts: Tensor) -> None:
    """Turn the hue of pixels [V, 3, P] by shifts [V], in turns, in place; what adjust_hue does by way of HSV.

    With the largest and smallest channel V and m and C = V - m, the hue in sixths of a turn is
    sign(g - b) (g + b - r + V - 2 m) / C, and a channel whose own hue is at distance d from it has the value
    m + C clamp(2 - d, 0, 1). No branch, no division by zero.
    """
    red, green, blue = pixels.unbind(1)
    largest, smallest = torch.maximum(red, green), torch.minimum(red, green)
    torch.maximum(largest, blue, out=largest)
    torch.minimum(smallest, blue, out=smallest)
    chroma = largest - smallest
    hue = (green + blue).sub_(red).add_(largest).sub_(smallest, alpha=2)
    scratch = torch.sub(green, blue, out=largest)
    torch.copysign(hue, scratch, out=hue)
    hue = torch.addcdiv(6 * shifts[:, None], hue, torch.add(chroma, 1e-12, out=scratch))
    hue.sub_(torch.div(hue, 6, out=scratch).round_(), alpha=6)  # in [-3, 3]
    # On a circle of length 6 the distance is d = 3 - | |hue - own| - 3 |.
    near = torch.sub(hue[:, None], _constant(OWN_HUES, pixels.device)[:, None], out=pixels)
    near.abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(smallest[:, None], chroma[:, None], near, out=pixels)


@cache
def _constant(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Made once, since making it waits for the device."""
    return torch.tensor(numbers, device=device)


def grayscale(pixels: Tensor) -> Tensor:
    """Luma in all three channels, for pixels [V, 3, P]."""
    red, green, blue = pixels.unbind(1)
    gray = (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])
    return gray[:, None].expand(-1, 3, -1)


def blur_radius(height: int) -> int:
    """Radius of the blur in pixels: 3 at 64, 6 at 128, 11 at 224 [conrec: augmentations/contrastive.py]."""
    return height // 10 // 2


def blur_kernels(sigmas: Tensor, radius: int) -> Tensor:
    """Normalised Gaussian kernels [V, 2 * radius + 1] of standard deviations sigmas [V], in pixels."""
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def blur(images: Tensor, kernels: Tensor, *, reflect: bool = False) -> Tensor:
    """Convolve images [V, 3, H, W] with their own kernels [V, K] along both axes.

    Zeros beyond the border darken it; with `reflect` there is the image's mirror image, as torchvision has it.
    """
    count, channels, height, width = images.shape
    groups, radius = count * channels, kernels.shape[1] // 2
    kernel = kernels.repeat_interleave(channels, dim=0)[:, None]
    if reflect:
        images = F.pad(images, [radius] * 4, mode="reflect")
    padding = 0 if reflect else radius
    planes = images.reshape(1, groups, *images.shape[2:])
    planes = F.conv2d(planes, kernel[:, :, None, :], padding=(0, padding), groups=groups)
    planes = F.conv2d(planes, kernel[:, :, :, None], padding=(padding, 0), groups=groups)
    return planes.view(count, channels, height, width)
