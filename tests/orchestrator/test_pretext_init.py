"""`init:` of a pretext: its encoder starts from imported weights, which are a stage above it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torchvision.models import resnet18

from orchestrator.execute.outcome import Job
from orchestrator.execute.run_stage import run_stage
from orchestrator.grid.errors import GridError
from orchestrator.plan.data import DataFacts, examine
from orchestrator.plan.stages import Plan
from orchestrator.record.store import open_store
from tests.orchestrator.made_up import GRID, absent, planned, write_grid

FILE = "imagenet.pt"
STARTED = GRID.replace("pretext: conrec", "pretext: started").replace("profile: smoke", "profile: paper") + (
    "network: {name: resnet18-unet}\npretrain: {steps: 1, batch: 8, input_size: 64, report_every: 1, "
    "optimizer: sgd, learning_rate: 1.0e-12}\n"
    "pretexts:\n"
    f"  imagenet: {{method: imported, format: torchvision-resnet18, file: {FILE}}}\n"
    "  started: {method: byol, init: imagenet}\n"
)


def facts(spec: dict[str, Any], root: Path) -> DataFacts:
    return examine(spec["reader"], spec["options"], root, cache_dir=root / "cache")


def one(plan: Plan, kind: str) -> Any:
    (found,) = (stage for stage in plan.stages.values() if stage.kind == kind)
    return found


def started(folder: Path, text: str = STARTED) -> Plan:
    torch.save(resnet18().state_dict(), folder / FILE)
    return planned(write_grid(folder, text), partial(facts, root=folder))


def test_the_weights_are_a_parent_of_the_pretraining_and_part_of_its_key(tmp_path: Path) -> None:
    plan, plain = started(tmp_path), started(tmp_path, STARTED.replace(", init: imagenet", ""))
    weights, pretraining, other = one(plan, "import"), one(plan, "pretrain"), one(plain, "pretrain")
    assert pretraining.parents == {"init": weights.key} and not pretraining.blocked
    assert "init" not in other.spec and not other.parents and other.key != pretraining.key
    assert pretraining.spec == {**other.spec, "init": True}
    assert not [stage for stage in plain.stages.values() if stage.kind == "import"]


def test_a_study_starts_each_trial_from_them(tmp_path: Path) -> None:
    plan = started(tmp_path, STARTED.replace("init: imagenet", "init: imagenet, tune: {trials: 2}"))
    (study,) = plan.studies.values()
    assert study.parents == {"init": one(plan, "import").key} and study.spec["init"] is True


def test_without_the_file_the_pretraining_waits_for_it(tmp_path: Path) -> None:
    plan = planned(write_grid(tmp_path, STARTED), partial(facts, root=tmp_path))
    assert one(plan, "import").blocked == one(plan, "pretrain").blocked
    assert str(tmp_path / FILE) in str(one(plan, "pretrain").blocked)
    assert one(planned(write_grid(tmp_path, STARTED), absent), "pretrain").blocked


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "init: imagenet",
            "init: imagenette",
            "started.init: no imported weights 'imagenette'; did you mean 'imagenet'?",
        ),
        ("init: imagenet", "init: [imagenet]", "started.init: no imported weights ['imagenet']"),
        ("init: imagenet", "init: started", "started.init: no imported weights 'started'"),
        ("resnet18-unet", "resnet50-unet", "started.init: weights torchvision-resnet18 fit network.name resnet18-unet"),
    ],
)
def test_a_wrong_start_is_one_message_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    name = write_grid(tmp_path, STARTED.replace(old, new))
    with pytest.raises(GridError) as refusal:
        planned(name)
    line = next(n for n, text in enumerate(STARTED.splitlines(), 1) if "started: {" in text)
    assert str(refusal.value).startswith(f"{name}:{line}: ") and says in str(refusal.value)


def test_pretraining_begins_with_the_encoder_of_the_file(tmp_path: Path) -> None:
    plan = started(tmp_path)
    open_store(str(tmp_path / "runs"), create=True)
    job = Job(
        str(tmp_path / "runs"), str(tmp_path), run="here", checkpoint_seconds=0, cache_dir=str(tmp_path / "cache")
    )
    weights = {}
    for kind in ("import", "pretrain"):
        outcome = run_stage(one(plan, kind), job)
        assert outcome.outcome == "succeeded", outcome
        store, key = open_store(job.store), one(plan, kind).key
        weights[kind] = load(store.artifact(store.commits([key])[key]["artifacts"]["weights"]))
    encoder = {name: t for name, t in weights["import"].items() if name.startswith("encoder.")}
    learned = {name: t for name, t in encoder.items() if name.endswith(("weight", "bias"))}  # not what batches told
    assert len(learned) == 60
    apart = {name: float((t - weights["pretrain"][name]).abs().max()) for name, t in learned.items()}
    assert max(apart.values()) < 1e-9, apart  # one step at a learning rate of 1e-12
    assert torch.equal(
        next(t for t in encoder.values() if t.shape == (64, 3, 7, 7)),
        torch.load(tmp_path / FILE, weights_only=True)["conv1.weight"],
    )
