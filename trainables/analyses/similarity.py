"""CKA, centred kernel alignment [Kornblith et al. 2019, arXiv:1905.00414], on features of n images.

With centred Gram matrices K and L: CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), where HSIC = <K, L> up to a factor.
With the linear kernel equal to ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centred features, but n x n where that is d x d
(d = 32768 for P1's features). The Gaussian kernel is exp(-|x - y|^2 / (2 s^2)); s is a share of the median distance.

<K, L> is a biased estimate of HSIC: the more dimensions for the number of images, the nearer to 1 is CKA. The unbiased
one [Song et al. 2012; Nguyen et al. 2021, arXiv:2010.15327, eq. 3] differs by sums over single images:

    n (n - 3) HSIC = <K, L> - <k, l> + (sum k) (sum l) / ((n - 1) (n - 2)) - 2 <k, l> / (n - 2),   k, l: the diagonals

So both need, beside the diagonals, only the sum over pairs of different images. `cka_minibatch` takes it from the pairs
that meet in a batch, as Nguyen et al. do, and never holds more than a batch. What is left is the error of having seen
but some of the pairs; where batches bring all of them together, the result is that of `cka_full`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_COLUMNS = 4096  # features worked on at a time, so that float64 needs no second copy of all
# Images x minibatch x passes that `passes=None` sees. Measured on 1,646 images with three untrained encoders: at 1.7
# million the largest error was 2.5e-3; it falls with the root, and is rounding alone where all pairs have met.
_ENOUGH = 2**25


def cka_full(features: Iterable[Tensor], *, unbiased: bool = False, bandwidth: float | None = None) -> Tensor:
    """CKA [M, M] of M models, float64 on the CPU, 1 on the diagonal.

    Args:
        features: [n, ...] of the same n images for each model; of a generator only one is held at a time, beside M
            matrices [n, n] in float64.
        bandwidth: of the Gaussian kernel, as in `gaussian_gram`; None: the linear kernel.
    """
    grams = [gram(tensor) if bandwidth is None else gaussian_gram(tensor, bandwidth) for tensor in features]
    squares = torch.stack([matrix.diagonal().clone() for matrix in grams])
    for matrix in grams:
        matrix.fill_diagonal_(0)
    return _cka(_products(grams), squares, unbiased)


def cka_minibatch(
    features_of: Callable[[Tensor], Sequence[Tensor]],
    count: int,
    *,
    minibatch: int = 256,
    passes: int | None = None,
    unbiased: bool = False,
    generator: torch.Generator,
) -> Tensor:
    """As `cka_full`, from batches.

    Args:
        features_of: row numbers [b] -> features [b, ...] of every model.
        count: number of images.
        minibatch: images in a batch, at most.
        passes: how often each image is in a batch; None: as often as keeps errors below 1e-3 (`_ENOUGH`), at most until
            all pairs have met. One more pass goes before, for the means.
        generator: of the CPU; puts the images in random order.
    """
    order = torch.randperm(count, generator=generator)
    blocks = torch.split(order, max(1, minibatch // 2))
    rounds = list(_rounds(len(blocks)))
    taken = rounds[: -(-_ENOUGH // (count * minibatch)) if passes is None else passes]
    means = _means(features_of, blocks)
    squares = torch.zeros(len(means), count, dtype=torch.float64, device=means[0].device)
    sums = torch.zeros(len(means), len(means), dtype=torch.float64, device=means[0].device)
    seen = 0
    for number, pairs in enumerate(taken):
        for first, second in pairs:
            rows = blocks[first] if first == second else torch.cat([blocks[first], blocks[second]])
            centred = [f.flatten(1).double() - m for f, m in zip(features_of(rows), means, strict=True)]
            split = len(blocks[first])
            if first != second:
                sums += 2 * _products([x[:split] @ x[split:].T for x in centred])
                seen += 2 * split * (len(rows) - split)
            if number == 0:
                squares[:, rows] = torch.stack([x.square().sum(dim=1) for x in centred])
                for part in (slice(0, split), slice(split, None)):
                    sums += _products([_hollow(x[part] @ x[part].T) for x in centred])
                    seen += len(rows[part]) * (len(rows[part]) - 1)
    return _cka(sums * (count * (count - 1) / seen), squares, unbiased)


def gram(features: Tensor) -> Tensor:
    """Gram matrix [n, n] in float64 of features [n, ...], flattened, each centred over the images."""
    flat = features.flatten(1)
    matrix = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    for columns in torch.split(flat, _COLUMNS, dim=1):
        exact = columns.double()
        exact = exact - exact.mean(dim=0)
        matrix.addmm_(exact, exact.T)
    return matrix


def gaussian_gram(features: Tensor, bandwidth: float) -> Tensor:
    """Gram matrix [n, n] in float64 of the kernel exp(-|x - y|^2 / (2 s^2)), centred [Kornblith et al. 2019, §3].

    Args:
        features: [n, ...], flattened.
        bandwidth: s as a share of the median distance between two different rows. Where that is 0, so that no s would
            do, the result is not a number.
    """
    products = gram(features)
    norms = products.diagonal()
    squares = (norms[:, None] + norms - 2 * products).clamp_(min=0)
    pairs = torch.ones_like(squares, dtype=torch.bool).triu(1)
    median = float(np.median(squares[pairs].sqrt().cpu().numpy()))
    if median == 0:
        return torch.full_like(squares, torch.nan)
    kernel = torch.exp(squares / (-2 * (bandwidth * median) ** 2))
    means = kernel.mean(dim=0)
    return kernel - means[:, None] - means + means.mean()


def _cka(sums: Tensor, squares: Tensor, unbiased: bool) -> Tensor:
    """From the sums over ordered pairs of different images [M, M] and the diagonals of the Gram matrices [M, n]."""
    n, diagonals = squares.shape[1], squares @ squares.T
    if unbiased:
        traces = squares.sum(dim=1)
        hsic = sums + traces[:, None] * traces / ((n - 1) * (n - 2)) - 2 / (n - 2) * diagonals
    else:
        hsic = sums + diagonals
    deviation = hsic.diagonal().sqrt()
    return (hsic / (deviation[:, None] * deviation)).cpu()


def _products(matrices: Sequence[Tensor]) -> Tensor:
    """The sum of the elementwise product of every two of M matrices, [M, M]."""
    flat = [matrix.flatten() for matrix in matrices]
    products = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat[0].device)
    for i, one in enumerate(flat):
        for j in range(i + 1):
            products[i, j] = products[j, i] = one @ flat[j]
    return products


def _hollow(matrix: Tensor) -> Tensor:
    return matrix.fill_diagonal_(0)


def _means(features_of: Callable[[Tensor], Sequence[Tensor]], blocks: Sequence[Tensor]) -> list[Tensor]:
    """Mean features [d] of each model, in float64."""
    count = sum(map(len, blocks))
    totals: list[Tensor] = []
    for rows in blocks:
        sums = [f.flatten(1).sum(dim=0, dtype=torch.float64) for f in features_of(rows)]
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
    return [total / count for total in totals]


def _rounds(blocks: int) -> Iterator[list[tuple[int, int]]]:
    """A tournament: in each round every block meets one other (or, of an odd number, one stays alone), and in all
    rounds together each two meet once [the circle method]."""
    if blocks == 1:
        yield [(0, 0)]
        return
    even = blocks + blocks % 2
    for number in range(even - 1):
        ring = [0, *((number + place) % (even - 1) + 1 for place in range(even - 1))]
        pairs = [(ring[place], ring[-1 - place]) for place in range(even // 2)]
        # The one that would meet block `blocks`, which is not there, is alone.
        yield [(min(p), max(p)) if max(p) < blocks else (min(p), min(p)) for p in pairs]
