"""Exact bounds of repeated t tests: the level of each look, for few values and a spread that is not known.

Bounds of a Brownian motion let through 5.4 instead of 5 % where looks at 3, 5, 10 and 20 values are t tests (measured,
a million repeats). Exact ones [compare Jennison & Turnbull 1991, Biometrika 78(1)] follow from one number a look:
u = sum of x / sqrt(n sum of x^2), in -1 .. 1, of which t = u sqrt((n - 1) / (1 - u^2)) is a growing function. Where the
true mean is 0 the values, as a vector, point anywhere with equal chance. So, going from n to n + m values,

    sqrt(n + m) u' = sqrt(R n) u + sqrt((1 - R) m) v

with R, the share of the old values in the sum of squares, from Beta(n / 2, m / 2), and v, what u is for the m new ones;
u, R and v are independent. What has crossed no bound is kept as probabilities of narrow bins of u.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
_BINS, _SHARES = 480, 48
_EDGES: Floats = np.sin(np.linspace(-np.pi / 2, np.pi / 2, _BINS + 1))
_MIDDLES: Floats = (_EDGES[1:] + _EDGES[:-1]) / 2
_FINE: Floats = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 8001))


def repeated_t_levels(sizes: tuple[int, ...], may_spend: Callable[[int], float]) -> tuple[float, ...]:
    """The level of the one-sided p of a t test at each look.

    Args:
        sizes: values at each look, ascending, at least 2.
        may_spend: how much of alpha may be spent until so many values are there.
    """
    found: list[float] = []
    used = 0.0
    mass: Floats | None = None
    for number, size in enumerate(sizes):
        may, used = max(may_spend(size) - used, 0.0), max(may_spend(size), used)
        if mass is None:
            level = may
            mass = _kept(
                _tail(_EDGES, size)[None, :], np.ones(1), _tail(np.array([_u(level, size)]), size), level, size
            )
        else:
            before = sizes[number - 1]
            level = _level(mass, before, size, may)
            crossing = _above(np.array([_u(level, size)]), before, size)[:, 0]
            mass = _kept(_to_edges(before, size), mass, crossing, level, size)
        found.append(level)
    return tuple(found)


def _kept(above: Floats, mass: Floats, crossing: Floats, level: float, size: int) -> Floats:
    """Mass of each bin below the bound; of the bin that holds the bound the part below."""
    bound = _u(level, size)
    beyond = np.where(bound <= _EDGES, crossing[:, None], above)
    kept: Floats = mass @ (beyond[:, :-1] - beyond[:, 1:])
    return kept


def _level(mass: Floats, before: int, size: int, may: float) -> float:
    """The level at which as much crosses for the first time as may be spent."""
    if may <= 1e-15:
        return 0.0
    low, high = np.log(1e-15), np.log(0.5)
    for _ in range(45):
        middle = (low + high) / 2
        crossed = float(mass @ _above(np.array([_u(float(np.exp(middle)), size)]), before, size)[:, 0])
        low, high = (low, middle) if crossed > may else (middle, high)
    return float(np.exp(low))


@lru_cache(maxsize=256)
def _to_edges(before: int, after: int) -> Floats:
    return _above(_EDGES, before, after)


def _above(bounds: Floats, before: int, after: int) -> Floats:
    """P(u' >= bound), [bins, bounds], from the middle of each bin."""
    new = after - before
    shares = special.betaincinv(before / 2, new / 2, (np.arange(_SHARES) + 0.5) / _SHARES)
    fine, total = _fine_tail(new), np.zeros((_BINS, len(bounds)))
    for share in shares:
        needed = np.sqrt(after) * bounds - np.sqrt(share * before) * _MIDDLES[:, None]
        total += np.interp(needed / np.sqrt((1 - share) * new), _FINE, fine, left=1.0, right=0.0)
    return total / _SHARES


@lru_cache(maxsize=256)
def _fine_tail(size: int) -> Floats:
    return _tail(_FINE, size)


def _tail(u: Floats, size: int) -> Floats:
    """P(U >= u) for `size` values; for one value U is -1 or 1."""
    if size == 1:
        return np.where(u <= -1, 1.0, np.where(u < 1, 0.5, 0.5))
    half = 0.5 * special.betaincc(0.5, (size - 1) / 2, np.clip(u**2, 0, 1))
    found: Floats = np.where(u >= 0, half, 1 - half)
    return found


def _u(level: float, size: int) -> float:
    """The u whose t has this one-sided p."""
    if level <= 0:
        return 1.0
    t = -float(special.stdtrit(size - 1, level))
    return float(t / np.sqrt(size - 1 + t * t))
