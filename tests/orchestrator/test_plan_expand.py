"""Grids become cells and stages: the counts of the contract, their order, sizes, stand-ins, absent data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.grid.load import load_request
from orchestrator.plan.build import build, new_plan_id, plan_record, restore_plan
from orchestrator.plan.datasets import data_specs
from orchestrator.plan.diff import diff, summary
from orchestrator.plan.stages import Plan
from tests.orchestrator.made_up import GRID, absent, listing, planned, present, write_grid
from trainables.data import split


def kinds(plan: Plan) -> Counter[str]:
    return Counter(stage.kind for stage in plan.stages.values())


def totals(*plans: Plan) -> dict:
    return summary(diff(plans, ()))


@pytest.mark.parametrize("facts_of", [present, absent])
def test_p1_table2_is_108_cells_on_6_pretrainings_and_90_without_sharing(facts_of) -> None:
    found = totals(planned("p1-table2", facts_of))
    assert (found["profile"], found["cells"], found["naive_pretrain_stages"]) == ("paper", 108, 90)
    assert found["stages"] == {
        "prepare": 0, "pretrain": 6, "trial": 0, "import": 0, "finetune": 108, "probe": 0, "analysis": 0,
    }  # fmt: skip
    assert (found["reused"], found["deferred"]) == (0, 0)
    assert (found["to_run"], found["blocked"]) == ((114, 0) if facts_of is present else (0, 114))


@pytest.mark.parametrize("facts_of", [present, absent])
def test_two_grids_count_what_they_share_once(facts_of) -> None:
    found = totals(planned("p1-table2", facts_of), planned("p1-table6", facts_of))
    assert (found["cells"], found["stages"]["pretrain"], found["stages"]["finetune"]) == (126, 8, 126)
    alone = {part["grid"]: part for part in found["grids"]}
    assert (alone["p1-table2"]["cells"], alone["p1-table2"]["stages"]["pretrain"]) == (108, 6)
    assert (alone["p1-table6"]["cells"], alone["p1-table6"]["stages"]["pretrain"]) == (36, 4)
    assert found["estimated_device_seconds"] < found["naive_device_seconds"]


def test_absent_data_block_with_their_path_and_change_the_keys_when_they_appear(tmp_path: Path) -> None:
    request = load_request("p1-table2")
    gone = build([request], tmp_path / "nothing here").plans[0]
    assert gone.stages.keys() == build([request], tmp_path / "nothing here").plans[0].stages.keys()
    for stage in gone.stages.values():
        assert stage.provisional and stage.blocked is not None and str(tmp_path / "nothing here") in stage.blocked
    assert all(cell.blocked for cell in gone.cells)
    there = planned("p1-table2")
    assert not gone.stages.keys() & there.stages.keys()
    assert not any(stage.provisional or stage.blocked for stage in there.stages.values())
    assert [(c.dataset, c.fraction, c.n_train, c.seed) for c in gone.cells] == [
        (c.dataset, c.fraction, c.n_train, c.seed) for c in there.cells
    ]


def test_one_absent_dataset_leaves_the_others_alone() -> None:
    plan = planned("p1-table2", lambda spec: (absent if spec["reader"] == "flowers102" else present)(spec))
    blocked = [cell for cell in plan.cells if cell.blocked]
    assert {cell.dataset for cell in blocked} == {"flowers17"} and {c.scenario for c in blocked} == {
        "cls-enc", "seg-enc", "seg-enc-dec",
    }  # fmt: skip
    assert all("/data: no folder flowers102" in str(cell.blocked) for cell in blocked)
    for stage in plan.stages.values():
        pets_only = stage.labels["dataset"] == "pets"
        assert stage.provisional == (stage.blocked is not None) and not (pets_only and stage.blocked)


def test_cells_stand_in_the_order_of_rows_columns_fractions_seeds() -> None:
    plan = planned("p1-table2")
    expected = [
        (scenario, model, dataset, fraction, seed)
        for scenario, model in [
            ("random-init", "Random"), ("cls-enc", "SimCLR"), ("seg-enc-dec", "Reconstruction"),
            ("seg-enc-dec", "ConRec"), ("seg-enc", "Reconstruction"), ("seg-enc", "ConRec"),
        ]
        for dataset in ("flowers17", "pets")
        for fraction in (0.01, 0.05, 0.2)
        for seed in (0, 1, 2)
    ]  # fmt: skip
    assert [(c.scenario, c.model, c.dataset, c.fraction, c.seed) for c in plan.cells] == expected


def test_parents_stand_before_children_and_cells_name_their_source() -> None:
    plan = planned("p1-table2")
    seen: set[str] = set()
    for key, stage in plan.stages.items():
        assert set(stage.parents.values()) <= seen
        seen.add(key)
    for cell in plan.cells:
        stage = plan.stages[cell.key]
        if cell.scenario == "random-init":
            assert (cell.pretext, cell.pretext_data, stage.parents) == (None, None, {})
            continue
        parent = plan.stages[stage.parents["pretrain"]]
        assert cell.pretext_data == {"flowers17": "flowers102", "pets": "pets"}[cell.dataset]
        assert parent.spec["data"]["reader"] == cell.pretext_data
        assert parent.spec["pretext"]["method"] == cell.pretext


def test_scenarios_of_a_pretext_share_one_pretraining() -> None:
    plan = planned("p1-table2", only=["model=ConRec", "dataset=pets"])
    assert kinds(plan) == {"pretrain": 1, "finetune": 18}


def test_the_papers_literal_sizes_count_only_with_train_sizes_paper() -> None:
    def sizes(plan: Plan) -> set[tuple[str, float | None, int | None]]:
        return {(c.dataset, c.fraction, c.n_train) for c in plan.cells}

    assert sizes(planned("p1-table2")) == {
        ("flowers17", 0.01, 8), ("flowers17", 0.05, 42), ("flowers17", 0.2, 170),
        ("pets", 0.01, 74), ("pets", 0.05, 368), ("pets", 0.2, 1475),
    }  # fmt: skip
    mini = planned("p1-table2", profile="mini")
    assert sizes(mini) == {
        ("flowers17", 0.01, 8), ("flowers17", 0.05, 42), ("flowers17", 0.2, 170),
        ("pets", 0.01, 74), ("pets", 0.05, 370), ("pets", 0.2, 1478),
    }  # fmt: skip
    assert sizes(planned("p1-table2", overrides=["train_sizes=fraction"])) == sizes(mini)
    for cell in mini.cells:
        data = mini.stages[cell.key].spec["data"]
        drawn = split(listing(data["reader"], {"flowers17": 849, "pets": 7390}[cell.dataset]), None, data["n_train"], 0)
        assert len(drawn.train) == cell.n_train == data["n_train"]


def test_a_fraction_too_small_blocks_its_cells_only(tmp_path: Path) -> None:
    text = GRID.replace("[0.05, 0.2]", "[0.01, 0.2]").replace("dataset: shapes", "dataset: pets")
    few = lambda spec: present(spec) if spec["reader"] != "pets" else _with(spec, 20)  # noqa: E731
    plan = planned(write_grid(tmp_path, text), few, profile="paper")
    assert {(c.fraction, c.blocked is not None) for c in plan.cells} == {(0.01, True), (0.2, False)}
    reason = next(c.blocked for c in plan.cells if c.blocked)
    assert "1 % of 20 images is 0 images; at least 1 must train" in reason
    found = totals(plan)
    assert (found["to_run"], found["blocked"]) == (5, 4)  # the pretraining still has cells that can use it


def test_no_pretraining_runs_for_cells_that_are_all_blocked(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID.replace("[0.05, 0.2]", "[0.01]").replace("dataset: shapes", "dataset: pets"))
    few = lambda spec: present(spec) if spec["reader"] != "pets" else _with(spec, 20)  # noqa: E731
    found = diff([planned(name, few, profile="paper")], ())
    assert Counter(found.states.values()) == {"blocked": 4, "unneeded": 1}


def _with(spec, count: int):
    from orchestrator.plan.data import DataFacts

    return DataFacts(spec["reader"], "few", listing(spec["reader"], count))


def test_stand_ins_by_name_and_for_all_others(tmp_path: Path) -> None:
    smoke = planned("p1-table2", profile="smoke")
    assert {stage.spec["data"]["reader"] for stage in smoke.stages.values()} == {"shapes"}
    assert [c.dataset for c in smoke.cells] == [c.dataset for c in planned("p1-table2").cells]  # the table's own terms
    assert kinds(smoke)["pretrain"] == 3  # both columns pretrain on the same shapes
    text = GRID.replace("dataset: shapes", "dataset: flowers17").replace("pretext_data: shapes", "pretext_data: pets")
    name = write_grid(tmp_path, text + 'stand_ins: {"*": shapes, pets: flowers102}\n')
    plan = planned(name, profile="paper")
    assert {s.kind: s.spec["data"]["reader"] for s in plan.stages.values()} == {
        "pretrain": "flowers102", "finetune": "shapes",
    }  # fmt: skip
    record = plan_record(load_request(name, profile="paper"), plan, plan_id="x", command="", data_root=tmp_path)
    assert record["stand_ins"] == {"flowers17": "shapes", "pets": "flowers102"}
    assert {s.labels["dataset"] for s in plan.stages.values() if s.kind == "finetune"} == {"shapes"}


def test_settings_of_rows_and_pretexts_reach_their_stages_only(tmp_path: Path) -> None:
    text = GRID.replace(
        "    pretext: conrec\n", "    pretext: mine\n    network: {width: 6}\n    finetune: {batch: 3}\n"
    )
    text += "pretexts:\n  mine: {method: conrec, tasks: [mask], pretrain: {steps: 9}}\n"
    text += "datasets: {shapes: {count: 30}}\npretrain: {batch: 5}\nfinetune: {batch: 8}\nnetwork: {width: 4}\n"
    plan = planned(write_grid(tmp_path, text), profile="paper")
    by_kind = {(s.kind, s.labels["scenario"]): s.spec for s in plan.stages.values()}
    pretrain = by_kind["pretrain", None]
    assert pretrain["pretext"] == {
        "method": "conrec", "tasks": ["mask"], "task_weights": [], "mask_loss": "mse", "temperature": 0.5,
        "reconstruction_weight": 100.0, "contrastive_weight": 1.0,
    }  # fmt: skip
    assert (pretrain["pretrain"]["steps"], pretrain["pretrain"]["batch"], pretrain["network"]["width"]) == (9, 5, 6)
    assert by_kind["finetune", "seg-enc"]["finetune"]["batch"] == 3
    assert by_kind["finetune", "random-init"]["finetune"]["batch"] == 8
    assert by_kind["finetune", "random-init"]["network"]["width"] == 4
    assert pretrain["data"] == {"reader": "shapes", "options": {"count": 30, "size": 48, "seed": 0}}


def test_every_dataset_of_a_command_is_examined_once(tmp_path: Path) -> None:
    assert [spec["reader"] for spec in data_specs(load_request("p1-table2").grid)] == [
        "flowers17", "pets", "flowers102",
    ]  # fmt: skip
    found = build([load_request("p1-table2", profile="smoke"), load_request("smoke")], tmp_path)
    assert found.faults == () and [plan.grid for plan in found.plans] == ["p1-table2", "smoke"]


def test_a_plan_survives_its_record(tmp_path: Path) -> None:
    import json

    request = load_request("p1-table2", overrides=["seeds=[0]"], only=["dataset=pets"])
    plan = planned("p1-table2", overrides=["seeds=[0]"], only=["dataset=pets"])
    record = plan_record(request, plan, plan_id="abc", command="cmd", data_root=Path("data"))
    assert Path(record["data_root"]).is_absolute()
    assert (record["overrides"], record["only"], record["plan"]) == (["seeds=[0]"], ["dataset=pets"], "abc")
    restored = restore_plan(json.loads(json.dumps(record)))
    assert (restored.cells, dict(restored.stages)) == (plan.cells, plan.stages)


def test_plan_ids_sort_by_time() -> None:
    import time

    ids = []
    for _ in range(5):
        ids.append(new_plan_id())
        time.sleep(0.002)
    assert ids == sorted(ids) and len(set(ids)) == 5


def test_two_absent_folders_stay_two(tmp_path: Path) -> None:
    own = ["datasets.a.reader=folder", "datasets.a.path=a", "datasets.b.reader=folder", "datasets.b.path=b"]
    name = write_grid(tmp_path)
    request = load_request(
        name, overrides=[*own, "columns=[{dataset: a, pretext_data: a}, {dataset: b, pretext_data: b}]"]
    )
    plan = build([request], tmp_path / "nowhere").plans[0]
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
