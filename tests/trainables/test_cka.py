"""CKA against the textbook formulas, its invariances, and the estimate from batches."""

import csv
import io
from itertools import combinations

import numpy as np
import pytest
import torch

from trainables.analyses import analyse
from trainables.analyses.cka import _label
from trainables.analyses.similarity import cka_full, cka_minibatch
from trainables.context import Context, StageError
from trainables.data import open_dataset
from trainables.data.stack import load_stack
from trainables.networks import build_network
from trainables.randomness import seed_everything
from trainables.settings import NetworkSettings
from trainables.settings.analyses import CKASettings


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


def gaussian_kernel(x, bandwidth):
    """exp(-d^2 / (2 s^2)), pair by pair; s is `bandwidth` medians of the distances [Kornblith et al. 2019, §3]."""
    x = np.asarray(x, np.float64)
    apart = {(i, j): np.sqrt(sum((x[i] - x[j]) ** 2)) for i, j in combinations(range(len(x)), 2)}
    s = bandwidth * np.median(list(apart.values()))
    kernel = np.eye(len(x))
    for (i, j), d in apart.items():
        kernel[i, j] = kernel[j, i] = np.exp(-(d**2) / (2 * s**2))
    return kernel


@pytest.mark.parametrize("bandwidth", [0.2, 0.5, 1.0])
@pytest.mark.parametrize(("n", "widths"), [(21, (7, 12)), (12, (300, 50))])
def test_with_a_gaussian_kernel_it_equals_the_formula(n, widths, bandwidth):
    """tr(K H L H) / sqrt(tr(K H K H) tr(L H L H)) [Kornblith et al. 2019, eq. 3, 4]; n odd and even, for the median."""
    features = [related(n, d, seed) for seed, d in enumerate(widths, 1)]
    k, l = (gaussian_kernel(x, bandwidth) for x in features)  # noqa: E741
    h = np.eye(n) - 1 / n
    expected = np.trace(k @ h @ l @ h) / np.sqrt(np.trace(k @ h @ k @ h) * np.trace(l @ h @ l @ h))
    found = cka_full(features, bandwidth=bandwidth)
    assert float(found[0, 1]) == pytest.approx(expected, abs=1e-12)
    assert abs(float(found[0, 1] - cka_full(features)[0, 1])) > 1e-3


def test_with_a_gaussian_kernel_the_unbiased_one_equals_the_textbook_formula():
    features = [related(15, 80, 1), related(15, 9, 2)]
    kernels = [gaussian_kernel(x, 0.5) for x in features]
    roots = [np.linalg.cholesky(kernel) for kernel in kernels]  # features whose products are the kernel
    found = cka_full(features, unbiased=True, bandwidth=0.5)
    assert float(found[0, 1]) == pytest.approx(unbiased(*roots), abs=1e-9)


def test_with_a_wide_gaussian_kernel_it_nears_the_linear_one():
    """exp(-d^2 / (2 s^2)) = 1 - d^2 / (2 s^2) + ..., and centring leaves the products of d^2 [Kornblith, §3]."""
    features = [related(40, 7, 1), related(40, 12, 2)]
    assert torch.allclose(cka_full(features, bandwidth=1000.0), cka_full(features), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"unbiased": True}, {"bandwidth": 0.5}])
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


def outputs(seed, count=30, size=32):
    """E of the pictures of `spec`, by the network itself."""
    listing = open_dataset("shapes", ".", {"count": count, "size": size})
    images = load_stack(listing, range(count), size, masks=False).images
    encoder = build_network(NetworkSettings(width=4), 1).eval()
    encoder.load_state_dict(weights(seed))
    with torch.no_grad():
        return encoder.encoder(images.float() / 255)[-1]


def test_the_analysis_with_a_gaussian_kernel_and_pooled_features(context):
    parents = {"one": weights(0), "other": weights(1)}
    maps = [outputs(0), outputs(1)]
    means = [torch.stack([m[:, :, y : y + 2, x : x + 2].mean((2, 3)) for y in (0, 2) for x in (0, 2)]) for m in maps]
    pooled = [m.permute(1, 0, 2).flatten(1) for m in means]
    usual = analyse(spec(parents), context(parents))
    found = analyse(spec(parents, pool=2), context(parents))
    assert found.facts["features"] == {"one": 2 * 2 * 32, "other": 2 * 2 * 32}
    assert found.metrics["cka/one/other"] == pytest.approx(textbook(*pooled), abs=1e-5)
    assert found.metrics != usual.metrics
    found = analyse(spec(parents, kernel="rbf", bandwidth=0.4), context(parents))
    k, l = (gaussian_kernel(m.flatten(1), 0.4) for m in maps)  # noqa: E741
    h = np.eye(30) - 1 / 30
    expected = np.trace(k @ h @ l @ h) / np.sqrt(np.trace(k @ h @ k @ h) * np.trace(l @ h @ l @ h))
    assert found.metrics["cka/one/other"] == pytest.approx(expected, abs=1e-5)
    assert found.files["cka.png"] != usual.files["cka.png"]


def test_the_colours_are_called_what_they_are():
    assert _label(CKASettings()) == "linear CKA"
    assert _label(CKASettings(kernel="rbf")) == "CKA, Gaussian kernel of 0.5 median distances"


def test_dials_that_do_not_go_together_are_told(context):
    parents = {"one": weights(0), "other": weights(1)}
    with pytest.raises(StageError, match="kernel rbf needs all images at once; expected estimator full"):
        analyse(spec(parents, kernel="rbf", estimator="minibatch"), context(parents))
    with pytest.raises(StageError, match="expected a pool of at most the side of E, which is 4 x 4 here, but got 5"):
        analyse(spec(parents, pool=5), context(parents))


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_an_encoder_that_sees_nothing_is_told(context, kernel):
    dead = {name: torch.zeros_like(t) for name, t in weights(0).items()}
    with pytest.raises(StageError, match="dead gives the same for all"):
        analyse(spec(["alive", "dead"], kernel=kernel), context({"alive": weights(0), "dead": dead}))


def test_what_does_not_fit_is_told(context):
    with pytest.raises(StageError, match="expected the weights of 'SimCLR'"):
        analyse(spec(["SimCLR"]), context({}))
    lacking = {name: t for name, t in weights(0).items() if name != "encoder.blocks.0.0.0.weight"}
    with pytest.raises(StageError, match=r"SimCLR: expected blocks\.0\.0\.0\.weight of \[4, 3, 3, 3\].* but got none"):
        analyse(spec(["SimCLR"]), context({"SimCLR": lacking}))
