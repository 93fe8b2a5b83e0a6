"""The deformations of Models Genesis against slow ones that follow its rules voxel block by voxel block."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from trainables.context import StageError
from trainables.pretexts import volume_transforms
from trainables.pretexts.volume_transforms import bend, deform, draw_deformations, intensity_curve, shuffled_sources
from trainables.settings import ModelsGenesisSettings

PUBLISHED = (64, 64, 32)
NOTHING = {"flip": 0.0, "shuffle": 0.0, "nonlinear": 0.0, "paint": 0.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def deformed(count=4, sides=(32, 24, 16), seed=0, **chances):
    """(cubes, input, target, draws) where only the named deformations happen."""
    cubes = torch.rand(count, 1, *sides, generator=generator(99))
    draws = draw_deformations(count, sides, ModelsGenesisSettings(**(NOTHING | chances)), generator(seed))
    return cubes, *deform(cubes, draws), draws


def box_of(region):
    """(start, size) by axis when the set voxels fill a box, else None."""
    where = np.argwhere(region)
    low, size = where.min(0), where.max(0) - where.min(0) + 1
    return (low, size) if size.prod() == len(where) else None


def test_nothing_asked_nothing_done():
    cubes, x, y, _ = deformed()
    assert torch.equal(x, cubes) and torch.equal(y, cubes)
    assert x.data_ptr() != cubes.data_ptr() != y.data_ptr()


def test_flips_are_of_both_along_x_and_y_only():
    cubes, x, y, draws = deformed(200, (16, 16, 16), flip=0.4)
    assert torch.equal(x, y)
    along = [{int(n) for n in numbers} for numbers in draws.flipped]
    for number in range(200):
        axes = [axis + 1 for axis in (0, 1) if number in along[axis]]
        assert torch.equal(y[number], cubes[number].flip(axes) if axes else cubes[number])


def test_how_often_a_cube_is_flipped():
    """k flips with probability 0.6 * 0.4^k (0.4^3 for three), each along x with 1/3: an odd number with
    0.24 * 1/3 + 0.096 * 4/9 + 0.064 * 13/27 = 0.1535."""
    count = 20_000
    draws = draw_deformations(count, (16, 16, 16), ModelsGenesisSettings(**(NOTHING | {"flip": 0.4})), generator())
    error = (0.1535 * 0.8465 / count) ** 0.5
    for numbers in draws.flipped:
        assert abs(len(numbers) / count - 0.1535) < 4 * error


def slow_shuffle(sides, rng):
    """The source of each voxel: block after block, read from the original."""
    original = np.arange(np.prod(sides)).reshape(sides)
    shuffled = original.copy()
    for _ in range(10_000):
        size = [rng.randint(1, side // 10) for side in sides]
        start = [rng.randint(0, side - n) for side, n in zip(sides, size, strict=True)]
        block = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        values = original[block].ravel().tolist()
        rng.shuffle(values)
        shuffled[block] = np.reshape(values, size)
    return shuffled.ravel()


def displacement(sources, sides):
    """Share of voxels that moved, and by how far along each axis on average."""
    there, here = (np.stack(np.unravel_index(n, sides)) for n in (sources, np.arange(len(sources))))
    return (sources != np.arange(len(sources))).mean(), np.abs(there - here).mean(axis=1)


def test_shuffling_moves_as_many_voxels_as_far_as_the_slow_one():
    ours, slow = (displacement(s, PUBLISHED) for s in
                  (shuffled_sources(PUBLISHED, generator()), slow_shuffle(PUBLISHED, random.Random(0))))  # fmt: skip
    assert ours[0] == pytest.approx(slow[0], abs=0.01)
    assert ours[1] == pytest.approx(slow[1], rel=0.03)


def test_a_shuffled_voxel_comes_from_its_block():
    sources = shuffled_sources(PUBLISHED, generator(1))
    there, here = (np.stack(np.unravel_index(n, PUBLISHED)) for n in (sources, np.arange(len(sources))))
    assert np.abs(there - here).max(axis=1).tolist() == [5, 5, 2]  # sides are at most 6, 6 and 3


def test_one_block_is_a_permutation_of_itself(monkeypatch):
    """Sides of 1 or 2 along x, 1 else: half of the blocks have two voxels, which change places half of the time."""
    monkeypatch.setattr(volume_transforms, "SHUFFLED_BLOCKS", 1)
    numbers, random_ = np.arange(20 * 16 * 16), generator()
    swapped = 0
    for _ in range(1000):
        sources = shuffled_sources((20, 16, 16), random_)
        assert (np.sort(sources) == numbers).all()
        swapped += (sources != numbers).sum() == 2
    assert swapped == pytest.approx(250, abs=4 * (1000 * 0.25 * 0.75) ** 0.5)


def test_every_order_of_a_block_is_as_likely(monkeypatch):
    """Of the six orders of three voxels in a row three move both ends; a block of two moves neighbours only."""
    monkeypatch.setattr(volume_transforms, "SHUFFLED_BLOCKS", 1)
    random_, seen = generator(), {}
    for _ in range(6000):
        sources = shuffled_sources((30, 1, 1), random_)
        moved = np.flatnonzero(sources != np.arange(30))
        if len(moved) and moved[-1] - moved[0] == 2:
            order = tuple(sources[moved[0] : moved[0] + 3] - moved[0])
            seen[order] = seen.get(order, 0) + 1
    assert set(seen) == {(1, 2, 0), (2, 0, 1), (2, 1, 0)}
    assert max(seen.values()) - min(seen.values()) < 5 * (6000 / 18) ** 0.5


def test_shuffling_takes_values_from_where_it_says():
    cubes, x, y, draws = deformed(6, shuffle=0.5)
    assert torch.equal(y, cubes) and 0 < len(draws.shuffled) < 6
    for number in range(6):
        if number in draws.shuffled:
            sources = draws.sources[draws.shuffled.tolist().index(number)].tolist()
            assert x[number].flatten().tolist() == [cubes[number].flatten().tolist()[s] for s in sources]
        else:
            assert torch.equal(x[number], cubes[number])


def slow_bend(values, points, turned):
    """[genesis: utils.py]: 100,000 points of the curve by de Casteljau's rule from (1, 1) to (0, 0), x sorted alone or
    both sorted, and interpolation between them."""
    t = np.linspace(1, 0, 100_000)[:, None]
    level = [np.array(p)[None].repeat(100_000, 0) for p in ([0, 0], points[:2], points[2:], [1, 1])]
    while len(level) > 1:
        level = [a * (1 - t) + b * t for a, b in pairwise(level)]
    x, y = level[0].T
    return np.interp(values, np.sort(x), y if turned else np.sort(y))


def test_curves_are_those_of_the_slow_ones():
    values = np.linspace(0, 1, 5000, dtype=np.float32).reshape(1, 10, 20, 25)
    turns = 0
    for seed in range(30):
        *points, turned = torch.rand(5, generator=generator(seed), dtype=torch.float64).tolist()
        turns += turned < 0.5
        curve = torch.from_numpy(intensity_curve(generator(seed)))[None]
        ours = bend(torch.from_numpy(values), curve).numpy()
        slow = slow_bend(values, points, turned < 0.5)
        assert np.abs(ours - slow).max() < 3e-3 and np.abs(ours - slow).mean() < 5e-5
        ends = ours.ravel()[[0, -1]]
        assert ends == pytest.approx([1, 0] if turned < 0.5 else [0, 1], abs=1e-6)
    assert 5 < turns < 25


def test_bent_cubes_stay_in_the_unit_range():
    cubes, x, y, draws = deformed(8, nonlinear=1.0)
    assert len(draws.bent) == 8 and torch.equal(y, cubes)
    assert x.min() >= 0 and x.max() <= 1 and not torch.equal(x, y)


def slow_regions(sides, outside, rng):
    """Where noise stands, block after block."""
    noise = np.full(sides, outside)
    for number in range(5):
        if not (outside and number == 0) and rng.random() >= 0.95:
            break
        if outside:
            size = [side - rng.randint(3 * side // 7, 4 * side // 7) for side in sides]
        else:
            size = [rng.randint(side // 6, side // 3) for side in sides]
        start = [rng.randint(3, side - n - 3) for side, n in zip(sides, size, strict=True)]
        noise[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = not outside
    return noise


@pytest.mark.parametrize("sides", [PUBLISHED, (16, 24, 16)])
@pytest.mark.parametrize("outpaint", [0.0, 1.0])
def test_painting_leaves_as_much_as_the_slow_one_and_the_border_alone(sides, outpaint):
    count, rng = 400, random.Random(0)
    chances = ModelsGenesisSettings(**(NOTHING | {"paint": 1.0, "outpaint": outpaint}))
    where = torch.cat([draw_deformations(20, sides, chances, generator(s)).where for s in range(count // 20)])
    ours = where.float().mean((1, 2, 3))
    slow = np.array([slow_regions(sides, bool(outpaint), rng).mean() for _ in range(count)])
    assert abs(float(ours.mean()) - slow.mean()) < 4 * (2 * slow.var() / count) ** 0.5
    border = torch.ones(sides, dtype=torch.bool)
    border[3:-3, 3:-3, 3:-3] = False
    assert (where[:, border] == bool(outpaint)).all()


def test_sides_of_a_block_that_stands_alone():
    chances = ModelsGenesisSettings(**(NOTHING | {"paint": 1.0, "outpaint": 0.0}))
    sizes = []
    for seed in range(40):
        where = draw_deformations(50, (30, 24, 18), chances, generator(seed)).where.numpy()
        sizes += [box_of(region)[1] for region in where if region.any() and box_of(region)]
    sizes = np.array(sizes)
    single = sizes[(sizes <= [10, 8, 6]).all(axis=1)]
    assert len(single) > 50
    assert single.min(axis=0).tolist() == [5, 4, 3] and single.max(axis=0).tolist() == [10, 8, 6]


def test_painted_voxels_are_uniform_noise_and_the_others_stay():
    cubes, x, y, draws = deformed(20, paint=0.5, outpaint=0.5)
    assert torch.equal(y, cubes) and 0 < len(draws.painted) < 20
    painted = torch.zeros(20, *cubes.shape[2:], dtype=torch.bool)
    painted[draws.painted] = draws.where
    assert torch.equal(x[:, 0][~painted], cubes[:, 0][~painted])
    noise = x[:, 0][painted]
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02) and noise.var().item() == pytest.approx(1 / 12, abs=0.01)
    assert noise.min() >= 0 and noise.max() < 1


def test_each_deformation_has_its_probability():
    counts = np.zeros(3)
    outside = []
    for seed in range(20):
        draws = draw_deformations(60, (16, 16, 16), ModelsGenesisSettings(), generator(seed))
        counts += [len(draws.shuffled), len(draws.bent), len(draws.painted)]
        outside += draws.where[:, 0, 0, 0].tolist()
    n = 1200
    for count, share in zip(counts, (0.5, 0.9, 0.9), strict=True):
        assert abs(count / n - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert abs(np.mean(outside) - 0.8) < 4 * (0.16 / len(outside)) ** 0.5


def test_the_order_is_flip_shuffle_curve_paint():
    """All of them at once give what one after the other gives."""
    _, x, y, draws = deformed(5, seed=3, flip=0.6, shuffle=0.7, nonlinear=0.7, paint=0.7)
    expected = y[:, 0].clone()
    for row, number in enumerate(draws.shuffled.tolist()):
        expected[number] = y[number].flatten()[draws.sources[row].long()].view_as(expected[number])
    for row, number in enumerate(draws.bent.tolist()):
        expected[number] = bend(expected[number][None], draws.curves[row][None])[0]
    for row, number in enumerate(draws.painted.tolist()):
        expected[number][draws.where[row]] = draws.noise[row][draws.where[row]]
    assert torch.equal(x[:, 0], expected)


def test_draws_follow_from_the_generator_alone():
    first, again, other = (deformed(seed=s, flip=0.4, shuffle=0.5, nonlinear=0.9, paint=0.9)[1] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_sides_too_small_for_the_windows():
    with pytest.raises(StageError, match="expected cubes of at least 16 voxels a side, but got 16 x 16 x 8"):
        draw_deformations(1, (16, 16, 8), ModelsGenesisSettings(), generator())
    for seed in range(50):  # the smallest ones work
        draw_deformations(4, (16, 16, 16), ModelsGenesisSettings(), generator(seed))
