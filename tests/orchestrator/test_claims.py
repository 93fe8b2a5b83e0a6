"""Claims on cells: what is set against what, which answer it gives, and what cannot be tested and why."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator import collect
from orchestrator.grid.claims import parse_claims
from orchestrator.grid.load import load_request
from orchestrator.record.store import Store, open_store
from orchestrator.results.cells import tidy
from orchestrator.results.claims import Finding, evaluate
from orchestrator.results.claims.evaluate import groups_to_go_on
from orchestrator.results.claims.facts import facts_of_cells, steps_to
from orchestrator.results.claims.read import findings_of
from orchestrator.results.claims.written import claims_csv, claims_md, claims_record, short_list
from orchestrator.results.statistics.looks import Looks
from tests.orchestrator.results_made_up import cell, commit, plan

RANDOM = [0.70, 0.72, 0.69]
ENCODER = [0.80, 0.83, 0.80]
BOTH = [0.801, 0.828, 0.802]
ROWS = {
    ("random-init", "Random"): RANDOM,
    ("seg-enc", "ConRec"): ENCODER,
    ("seg-enc-dec", "ConRec"): BOTH,
}


def claim(test: str = "difference", **given: Any) -> dict[str, Any]:
    """A claim that the encoder beats a random start, unless it says otherwise."""
    about = {"id": "c1", "statement": "It is so.", "source": "P1 §3", "test": test}
    rows = {"rows": {"scenario": "seg-enc"}, "against": {"scenario": "random-init"}}
    return {**about, **({} if test == "similarity" else rows), **given}


def table(rows: dict[Any, Any] | None = None, **given: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A plan with one cell for each row and seed, and commits for all values that are not None."""
    cells, commits = [], {}
    for (scenario, model, *more), values in (ROWS if rows is None else rows).items():
        axes = dict(zip(("dataset", "fraction", "frozen"), more, strict=False))
        for seed, value in enumerate(values):
            key = repr((scenario, model, *more, seed))
            cells.append(cell(scenario=scenario, model=model, seed=seed, key=key, **axes))
            if value is not None:
                commits[key] = commit(key, dice=value)
    return plan(cells, **given), commits


def judged(entry: dict[str, Any], rows: dict[Any, Any] | None = None, **how: Any) -> Finding:
    made, commits = table(rows)
    facts = facts_of_cells(made, tidy(made, commits, {}), **{k: v for k, v in how.items() if k != "looks"})
    (finding,) = evaluate(parse_claims([entry]), facts, looks=how.get("looks"))
    return finding


# Difference and equivalence


def test_a_difference_is_the_paired_t_of_scipy_in_the_tables_unit() -> None:
    ours = judged(claim()).ours
    theirs = stats.ttest_rel(ENCODER, RANDOM, alternative="greater")
    assert (ours.answer, ours.n, ours.unit, ours.level) == ("holds", 3, "points", 0.9)
    assert (ours.effect, ours.p) == pytest.approx((100 * np.mean(np.subtract(ENCODER, RANDOM)), theirs.pvalue))
    interval = stats.ttest_rel(ENCODER, RANDOM).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert ours.method == "paired t"


def test_a_margin_moves_the_answer() -> None:
    answers = {margin: judged(claim(margin=margin)).ours.answer for margin in (5, 10.2, 20)}
    assert answers == {5: "holds", 10.2: "undecided", 20: "fails"}


def test_the_other_way_round_fails() -> None:
    entry = claim(rows={"scenario": "random-init"}, against={"model": "ConRec"})
    finding = judged(entry)
    assert (finding.ours.answer, finding.ours.stated, len(finding.ours.parts)) == ("fails", 0, 2)


def test_equivalence_of_encoder_and_both() -> None:
    ours = judged(claim("equivalence", margin=1.0, against={"scenario": "seg-enc-dec"}, match=["model"])).ours
    assert (ours.answer, round(ours.effect or 0, 4)) == ("holds", -0.0333)
    assert "TOST" in ours.source
    assert judged(claim("equivalence", margin=2.0)).ours.answer == "fails"


def test_lower_is_better_where_the_table_says_so() -> None:
    made, commits = table(table={"higher_is_better": False})
    facts = facts_of_cells(made, tidy(made, commits, {}))
    (finding,) = evaluate(parse_claims([claim()]), facts)
    assert (finding.ours.answer, finding.ours.stated) == ("fails", 0)


def test_columns_of_a_seed_are_averaged_and_each_can_be_asked_for() -> None:
    rows = {
        ("random-init", "Random", "pets", 0.01): RANDOM,
        ("seg-enc", "ConRec", "pets", 0.01): ENCODER,
        ("random-init", "Random", "pets", 0.2): [0.90, 0.91, 0.90],
        ("seg-enc", "ConRec", "pets", 0.2): [0.901, 0.909, 0.901],
    }
    mean = judged(claim(), rows).ours
    per_seed = [
        (a - b + c - d) / 2
        for a, b, c, d in zip(*(rows[k] for k in list(rows)[1::-1] + list(rows)[:1:-1]), strict=True)
    ]
    assert (mean.answer, mean.n) == ("holds", 3)
    assert mean.p == pytest.approx(stats.ttest_1samp(per_seed, 0, alternative="greater").pvalue)
    each = judged(claim(each=["pair", "column"]), rows).ours
    assert (each.answer, each.stated, [p.label for p in each.parts]) == (
        "undecided", 2, ["ConRec − Random; Oxford Pets, 1 %, Dice", "ConRec − Random; Oxford Pets, 20 %, Dice"],
    )  # fmt: skip
    assert judged(claim(over={"fraction": "1%"}), rows).ours.p == pytest.approx(
        stats.ttest_rel(ENCODER, RANDOM, alternative="greater").pvalue
    )


def test_match_pairs_rows_of_one_model() -> None:
    rows = {(s, m): ENCODER for s in ("seg-enc", "seg-enc-dec") for m in ("ConRec", "Reconstruction")}
    entry = claim("equivalence", margin=1, against={"scenario": "seg-enc-dec"})
    assert len(judged(entry, rows).ours.parts) == 4
    matched = judged({**entry, "match": ["model"]}, rows).ours
    assert [part.label for part in matched.parts] == [
        f"{model} [seg-enc] − {model} [seg-enc-dec]; Oxford Pets, 1 %, Dice" for model in ("ConRec", "Reconstruction")
    ]
    assert len(judged({**entry, "match": ["model"], "each": []}, rows).ours.parts) == 1


def test_a_mean_over_pairs_that_share_a_row_is_by_seed() -> None:
    entry = claim(rows={"model": "ConRec"}, each=[])
    per_seed = [(a + b) / 2 - c for a, b, c in zip(ENCODER, BOTH, RANDOM, strict=True)]
    ours = judged(entry).ours
    assert (ours.effect, ours.p) == pytest.approx(
        (100 * np.mean(per_seed), stats.ttest_1samp(per_seed, 0, alternative="greater").pvalue)
    )


# Strongest, convergence, similarity, rank


def test_the_lead_is_strongest_at_the_smallest_fraction() -> None:
    rows = {}
    for fraction, lead in ((0.01, 0.10), (0.05, 0.05), (0.2, 0.01)):
        rows["random-init", "Random", "pets", fraction] = RANDOM
        rows["seg-enc", "ConRec", "pets", fraction] = [v + lead + n / 1000 for n, v in enumerate(RANDOM)]
    ours = judged(claim("strongest"), rows).ours
    assert (ours.answer, [round(p.effect or 0, 6) for p in ours.parts]) == ("holds", [5, 9])
    assert [p.label for p in ours.parts] == ["lead at 1 % − lead at 5 %", "lead at 1 % − lead at 20 %"]
    assert judged(claim("strongest", at="largest"), rows).ours.answer == "fails"
    assert judged(claim("strongest", margin=6), rows).ours.answer == "fails"
    assert judged(claim("strongest"), ROWS).ours.reason == "the rows have one fraction only"


def test_the_lead_is_strongest_at_one_data_set() -> None:
    rows = {}
    for dataset, lead in (("cityscapes-bus", 0.07), ("voc-aeroplane", 0.05)):
        rows["random-init", "Random", dataset, None] = RANDOM
        rows["seg-enc", "ConRec", dataset, None] = [v + lead + n / 1000 for n, v in enumerate(RANDOM)]
    ours = judged(claim("strongest", along="dataset", at="cityscapes-bus"), rows).ours
    assert (ours.answer, ours.parts[0].label) == ("holds", "lead at Cityscapes bus − lead at VOC aeroplane")


CURVES = {"seg-enc-dec": [10, 10, 20], "seg-enc": [40, 50, 50]}


def curve(reach: int, end: float = 0.9) -> list[dict[str, float]]:
    return [
        {"step": step, "eval_dice": end if step >= reach else 0.94 * end * step / 100} for step in range(0, 101, 10)
    ]


def test_steps_to_a_share_of_the_last_value() -> None:
    assert steps_to(curve(40), "eval_dice", 0.95) == 40
    assert steps_to([{"step": 5, "eval_dice": 0.5}, {"step": 0, "eval_dice": 0.1}], "eval_dice", 0.95) == 5
    assert steps_to([{"step": 0, "eval_dice": float("nan")}], "eval_dice", 0.95) is None
    assert steps_to([{"step": 0, "loss": 1.0}], "eval_dice", 0.95) is None


def test_convergence_is_read_from_the_stored_curves() -> None:
    def histories(keys: Any) -> dict[str, list[dict[str, float]]]:
        return {key: curve(CURVES[key.split("'")[1]][int(key[-2])]) for key in keys}

    entry = claim("convergence", rows={"scenario": "seg-enc-dec"}, against={"scenario": "seg-enc"})
    ours = judged(entry, histories=histories).ours
    assert (ours.answer, ours.unit, ours.n) == ("holds", "steps", 3)
    assert ours.effect == pytest.approx(np.mean([30, 40, 30]))
    assert ours.p == pytest.approx(stats.ttest_1samp([30, 40, 30], 0, alternative="greater").pvalue)
    assert judged(entry).ours.reason.startswith("no seed has a value of both rows")


CKA = {"cka/car/person": 0.6, "cka/car/motorbike": 0.55, "cka/person/motorbike": 0.5,
       "cka/car/4-class": 0.3, "cka/4-class/person": 0.35, "cka/motorbike/4-class": 0.45}  # fmt: skip


@pytest.mark.parametrize(
    ("margin", "each", "answer"), [(0, True, "holds"), (0.1, True, "fails"), (0.1, False, "holds")]
)
def test_similarity_is_the_order_of_the_values(margin: float, each: bool, answer: str) -> None:
    entry = claim("similarity", among=["Car", "Person", "Motorbike"], than=["4-Class"], margin=margin, each=each)
    stage = {"kind": "analysis", "spec": {"analysis": {"kind": "cka"}}}
    made = plan([], stages={"k": stage})
    facts = facts_of_cells(made, tidy(made, {}, {}), commits={"k": {"metrics": CKA}})
    (finding,) = evaluate(parse_claims([entry]), facts)
    ours = finding.ours
    assert (ours.answer, ours.p) == (answer, None)
    assert ours.effect == pytest.approx(0.05 if each else 0.55 - 1.1 / 3)
    assert "no error rate" in ours.reason
    (lost,) = evaluate(parse_claims([{**entry, "than": ["SimCLR"]}]), facts)
    assert lost.ours.reason == "the analysis cka has no models Car and SimCLR"
    (absent,) = evaluate(parse_claims([entry]), facts_of_cells(made, tidy(made, {}, {})))
    assert absent.ours.reason == "no analysis cka of this plan is finished"


def ranked(seeds: int, flipped: bool = True) -> dict[Any, Any]:
    order = [0.5, 0.6, 0.7]
    rng = np.random.default_rng(0)
    rows = {}
    for frozen in (True, False):
        for model, level in zip("abc", order if frozen or not flipped else order[::-1], strict=True):
            rows["cls-enc", model, "lucchi", None, frozen] = [
                level + 0.01 * rng.standard_normal() for _ in range(seeds)
            ]
    return rows


RANK = {"rows": {"frozen": True}, "against": {"frozen": False}, "match": ["model"]}


def test_ranks_that_differ() -> None:
    ours = judged(claim("rank", **RANK), ranked(6)).ours
    assert (ours.answer, ours.effect, ours.n, ours.stated) == ("holds", -1, 6, 1)
    assert judged(claim("rank", **RANK), ranked(6, flipped=False)).ours.answer == "fails"
    assert judged(claim("rank", expect="agree", **RANK), ranked(6, flipped=False)).ours.answer == "holds"
    few = judged(claim("rank", **RANK), ranked(3)).ours
    assert (few.answer, few.effect, few.reason) == ("not testable", -1, "fewer than 5 seeds: the order alone is told")


# What cannot be tested


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({("random-init", "Random"): RANDOM}, "no two rows of these are both there"),
        (
            {**ROWS, ("seg-enc", "ConRec"): [None] * 3},
            "no seed has a value of both rows: ConRec − Random; Oxford Pets, 1 %, Dice",
        ),
        ({**ROWS, ("seg-enc", "ConRec"): [None, None, 0.8]}, "one shared seed has no spread"),
        ({**ROWS, ("seg-enc", "ConRec"): [float("nan"), 0.9, None]}, "one shared seed has no spread"),
    ],
)
def test_why_a_claim_cannot_be_tested(rows: dict[Any, Any], reason: str) -> None:
    ours = judged(claim(), rows).ours
    assert (ours.answer, ours.reason) == ("not testable", reason)


def test_seeds_that_one_row_lacks_are_left_out() -> None:
    ours = judged(claim(), {**ROWS, ("seg-enc", "ConRec"): [*ENCODER[:2], None]}).ours
    assert (ours.n, ours.p) == (
        2,
        pytest.approx(stats.ttest_rel(ENCODER[:2], RANDOM[:2], alternative="greater").pvalue),
    )
    more = judged(claim(), {**ROWS, ("random-init", "Random"): [*RANDOM, 0.7, 0.71]}).ours
    assert more.n == 3


def test_constants_are_exact() -> None:
    made, commits = table()
    made["cells"].append(cell(scenario="constant", model="Published", seed=0, key="", constant=0.9))
    facts = facts_of_cells(made, tidy(made, commits, {}))
    (finding,) = evaluate(parse_claims([claim(rows={"model": "Published"}, against={"scenario": "seg-enc"})]), facts)
    differences = [0.9 - value for value in ENCODER]
    assert finding.ours.n == 3
    assert finding.ours.p == pytest.approx(stats.ttest_1samp(differences, 0, alternative="greater").pvalue)


def test_cells_of_another_grid_serve_only_claims_that_name_it() -> None:
    made, commits = table({("random-init", "Random"): RANDOM})
    other, more = table({("seg-enc", "ConRec"): ENCODER})
    facts = facts_of_cells(made, tidy(made, commits, {}), beside={"p1-table2": tidy(other, more, {})})
    alone, together = evaluate(parse_claims([claim(), claim(id="c2", beside=["p1-table2"])]), facts)
    assert (alone.ours.answer, together.ours.answer) == ("not testable", "holds")


# Looks


def test_looks_tell_which_groups_go_on() -> None:
    rng = np.random.default_rng(1)
    rows = {
        ("random-init", "Random"): list(0.70 + 0.001 * rng.standard_normal(3)),
        ("seg-enc", "ConRec"): list(0.90 + 0.001 * rng.standard_normal(3)),
        ("seg-enc-dec", "ConRec"): list(0.70 + 0.05 * rng.standard_normal(3)),
    }
    entry = claim(rows={"model": "ConRec"})
    finding = judged(entry, rows, looks=Looks())
    assert finding.ours.answer == "undecided"
    assert [part.look for part in finding.ours.parts] == [1, None]
    on = {(g.axes["scenario"], g.axes["model"]) for g in groups_to_go_on([finding])}
    assert on == {("random-init", "Random"), ("seg-enc-dec", "ConRec")}
    shown = judged(claim(), rows, looks=Looks())
    assert (shown.ours.answer, shown.ours.reason, shown.open_parts) == ("holds", "decided at look 1 (3 seeds)", ())
    assert "Lan & DeMets" in shown.ours.source and "looks at 3, 5, 10, 20 seeds" in shown.ours.method


def test_no_look_while_a_cell_of_it_has_not_ended() -> None:
    clear = {**ROWS, ("seg-enc", "ConRec"): [0.95, 0.97, None]}
    finding = judged(claim(), clear, looks=Looks())  # the third cell is missing, not failed
    assert finding.ours.answer == "undecided"
    assert {g.axes["scenario"] for g in groups_to_go_on([finding])} == {"seg-enc", "random-init"}


# Files


def test_files_say_everything_once() -> None:
    made, commits = table()
    entries = [
        claim(note="A note | with a bar."),
        claim("equivalence", id="c2", margin=1, against={"scenario": "seg-enc-dec"}),
    ]
    findings = evaluate(parse_claims(entries), facts_of_cells(made, tidy(made, commits, {})))
    rows = list(csv.DictReader(io.StringIO(claims_csv(findings))))
    assert [(r["id"], r["verdict"], r["published_verdict"]) for r in rows] == [
        ("c1", "holds", "not testable"), ("c2", "holds", "not testable"),
    ]  # fmt: skip
    assert rows[0]["published_reason"] == "the grid names no published values"
    assert float(rows[0]["p_holm"]) == pytest.approx(2 * float(rows[0]["p"]))
    text = claims_md(findings, {**made, "profile": "mini", "stand_ins": {"pets": "shapes"}})
    assert "mini profile" in text and "Stand-ins: shapes for pets." in text
    assert text.count("Student 1908") == 2 and "Method: paired t, 90 % interval [1]." in text
    assert json.loads(json.dumps(claims_record(findings)))[0]["verdict"]["answer"] == "holds"
    lines = short_list(findings)
    assert lines[0] == "2 claims: 2 holds" and len(lines) == 5


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store(str(tmp_path / "runs"), create=True)


def test_collect_writes_and_tells_claims(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, commits = table()
    names = {key: f"{n:016x}" for n, key in enumerate(commits)}
    claims = [claim(), claim("convergence", id="c2", rows={"scenario": "seg-enc-dec"}, against={"scenario": "seg-enc"})]
    cells = [{**c, "key": names[c["key"]]} for c in made["cells"]]
    store.save_plan({**made, "cells": cells, "claims": claims})
    for c in cells:
        record = commit(c["key"], **commits[repr((c["scenario"], c["model"], c["seed"]))]["metrics"])
        reach = CURVES.get(c["scenario"], [50] * 3)[c["seed"]]
        path = store.put_artifact(c["key"], "a", "history.json", json.dumps(curve(reach)).encode())
        store.commit({**record, "artifacts": {"history": path}})
    assert collect.main(["made-up", "--store", str(store.folder), "--out", str(tmp_path / "out"), "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [c["verdict"]["answer"] for c in told["claims"]] == ["holds", "holds"]
    assert {"claims.csv", "claims.md", "claims.json"} <= set(told["files"])
    assert "2 claims: 2 holds" in err
    written = json.loads((tmp_path / "out" / "made-up" / "claims.json").read_text("utf-8"))
    assert written == told["claims"]


def test_a_figure_is_judged_by_the_cells_that_it_draws_from(store: Store) -> None:
    """They are no cells of its own: the stages of its plan are read, stand-ins named as asked for."""
    made, commits = table()
    stages = {}
    for number, c in enumerate(made["cells"]):
        labels = {a: c[a] for a in ("scenario", "frozen", "model", "pretext_data", "network", "fraction", "seed")}
        key, reach = f"{number:016x}", CURVES.get(c["scenario"], [50] * 3)[c["seed"]]
        stages[key] = {"kind": "finetune", "labels": {**labels, "dataset": "shapes"}}
        path = store.put_artifact(key, "a", "history.json", json.dumps(curve(reach)).encode())
        store.commit({**commits[c["key"]], "key": key, "artifacts": {"history": path}})
    rows = {"rows": {"scenario": "seg-enc-dec"}, "against": {"scenario": "seg-enc"}, "over": {"dataset": "pets"}}
    claims = [claim("convergence", **rows), claim("equivalence", id="c2", margin=1, **rows)]
    figure = plan([], stages=stages, claims=claims, stand_ins={"pets": "shapes"})
    findings, warnings = findings_of(figure, tidy(figure, {}, {}), store)
    assert [(f.ours.answer, f.ours.n) for f in findings] == [("holds", 3), ("holds", 3)]
    assert warnings == []


def test_a_grid_without_claims_has_no_such_files(store: Store, tmp_path: Path) -> None:
    made, _ = table()
    store.save_plan({**made, "cells": [{**c, "key": f"{n:016x}"} for n, c in enumerate(made["cells"])]})
    assert collect.main(["made-up", "--store", str(store.folder), "--out", str(tmp_path / "out")]) == 0
    assert not list((tmp_path / "out" / "made-up").glob("claims*"))


def test_an_empty_store_has_every_claim_untested(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = load_request("p1-table2").grid.claims
    made, _ = table(grid="p1-table2", references="p1-table2", claims=list(claims))
    store.save_plan({**made, "cells": [{**c, "key": f"{n:016x}"} for n, c in enumerate(made["cells"])]})
    assert collect.main(["p1-table2", "--store", str(store.folder), "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {c["verdict"]["answer"] for c in told["claims"]} == {"not testable"}
    assert {c["published"]["answer"] for c in told["claims"]} == {"holds", "fails", "undecided"}
