"""Colour jitter, grayscale and blur of a batch, every sample with its own draws and its own order of operators.

The operators are torchvision's (`transforms.v2.functional.adjust_*`). Why by hand: torchvision applies one draw to a
whole batch, so per-sample draws need a Python loop over images, and its blur cannot pad with zeros as the reference
code does; kornia has per-sample factors, but one order for the batch. Neither takes a generator. Times:
tests/benchmarks/augmentation.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

GRAY = (0.2989, 0.587, 0.114)  # torchvision's luma weights
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def blend_matrices(order: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness, contrast and saturation as one form: x <- f x + (1 - f) reference, a 3x3 matrix and a gray offset.

    Args:
        order: int64 [V, 4], a permutation of the operators for each view.
        factors: float32 [V, 4], by operator; 1 leaves the picture alone.

    Returns:
        matrices [V, 4, 3, 3] by position in the order; offsets [V, 4], the multiple of the picture's mean gray to add.
    """
    factor = factors.gather(1, order)
    factor = torch.where(order == HUE, 1.0, factor)
    gray = torch.tensor(GRAY).expand(3, 3)
    towards_gray = torch.where(order == SATURATION, 1 - factor, 0.0)
    matrices = factor[..., None, None] * torch.eye(3) + towards_gray[..., None, None] * gray
    return matrices, torch.where(order == CONTRAST, 1 - factor, 0.0)


def blend(pixels: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """One position of the order for all views: pixels [V, 3, P], matrices [V, 3, 3], offsets [V]. Clipped to [0, 1]."""
    red, green, blue = pixels.mean(dim=2).unbind(1)
    offset = (offsets * (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue))[:, None, None]
    return torch.baddbmm(offset.expand(-1, 3, 1), matrices, pixels).clamp_(0, 1)


def shift_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of pixels [V, 3, P] by shift [V], in turns; what adjust_hue does by way of HSV.

    With the largest and smallest channel V and m and C = V - m, the hue in sixths of a turn is
    sign(g - b) (g + b - r + V - 2 m) / C, and a channel whose own hue is at distance d from it has the value
    m + C clamp(2 - d, 0, 1). No branch, no division by zero.
    """
    red, green, blue = pixels.unbind(1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = largest - smallest
    hue = (green + blue).sub_(red).add_(largest).sub_(smallest, alpha=2).div_(chroma + 1e-12)
    hue = torch.copysign(hue, green - blue).add_(6 * shift[:, None])
    hue -= (hue / 6).round_().mul_(6)  # in [-3, 3]
    turned = torch.empty_like(pixels)
    for channel, away in enumerate((hue.abs(), _distance(hue, 2), _distance(hue, -2))):
        torch.addcmul(smallest, chroma, away.neg_().add_(2).clamp_(0, 1), out=turned[:, channel])
    return turned


def _distance(hue: Tensor, own: int) -> Tensor:
    """Distance on a circle of length 6 between hue in [-3, 3] and a channel's own hue."""
    return (hue - own).abs_().sub_(3).abs_().neg_().add_(3)


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


def blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve images [V, 3, H, W] with their own kernels [V, K] along both axes; zeros beyond the border darken it."""
    count, channels, height, width = images.shape
    groups, radius = count * channels, kernels.shape[1] // 2
    kernel = kernels.repeat_interleave(channels, dim=0)[:, None]
    planes = images.reshape(1, groups, height, width)
    planes = F.conv2d(planes, kernel[:, :, None, :], padding=(0, radius), groups=groups)
    planes = F.conv2d(planes, kernel[:, :, :, None], padding=(radius, 0), groups=groups)
    return planes.view(count, channels, height, width)
