"""Metrics of image classification, all from one confusion matrix."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import torch
from torch import Tensor


def confusion_matrix(predicted: Tensor, true: Tensor, classes: int) -> Tensor:
    """Images by true class (rows) and predicted class (columns): int64 [classes, classes] on the CPU.

    Args:
        predicted, true: int64 [N], 0..classes-1.
    """
    return torch.bincount(true.cpu() * classes + predicted.cpu(), minlength=classes * classes).view(classes, classes)


def summarise_classes(confusion: Tensor) -> dict[str, float]:
    """Metrics as fractions in [0, 1] from a confusion matrix with at least one image.

    accuracy: the share of images that were recognised. accuracy_balanced: the same of each class, averaged over the
    classes that are there. accuracy_majority: that of calling all images the most frequent class, the floor for any
    other number.
    """
    counts, images = confusion.double(), confusion.sum()
    true, hit = counts.sum(dim=1), counts.diagonal()
    there = true > 0
    return {
        "accuracy": float(hit.sum() / images),
        "accuracy_balanced": float((hit[there] / true[there]).mean()),
        "accuracy_majority": float(true.max() / images),
    }


def confusion_csv(confusion: Tensor, classes: Sequence[str]) -> bytes:
    """The matrix as a table: a line for each true class, a column for each predicted one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true class", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))
    return text.getvalue().encode()
