"""What probes take for what: confusion matrices side by side [P2 Fig. 8, 9]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.analyses.choose import metric_name, open_checked, table
from trainables.analyses.figures import PAGE, canvas, png, style
from trainables.analyses.models import parent_weights
from trainables.context import Context, Result, StageError

SIDE = 2.3  # inches, of a matrix with its labels


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Draw the confusion matrices of probes in percent of the true class.

    Args:
        spec: analysis (`ConfusionSettings`), models (a list of name), data (reader, options of the labelled set).
        context: for each model its probe stage as a parent, its role the model's name.

    Returns:
        Files confusion.png and confusion.csv (model, true, predicted, images, percent). Metrics: the share of each true
        class that was recognised, confusion/<model>/<class>. Facts: models, classes.

    Raises:
        StageError: a parent is no probe of this dataset. DataError: the dataset is missing or faulty.
    """
    listing, _ = open_checked(spec["data"], context)
    names = [str(model["name"]) for model in spec["models"]]
    counts = {name: _matrix(context, name, len(listing.label_names)) for name in names}
    shares = {name: matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1) for name, matrix in counts.items()}
    classes = listing.label_names
    places = [(n, i, j) for n in names for i in range(len(classes)) for j in range(len(classes))]
    rows = [(n, classes[i], classes[j], int(counts[n][i, j]), 100 * float(shares[n][i, j])) for n, i, j in places]
    return Result(
        {metric_name("confusion", n, classes[i]): float(shares[n][i, i]) for n, i, j in places if i == j},
        facts={"models": names, "classes": list(classes)},
        files={
            "confusion.png": draw_matrices(shares, classes),
            "confusion.csv": table(("model", "true", "predicted", "images", "percent"), rows),
        },
    )


def _matrix(context: Context, name: str, classes: int) -> Tensor:
    """float64 [classes, classes]: images by true and predicted class."""
    matrix = parent_weights(context, name).get("confusion")
    if matrix is None or tuple(matrix.shape) != (classes, classes):
        found = "none" if matrix is None else str(list(matrix.shape))
        raise StageError(f"{name}: expected the confusion matrix of a probe for {classes} classes, but got {found}")
    return matrix.to(torch.float64)


def draw_matrices(shares: Mapping[str, Tensor], classes: Sequence[str]) -> bytes:
    """A PNG with a matrix for each model: rows are true classes, columns predicted ones, cells in percent."""
    with style():
        width = min(PAGE, SIDE * len(shares) + 0.6)
        figure, row = canvas(width, SIDE, ncols=len(shares), sharey=True, squeeze=False)
        for axes, (name, share) in zip(row[0], shares.items(), strict=True):
            image = axes.imshow(100 * share.numpy(), vmin=0, vmax=100, cmap="Blues")
            axes.set(title=name, xlabel="predicted")
            axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(classes)), classes)
            axes.tick_params(length=0)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            for i, j in torch.cartesian_prod(torch.arange(len(classes)), torch.arange(len(classes))).tolist():
                value = 100 * float(share[i, j])
                colour = "white" if value > 60 else "black"
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
        row[0][0].set_ylabel("true class")
        bar = figure.colorbar(image, ax=list(row[0]), shrink=0.8, aspect=18, pad=0.02)
        bar.set_label("percent of the true class")
        bar.outline.set_visible(False)
        return png(figure)
