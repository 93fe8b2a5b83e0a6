"""Dials of the numeric backend in keys: what came later leaves the keys of today's stores as they are."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from orchestrator.grid.errors import GridError
from orchestrator.grid.load import load_request
from orchestrator.plan.explain import differences, flat_identity
from orchestrator.plan.keys import canonical, stage_key
from orchestrator.plan.stages import Stage
from orchestrator.plan.studies import family
from tests.orchestrator.made_up import planned, write_grid
from trainables.settings import as_before
from trainables.versions import VERSIONS

BEFORE = {"precision": "float32", "threads": 1}  # all dials that there were
NOW = {**BEFORE, "compiled": False, "fused": False}
KEYS = {  # as they were computed when there were no others, for version 1 of every stage
    "finetune": "fd2f7edf9cc865d7ae4bbb0f",
    "pretrain": "23b9793910180e82207c1949",
    "trial": "6da0662f64f4c31e94784491",
    "analysis": "e81a4d6d2d9edaaefa963f34",
}


def specs(backend: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A spec for each kind, those inside others with the same backend."""
    network = {"name": "conrec-unet", "width": 4}
    data = {"reader": "shapes", "options": {"count": 40}}
    base = {"network": network, "seed": 0, "backend": backend}
    finetune = {
        **base, "scenario": "seg-enc", "frozen": False, "finetune": {"steps": 8},
        "data": {**data, "fraction": None, "n_train": 5},
    }  # fmt: skip
    pretrain = {**base, "pretext": {"method": "simclr"}, "data": data, "pretrain": {"steps": 8}}
    objective = {"kind": "downstream", "metric": "dice", "direction": "maximize", "finetune": finetune}
    return {
        "finetune": finetune,
        "pretrain": pretrain,
        "trial": {**pretrain, "study": "one", "rungs": [4], "objective": objective},
        "analysis": {"analysis": {"kind": "samples"}, "seed": 0, "panels": [pretrain, finetune]},
    }


@pytest.fixture(autouse=True)
def first_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("finetune", "pretrain/simclr", "network/conrec-unet", "trial", "analysis/samples"):
        monkeypatch.setitem(VERSIONS, name, 1)


def key(kind: str, backend: dict[str, Any]) -> str:
    return stage_key(kind, specs(backend)[kind], {"pretrain": "a"} if kind == "finetune" else {}, "f")


@pytest.mark.parametrize("kind", KEYS)
def test_later_dials_at_their_defaults_are_not_in_a_key(kind: str) -> None:
    assert key(kind, BEFORE) == key(kind, NOW) == KEYS[kind]


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("dial", [{"compiled": True}, {"fused": True}, {"precision": "bfloat16"}, {"threads": 2}])
def test_any_other_value_is(kind: str, dial: dict[str, Any]) -> None:
    assert key(kind, {**NOW, **dial}) != KEYS[kind]


def test_a_family_of_trials_keeps_its_name() -> None:
    """Under it a store keeps the states that longer trials go on from."""

    def of(backend: dict[str, Any]) -> str:
        return family(Stage("k", "trial", specs(backend)["trial"], {}, "f", "trial", {}))

    plain = {**specs(BEFORE)["trial"], "pretrain": {}, "rungs": None}
    assert of(NOW) == of(BEFORE) == hashlib.sha256(canonical([plain, {}, "f"]).encode()).hexdigest()[:24]
    assert of({**NOW, "compiled": True}) != of(NOW)


def test_what_is_left_out_leaves_the_spec_itself_alone() -> None:
    spec = specs(NOW)["trial"]
    assert as_before(spec) == specs(BEFORE)["trial"]
    assert spec == specs(NOW)["trial"]


def test_every_stage_of_a_grid_has_the_precision_that_is_set(tmp_path: Any) -> None:
    name = write_grid(tmp_path)
    before, after = (planned(name, overrides=given).stages for given in ([], ["backend.precision=bfloat16"]))
    assert len(before) == len(after) and not before.keys() & after.keys()
    assert {stage.spec["backend"]["precision"] for stage in after.values()} == {"bfloat16"}


def test_explain_tells_the_dial(tmp_path: Any) -> None:
    one, other = (
        Stage(key("finetune", b), "finetune", specs(b)["finetune"], {}, "f", "cell", {})
        for b in (NOW, {**NOW, "compiled": True})
    )
    assert differences(one, other) == [("spec.backend.compiled", False, True)]
    assert "spec.backend.fused" not in flat_identity(one)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("backend.precision=float16", "backend.precision: expected 'float32' or 'bfloat16', but got 'float16'"),
        ("backend.compiled=perhaps", "backend.compiled: expected"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(tmp_path: Any, given: str, message: str) -> None:
    with pytest.raises(GridError) as caught:
        load_request(write_grid(tmp_path), overrides=[given])
    assert message in str(caught.value)
