"""Several sets of results: matched rows, paired differences, and what makes versions of a cell differ."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from orchestrator import collect, report
from orchestrator.record.store import Store, open_store
from orchestrator.results.comparison_pages import p_text, signed
from tests.orchestrator.results_made_up import cell, commit, plan

BEFORE = {"Random": [0.70, 0.72, 0.71, 0.74], "ConRec": [0.80, 0.81, 0.79, 0.82]}
AFTER = {"Random": [0.70, 0.72, 0.71, 0.74], "ConRec": [0.83, 0.85, 0.81, 0.86]}


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def stage(key: str, steps: int, fingerprint: str = "f", **parents: str) -> dict[str, Any]:
    return {
        "key": key, "kind": "finetune", "name": key, "spec": {"finetune": {"steps": steps}}, "parents": parents,
        "fingerprint": fingerprint, "blocked": None, "labels": {},
    }  # fmt: skip


def filled(folder: Path, values: dict[str, list[float | None]], version: str, steps: int = 100, **given: Any) -> Store:
    """A store with a plan of these models; the keys of ConRec hold `version`, those of Random are always the same."""
    store = open_store(str(folder), create=True)
    cells, stages = [], {}
    for model, numbers in values.items():
        for seed, value in enumerate(numbers):
            key = f"{model}{version if model == 'ConRec' else ''}{seed}"
            cells.append(cell(model=model, seed=seed, key=key))
            stages[key] = stage(key, steps if model == "ConRec" else 100)
            if value is not None:
                store.commit(commit(key, dice=value))
    store.save_plan(plan(cells, stages=stages, **given))
    return store


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "made-up" / "comparison.csv").read_text("utf-8"))))


def compared(tmp_path: Path, *stores: Store, more: tuple[str, ...] = ()) -> int:
    named = [word for store in stores for word in ("--store", str(store.folder))]
    return collect.main(["made-up", *named, "--out", str(tmp_path / "out"), *more])


def test_two_stores_with_different_versions_of_the_same_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = filled(tmp_path / "before", BEFORE, "a"), filled(tmp_path / "after", AFTER, "b", steps=200)
    assert compared(tmp_path, *stores, more=("--json",)) == 0
    out, err = capsys.readouterr()
    same, changed = rows(tmp_path / "out")
    assert (same["model"], same["same_cells"], same["p"], same["difference"]) == ("Random", "true", "", "0")
    expected = stats.ttest_rel(AFTER["ConRec"], BEFORE["ConRec"])
    low, high = expected.confidence_interval(0.95)
    assert float(changed["difference"]) == pytest.approx(3.25)
    assert (float(changed["low"]), float(changed["high"])) == pytest.approx((100 * low, 100 * high))
    assert float(changed["p"]) == pytest.approx(expected.pvalue)
    assert float(changed["p_holm"]) == pytest.approx(expected.pvalue)  # one row is tested: nothing to correct
    assert (changed["n_pairs"], changed["base"], changed["other"]) == ("4", "store before", "store after")
    told = json.loads(out)["comparison"]["warnings"]
    assert told == [
        "4 of 8 cells of A and B are different versions of the same cell: finetune.steps 100 and 200 (4 cells)"
    ]
    assert "+3.3" in err
    assert "same cells" in err
    for name in ("comparison.md", "comparison.tex", "comparison.html"):
        text = (tmp_path / "out" / "made-up" / name).read_text("utf-8")
        assert "different versions of the same cell" in text
        assert "Student 1908" in text
        assert "Holm" in text


def test_holm_corrects_over_the_rows_that_are_tested(tmp_path: Path) -> None:
    other = {"Random": [0.71, 0.72, 0.73, 0.75], "ConRec": AFTER["ConRec"]}
    filled(tmp_path / "a", BEFORE, "a")
    store = open_store(str(tmp_path / "b"), create=True)
    cells = [cell(model=m, seed=n, key=f"{m}new{n}") for m, numbers in other.items() for n in range(len(numbers))]
    store.save_plan(plan(cells))
    for model, numbers in other.items():
        for n, value in enumerate(numbers):
            store.commit(commit(f"{model}new{n}", dice=value))
    assert compared(tmp_path, open_store(str(tmp_path / "a")), store) == 0
    ps = {row["model"]: (float(row["p"]), float(row["p_holm"])) for row in rows(tmp_path / "out")}
    small, large = sorted(ps.values())
    assert small[1] == pytest.approx(2 * small[0])
    assert large[1] == pytest.approx(max(large[0], 2 * small[0]))


def test_seeds_without_a_pair_are_left_out_and_counted(tmp_path: Path) -> None:
    after = {"Random": BEFORE["Random"], "ConRec": [0.83, None, 0.81]}
    compared(tmp_path, filled(tmp_path / "a", BEFORE, "a"), filled(tmp_path / "b", after, "b"))
    changed = rows(tmp_path / "out")[1]
    assert (changed["n_pairs"], changed["base_n"], changed["other_n"]) == ("2", "4", "2")
    assert float(changed["difference"]) == pytest.approx(2.5)  # (3 + 2) / 2, and not the difference of the means


def test_one_pair_has_a_difference_and_no_p(tmp_path: Path) -> None:
    one = {"ConRec": [0.8]}, {"ConRec": [0.9]}
    compared(tmp_path, filled(tmp_path / "a", one[0], "a"), filled(tmp_path / "b", one[1], "b"))
    (changed,) = rows(tmp_path / "out")
    assert (float(changed["difference"]), changed["p"], changed["low"]) == (pytest.approx(10), "", "")


def test_equal_keys_with_other_values_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared(tmp_path, filled(tmp_path / "cpu", BEFORE, "a"), filled(tmp_path / "gpu", AFTER, "a"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 of 8 values of A and B differ although their cells have equal keys, by at most 4" in printed
    assert rows(tmp_path / "out")[1]["same_cells"] == "false"


def test_metrics_that_the_table_does_not_show_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = [open_store(str(tmp_path / name), create=True) for name in ("one", "two")]
    for store, loss in zip(stores, (0.5, 0.9), strict=True):
        store.commit(commit("a", dice=0.7, loss=loss))
        store.save_plan(plan([cell(key="a")], stages={"a": stage("a", 1)}))
    compared(tmp_path, *stores)
    assert "although their cells have equal keys" not in " ".join(capsys.readouterr().out.split())


def test_rows_that_only_another_set_has_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores = [open_store(str(tmp_path / name), create=True) for name in ("one", "two")]
    for number, store in enumerate(stores):
        cells = [cell(frozen=frozen, key=f"{frozen}") for frozen in (False, True)[: number + 1]]
        store.save_plan(plan(cells, stages={c["key"]: stage(c["key"], 1) for c in cells}))
    compared(tmp_path, *stores)
    lines = (tmp_path / "out" / "made-up" / "comparison.md").read_text("utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert "Encoder" in table[0]
    assert len({line for line in table if "Random" in line}) == 2


def test_plans_of_two_profiles_in_one_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / "s", BEFORE, "a", plan="20260101T000000000Z-aaaa", profile="mini")
    store = filled(tmp_path / "s", {"ConRec": AFTER["ConRec"]}, "b", plan="20260202T000000000Z-bbbb")
    plans = ("--plan", "20260101T000000000Z-aaaa", "--plan", "20260202T000000000Z-bbbb")
    assert compared(tmp_path, store, more=plans) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "A and B are of profiles mini and paper: not the same experiment" in printed
    assert "1 rows are in A only, 0 in B only" in printed
    assert rows(tmp_path / "out")[0]["difference"] == ""


def test_reasons_follow_the_parents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, steps, fingerprint in (("a", 10, "f"), ("b", 20, "f"), ("c", 10, "g")):
        store = open_store(str(tmp_path / name), create=True)
        stages = {
            f"p{name}": {**stage(f"p{name}", steps), "kind": "pretrain"},
            f"k{name}": stage(f"k{name}", 5, fingerprint, pretrain=f"p{name}" if name != "c" else "pa"),
        }
        stages |= {"pa": stage("pa", 10)} if name == "c" else {}
        store.save_plan(plan([cell(key=f"k{name}")], stages=stages))
    compared(tmp_path, *(open_store(str(tmp_path / name)) for name in "abc"))
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "1 of 1 cells of A and B are different versions of the same cell: pretraining: finetune.steps 10 and 20"
        in printed
    )
    assert "A and C are different versions of the same cell: other files of the data set (1 cells)" in printed


def test_the_report_shows_the_comparison(tmp_path: Path) -> None:
    filled(tmp_path / "a", BEFORE, "a"), filled(tmp_path / "b", AFTER, "b")
    named = ["--store", str(tmp_path / "a"), "--store", str(tmp_path / "b")]
    assert report.main(["made-up", *named, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "made-up" / "index.html").read_text("utf-8")
    assert '<h2 id="comparison">Comparison</h2>' in text
    assert "+3.3" in text


def test_requests_that_cannot_be_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = filled(tmp_path / "a", BEFORE, "a")
    other = filled(tmp_path / "b", AFTER, "b", table={"unit": "fraction"})
    cases: list[tuple[tuple[Store, ...], tuple[str, ...], str]] = [
        ((one, other), (), "differ in unit: percent and fraction"),
        ((one, one), (), "named twice"),
        ((one, other), ("--plan", "x", "--plan", "y", "--plan", "z"), "2 times --store and 3 times --plan"),
    ]
    for stores, more, message in cases:
        assert compared(tmp_path, *stores, more=more) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("error: ") == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "+0.3"), (-0.25, "−0.3"), (-0.04, "0.0"), (0.0, "0.0"), (12, "+12.0")]
)
def test_signed(value: float, text: str) -> None:
    assert signed(value, 1) == text


@pytest.mark.parametrize(("p", "text"), [(None, ""), (0.0004, "< 0.001"), (0.0421, "0.042"), (0.5, "0.50")])
def test_p_text(p: float | None, text: str) -> None:
    assert p_text(p) == text
