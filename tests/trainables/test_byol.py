"""BYOL and MoCo v2: losses by hand, steps against lightly's parts, the target, collapse, parameter counts, networks."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.trainables.test_pretrain import context, prepared, spec, stage_of
from trainables.losses.byol import byol_loss
from trainables.losses.infonce import infonce
from trainables.pretexts import ImageBatch, build_pretext
from trainables.pretexts.byol import mlp
from trainables.pretexts.momentum import feature_std, follow
from trainables.pretexts.pretrain import pretrain
from trainables.pretexts.recipes import BYOL_RECIPE, MOCO_RECIPE, two_views_by
from trainables.randomness import generator, seed_everything
from trainables.settings import BYOLColorSettings, BYOLSettings, MoCoSettings, NetworkSettings, parse_network

NARROW = NetworkSettings(width=4)
SMALL = BYOLSettings(hidden=24, projection=8, momentum=0.9)


def images_of(count=6, side=32):
    pictures = prepared(count, side)
    return ImageBatch(pictures["images"], torch.tensor([[0, 0, side, side]] * count), side, colored=pictures["colored"])


def fresh(settings, network=NARROW):
    seed_everything(0, "init")
    return build_pretext(settings, network)


class TestLoss:
    def test_is_two_minus_two_cosines(self):
        p, t = torch.randn(2, 5, 7, generator=generator(0), dtype=torch.float64)
        for row, (a, b) in enumerate(zip(p.tolist(), t.tolist(), strict=True)):
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            cosine = dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))
            assert byol_loss(p, t)[row].item() == pytest.approx(2 - 2 * cosine, rel=1e-12)

    def test_is_the_squared_distance_of_normalised_vectors(self):
        p, t = torch.randn(2, 5, 7, generator=generator(0), dtype=torch.float64)
        torch.testing.assert_close(byol_loss(p, t), (F.normalize(p) - F.normalize(t)).square().sum(1))

    def test_is_that_of_lightly(self):
        lightly = pytest.importorskip("lightly.loss")
        p, t = torch.randn(2, 5, 7, generator=generator(0), dtype=torch.float64)
        assert byol_loss(p, t).mean().item() == pytest.approx(2 + 2 * lightly.NegativeCosineSimilarity()(p, t).item())

    def test_no_gradient_flows_into_the_target(self):
        p, t = torch.randn(2, 5, 7, requires_grad=True)
        assert torch.autograd.grad(byol_loss(p, t).sum(), t, allow_unused=True) == (None,)


def test_heads_have_the_papers_sizes():
    assert sum(p.numel() for p in mlp(2048, 4096, 256).parameters()) == 9_449_728
    assert sum(p.numel() for p in mlp(256, 4096, 256).parameters()) == 2_109_696
    pretext = build_pretext(BYOLSettings(), parse_network({"name": "resnet50-unet"}))
    assert sum(p.numel() for p in pretext.encoder.parameters()) == 23_508_032
    for name, count in (("projector", 9_449_728), ("predictor", 2_109_696)):
        assert sum(p.numel() for p in pretext.pretext[name].parameters()) == count


@pytest.mark.parametrize(
    "network",
    [("conrec-unet", 4), ("resnet18-unet", 8), ("resnet50-unet", 8), ("sasa-resnet50-unet", 16), ("classic-unet", 4)],
)
def test_any_networks_encoder_learns(network):
    name, width = network
    pretext = fresh(SMALL, parse_network({"name": name, "width": width}))
    optimizer = torch.optim.Adam([p for p in pretext.parameters() if p.requires_grad], lr=3e-3)
    before, batch = copy.deepcopy(pretext.state_dict()), images_of()
    optimizer.zero_grad()
    pretext.loss(batch, generator(0))["loss"].backward()
    optimizer.step()
    pretext.after_step()
    after = pretext.state_dict()
    assert all(math.isfinite(t.double().sum()) for t in after.values())
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("target.encoder."))
    assert {n.split(".")[0] for n in pretext.weights()} == {"encoder", "pretext"}


def without_first_bias(head):
    """lightly leaves out the bias before batch norm, which takes any away again; the papers' counts have it."""
    return {name: tensor for name, tensor in head.state_dict().items() if name != "0.bias"}


def test_steps_are_those_of_plain_modules_with_lightlys_loss_and_average():
    """The method written down anew: what P2's library does, view by view, on the same views."""
    lightly_loss = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    heads = pytest.importorskip("lightly.models.modules.heads")
    update_momentum = pytest.importorskip("lightly.models.utils").update_momentum
    pretext, batch = fresh(SMALL).double(), images_of()
    for head in (pretext.pretext["projector"], pretext.pretext["predictor"], pretext.target["projector"]):
        nn.init.zeros_(head[0].bias)
    views = [two_views_by(BYOL_RECIPE, batch.images, batch.boxes, 32, generator(step)) for step in range(3)]
    pretext.views = lambda batch, generator: next(turns)
    turns = iter([(a.double(), b.double()) for a, b in views])

    encoder = copy.deepcopy(pretext.encoder)
    projector, predictor = heads.BYOLProjectionHead(32, 24, 8).double(), heads.BYOLPredictionHead(8, 24, 8).double()
    for theirs, ours in ((projector, "projector"), (predictor, "predictor")):
        theirs.layers.load_state_dict(without_first_bias(pretext.pretext[ours]))
    online = [encoder, projector, predictor]
    target_encoder, target_projector = copy.deepcopy(encoder), copy.deepcopy(projector)

    ours = torch.optim.SGD([p for p in pretext.parameters() if p.requires_grad], lr=0.1)
    theirs = torch.optim.SGD([p for m in online for p in m.parameters()], lr=0.1)
    for a, b in [(a.double(), b.double()) for a, b in views]:
        loss = pretext.loss(batch, None)["loss"]
        ours.zero_grad()
        loss.backward()
        ours.step()
        pretext.after_step()

        p = [predictor(projector(encoder(view)[-1].mean((2, 3)))) for view in (a, b)]
        with torch.no_grad():
            z = [target_projector(target_encoder(view)[-1].mean((2, 3))) for view in (a, b)]
        expected = 4 + 2 * lightly_loss(p[0], z[1]) + 2 * lightly_loss(p[1], z[0])
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        update_momentum(encoder, target_encoder, 0.9)
        update_momentum(projector, target_projector, 0.9)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for mine, reference in (
        (pretext.encoder.state_dict(), encoder),
        (pretext.target["encoder"].state_dict(), target_encoder),
        (without_first_bias(pretext.target["projector"]), target_projector.layers),
        (without_first_bias(pretext.pretext["predictor"]), predictor.layers),
    ):
        expected_state = reference.state_dict()
        assert mine.keys() == expected_state.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, expected_state[name], rtol=1e-8, atol=1e-10)


class TestTarget:
    def test_starts_as_a_copy(self):
        pretext = fresh(SMALL)
        for name, part in (("encoder", pretext.encoder), ("projector", pretext.pretext["projector"])):
            copied = pretext.target[name].state_dict()
            assert all(torch.equal(tensor, copied[key]) for key, tensor in part.state_dict().items())

    def test_moves_by_the_average_only_and_gets_no_gradient(self):
        pretext, batch = fresh(SMALL), images_of()
        before = [p.clone() for p in pretext.target.parameters()]
        optimizer = torch.optim.Adam([p for p in pretext.parameters() if p.requires_grad], lr=0.01)
        pretext.loss(batch, generator(0))["loss"].backward()
        optimizer.step()
        assert all(p.grad is None and not p.requires_grad for p in pretext.target.parameters())
        assert all(torch.equal(b, p) for b, p in zip(before, pretext.target.parameters(), strict=True))
        pretext.after_step()
        online = [*pretext.encoder.parameters(), *pretext.pretext["projector"].parameters()]
        for was, now, fast in zip(before, pretext.target.parameters(), online, strict=True):
            torch.testing.assert_close(now, 0.9 * was + 0.1 * fast)

    def test_only_parameters_follow_batch_norm_statistics_are_its_own(self):
        online = nn.BatchNorm1d(3)
        target = copy.deepcopy(online)
        online(torch.randn(8, 3) + 5)
        follow(target, online, 0.5)
        assert (target.running_mean == 0).all() and (online.running_mean != 0).all()

    def test_is_handed_on_to_nobody(self):
        assert not any("target" in name for name in fresh(SMALL).weights())


def test_each_view_passes_on_its_own():
    """Batch norm counts its batches: two for the online network and two for the target."""
    pretext, batch = fresh(SMALL), images_of()
    pretext.loss(batch, generator(0))
    counters = [b for name, b in pretext.named_buffers() if name.endswith("num_batches_tracked")]
    assert counters and all(counter == 2 for counter in counters)


def test_colorization_takes_the_gray_and_the_colorised_image_as_they_are():
    pretext, batch = fresh(BYOLColorSettings(hidden=24, projection=8)), images_of()
    gray, colored = pretext.views(batch, generator(0))
    assert torch.equal(gray, batch.images / 255) and torch.equal(colored, batch.colored / 255)


class TestCollapse:
    def test_std_is_that_of_lightly(self):
        debug = pytest.importorskip("lightly.utils.debug")
        features = torch.randn(50, 16, generator=generator(0)) + 0.3
        assert feature_std(features) == pytest.approx(debug.std_of_l2_normalized(features).item())

    def test_spread_features_have_one_by_the_root_of_their_number_and_equal_ones_have_none(self):
        assert feature_std(torch.randn(5000, 64, generator=generator(0))) == pytest.approx(1 / 8, rel=0.01)
        assert feature_std(torch.randn(1, 64).expand(50, -1)) < 1e-6

    def test_a_network_without_predictor_and_average_collapses_and_is_seen_to(self):
        """The target is the online network, the predictor is nothing, and no batch norm keeps features apart."""
        pretext, batch = fresh(BYOLSettings(hidden=24, projection=8, momentum=0.0)), images_of(12)
        pretext.pretext["predictor"] = nn.Identity()
        for head in (pretext.pretext["projector"], pretext.target["projector"]):
            head[1] = nn.Identity()
        with torch.no_grad():
            before = pretext.summarise(pretext.validate(batch, generator(99))[1])["feature_std"]
        optimizer = torch.optim.Adam([p for p in pretext.parameters() if p.requires_grad], lr=3e-3)
        for step in range(40):
            optimizer.zero_grad()
            pretext.loss(batch, generator(step))["loss"].backward()
            optimizer.step()
            pretext.after_step()
        with torch.no_grad():
            after = pretext.summarise(pretext.validate(batch, generator(99))[1])["feature_std"]
        assert after < 0.5 * before and after < 0.1 / math.sqrt(8)

    @pytest.mark.parametrize("method", ["byol", "byol-color", "moco-v2"])
    def test_training_lowers_the_loss_without_collapse(self, tmp_path, method):
        dials = {"steps": 60, "report_every": 60, "optimizer": "adam", "learning_rate": 0.002, "decode_scale": 1.0}
        asked, stage = stage_of(method, tmp_path, dials=dials)
        asked["pretext"]["momentum"] = 0.95
        metrics = pretrain(asked, stage).metrics
        assert metrics["val_loss"] < metrics["val_loss_start"]
        healthy = 1 / math.sqrt(8)
        assert stage.history[0]["val_feature_std"] < 0.01 * healthy  # a fresh network says the same of every image
        assert metrics["val_feature_std"] > (0.03 if method == "moco-v2" else 0.3) * healthy


class TestInfoNCE:
    def test_is_the_formula(self):
        q, k = F.normalize(torch.randn(2, 4, 6, generator=generator(0), dtype=torch.float64), dim=2)
        queue = F.normalize(torch.randn(9, 6, generator=generator(1), dtype=torch.float64), dim=1)
        total = 0.0
        for row in range(4):
            own = math.exp(q[row].dot(k[row]).item() / 0.2)
            others = sum(math.exp(q[row].dot(other).item() / 0.2) for other in queue)
            total -= math.log(own / (own + others))
        assert infonce(q, k, queue, 0.2).item() == pytest.approx(total / 4, rel=1e-12)

    def test_is_that_of_lightly_with_its_memory_bank(self):
        lightly = pytest.importorskip("lightly.loss")
        q, k = torch.randn(2, 4, 6, generator=generator(0))
        theirs = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(12, 6))
        queue = theirs.memory_bank.bank.clone()
        expected = theirs(q, k).item()
        assert infonce(F.normalize(q, dim=1), F.normalize(k, dim=1), queue, 0.2).item() == pytest.approx(expected)


class TestQueue:
    def test_newest_keys_take_the_place_of_the_oldest(self):
        pretext = fresh(MoCoSettings(queue=10, projection=4))
        start = pretext.target.queue.clone()
        seen = []
        for step in range(3):  # 4 + 4 + 4 keys into 10 places
            pretext.loss(images_of(4), generator(step))
            seen.append(pretext._keys.clone())
            assert torch.equal(pretext.target.queue, start) or step > 0
            pretext.after_step()
        keys = torch.cat(seen)
        assert torch.equal(pretext.target.queue, torch.cat([keys[10:], keys[2:10]]))
        assert pretext.target.position == 2
        torch.testing.assert_close(pretext.target.queue.norm(dim=1), torch.ones(10))

    def test_validation_leaves_it_alone(self):
        pretext = fresh(MoCoSettings(queue=10, projection=4)).eval()
        start = pretext.target.queue.clone()
        losses, _ = pretext.validate(images_of(4), generator(0))
        pretext.after_step()
        assert torch.equal(pretext.target.queue, start) and losses["loss"] >= 0

    def test_keys_come_from_the_copy_and_queries_from_the_network(self):
        pretext, batch = fresh(MoCoSettings(queue=10, projection=4)), images_of(4)
        first, second = two_views_by(MOCO_RECIPE, batch.images, batch.boxes, 32, generator(3))
        loss = pretext.loss(batch, generator(3))["loss"]
        twin = fresh(MoCoSettings(queue=10, projection=4))
        q = F.normalize(twin.pretext["projection"](twin.encoder(first)[-1].mean((2, 3))), dim=1)
        k = F.normalize(twin.target["projection"](twin.target["encoder"](second)[-1].mean((2, 3))), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ twin.target.queue.T], 1) / 0.2
        assert loss.item() == pytest.approx(-logits.log_softmax(1)[:, 0].mean().item(), rel=1e-5)


def test_byol_on_the_synthetic_shapes_is_logged_with_its_features(tmp_path):
    stage = context(tmp_path)
    result = pretrain(spec("byol", steps=3), stage)
    assert set(result.metrics) == {"val_loss", "val_loss_start", "val_feature_std"}
    assert all("val_feature_std" in point for point in stage.history)
