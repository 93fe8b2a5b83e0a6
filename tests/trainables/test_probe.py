"""The probe stage: its metrics against scikit-learn and torchmetrics, its features and its layer recomputed by hand."""

import csv
import io
import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from PIL import Image
from sklearn import metrics as sk
from torch.nn import functional as F

from trainables.analyses.cam import activation_maps
from trainables.context import Context, StageError
from trainables.data import DataError, open_dataset
from trainables.data.split import probe_size, split_probe
from trainables.data.stack import load_stack
from trainables.downstream.class_metrics import confusion_csv, confusion_matrix, summarise_classes
from trainables.downstream.metrics import summarise, tally
from trainables.downstream.probe import Best, pooled_features, probe
from trainables.networks import build_network
from trainables.randomness import seed_everything
from trainables.settings import parse_network
from trainables.stages import STAGES

NETWORK = {"name": "conrec-unet", "width": 4}
SHARES = (0.7, 0.1, 0.2)


def spec(*, pretrained=False, seed=0, network=NETWORK, options=None, reader="textures", fraction=None, **dials):
    return {
        "scenario": "probe",
        "frozen": True,
        "pretrained": pretrained,
        "network": network,
        "data": {"reader": reader, "options": options or {"count": 60, "size": 32}, "fraction": fraction},
        "probe": {"epochs": 4, "batch": 16, "input_size": 32, "learning_rate": 1e-2} | dials,
        "backend": {"threads": 1},
        "seed": seed,
    }


def parent(seed=5, network=NETWORK):
    seed_everything(seed, "init")
    return build_network(parse_network(network), 1).state_dict()


@pytest.fixture
def context(tmp_path):
    def make(weights=None, cls=Context, work="work", **options):
        parents = None if weights is None else {"pretrain": weights}
        return cls(tmp_path, tmp_path / work, parents=parents, cache_dir=tmp_path / "cache", **options)

    return make


# Metrics -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [None, "true", "both"])
def test_accuracy_and_confusion_are_those_of_other_libraries(absent):
    torch.manual_seed(0)
    true, predicted = torch.randint(4, (200,)), torch.randint(4, (200,))
    if absent:
        true[true == 2] = 1
    if absent == "both":
        predicted[predicted == 2] = 3
    confusion = confusion_matrix(predicted, true, 4)
    assert np.array_equal(confusion.numpy(), sk.confusion_matrix(true, predicted, labels=range(4)))
    assert torch.equal(confusion, tm.multiclass_confusion_matrix(predicted, true, 4))
    found = summarise_classes(confusion)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert found["accuracy"] == pytest.approx(float(tm.multiclass_accuracy(predicted, true, 4, average="micro")))
    there = sorted(set(true.tolist()))
    recalls = sk.recall_score(true, predicted, labels=there, average=None)
    assert found["accuracy_balanced"] == pytest.approx(recalls.mean())
    assert found["accuracy_majority"] == pytest.approx(np.bincount(true).max() / 200)


@pytest.mark.parametrize("case", ["both classes", "no object anywhere", "object only predicted", "all object"])
def test_two_class_miou_is_that_of_scikit_learn(case):
    """Over all pixels together; a class that is neither there nor predicted counts as 1."""
    torch.manual_seed(1)
    logits, masks = torch.randn(3, 1, 9, 8), torch.randint(2, (3, 9, 8), dtype=torch.uint8)
    masks[1] = 0  # an image without the object
    if case in ("no object anywhere", "object only predicted"):
        masks[:] = 0
    if case == "no object anywhere":
        logits = -logits.abs()
    if case == "all object":
        masks[:], logits = 1, logits.abs()
    masks[:, 0, :3] = 255
    counted = masks != 255
    predicted = (logits[:, 0] > 0)[counted].long()
    expected = sk.jaccard_score(masks[counted], predicted, labels=[0, 1], average="macro", zero_division=1)
    assert summarise(tally(logits, masks))["miou"] == pytest.approx(expected, abs=1e-9)
    if case == "both classes":
        theirs = tm.multiclass_jaccard_index(predicted, masks[counted].long(), 2)
        assert float(theirs) == pytest.approx(expected, abs=1e-6)


def test_the_matrix_as_a_table():
    text = confusion_csv(torch.tensor([[3, 1], [0, 2]]), ("Mouse", "C. elegans, adult")).decode()
    assert list(csv.reader(io.StringIO(text))) == [
        ["true class", "Mouse", "C. elegans, adult"], ["Mouse", "3", "1"], ["C. elegans, adult", "0", "2"],
    ]  # fmt: skip


# Parts ---------------------------------------------------------------------------------------------------------------


def test_parts_are_disjoint_stratified_and_nested_over_fractions(tmp_path):
    listing = open_dataset("textures", tmp_path, {"count": 200, "size": 16})
    training, validation, evaluation = split_probe(listing, None, SHARES, 3)
    assert (len(training), len(validation), len(evaluation)) == (140, 20, 40)
    assert sorted(training + validation + evaluation) == list(range(200))
    of_class = [[sum(listing.labels[n] == c for n in part) / len(part) for c in range(3)] for part in (
        training, validation, evaluation)]  # fmt: skip
    assert np.abs(np.array(of_class[0]) - of_class[2]).max() < 0.05
    parts = {fraction: split_probe(listing, fraction, SHARES, 3) for fraction in (0.05, 0.2, 1.0)}
    assert set(parts[0.05][0]) < set(parts[0.2][0]) < set(parts[1.0][0]) == set(training)
    assert all(found[1:] == (validation, evaluation) for found in parts.values())
    assert [probe_size(listing, f, SHARES) for f in (0.05, 0.2, None)] == [7, 28, 140]
    assert split_probe(listing, None, SHARES, 4)[0] != training


def test_published_sizes():
    """100,000 images of CEM500K: 70,000, 10,000 and 20,000."""
    listing = open_dataset("textures", "", {"count": 1000, "size": 8})
    assert probe_size(listing, None, SHARES) == 700


@pytest.mark.parametrize(
    ("reader", "options", "dials", "says"),
    [
        ("shapes", {"count": 40, "size": 32}, {}, "no image has a label"),
        ("textures", {"count": 4, "size": 32}, {}, "too few for parts"),
        ("textures", {"count": 60, "size": 32}, {"evaluation_share": 0.95}, "leave nothing to train"),
    ],
)
def test_data_without_what_a_probe_needs(context, reader, options, dials, says):
    with pytest.raises(DataError, match=says):
        probe(spec(reader=reader, options=options, **dials), context())


# The stage -----------------------------------------------------------------------------------------------------------


def test_result(context):
    where = context()
    result = probe(spec(), where)
    assert {"accuracy", "accuracy_balanced", "accuracy_majority", "loss", "val_accuracy"} == set(result.metrics)
    facts = result.facts
    assert (facts["n_train"], facts["n_validation"], facts["n_eval"], facts["features"]) == (42, 6, 12, 32)
    assert facts["classes"] == ["stripes", "checks", "rings"] and facts["transferred"] == 0
    assert torch.tensor(facts["confusion"]).sum() == 12
    assert result.weights["probe.weight"].shape == (3, 32) and result.weights["probe.bias"].shape == (3,)
    assert [point["step"] for point in where.history] == [0, 3, 6, 9, 11]  # 4 epochs of 42 images in batches of 16
    assert result.files["confusion.csv"].startswith(b"true class,stripes,checks,rings\n")


def test_features_and_metrics_by_hand(context, tmp_path):
    """One image at a time through the parent's encoder, pooled by hand, and the layer that the stage kept."""
    weights = parent()
    result = probe(spec(pretrained=True), context(weights))
    network = build_network(parse_network(NETWORK), 1)
    network.load_state_dict(weights)
    network.eval()
    listing = open_dataset("textures", tmp_path, {"count": 60, "size": 32})
    _, validation, evaluation = split_probe(listing, None, SHARES, 0)
    stack = load_stack(listing, range(60), 32, masks=False)
    with torch.no_grad():
        maps = [network.encoder(image[None].float() / 255)[-1] for image in stack.images]
        logits = torch.cat([F.adaptive_avg_pool2d(m, 1).flatten(1) for m in maps]) @ result.weights["probe.weight"].T
        logits += result.weights["probe.bias"]
    labels = torch.tensor(listing.labels)
    expected = (logits.argmax(1) == labels).double()
    assert result.metrics["accuracy"] == pytest.approx(float(expected[list(evaluation)].mean()))
    assert result.metrics["val_accuracy"] == pytest.approx(float(expected[list(validation)].mean()))
    entropy = F.cross_entropy(logits[list(evaluation)], labels[list(evaluation)])
    assert result.metrics["loss"] == pytest.approx(float(entropy), abs=1e-4)
    assert result.facts["transferred"] == 56


def test_frozen_means_frozen(context):
    """Batch norm uses the parent's statistics and does not change them, nor the weights."""
    weights = parent()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    probe(spec(pretrained=True), context(weights))
    assert all(torch.equal(weights[name], before[name]) for name in before)
    network = build_network(parse_network(NETWORK), 1)
    kept = {name: tensor.clone() for name, tensor in network.encoder.state_dict().items()}
    network.train()
    images = torch.randint(256, (70, 3, 32, 32), dtype=torch.uint8)
    whole = pooled_features(network.encoder, images, context())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.encoder.state_dict().items())
    torch.testing.assert_close(whole[64:], pooled_features(network.encoder, images[64:], context()))


def test_it_learns_what_the_features_tell(context, tmp_path):
    """Bright, middling and dark pictures: any encoder tells them apart, and scikit-learn's regression agrees."""
    folder = tmp_path / "set" / "images"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(90):
        name, level = (("bright", 200), ("dark", 40), ("grey", 120))[number % 3]
        pixels = np.clip(noise.normal(level, 12, (32, 32)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}_{number:02d}.png")
    options = {"path": "set", "labels": "prefix"}
    result = probe(spec(reader="folder", options=options, epochs=300), context())
    assert result.metrics["accuracy"] == 1.0 and result.facts["classes"] == ["bright", "dark", "grey"]
    assert result.metrics["accuracy_majority"] == pytest.approx(1 / 3, abs=0.06)


def test_the_best_validation_epoch_is_kept(context):
    where = context()
    result = probe(spec(epochs=30), where)
    points = [p for p in where.history if p["step"] > 0]
    best = max(points, key=lambda p: (p["val_accuracy"], -p["val_loss"]))
    assert result.metrics["val_accuracy"] == best["val_accuracy"] and result.facts["best_step"] == best["step"]
    assert best["step"] < points[-1]["step"]


def test_of_equal_accuracies_the_least_loss_wins():
    head, best = torch.nn.Linear(1, 1), Best()
    for step, (accuracy, loss) in enumerate([(0.5, 0.9), (0.5, 0.7), (0.4, 0.1), (0.5, 0.7)], start=1):
        with torch.no_grad():
            head.weight.fill_(step)
        best.point(step, accuracy, loss, head)
    assert (best.step, float(best.weights["weight"])) == (2, 2.0)


class Interrupted(Exception):
    pass


class LostAtStep7(Context):
    def progress(self, step, steps):
        if step == 7:
            raise Interrupted


def test_resumed_equals_undisturbed(context):
    undisturbed = context(parent())
    expected = probe(spec(pretrained=True), undisturbed)
    with pytest.raises(Interrupted):
        probe(spec(pretrained=True), context(parent(), LostAtStep7, "lost", checkpoint_seconds=0))
    resumed = context(parent(), work="lost")
    found = probe(spec(pretrained=True), resumed)
    assert found.facts["resumed_from"] == 7 and resumed.history == undisturbed.history
    assert found.metrics == expected.metrics
    assert torch.equal(found.weights["probe.weight"], expected.weights["probe.weight"])


def test_seeds_and_the_random_encoder(context):
    first, again, other = (probe(spec(seed=s), context(work=f"w{s}{n}")).metrics for n, s in enumerate((0, 0, 1)))
    assert first == again and first["loss"] != other["loss"]
    assert math.isfinite(first["loss"])


def test_missing_and_wrong_parents(context):
    with pytest.raises(StageError, match="probe: expected the weights of a pretrain stage"):
        probe(spec(pretrained=True), context())
    wide = parent(network={"name": "conrec-unet", "width": 8})
    with pytest.raises(StageError, match="scenario probe: expected the shapes"):
        probe(spec(pretrained=True), context(wide))
    with pytest.raises(StageError, match="input_size: expected a multiple of 32"):
        probe(spec(network={"name": "resnet50-unet", "width": 8}, input_size=40), context())


def test_the_stage_is_registered():
    assert STAGES["probe"] is probe


# Figures from it -----------------------------------------------------------------------------------------------------


def test_the_mean_of_an_activation_map_is_its_logit_without_the_bias():
    torch.manual_seed(3)
    features, weight, bias = torch.randn(5, 7, 4, 6), torch.randn(3, 7), torch.randn(3)
    maps, classes = activation_maps(features, (weight, bias))
    logits = F.adaptive_avg_pool2d(features, 1).flatten(1) @ weight.T + bias
    assert classes == logits.argmax(1).tolist()
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits.max(1).values - bias[classes])
    by_hand = sum(weight[classes[0], k] * features[0, k] for k in range(7))
    torch.testing.assert_close(maps[0], by_hand)
    plain, none = activation_maps(features, None)
    torch.testing.assert_close(plain, features.abs().mean(1))
    assert none == []


def test_maps_and_matrices_of_several_encoders(context, tmp_path):
    weights = {name: parent(seed) for seed, name in enumerate(("BYOL", "Ours"))}
    probes = {name: probe(spec(pretrained=True), context(w, work=name)) for name, w in weights.items()}
    data = {"reader": "textures", "options": {"count": 60, "size": 32}}
    models = [{"name": name, "network": NETWORK} for name in weights]
    roles = weights | {f"probe/{name}": found.weights for name, found in probes.items()}
    analysis = {"kind": "cam", "input_size": 32, "count": 2, "images": 5}
    where = Context(tmp_path, tmp_path / "cam", parents=roles, cache_dir=tmp_path / "cache")
    drawn = STAGES["analysis"]({"analysis": analysis, "models": models, "data": data, "seed": 0}, where)
    assert -1 <= drawn.metrics["cam/byol/ours"] <= 1 and len(drawn.facts["images"]) == 5
    assert Image.open(io.BytesIO(drawn.files["cam.png"])).width > 1000
    roles = {name: found.weights for name, found in probes.items()}
    where = Context(tmp_path, tmp_path / "confusion", parents=roles, cache_dir=tmp_path / "cache")
    drawn = STAGES["analysis"]({"analysis": {"kind": "confusion"}, "models": models, "data": data}, where)
    for name, found in probes.items():
        confusion = np.array(found.facts["confusion"])
        recalls = confusion.diagonal() / confusion.sum(1)
        told = [drawn.metrics[f"confusion/{name.lower()}/{c}"] for c in ("stripes", "checks", "rings")]
        assert told == pytest.approx(list(recalls))
    table = list(csv.DictReader(io.StringIO(drawn.files["confusion.csv"].decode())))
    assert len(table) == 18 and sum(int(row["images"]) for row in table) == 24
    assert Image.open(io.BytesIO(drawn.files["confusion.png"])).width > 500
    with pytest.raises(StageError, match="Ours: expected the confusion matrix of a probe"):
        where = Context(tmp_path, tmp_path, parents=roles | {"Ours": weights["Ours"]}, cache_dir=tmp_path / "cache")
        STAGES["analysis"]({"analysis": {"kind": "confusion"}, "models": models, "data": data}, where)
