"""Linear CKA against the textbook formulas, its invariances, and the estimate from batches."""

import csv
import io
from itertools import combinations

import numpy as np
import pytest
import torch

from trainables.analyses import analyse
from trainables.analyses.similarity import cka_full, cka_minibatch
from trainables.context import Context, StageError
from trainables.networks import build_network
from trainables.randomness import seed_everything
from trainables.settings import NetworkSettings


def textbook(x, y):
    """||Y^T X||^2 / (||X^T X|| ||Y^T Y||) with centred columns [Kornblith et al. 2019, eq. 5]."""
    x, y = (np.asarray(a, np.float64) - np.asarray(a, np.float64).mean(0) for a in (x, y))
    norm = np.linalg.norm
    return norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


def unbiased_hsic(x, y):
    """Song et al. 2012, eq. 5, word by word."""
    k, l = (np.asarray(a, np.float64) @ np.asarray(a, np.float64).T for a in (x, y))  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    n, one = len(k), np.ones(len(k))
    terms = (
        np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    )
    return terms / (n * (n - 3))


def unbiased(x, y):
    return unbiased_hsic(x, y) / np.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def related(n, d, seed):
    """Features that share some of their directions, off the origin."""
    shared, own = gaussian(n, 5), gaussian(n, d, seed=seed)
    return own + shared @ gaussian(5, d, seed=seed + 100) + 3


def minibatch(features, *, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return cka_minibatch(lambda rows: [f[rows] for f in features], len(features[0]), generator=generator, **options)


@pytest.mark.parametrize(("n", "widths"), [(40, (7, 12)), (12, (300, 50))])
def test_equals_the_textbook_formula(n, widths):
    features = [related(n, d, seed) for seed, d in enumerate(widths, 1)]
    found = cka_full(features)
    assert found.dtype == torch.float64
    assert float(found[0, 1]) == pytest.approx(textbook(*features), abs=1e-12)
    assert torch.equal(found, found.T)


def test_unbiased_equals_the_textbook_formula():
    features = [related(15, 80, 1), related(15, 9, 2)]
    found = cka_full(features, unbiased=True)
    assert float(found[0, 1]) == pytest.approx(unbiased(*features), abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"unbiased": True}])
def test_of_a_model_with_itself_is_one_also_rotated_scaled_and_moved(options):
    x = related(60, 20, 1)
    rotation = torch.linalg.qr(gaussian(20, 20, seed=3).double()).Q
    assert not torch.allclose(rotation, torch.eye(20, dtype=torch.float64), atol=0.1)
    others = [x, x.double() @ rotation, 1e-3 * x, x + 7]
    assert torch.allclose(cka_full(others, **options), torch.ones(4, 4, dtype=torch.float64), atol=1e-9)


def test_lies_between_zero_and_one_and_sees_no_likeness_where_there_is_none():
    """Of many features for few images the biased estimate is near 1 whatever they are; the unbiased one is not."""
    features = [gaussian(50, 2000, seed=seed) for seed in range(3)]
    biased, fair = cka_full(features), cka_full(features, unbiased=True)
    assert bool(((biased >= 0) & (biased <= 1 + 1e-12)).all())
    assert float(biased[0, 1]) > 0.9
    assert abs(float(fair[0, 1])) < 0.1


@pytest.fixture(scope="module")
def encoded():
    """Outputs of three untrained encoders for 2,000 blurry pictures: [2000, 4 * 4 * channels]."""
    coarse = torch.rand(2000, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    features = []
    for seed, width in ((0, 3), (1, 3), (2, 5)):
        seed_everything(seed, "init")
        encoder = build_network(NetworkSettings(width=width), 1).encoder.eval()
        with torch.no_grad():
            features.append(torch.cat([encoder(part)[-1].flatten(1) for part in images.split(250)]))
    return features


@pytest.mark.parametrize("fair", [False, True])
def test_minibatches_come_within_a_thousandth_of_all_images_at_once(encoded, fair):
    full = cka_full(encoded, unbiased=fair)
    off_diagonal = full[~torch.eye(3, dtype=torch.bool)]
    assert float(off_diagonal.min()) > 0.02 and float(off_diagonal.max()) < 0.98  # there is something to get wrong
    for size in (256, 90):
        found = minibatch(encoded, minibatch=size, unbiased=fair)
        assert float((found - full).abs().max()) < 1e-3
    once = minibatch(encoded, minibatch=256, passes=1, unbiased=fair)
    assert 1e-9 < float((once - full).abs().max()) < 0.05


@pytest.mark.parametrize("count", [4, 33, 100, 130])
def test_batches_are_no_larger_than_asked_and_bring_all_pairs_together(count):
    x, batches = related(count, 6, 1), []

    def features_of(rows):
        batches.append(rows.tolist())
        return [x[rows], x[rows].square()]

    found = cka_minibatch(features_of, count, minibatch=20, generator=torch.Generator().manual_seed(0))
    assert max(map(len, batches)) <= 20
    together = {pair for batch in batches for pair in combinations(sorted(batch), 2)}
    assert len(together) == count * (count - 1) // 2
    assert float(found[0, 1]) == pytest.approx(textbook(x, x.square()), abs=1e-10)


def test_minibatches_depend_on_the_seed_alone(encoded):
    options = {"minibatch": 64, "passes": 1}
    assert torch.equal(minibatch(encoded, seed=5, **options), minibatch(encoded, seed=5, **options))
    assert not torch.equal(minibatch(encoded, seed=5, **options), minibatch(encoded, seed=6, **options))


NETWORK = {"name": "conrec-unet", "width": 4}


def weights(seed):
    seed_everything(seed, "init")
    return build_network(NetworkSettings(width=4), 1).state_dict()


def spec(names, **settings):
    return {
        "analysis": {"kind": "cka", "input_size": 32, **settings},
        "models": [{"name": name, "network": NETWORK} for name in names],
        "data": {"reader": "shapes", "options": {"count": 30, "size": 32}},
        "backend": {"threads": 1},
        "seed": 0,
    }


@pytest.fixture
def context(tmp_path):
    return lambda parents: Context(tmp_path, tmp_path / "work", parents=parents, cache_dir=tmp_path / "cache")


def test_the_analysis_writes_picture_and_table(context):
    parents = {"Car segmentation": weights(0), "SimCLR": weights(1), "the first again": weights(0)}
    where = context(parents)
    result = analyse(spec(parents), where)
    assert set(result.metrics) == {
        "cka/car-segmentation/simclr",
        "cka/car-segmentation/the-first-again",
        "cka/simclr/the-first-again",
    }
    assert result.metrics["cka/car-segmentation/the-first-again"] == pytest.approx(1, abs=1e-12)
    assert 0 < result.metrics["cka/car-segmentation/simclr"] < 0.999
    assert result.facts["images"] == 30
    assert result.facts["features"]["SimCLR"] == 4 * 4 * 32
    rows = list(csv.DictReader(io.StringIO(result.files["cka.csv"].decode())))
    assert len(rows) == 9
    by_pair = {(row["model"], row["other"]): float(row["cka"]) for row in rows}
    assert by_pair["SimCLR", "Car segmentation"] == result.metrics["cka/car-segmentation/simclr"]
    assert result.files["cka.png"].startswith(b"\x89PNG")
    assert analyse(spec(parents), where).files == result.files
    by_batches = analyse(spec(parents, estimator="minibatch", minibatch=8, batch=3), where)
    assert by_batches.metrics == pytest.approx(result.metrics, abs=1e-6)
    few = analyse(spec(parents, images=10), where)
    assert few.facts["images"] == 10


def test_what_does_not_fit_is_told(context):
    with pytest.raises(StageError, match="expected the weights of 'SimCLR'"):
        analyse(spec(["SimCLR"]), context({}))
    lacking = {name: t for name, t in weights(0).items() if name != "encoder.blocks.0.0.0.weight"}
    with pytest.raises(StageError, match=r"SimCLR: expected blocks\.0\.0\.0\.weight of \[4, 3, 3, 3\].* but got none"):
        analyse(spec(["SimCLR"]), context({"SimCLR": lacking}))
    dead = {name: torch.zeros_like(t) for name, t in weights(0).items()}
    with pytest.raises(StageError, match="dead gives the same for all"):
        analyse(spec(["alive", "dead"]), context({"alive": weights(0), "dead": dead}))
