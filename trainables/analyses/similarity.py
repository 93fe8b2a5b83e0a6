"""Linear CKA, centred kernel alignment [Kornblith et al. 2019, arXiv:1905.00414], on features of n images.

With Gram matrices K and L of centred features: CKA = <K, L> / sqrt(<K, K> <L, L>), which is HSIC normalised. Equal to
||Y^T X||^2 / (||X^T X|| ||Y^T Y||), but n x n where that is d x d (32768 for the paper's features).

The estimate of HSIC in it is biased: the more dimensions for the number of images, the nearer to 1 is CKA. The unbiased
one of Song et al. 2012 is not; averaged over batches it estimates the same whatever their size [Nguyen et al. 2021,
arXiv:2010.15327, eq. 3].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

LEAST = 4  # images, for the unbiased estimate
_COLUMNS = 4096  # features worked on at a time, so that float64 needs no second copy of all


def gram(features: Tensor) -> Tensor:
    """Gram matrix [n, n] in float64 of features [n, ...], flattened, each centred over the images."""
    flat = features.flatten(1)
    matrix = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    for columns in flat.split(_COLUMNS, dim=1):
        exact = columns.double()
        exact = exact - exact.mean(dim=0)
        matrix.addmm_(exact, exact.T)
    return matrix


def biased_hsic(grams: Sequence[Tensor]) -> Tensor:
    """<K, L> of every two of M centred Gram matrices, [M, M]; what it is divided by cancels in CKA."""
    flat = [matrix.flatten() for matrix in grams]
    return _pairwise(flat, lambda i, j: flat[i] @ flat[j])


def unbiased_hsic(grams: Sequence[Tensor]) -> Tensor:
    """The unbiased estimate of HSIC of every two of M Gram matrices, [M, M]; at least 4 images."""
    n = len(grams[0])
    hollow = [matrix - torch.diag(matrix.diagonal()) for matrix in grams]
    rows = [matrix.sum(dim=1) for matrix in hollow]

    def value(i: int, j: int) -> Tensor:
        sums = rows[i].sum() * rows[j].sum() / ((n - 1) * (n - 2))
        return ((hollow[i] * hollow[j]).sum() + sums - 2 / (n - 2) * (rows[i] @ rows[j])) / (n * (n - 3))

    return _pairwise(hollow, value)


def cka(hsic: Tensor) -> Tensor:
    """CKA [M, M] from the HSIC of every two of M models; 1 on the diagonal."""
    deviation = hsic.diagonal().sqrt()
    return hsic / (deviation[:, None] * deviation)


def cka_full(features: Iterable[Tensor], *, unbiased: bool = False) -> Tensor:
    """CKA [M, M] of M models from their features [n, ...] of the same n images.

    Args:
        features: one tensor for each model; may be a generator, then only one is held at a time.
    """
    grams = [gram(tensor) for tensor in features]
    return cka(unbiased_hsic(grams) if unbiased else biased_hsic(grams)).cpu()


def cka_minibatch(batches: Iterable[Sequence[Tensor]]) -> Tensor:
    """CKA [M, M] of M models from random batches of images, each with the features [b, ...] of every model.

    The unbiased HSIC of the batches is averaged, by their numbers of images, before CKA is formed. Batches below 4
    images are left out.
    """
    total: Tensor | None = None
    for features in batches:
        count = len(features[0])
        if count >= LEAST:
            hsic = count * unbiased_hsic([gram(tensor) for tensor in features])
            total = hsic if total is None else total + hsic
    if total is None:
        raise ValueError(f"CKA needs a batch of at least {LEAST} images")
    return cka(total).cpu()


def _pairwise(items: Sequence[Tensor], value: Callable[[int, int], Tensor]) -> Tensor:
    """The symmetric matrix of `value`."""
    matrix = torch.zeros(len(items), len(items), dtype=torch.float64, device=items[0].device)
    for i in range(len(items)):
        for j in range(i + 1):
            matrix[i, j] = matrix[j, i] = value(i, j)
    return matrix
