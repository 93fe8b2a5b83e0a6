"""Dials that came later than results: at the value that means what was before, keys are those of today's stores."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from orchestrator.grid.errors import GridError
from orchestrator.grid.load import load_request
from orchestrator.grid.schema import check_section
from orchestrator.plan.data import examine
from orchestrator.plan.explain import differences
from orchestrator.plan.keys import canonical, stage_key
from orchestrator.plan.stages import Stage
from orchestrator.plan.studies import family
from tests.orchestrator.made_up import GRID, planned, write_grid
from trainables.settings import DATASET_OPTIONS, PRETEXT_SETTINGS, SECTIONS, as_before, as_now
from trainables.settings.analyses import ANALYSIS_SETTINGS
from trainables.settings.later import LATER, LATER_OF
from trainables.settings.networks import NETWORK_SETTINGS
from trainables.versions import VERSIONS

SORTS: dict[str, dict[str, Any]] = {
    "pretext": dict(PRETEXT_SETTINGS),
    "analysis": dict(ANALYSIS_SETTINGS),
    "data": dict(DATASET_OPTIONS),
    "network": dict(NETWORK_SETTINGS),
}
CHANGES = {  # section, sort, dial -> some other value
    ("backend", "", "compiled"): True,
    ("backend", "", "fused"): True,
    ("finetune", "", "head"): "random",
    ("pretext", "conrec", "task_weights"): [1.0, 2.0, 3.0, 4.0],
    ("pretext", "conrec", "mask_loss"): "bce",
    ("pretext", "reconstruction", "task_weights"): [2.0],
    ("pretext", "reconstruction", "mask_loss"): "dice",
    ("pretext", "classification", "loss"): "cross-entropy",
    ("network", "sasa-resnet50-unet", "embeddings"): "halves",
    ("analysis", "cka", "kernel"): "rbf",
    ("analysis", "cka", "bandwidth"): 0.4,
    ("analysis", "cka", "pool"): 2,
    **{("data", reader, "void"): "background" for reader in LATER_OF["data"][1]},
}
KEYS = {  # as they were computed before there was any of these dials but those of the backend, for version 1 of all
    ("finetune", "conrec-unet"): "707ebfeaed056b0a81167c8c",
    ("pretrain", "conrec-unet"): "f43a4c4bd184407172e102cc",
    ("classification", "conrec-unet"): "223b0b79b289f5b7a1446279",
    ("trial", "conrec-unet"): "2d885d7c3d8008eedb66b0ba",
    ("cka", "conrec-unet"): "0319f83d855433ad096cbeff",
    ("samples", "conrec-unet"): "550c4856ffe8a9e974b62f71",
    ("finetune", "sasa-resnet50-unet"): "442fe3ed97cb0edb66360138",
    ("pretrain", "sasa-resnet50-unet"): "5f00230b7a33cbe751d08951",
    ("classification", "sasa-resnet50-unet"): "8d9b6f1327038059fac96ff9",
    ("trial", "sasa-resnet50-unet"): "e89eb7b94c62a7fdfd04a734",
    ("cka", "sasa-resnet50-unet"): "98579fe438cdeb03486f8cad",
    ("samples", "sasa-resnet50-unet"): "70d716620807e9e92c59cc88",
}


def later_dials() -> Iterator[tuple[str, str, str, Any]]:
    for section, dials in LATER.items():
        yield from ((section, "", name, value) for name, value in dials.items())
    for section, (_, sorts) in LATER_OF.items():
        for sort, dials in sorts.items():
            yield from ((section, sort, name, value) for name, value in dials.items())


def complete(cls: type, **given: Any) -> dict[str, Any]:
    """A section with all dials of today, as JSON values."""
    hints = get_type_hints(cls)
    found = {f.name: given.get(f.name, f.default) for f in dataclasses.fields(cls) if f.name in hints}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def specs(reader: str = "voc-cat", pretext: str = "conrec", network: str = "conrec-unet") -> dict[str, Any]:
    """Complete specs of today, by what they are of; those inside others too."""
    data = {"reader": reader, "options": check_section(DATASET_OPTIONS[reader], {})}
    base = {
        "network": check_section(NETWORK_SETTINGS[network], {"width": 16}),
        "seed": 0,
        "backend": check_section(SECTIONS["backend"], {}),
    }
    finetune = {
        **base, "scenario": "seg-enc-dec", "frozen": False, "finetune": check_section(SECTIONS["finetune"], {}),
        "data": {**data, "fraction": None, "n_train": 5},
    }  # fmt: skip
    training = check_section(SECTIONS["pretrain"], {})
    made = {
        name: {**base, "pretext": check_section(PRETEXT_SETTINGS[name], {}), "data": data, "pretrain": training}
        for name in (pretext, "classification")
    }
    objective = {"kind": "downstream", "metric": "dice", "direction": "maximize", "finetune": finetune}
    return {
        "finetune": finetune,
        "pretrain": made[pretext],
        "classification": made["classification"],
        "trial": {**made[pretext], "study": "one", "rungs": [4], "objective": objective},
        "cka": {
            **base,
            "analysis": complete(ANALYSIS_SETTINGS["cka"]),
            "data": data,
            "models": [{"name": "one", "network": base["network"]}],
        },
        "samples": {**base, "analysis": complete(ANALYSIS_SETTINGS["samples"]), "panels": [{"data": data}, finetune]},
    }


KINDS = {"classification": "pretrain", "cka": "analysis", "samples": "analysis"}


def key(name: str, spec: dict[str, Any]) -> str:
    return stage_key(KINDS.get(name, name), spec, {}, "f")


@pytest.fixture(autouse=True)
def first_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VERSIONS:
        monkeypatch.setitem(VERSIONS, name, 1)


def sections(spec: Any, section: str, sort: str) -> Iterator[dict[str, Any]]:
    """Every mapping in a spec that holds the dials of a section, to be changed in place."""
    if isinstance(spec, list):
        for part in spec:
            yield from sections(part, section, sort)
    if not isinstance(spec, dict):
        return
    found = spec.get(section)
    tag = LATER_OF.get(section, ("",))[0]
    whole = (
        section == "finetune" and isinstance(found, dict) and "scenario" in found
    )  # a trial's objective holds a spec
    if isinstance(found, dict) and not whole and (not sort or found.get(tag) == sort):
        yield found["options"] if section == "data" else found
    for part in spec.values():
        yield from sections(part, section, sort)


def test_each_means_what_its_default_means() -> None:
    """So a grid that says nothing of it has the keys from before."""
    for section, sort, name, value in later_dials():
        cls = SORTS[section][sort] if sort else SECTIONS[section]
        (found,) = [f for f in dataclasses.fields(cls) if f.name == name]
        assert json.loads(json.dumps(found.default)) == value, (section, sort, name)


def test_a_change_is_tried_for_each() -> None:
    assert {(section, sort, name) for section, sort, name, _ in later_dials()} == set(CHANGES)


@pytest.mark.parametrize(("name", "network"), KEYS)
def test_at_their_defaults_the_keys_are_those_from_before(name: str, network: str) -> None:
    spec, expected = specs(network=network)[name], KEYS[name, network]
    assert key(name, spec) == expected
    assert key(name, as_before(spec)) == expected == key(name, as_now(as_before(spec)))
    assert as_now(as_before(spec)) == spec


@pytest.mark.parametrize(("section", "sort", "dial"), CHANGES)
def test_any_other_value_is_in_every_key_it_belongs_to(section: str, sort: str, dial: str) -> None:
    usual = {"data": "voc-cat", "pretext": "conrec", "network": "conrec-unet"}
    given = {name: sort if section == name else known for name, known in usual.items()}
    touched = 0
    for name, spec in specs(*given.values()).items():
        for number in range(len(list(sections(spec, section, sort)))):
            changed = copy.deepcopy(spec)
            place = list(sections(changed, section, sort))[number]
            assert dial in place
            place[dial] = CHANGES[section, sort, dial]
            assert key(name, changed) != key(name, spec)
            touched += 1
    assert touched


def test_nested_specs_are_reached() -> None:
    """The objective of a trial and the panels of an analysis."""
    given = specs()
    assert len(list(sections(given["trial"], "data", "voc-cat"))) == 2
    assert len(list(sections(given["trial"], "finetune", ""))) == 1
    assert len(list(sections(given["samples"], "data", "voc-cat"))) == 2
    assert len(list(sections(given["cka"], "network", "conrec-unet"))) == 2


def test_what_is_left_out_leaves_the_spec_itself_alone() -> None:
    spec = specs()["trial"]
    before = copy.deepcopy(spec)
    assert "void" not in as_before(spec)["objective"]["finetune"]["data"]["options"]
    assert spec == before


def test_a_family_of_trials_keeps_its_name() -> None:
    """Under it a store keeps the states that longer trials go on from."""
    spec = specs()["trial"]
    plain = {**as_before(spec), "rungs": None}
    plain["pretrain"] = {n: v for n, v in plain["pretrain"].items() if n not in ("steps", "epochs")}
    assert "mask_loss" not in plain["pretext"]
    found = family(Stage("k", "trial", spec, {}, "f", "trial", {}))
    assert found == hashlib.sha256(canonical([plain, {}, "f"]).encode()).hexdigest()[:24]


def test_explain_tells_the_dial_also_beside_a_plan_from_before() -> None:
    was, now = as_before(specs()["finetune"]), specs()["finetune"]
    now["data"]["options"]["void"] = "background"
    now["finetune"]["head"] = "random"
    one, other = (Stage(key("finetune", spec), "finetune", spec, {}, "f", "cell", {}) for spec in (was, now))
    assert differences(one, other) == [
        ("spec.data.options.void", "ignore", "background"),
        ("spec.finetune.head", "fitting", "random"),
    ]


def test_data_that_are_absent_are_called_what_they_were(tmp_path: Path) -> None:
    def name(**options: Any) -> str:
        return examine("voc-cat", check_section(DATASET_OPTIONS["voc-cat"], options), tmp_path).fingerprint

    assert name() == 'absent:voc-cat:{"pretrain":"main","target":"cat"}'
    assert "background" in name(void="background")


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("finetune.head=random", {"finetune"}),
        ("pretexts.conrec.mask_loss=bce", {"pretrain", "finetune"}),
        ("pretexts.conrec.task_weights=[4, 1, 1, 1]", {"pretrain", "finetune"}),
    ],
)
def test_a_grid_sets_them(tmp_path: Path, override: str, changed: set[str]) -> None:
    name = write_grid(tmp_path, GRID.replace("scenario: seg-enc", "scenario: seg-enc-dec"))
    before, after = planned(name).stages, planned(name, overrides=[override]).stages
    assert {stage.kind for key, stage in after.items() if key not in before} == changed


CKA = """\
grid: mine
title: Mine
analyses:
  alike:
    {kind: cka, data: shapes, kernel: rbf, estimator: minibatch, models: [{name: a}, {name: b}]}
"""


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (GRID, "pretexts.conrec.task_weights=[1, 2]", "pretexts.conrec: expected a number in task_weights for each of"),
        (GRID, "pretexts.conrec.task_weights=[0, 0, 0, 0]", "expected task_weights of 0 or more, not all of them 0"),
        (GRID, "pretexts.conrec.task_weights=[1, 1, 1, -1]", "expected task_weights of 0 or more"),
        (GRID, "pretexts.conrec.mask_loss=l1", "pretexts.conrec.mask_loss: expected 'mse', 'bce' or 'dice'"),
        (CKA, "title=Mine", "analyses.alike: kernel rbf needs all images at once; expected estimator full"),
    ],
)
def test_dials_that_do_not_go_together_are_told(tmp_path: Path, text: str, override: str, message: str) -> None:
    with pytest.raises(GridError) as caught:
        load_request(write_grid(tmp_path, text), overrides=[override])
    assert message in str(caught.value)


def test_every_choice_has_a_dial_value_that_is_not_the_default() -> None:
    """`CHANGES` holds valid values."""
    for (section, sort, dial), value in CHANGES.items():
        cls = SORTS[section][sort] if sort else SECTIONS[section]
        if section != "analysis":
            assert check_section(cls, {dial: value})[dial] == value
        else:
            choices = get_args(get_type_hints(cls)[dial])
            assert not choices or value in choices
