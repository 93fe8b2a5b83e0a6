"""Paper 2's tables as grids: their cells and stages, the published values beside them, constants, made-up colours."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.grid.errors import GridError
from orchestrator.grid.load import load_request
from orchestrator.plan.build import new_plan_id, plan_record
from orchestrator.plan.data import WEIGHTS, DataFacts
from orchestrator.plan.datasets import weight_specs
from orchestrator.plan.diff import diff, summary
from orchestrator.plan.expand import expand
from orchestrator.plan.keys import canonical
from orchestrator.plan.stages import Plan
from orchestrator.results.cells import tidy
from orchestrator.results.layout import arrange
from orchestrator.results.notes import notes
from orchestrator.results.references import load
from orchestrator.results.table import summarise
from tests.orchestrator.made_up import planned, write_grid
from trainables.data import Listing

TABLES = ("p2-table2", "p2-table3", "p2-table4", "p2-table5")
PARTS = {"lucchi": (165, 165), "kasthuri": (85, 75), "em": (9, 3)}


def facts_of(spec: dict[str, Any]) -> DataFacts:
    """Everything is there, with the published numbers of images."""
    reader = spec["reader"]
    if reader.startswith(WEIGHTS):
        return DataFacts(reader, f"file of {reader}")
    return DataFacts(reader, f"files of {canonical(spec)}", _listing(reader))


def _listing(reader: str) -> Listing:
    folder = Path(f"/made-up/{reader}")
    if reader == "cem500k":
        names, labels = tuple(f"{n}.tiff" for n in range(1000)), tuple(n % 3 if n < 400 else None for n in range(1000))
        return Listing(reader, folder, names, (None,) * 1000, labels, {}, pretrain=tuple(range(400, 1000)))
    train, test = PARTS.get(reader, (90, 30))
    names, numbers = tuple(f"{n}.png" for n in range(train + test)), tuple(range(train + test))
    labels = tuple(n % 3 if reader == "textures" else None for n in range(len(names)))
    return Listing(
        reader, folder, names, names, labels, {0: 0, 1: 1}, numbers[:train], (), numbers[:train], numbers[train:]
    )


def without(*readers: str) -> Any:
    def facts(spec: dict[str, Any]) -> DataFacts:
        found = facts_of(spec)
        gone = f"{spec['reader']} is not there"
        return DataFacts(spec["reader"], gone, absent=gone) if spec["reader"] in readers else found

    return facts


def kinds(*plans: Plan) -> dict[str, int]:
    return {kind: n for kind, n in summary(diff(plans, ()))["stages"].items() if n}


def test_the_tables_together_are_23_cells_on_5_trained_pretrainings() -> None:
    plans = [planned(name, facts_of) for name in TABLES]
    found = summary(diff(plans, ()))
    assert (found["profile"], found["cells"]) == ("paper", 23)
    assert kinds(*plans) == {"prepare": 1, "pretrain": 5, "import": 2, "finetune": 16, "probe": 7}
    each = {grid["grid"]: (grid["cells"], grid["stages"]["pretrain"]) for grid in found["grids"]}
    assert each == {"p2-table2": (8, 2), "p2-table3": (8, 4), "p2-table4": (7, 5), "p2-table5": (4, 2)}
    assert found["blocked"] == 0
    trained = [s for plan in plans for s in plan.stages.values() if s.kind == "pretrain"]
    methods = Counter(
        (s.spec["pretext"]["method"], s.spec["network"]["name"]) for s in {s.key: s for s in trained}.values()
    )
    assert methods == {
        ("byol", "resnet50-unet"): 1, ("byol", "sasa-resnet50-unet"): 1, ("byol-color", "resnet50-unet"): 1,
        ("byol-color", "sasa-resnet50-unet"): 1, ("segmentation", "casser-unet"): 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_published_value_has_its_cell_and_none_is_left_over(name: str) -> None:
    plan = record(name)
    table = summarise(plan, tidy(plan, {}, {}), load(name))
    assert not table.warnings
    published = {
        (g.axes["dataset"], g.axes["network"], g.axes["model"]): str(g.reference and g.reference.mean)
        for g in table.groups
    }
    expected = {(r.axes["dataset"], r.axes["network"], r.axes["model"]): str(r.mean) for r in load(name)}
    assert published == expected


def record(name: str, **how: Any) -> dict[str, Any]:
    request = load_request(name, **how)
    plan = expand(request.grid, request.profile, facts_of)
    return plan_record(request, plan, plan_id=new_plan_id(), command="", data_root=Path("/data"))


def test_the_papers_numbers() -> None:
    plan = planned("p2-table3", facts_of)
    finetune = next(s.spec for s in plan.stages.values() if s.kind == "finetune")
    dials = finetune["finetune"]
    asked = {"epochs": 200, "batch": 4, "learning_rate": 5e-4, "loss": "dice-bce", "input_size": 224, "plateau": 15}
    assert {name: dials[name] for name in asked} == asked and finetune["frozen"]
    assert (dials["validation_share"], dials["plateau_factor"], dials["crop_area"]) == (0.25, 0.1, 1.0)
    assert all(dials[name] == 0.5 for name in ("flip", "vertical_flip", "rotation", "blur"))
    pretrain = next(s.spec["pretrain"] for s in plan.stages.values() if s.kind == "pretrain")
    asked = {
        "epochs": 100,
        "batch": 20,
        "learning_rate": 3e-4,
        "optimizer": "adam",
        "input_size": 128,
        "decode_scale": 1,
    }
    assert {name: pretrain[name] for name in asked} == asked
    probes = [s for s in planned("p2-table4", facts_of).stages.values() if s.kind == "probe"]
    assert all(s.spec["frozen"] and s.labels["frozen"] and s.labels["scenario"] == "probe" for s in probes)
    assert probes[0].spec["data"]["n_train"] == 280  # 70 % of the labelled images
    asked = {"epochs": 100, "batch": 256, "learning_rate": 3e-4, "optimizer": "adam", "input_size": 128}
    assert {name: probes[0].spec["probe"][name] for name in asked} == asked
    assert Counter(s.spec["pretrained"] for s in probes) == {True: 6, False: 1}


def test_tables_stack_datasets_and_have_four_digits_and_no_deviation() -> None:
    plan = record("p2-table2")
    commits = {cell["key"]: {"metrics": {"miou": 0.78964}} for cell in plan["cells"]}
    sheet = arrange(summarise(plan, tidy(plan, commits, {}), load("p2-table2")))
    assert sheet.index == ("Dataset", "Network", "Model") and sheet.breaks == {4}
    assert sheet.rows[0] == ("Lucchi++", "resnet50-unet", "BYOL+colorization") and len(sheet.rows) == 8
    (block,) = sheet.blocks
    assert block.columns == (("mIoU", "ours"), ("mIoU", "published"))
    assert [(cell.mean, cell.std) for cell in block.cells[0]] == [("0.7896", ""), ("0.7896", "")]


def test_constants_are_shown_and_never_run() -> None:
    plan = record("p2-table5")
    cells = [cell for cell in plan["cells"] if cell["constant"] is not None]
    assert [(c["dataset"], c["constant"], c["key"]) for c in cells] == [("lucchi", 0.946, ""), ("kasthuri", 0.92, "")]
    assert set(planned("p2-table5", facts_of).stages) < set(planned("p2-table2", facts_of).stages)
    rows = tidy(plan, {}, {})
    assert Counter(rows["status"]) == {"constant": 2, "missing": 4}
    small = tidy(record("p2-table5", profile="smoke"), {}, {})
    assert set(small[small["status"] == "constant"]["stand_ins"]) == {""}
    table = summarise(plan, rows, load("p2-table5"))
    shown = [cell.mean + cell.mark for block in arrange(table).blocks for row in block.cells for cell in row]
    assert "0.946†" in shown and "0.92†" in shown  # as printed
    assert any("taken from the literature" in note for note in notes(table))


GRID = """\
grid: mine
title: Mine
rows:
  - {scenario: random-init, model: Random}
  - {scenario: constant, model: Known, constant: {lucchi: 0.9}}
columns:
  - {dataset: lucchi}
  - {dataset: kasthuri}
"""


def test_a_constant_of_some_columns(tmp_path: Path) -> None:
    plan = planned(write_grid(tmp_path, GRID), facts_of)
    assert [(c.model, c.dataset) for c in plan.cells if c.constant is not None] == [("Known", "lucchi")]
    assert all(c.key for c in plan.cells if c.constant is None)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (", constant: {lucchi: 0.9}", "", "rows.1: scenario constant shows given values; add `constant:"),
        ("model: Random}", "model: Random, constant: {lucchi: 1}}", "rows.0: scenario random-init is run; remove"),
        ("{lucchi: 0.9}", "{luchi: 0.9}", "rows.1.constant: no column 'luchi'; did you mean 'lucchi'?"),
        ("- {dataset: lucchi}", "- {dataset: lucchi, fractions: [0.1]}", "the column 'lucchi' has fractions"),
        ("{lucchi: 0.9}", "{lucchi: high}", "expected a number, but got 'high'"),
        ("scenario: constant, ", "scenario: constant, pretext: byol, ", "scenario constant starts from nothing"),
    ],
)
def test_wrong_constants_are_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GRID
    with pytest.raises(GridError, match="rows") as refused:
        load_request(write_grid(tmp_path, GRID.replace(old, new, 1)))
    assert says in str(refused.value)


# Colours -------------------------------------------------------------------------------------------------------------


def test_without_the_colorizers_weights_its_cells_are_blocked_and_the_others_not() -> None:
    plan = planned("p2-table3", without("weights eccv16-colorizer"))
    blocked = {(c.model, c.blocked) for c in plan.cells if c.blocked}
    assert blocked == {("BYOL+colorization", "weights eccv16-colorizer is not there")}
    request = load_request("p2-table3")
    assert [spec["reader"] for spec in weight_specs(request.grid)] == ["weights eccv16-colorizer"]


def test_a_file_of_the_colorizer_is_no_part_of_what_the_colours_mean() -> None:
    usual = planned("p2-table3", facts_of)
    elsewhere = planned("p2-table3", facts_of, overrides=["pretexts.byol-color.prepare.file=/models/colours.pth"])
    assert usual.stages.keys() == elsewhere.stages.keys()
    colorizer = next(s for s in elsewhere.stages.values() if s.kind == "import")
    assert colorizer.spec["file"] == "/models/colours.pth"
    prepare = next(s for s in usual.stages.values() if s.kind == "prepare")
    assert prepare.parents == {"colorizer": colorizer.key} and "file" not in prepare.spec["prepare"]


def test_made_up_colours_are_asked_for_and_told_in_every_row_and_under_the_table() -> None:
    plan = record("p2-table3", overrides=["pretexts.byol-color.prepare.colours=pseudo"])
    kinds_ = Counter(stage["kind"] for stage in plan["stages"].values())
    assert kinds_ == {"prepare": 1, "pretrain": 4, "finetune": 8}
    rows = tidy(plan, {}, {})
    marked = rows[rows["stand_ins"] == "the colorizer of byol-color=pseudo-colours"]
    assert set(marked["model"]) == {"BYOL+colorization"} and len(marked) == 4
    assert set(rows[rows["stand_ins"] == ""]["model"]) == {"BYOL"}
    told = notes(summarise(plan, rows, load("p2-table3")))
    assert "Not the paper's colours: pseudo-colours in place of the colorizer of byol-color." in told
    assert not any(
        "colours" in note for note in notes(summarise(record("p2-table3"), tidy(record("p2-table3"), {}, {})))
    )
    paper, made_up = planned("p2-table3", facts_of), planned("p2-table3", facts_of, overrides=plan["overrides"])
    shared = {paper.stages[key].labels["pretext"] for key in paper.stages.keys() & made_up.stages.keys()}
    assert shared == {"byol"}


@pytest.mark.parametrize("profile", ["mini", "smoke"])
def test_small_profiles_make_colours_up_and_shrink_every_network(profile: str) -> None:
    for name in TABLES:
        plan = planned(name, facts_of, profile=profile)
        assert not any(cell.blocked for cell in plan.cells)
        for stage in plan.stages.values():
            if stage.kind in ("pretrain", "finetune"):
                dials = stage.spec["pretrain" if stage.kind == "pretrain" else "finetune"]
                assert dials["epochs"] is None and dials["steps"] <= 600 and dials["input_size"] <= 64
                assert stage.spec["network"]["width"] <= 16 or stage.labels["pretext"] == "imagenet"
