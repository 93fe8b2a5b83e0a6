"""The version of a stage is tied to its source: whoever changes the code of a stage says whether results change."""

import shutil

import pytest

from tests.trainables import stage_digests
from trainables.settings import PRETEXT_SETTINGS
from trainables.versions import VERSIONS


def advice(stage: str, was: dict, now: dict) -> str | None:
    """What the author of a change has to do; None where nothing is."""
    changed = {m for m in {*was["modules"], *now["modules"]} if was["modules"].get(m) != now["modules"].get(m)}
    where = ", ".join(sorted(changed))
    if was["version"] != now["version"]:
        return f"{stage} is now version {now['version']}: run `make digests` to record its source with it."
    if changed:
        return (
            f"The source of {stage} changed in {where}, but its version is still {now['version']}. If results can "
            f"change, raise the version in {home(stage)}, then run `make digests`. If they cannot (a message, a name, "
            f"speed alone with equal digits), only run `make digests`."
        )
    return None


def home(stage: str) -> str:
    return "trainables/data/shapes.py" if stage == "data/shapes" else "trainables/versions.py"


def test_the_source_of_every_stage_is_the_recorded_one():
    was, now = stage_digests.recorded(), stage_digests.digests()
    assert was.keys() == now.keys(), "stages were added or removed: run `make digests`"
    told = [text for stage in now if (text := advice(stage, was[stage], now[stage]))]
    assert not told, "\n\n" + "\n".join(told)


def test_every_pretext_has_a_version():
    assert {stage for stage in VERSIONS if stage.startswith("pretrain/")} == {f"pretrain/{m}" for m in PRETEXT_SETTINGS}


def test_a_stage_depends_on_its_own_strategy_and_what_is_shared():
    found = {stage: set(entry["modules"]) for stage, entry in stage_digests.digests().items()}
    assert "trainables.pretexts.simclr" in found["pretrain/simclr"]
    assert "trainables.pretexts.conrec" not in found["pretrain/simclr"]
    assert "trainables.pretexts.simclr" not in found["pretrain/conrec"]
    for stage in ("pretrain/simclr", "pretrain/conrec", "pretrain/reconstruction", "finetune"):
        shared = {
            "trainables.training",
            "trainables.randomness",
            "trainables.settings.training",
            "trainables.data.stack",
        }
        assert shared | {"trainables.networks._base", "trainables.data.decode"} <= found[stage]
        assert "trainables.networks.conrec_unet" not in found[stage]  # networks have versions of their own
        assert "trainables.data.pets" not in found[stage]  # what a reader lists is in the fingerprint
    assert not any(module.startswith("trainables.pretexts") for module in found["finetune"])
    assert {"trainables.data.split", "trainables.losses.dice", "trainables.downstream.metrics"} <= found["finetune"]
    assert "trainables.networks.conrec_unet" in found["network/conrec-unet"]
    assert "trainables.losses.ntxent" in found["pretrain/conrec"] - found["pretrain/reconstruction"]


@pytest.fixture(scope="module")
def before():
    return stage_digests.digests()


@pytest.fixture
def changed(before, tmp_path, monkeypatch):
    """Change a file of a copy of the sources; gives the stages whose digest changes."""
    sources = stage_digests.ROOT / "trainables"
    shutil.copytree(sources, tmp_path / "trainables", ignore=shutil.ignore_patterns("__pycache__"))

    def change(path, old, new):
        file = tmp_path / "trainables" / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        monkeypatch.setattr(stage_digests, "ROOT", tmp_path)
        stage_digests._module.cache_clear()
        after = stage_digests.digests()
        stage_digests._module.cache_clear()
        return {stage for stage in before if before[stage]["modules"] != after[stage]["modules"]}

    return change


PRETRAINS = {stage for stage in VERSIONS if stage.startswith("pretrain/")}
MASK_LOSSES = {"pretrain/segmentation", "pretrain/reconstruction", "pretrain/conrec", "analysis/targets"}


@pytest.mark.parametrize(
    ("path", "old", "new", "stages"),
    [
        ("losses/dice.py", "return ", "return 1 * ", {"finetune", *MASK_LOSSES}),
        ("losses/ntxent.py", "return ", "return 1 * ", {"pretrain/simclr", "pretrain/conrec", "analysis/targets"}),
        ("training.py", "optimizer.step()", "optimizer.step(None)", {*PRETRAINS, "finetune", "probe"}),
        (
            "randomness.py",
            ">> 1",
            ">> 2",
            {stage for stage in VERSIONS if stage.partition("/")[0] in ("pretrain", "finetune", "probe")}
            | {"prepare/car-patches", "prepare/cubes"}
            | {f"analysis/{kind}" for kind in ("cam", "cka", "gradcam", "targets", "samples")},
        ),
        ("pretexts/simclr.py", "self.settings = settings", "self.settings = (settings)", set()),
        ("pretexts/simclr.py", "self.settings = settings", "self.settings = settings  # why", set()),
        ("pretexts/simclr.py", "self.settings = settings", "self.settings = settings or None", {"pretrain/simclr"}),
        ("pretexts/simclr.py", '"""', '"""Another docstring. ', set()),
        ("settings/pretexts.py", 'DecodingTask = Literal["recon', 'DecodingTask = Literal["new", "recon', PRETRAINS),
        (
            "settings/pretexts.py",
            "class SimCLRSettings:",
            "class SimCLRSettings:\n    new: int = 3",
            {"pretrain/simclr"},
        ),
        ("settings/training.py", "class FinetuneSettings:", "class FinetuneSettings:\n    new: int = 3", {"finetune"}),
        ("settings/datasets.py", "class PetsOptions:", "class PetsOptions:\n    new: int = 3", set()),
        ("pretexts/__init__.py", '    "simclr": SimCLR,', '    "simclr": SimCLR,\n    "new": ConRec,', set()),
        ("data/pets.py", "return ", "return 0 or ", set()),
        ("data/shapes.py", "VERSION = 1", "VERSION = 1.5", {"data/shapes"}),
        ("data/shapes.py", "np.clip(image, 0, 1)", "np.clip(image, 0, 0.9)", {"data/shapes"}),
    ],
)
def test_a_change_reaches_exactly_the_stages_that_use_it(changed, path, old, new, stages):
    found = changed(path, old, new)
    if "DecodingTask" in old:
        assert found <= {*stages, "analysis/targets"}  # an alias of types: whether it counts is no matter
    else:
        assert found == stages


def test_the_advice_says_what_to_do():
    was = {"version": 1, "modules": {"a": "1", "b": "2"}}
    assert advice("finetune", was, was) is None
    told = advice("finetune", was, {"version": 1, "modules": {"a": "1", "b": "3", "c": "4"}})
    assert "changed in b, c" in told and "trainables/versions.py" in told and "make digests" in told
    assert "run `make digests`" in advice("finetune", was, {"version": 2, "modules": {"a": "1", "b": "3"}})
    assert "trainables/data/shapes.py" in advice("data/shapes", was, {"version": 1, "modules": {}})
