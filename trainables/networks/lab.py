"""CIE Lab under D65 and the 2 degree observer, to and from sRGB, in plain torch (IEC 61966-2-1; CIE 15)."""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB -> XYZ, and the white point that XYZ is divided by.
RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
# Where the cube root gives way to a line.
LINEAR_BELOW, SLOPE, OFFSET = 0.008856, 7.787, 16 / 116


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB [N, 3, H, W] in [0, 1] -> L in [0, 100] and a, b (about -128 to 127) [N, 3, H, W]."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp(min=0) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("ij,njhw->nihw", rgb.new_tensor(RGB_TO_XYZ), linear) / _white(rgb)
    x, y, z = torch.where(xyz > LINEAR_BELOW, xyz.clamp(min=LINEAR_BELOW) ** (1 / 3), SLOPE * xyz + OFFSET).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours that sRGB has not are clipped to [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    root = torch.stack([y + a / 500, y, (y - b / 200).clamp(min=0)], dim=1)
    xyz = torch.where(root > LINEAR_BELOW ** (1 / 3), root**3, (root - OFFSET) / SLOPE) * _white(lab)
    inverse = torch.linalg.inv(torch.tensor(RGB_TO_XYZ, dtype=torch.float64)).to(lab)
    linear = torch.einsum("ij,njhw->nihw", inverse, xyz)
    rgb = torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return rgb.clamp(0, 1)


def _white(like: Tensor) -> Tensor:
    return like.new_tensor(WHITE).view(3, 1, 1)
