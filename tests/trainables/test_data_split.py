"""The draw of training images: the paper's counts, nesting, pairing, and requests that cannot be met."""

from pathlib import Path

import pytest

from trainables.data import DataError, Listing, open_dataset, split


def pool(count, reader="flowers17", folder="here"):
    names = tuple(f"jpg/image_{n:04d}.jpg" for n in range(count))
    numbers = tuple(range(count))
    return Listing(reader, Path(folder), names, names, (None,) * count, {0: 0, 1: 1}, numbers, pool=numbers)


def parts(train, evaluation):
    names = tuple(f"images/{n}.png" for n in range(train + evaluation))
    numbers = tuple(range(train + evaluation))
    labels = (None,) * len(names)
    return Listing(
        "folder", Path("there"), names, names, labels, {0: 0, 1: 1}, numbers, (), numbers[:train], numbers[train:]
    )


@pytest.mark.parametrize(("count", "sizes"), [(849, (8, 42, 170)), (7375, (74, 368, 1475))])
def test_the_sizes_of_the_paper(count, sizes):
    """P1 Table 2: training images at 1, 5 and 20 %; as literals, since no rounding gives all six."""
    draws = [split(pool(count), fraction, n, 0) for fraction, n in zip((0.01, 0.05, 0.2), sizes, strict=True)]
    assert tuple(len(draw.train) for draw in draws) == sizes
    assert tuple(len(draw.evaluation) for draw in draws) == tuple(count - n for n in sizes)


@pytest.mark.parametrize(
    ("count", "fraction", "n"), [(849, 0.05, 42), (850, 0.05, 43), (7375, 0.01, 74), (300, 0.005, 2), (90, 0.35, 32)]
)
def test_fractions_are_rounded_half_up(count, fraction, n):
    assert len(split(pool(count), fraction, None, 0).train) == n


def test_smaller_fractions_are_part_of_larger_ones():
    one, five, twenty = (split(pool(700), fraction, None, 3) for fraction in (0.01, 0.05, 0.2))
    assert one.train == five.train[:7] == twenty.train[:7]
    assert five.train == twenty.train[:35]
    assert set(twenty.evaluation) < set(five.evaluation) < set(one.evaluation)


def test_the_draw_depends_on_reader_and_seed_and_on_nothing_else():
    reference = split(pool(700), 0.05, None, 0)
    assert split(pool(700, folder="elsewhere"), 0.05, None, 0) == reference
    assert set(split(pool(700), 0.05, None, 1).train) != set(reference.train)
    assert set(split(pool(700, reader="pets"), 0.05, None, 0).train) != set(reference.train)


def test_every_image_is_drawn_about_equally_often():
    times = [0] * 40
    for seed in range(400):
        for number in split(pool(40), 0.25, None, seed).train:
            times[number] += 1
    assert sum(times) == 4000
    assert 60 < min(times) <= max(times) < 140  # 100 +- 8.7; more than four deviations either way


def test_the_first_images_of_a_seed_stay_what_they_are():
    """Published results name seeds; a change of this draw is a new version of every stage."""
    assert split(open_dataset("shapes", ""), None, 5, 0).train == (1, 184, 208, 153, 155)


def test_official_parts():
    listing = parts(100, 40)
    assert set(split(listing, None, None, 0).train) == set(range(100))
    draw = split(listing, 0.2, None, 0)
    assert len(draw.train) == 20
    assert max(draw.train) < 100
    assert draw.evaluation == tuple(range(100, 140))
    assert len(split(listing, None, 100, 0).train) == 100
    assert len(split(listing, 1.0, None, 0).train) == 100


@pytest.mark.parametrize(
    ("listing", "fraction", "n_train", "message"),
    [
        (pool(20), 0.01, None, r"flowers17 \(here\): 1 % of 20 images is 0 images; at least 1 must train"),
        (pool(20), None, 0, "n_train 0 is 0 images"),
        (pool(20), None, 20, "n_train 20 leaves none of the 20 annotated images to evaluate"),
        (pool(20), None, 42, "n_train 42 leaves none of the 20"),
        (pool(20), 1.0, None, "100 % of 20 images leaves none"),
        (pool(20), None, None, "a fraction or n_train is needed"),
        (pool(20), 5, None, "fraction must be above 0 and at most 1, but got 5"),
        (parts(20, 5), None, 21, "n_train 21 is more than the 20 images of the training part"),
        (parts(20, 0), 0.5, None, "evaluation part is empty"),
        (parts(0, 0), 0.5, None, "no image has a mask"),
    ],
)
def test_requests_that_cannot_be_met(listing, fraction, n_train, message):
    with pytest.raises(DataError, match=message):
        split(listing, fraction, n_train, 0)
