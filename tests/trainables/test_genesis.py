"""Models Genesis from cubes to nodule segmentation: the pretext, and published weights in place of it."""

import math

import pytest
import torch
from torch.nn import functional as F

from orchestrator.grid.load import load_request
from orchestrator.plan.data import examine
from orchestrator.plan.expand import expand
from trainables.context import Context, StageError
from trainables.data.cube_cutting import prepare_cubes
from trainables.downstream.finetune import finetune
from trainables.downstream.scenarios import transfer
from trainables.imports import import_weights
from trainables.networks import build_network
from trainables.pretexts import ImageBatch, build_pretext
from trainables.pretexts.pretrain import pretrain
from trainables.pretexts.volume_transforms import deform, draw_deformations
from trainables.randomness import generator, seed_everything
from trainables.settings import ModelsGenesisSettings, NetworkSettings
from trainables.settings.networks import GenesisUNet3dSettings

NARROW = {"name": "genesis-unet3d", "width": 2}
NODULES = {"reader": "nodules", "options": {"count": 20, "width": 32, "depth": 16}}


def spec(**dials):
    settings = {
        "steps": 6,
        "batch": 3,
        "input_size": 32,
        "report_every": 3,
        "optimizer": "adam",
        "learning_rate": 0.003,
    }
    return {
        "pretext": {"method": "models-genesis"},
        "network": NARROW,
        "data": {**NODULES, "prepared": True},
        "pretrain": settings | dials,
        "backend": {"threads": 1},
        "seed": 0,
    }


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    """Synthetic volumes as the prepare stage gives them: 10 train, 4 validate."""
    path = tmp_path_factory.mktemp("nodules")
    return prepare_cubes({"data": NODULES, "prepare": {"kind": "cubes"}, "seed": 0}, Context(path, path)).weights


def context(path, tensors, name="stage", cls=Context):
    return cls(path, path / name, parents={"data": tensors}, cache_dir=path / "cache")


def fresh(network=None, **chances):
    seed_everything(0, "init")
    return build_pretext(ModelsGenesisSettings(**chances), network or GenesisUNet3dSettings(width=2))


def test_published_size():
    with torch.device("meta"):
        pretext = build_pretext(ModelsGenesisSettings(), GenesisUNet3dSettings())
    assert sum(p.numel() for p in pretext.parameters()) == 16_320_257


@pytest.mark.parametrize("stored", ["bytes", "halves"])
def test_loss_is_the_squared_error_against_the_flipped_cube(cubes, stored):
    images = cubes["cubes"][:4] if stored == "bytes" else (cubes["cubes"][:4].float() / 255).half()
    pretext = fresh().eval()
    batch = ImageBatch(images, torch.zeros(4, 4), 32)
    found = pretext.loss(batch, generator(5))["loss"]
    unit = images.float() / (255 if stored == "bytes" else 1)
    draws = draw_deformations(4, (32, 32, 16), ModelsGenesisSettings(), generator(5))
    deformed, target = deform(unit[:, None], draws)
    error = (pretext.network(deformed).sigmoid() - target) ** 2
    assert found.item() == pytest.approx(error.sum().item() / target.numel(), rel=1e-5)
    assert not torch.equal(target[:, 0], unit)  # this seed flips
    found.backward()
    assert all(p.grad is not None for p in pretext.parameters())


def test_stage_learns_and_hands_on_a_whole_network(tmp_path, cubes):
    where = context(tmp_path, cubes)
    result = pretrain(spec(steps=40, report_every=20), where)
    assert result.metrics["val_loss"] < 0.8 * result.metrics["val_loss_start"]
    assert result.facts == {"n_pretrain": 10, "n_validation": 4, "steps": 40, "resumed_from": 0}
    network = build_network(GenesisUNet3dSettings(width=2), 1)
    assert set(result.weights) == set(network.state_dict())
    taken = transfer(network, result.weights, "seg-enc-dec")
    assert {"head.weight", "head.bias"} <= set(taken) == set(network.state_dict())
    encoder = transfer(build_network(GenesisUNet3dSettings(width=2), 1), result.weights, "seg-enc")
    assert encoder and all(name.startswith("encoder.") for name in encoder)


def test_validation_sees_the_held_out_cubes_and_training_the_others(tmp_path, cubes):
    """Cubes of the other part do not matter: replaced by noise, they change only what is measured on them."""
    noise = torch.randint(0, 256, cubes["cubes"].shape, dtype=torch.uint8, generator=generator(3))
    results = {}
    for part in (0, 1):
        changed = torch.where((cubes["part"] == part)[:, None, None, None], noise, cubes["cubes"])
        where = context(tmp_path, cubes | {"cubes": changed}, f"part {part}")
        results[part] = pretrain(spec(), where)
    expected = pretrain(spec(), context(tmp_path, cubes))
    same = [torch.equal(results[1].weights[name], tensor) for name, tensor in expected.weights.items()]
    assert all(same) and results[1].metrics != expected.metrics
    assert results[0].metrics["val_loss_start"] == expected.metrics["val_loss_start"]
    assert results[0].metrics["val_loss"] != expected.metrics["val_loss"]


class Lost(Exception):
    pass


class LostAtStep4(Context):
    def checkpoint_due(self):
        return True

    def progress(self, step, steps):
        if step == 4:
            raise Lost


def test_resumed_stage_equals_an_undisturbed_one(tmp_path, cubes):
    undisturbed = context(tmp_path, cubes, "undisturbed")
    expected = pretrain(spec(), undisturbed)
    with pytest.raises(Lost):
        pretrain(spec(), context(tmp_path, cubes, "lost", LostAtStep4))
    resumed = context(tmp_path, cubes, "lost")
    result = pretrain(spec(), resumed)
    assert result.facts["resumed_from"] == 4 and resumed.history == undisturbed.history
    assert all(torch.equal(result.weights[name], tensor) for name, tensor in expected.weights.items())


def test_the_published_rate_trains(tmp_path, cubes):
    """SGD at rate 1 with momentum 0.9 [genesis]: finite, and better than at the start."""
    published = {"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.9, "weight_decay": 0.0}
    result = pretrain(spec(steps=30, report_every=15, **published), context(tmp_path, cubes))
    assert math.isfinite(result.metrics["val_loss"])
    assert result.metrics["val_loss"] < result.metrics["val_loss_start"]


def test_cubes_are_made_smaller_by_averaging(tmp_path, cubes):
    """At half the size the stage is that of cubes whose voxels are means of eight, rounded to a byte."""
    tall = cubes["cubes"].repeat_interleave(2, -1)  # a depth of 8 would be too small for the deformations
    halved = F.avg_pool3d(tall[:, None].float(), 2)[:, 0].round().byte()
    small = pretrain(spec(input_size=16), context(tmp_path, cubes | {"cubes": halved}, "small"))
    shrunk = pretrain(spec(input_size=16), context(tmp_path, cubes | {"cubes": tall}, "shrunk"))
    assert halved.shape[1:] == (16, 16, 16) and shrunk.metrics == small.metrics


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((32, 32, 8), "expected cubes of at least 16 voxels a side, but got 32 x 32 x 8"),
        ((32, 32, 20), "expected a multiple of 8"),
    ],
)
def test_sides_that_do_not_serve(tmp_path, sides, message):
    tensors = {"cubes": torch.zeros(8, *sides, dtype=torch.uint8)}
    with pytest.raises(StageError, match=message):
        pretrain(spec(), context(tmp_path, tensors))


def test_network_of_pictures():
    with pytest.raises(StageError, match=r"expected a network of volumes \(genesis-unet3d\), but got conrec-unet"):
        fresh(NetworkSettings(width=4))


def test_data_that_were_not_prepared(tmp_path, cubes):
    asked = spec() | {"data": NODULES}
    with pytest.raises(StageError, match="nodules: the pretext needs cubes; expected those of a prepare stage"):
        pretrain(asked, context(tmp_path, {}))
    with pytest.raises(StageError, match="prepared nodules: expected tensors cubes, but got part, sources, without"):
        pretrain(spec(), context(tmp_path, {name: cubes[name] for name in ("part", "sources")}))


@pytest.fixture
def published(tmp_path):
    """A data root with weights in the published naming: those of the PyTorch network at width 2."""
    seed_everything(4, "published")
    ours = build_network(GenesisUNet3dSettings(width=2, variant="pytorch"), 1).state_dict()
    down, up = ("64", "128", "256", "512"), ("256", "128", "64")
    layer = {"0": "conv1", "1": "bn1"}

    def name(own):
        part, *rest = own.split(".")
        if part == "head":
            return f"out_tr.final_conv.{rest[0]}"
        if rest[0] == "ups":
            return f"up_tr{up[int(rest[1])]}.up_conv.{rest[2]}"
        place = f"down_tr{down[int(rest[1])]}" if part == "encoder" else f"up_tr{up[int(rest[1])]}"
        return f"{place}.ops.{rest[2]}.{layer[rest[3]]}.{rest[4]}"

    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "Genesis_Chest_CT.pt"
    torch.save({"state_dict": {f"module.{name(own)}": tensor for own, tensor in ours.items()}}, file)
    return ours


def test_published_weights_feed_the_table_in_place_of_pretraining(tmp_path, published):
    """As the head of the grid says; then its import stage and a cell of each row run."""
    overrides = [f"rows.{row}.pretext=genesis-chest-ct" for row in (1, 2)]
    small = ["network.width=2", "finetune.steps=2", "datasets.nodules={count: 12, width: 16, depth: 16}"]
    request = load_request("p1-table3", profile="smoke", overrides=[*overrides, "network.variant=pytorch", *small])
    plan = expand(
        request.grid, "smoke", lambda data: examine(data["reader"], data["options"], tmp_path, cache_dir=tmp_path)
    )
    kinds = [stage.kind for stage in plan.stages.values()]
    assert sorted(kinds) == ["finetune"] * 7 + ["import"] and not any(stage.blocked for stage in plan.stages.values())
    imported = next(stage for stage in plan.stages.values() if stage.kind == "import")
    result = import_weights(imported.spec, Context(tmp_path, tmp_path / "work"))
    assert all(torch.equal(tensor, published[name]) for name, tensor in result.weights.items())
    counts = {}
    for cell in plan.cells:
        if cell.seed == 0:
            stage, parents = plan.stages[cell.key], {"pretrain": result.weights}
            assert list(stage.parents.values()) == ([] if cell.scenario == "random-init" else [imported.key])
            found = finetune(stage.spec, Context(tmp_path, tmp_path / cell.key, parents=parents))
            counts[cell.scenario] = found.facts["transferred"]
            assert {"dice_eval", "iou_eval"} <= set(found.metrics)
    assert counts == {"random-init": 0, "seg-enc": 56, "seg-enc-dec": len(published)}


def test_the_paper_profile_has_seven_cells_on_one_pretraining(tmp_path):
    """Also where the official data are absent; the random row runs once, as in the paper."""
    request = load_request("p1-table3", profile="paper")
    plan = expand(request.grid, "paper", lambda data: examine(data["reader"], data["options"], tmp_path))
    kinds = sorted(stage.kind for stage in plan.stages.values())
    assert kinds == ["finetune"] * 7 + ["prepare", "pretrain"] and len(plan.cells) == 7
    assert [(c.scenario, c.seed) for c in plan.cells] == [
        ("random-init", 0), *(("seg-enc", s) for s in range(3)), *(("seg-enc-dec", s) for s in range(3))
    ]  # fmt: skip
