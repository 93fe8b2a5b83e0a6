"""A key changes with all that changes a result, and with nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml

from orchestrator.grid.load import SPACES, load_request
from orchestrator.grid.schema import check_section
from orchestrator.plan.expand import expand
from orchestrator.plan.explain import differences, flat_identity, most_similar
from orchestrator.plan.keys import seed_keys, stage_key
from tests.orchestrator.made_up import GRID, planned, present, write_grid
from trainables.settings import DATASET_OPTIONS, PRETEXT_SETTINGS, SECTIONS
from trainables.versions import VERSIONS

ROOT = Path(__file__).resolve().parents[2]


def keys(name: str, **how: Any) -> list[str]:
    return list(planned(name, **how).stages)


def other_value(cls: type, dial: dataclasses.Field) -> Any:
    """Some valid value that is not the default; None where there is no other."""
    hint = get_type_hints(cls)[dial.name]
    default = dial.default if dial.default is not dataclasses.MISSING else dial.default_factory()
    limits = dict(dial.metadata)
    if type(None) in get_args(hint):  # a number, or nothing
        return 3
    if hint is bool:
        return not default
    if get_origin(hint) is tuple:
        choices = get_args(get_args(hint)[0])
        others = ["x"] if str in get_args(hint) else [7] * len(getattr(cls, "tasks", [""]))  # a weight for each task
        return [c for c in choices if [c] != list(default)][:1] if choices else others
    if not isinstance(hint, type):  # Literal, Mapping
        choices = get_args(hint)
        return {"9": "car"} if get_origin(hint) is not None and isinstance(default, Mapping) else next(
            (c for c in choices if c != default), None
        )  # fmt: skip
    if hint is str:
        return default + "x"
    if hint is int:
        return default + int(limits.get("multiple_of", 1))
    return default / 2 if default else limits.get("ge", 0) + 0.25


SECTION_CLASSES = {**SECTIONS, **{f"pretexts.{n}": c for n, c in PRETEXT_SETTINGS.items()}}
SECTION_CLASSES |= {f"datasets.{n}": c for n, c in DATASET_OPTIONS.items()}
DIALS = [
    (section, dial.name)
    for section, cls in SECTION_CLASSES.items()
    for dial in dataclasses.fields(cls)
    if other_value(cls, dial) is not None and (section, dial.name) != ("datasets.folder", "path")
]


def specs() -> dict[str, tuple[str, dict[str, Any]]]:
    """For each section a stage that it belongs to, as (kind, complete spec)."""
    sections = {name: check_section(cls, {}) for name, cls in SECTION_CLASSES.items()}
    base = {"network": sections["network"], "backend": sections["backend"], "seed": 0}
    data = {"reader": "shapes", "options": sections["datasets.shapes"]}
    finetune = {
        **base, "scenario": "seg-enc", "frozen": False, "finetune": sections["finetune"],
        "data": {**data, "fraction": None, "n_train": 5},
    }  # fmt: skip
    made: dict[str, tuple[str, dict[str, Any]]] = {}
    made |= dict.fromkeys(("network", "backend", "finetune"), ("finetune", finetune))
    made["probe"] = ("probe", {**base, "scenario": "probe", "probe": sections["probe"], "data": data})
    for name in PRETEXT_SETTINGS:
        pretrain = {**base, "pretext": sections[f"pretexts.{name}"], "pretrain": sections["pretrain"], "data": data}
        made[f"pretexts.{name}"] = made["pretrain"] = ("pretrain", pretrain)
    for name in DATASET_OPTIONS:
        part = {"reader": name, "options": sections[f"datasets.{name}"]}
        made[f"datasets.{name}"] = ("finetune", {**finetune, "data": {**finetune["data"], **part}})
    return made


@pytest.mark.parametrize(("section", "dial"), DIALS)
def test_every_dial_of_every_section_changes_the_key(section: str, dial: str) -> None:
    kind, spec = specs()[section]
    cls = SECTION_CLASSES[section]
    changed = other_value(cls, next(f for f in dataclasses.fields(cls) if f.name == dial))
    complete = check_section(cls, {dial: changed})
    assert complete[dial] == changed
    at = {"pretexts": "pretext", "datasets": "data"}.get(section.split(".")[0], section)
    new = {**spec, at: {**spec["data"], "options": complete} if at == "data" else complete}
    assert new != spec
    assert stage_key(kind, new, {}, "f") != stage_key(kind, spec, {}, "f")


def test_where_a_folder_lies_is_not_in_the_key_since_the_fingerprint_tells_its_content() -> None:
    kind, spec = specs()["datasets.folder"]
    moved = {**spec, "data": {**spec["data"], "options": {**spec["data"]["options"], "path": "elsewhere"}}}
    assert stage_key(kind, moved, {}, "f") == stage_key(kind, spec, {}, "f") != stage_key(kind, moved, {}, "g")


@pytest.mark.parametrize(
    "override",
    [
        "network.width=5", "pretrain.steps=9", "finetune.steps=9", "finetune.curve_images=9", "backend.threads=2",
        "pretrain_seed=1", "seeds=[7]", "pretexts.conrec.temperature=0.4", "pretexts.conrec.pretrain.batch=4",
        "datasets.shapes.count=99", "rows.1.frozen=true", "rows.1.scenario=seg-enc-dec", "columns.0.fractions=[0.4]",
        "rows.0.finetune.flip=0.1", "pretexts.conrec.tasks=[mask]",
    ],
)  # fmt: skip
def test_what_is_set_in_a_grid_reaches_the_keys(tmp_path: Path, override: str) -> None:
    name = write_grid(tmp_path)
    before, after = set(keys(name)), set(keys(name, overrides=[override]))
    assert before != after
    if override.startswith(("finetune", "rows.1.frozen", "seeds", "columns", "rows.0")):
        pretrains = {k for k, s in planned(name).stages.items() if s.kind == "pretrain"}
        assert pretrains <= before & after  # finetuning does not touch what it starts from


@pytest.mark.parametrize(
    "overrides",
    [
        ["run.pack=3"], ["run.max_failures=0"], ["run.checkpoint_seconds=1"], ["run.resources.finetune.cpus=2"],
        ["run.resources.pretrain.gpus=0.5"], ["title=Another"], ["grid=another"], ["rows.1.model=Mine"],
        ["table.decimals=2"], ["table.unit=fraction"], ["references=p1-table2"], ["footnotes=[hello]"],
        ["backend.threads=1"], ["finetune.flip=5e-1"], ["finetune.momentum=0.90"],
        ["pretexts.conrec.reconstruction_weight=100"], ["columns.0.fractions=[0.05, 0.20]"],
        ["pretexts.again.method=conrec", "rows.1.pretext=again"],
        ["datasets.mine.reader=shapes", "columns.0.dataset=mine"],
        ["stand_ins.pets=shapes", "columns.0.dataset=pets"],
    ],
)  # fmt: skip
def test_what_changes_no_result_changes_no_key(tmp_path: Path, overrides: list[str]) -> None:
    name = write_grid(tmp_path)
    assert keys(name, overrides=overrides) == keys(name)


def test_the_profile_is_no_part_of_a_key_only_its_sizes_are(tmp_path: Path) -> None:
    name = write_grid(tmp_path)
    content = yaml.safe_load((SPACES / "profiles" / "smoke.yaml").read_text())
    sizes = [f"{section}={json.dumps(value)}" for section, value in content.items()]
    assert keys(name, profile="paper", overrides=sizes) == keys(name, profile="smoke")
    assert not set(keys(name, profile="paper")) & set(keys(name, profile="mini"))


def test_the_order_of_keys_in_the_file_does_not_matter(tmp_path: Path) -> None:
    text = GRID + "finetune: {steps: 5, batch: 2}\ndatasets: {shapes: {size: 32, count: 50}}\n"

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: turned(value[k]) for k in reversed(value)}
        return [turned(v) for v in value] if isinstance(value, list) else value

    backwards = yaml.safe_dump(turned(yaml.safe_load(text)), sort_keys=False)
    assert backwards.index("finetune") < backwards.index("rows")
    assert keys(write_grid(tmp_path, text)) == keys(write_grid(tmp_path, backwards, "turned.yaml"))


def test_one_and_one_point_zero_are_one_number(tmp_path: Path) -> None:
    name = write_grid(tmp_path)
    for a, b in (("finetune.flip=1", "finetune.flip=1.0"), ("finetune.steps=8", "finetune.steps=8.0")):
        assert keys(name, overrides=[a]) == keys(name, overrides=[b])


def test_kind_parents_data_and_version_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, spec = specs()["finetune"]
    base = stage_key(kind, spec, {"pretrain": "a"}, "f")
    assert re.fullmatch(r"[0-9a-f]{16,}", base)
    assert base == stage_key(kind, dict(reversed(json.loads(json.dumps(spec)).items())), {"pretrain": "a"}, "f")
    assert stage_key(kind, spec, {"pretrain": "b"}, "f") != base
    assert stage_key(kind, spec, {"teacher": "a"}, "f") != base
    assert stage_key(kind, spec, {"pretrain": "a"}, "g") != base
    monkeypatch.setitem(VERSIONS, "finetune", VERSIONS["finetune"] + 1)
    assert stage_key(kind, spec, {"pretrain": "a"}, "f") != base


def test_a_version_belongs_to_one_pretext(monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned("p1-table2").stages
    monkeypatch.setitem(VERSIONS, "pretrain/simclr", 99)
    after = planned("p1-table2").stages
    changed = [stage for key, stage in before.items() if key not in after]
    assert {stage.labels["pretext"] for stage in changed} == {"simclr"}
    assert len(changed) == 2 + 18  # the pretrainings, and through their parents' keys the cells


def test_no_value_that_json_does_not_know_gets_a_key() -> None:
    kind, spec = specs()["finetune"]
    with pytest.raises(ValueError, match="JSON"):
        stage_key(kind, {**spec, "seed": float("nan")}, {}, "f")


def test_the_same_stage_of_two_grids_has_one_key() -> None:
    table2, table6 = planned("p1-table2").stages, planned("p1-table6").stages
    shared = table2.keys() & table6.keys()
    assert {stage.labels["pretext"] for key, stage in table6.items() if key in shared} == {"conrec"}
    assert len(shared) == 2 + 18
    for key in shared:
        assert (table2[key].spec, table2[key].parents) == (table6[key].spec, table6[key].parents)


def test_keys_are_the_same_in_every_process() -> None:
    code = (
        "from tests.orchestrator.made_up import planned\n"
        "print('\\n'.join(planned('p1-table2').stages))"
    )  # fmt: skip
    for seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == keys("p1-table2")


def test_explain_names_what_parts_two_stages(tmp_path: Path) -> None:
    name = write_grid(tmp_path)
    request = load_request(name, overrides=["rows.1.finetune.flip=0.1"])
    stages = expand(request.grid, "smoke", present).stages.values()
    mine = next(stage for stage in stages if stage.labels["scenario"] == "seg-enc")
    others = planned(name).stages
    like = most_similar(mine, others.values())
    assert like is not None and like.labels["scenario"] == "seg-enc"
    assert differences(mine, like) == [("spec.finetune.flip", 0.1, 0.5)]
    assert flat_identity(mine)["versions"] == [f"finetune@{VERSIONS['finetune']}", "network/conrec-unet@1"]
    assert most_similar(mine, [mine]) is None


def test_keys_of_many_seeds_are_those_of_each() -> None:
    """Also where the data have a seed of their own."""
    seeds, parents = (0, 7, 123456), {"pretrain": "a"}
    for kind, spec in specs().values():
        spec = {**spec, "data": {**spec.get("data", {}), "options": {"seed": 7}}}
        expected = [stage_key(kind, {**spec, "seed": seed}, parents, "f") for seed in seeds]
        assert seed_keys(kind, spec, seeds, parents, "f") == expected and len(set(expected)) == 3
