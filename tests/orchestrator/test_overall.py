"""The rows of a table over all columns, against scipy and by hand; and how they are shown."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator import collect
from orchestrator.record.store import Store, open_store
from orchestrator.results.cells import tidy
from orchestrator.results.collected import Collected
from orchestrator.results.overall import MOST_ROWS, overall
from orchestrator.results.overall_pages import overall_files
from orchestrator.results.table import summarise
from tests.orchestrator.results_made_up import cell, commit, plan

COLUMNS = (("pets", 0.01), ("pets", 0.2), ("flowers17", 0.01))
SEEDS = 5


def made(models: dict[str, dict[tuple[str, float], list[float | None]]], **given: Any) -> Collected:
    """Results by model and column, in fractions; None: the seed failed."""
    cells, commits = [], {}
    for model, columns in models.items():
        for (dataset, fraction), values in columns.items():
            for seed, value in enumerate(values):
                key = f"{model}-{dataset}-{fraction}-{seed}"
                cells.append(cell(model=model, dataset=dataset, fraction=fraction, seed=seed, key=key))
                if value is not None:
                    commits[key] = commit(key, dice=value)
    made_plan = plan(cells, **given)
    rows = tidy(made_plan, commits, {})
    return Collected(Store.__new__(Store), made_plan, rows, summarise(made_plan, rows), commits, {}, {}, ())


def drawn(seed: int, shift: float = 0.0) -> dict[tuple[str, float], list[float | None]]:
    rng = np.random.default_rng(seed)
    return {column: list(0.7 + shift + 0.02 * rng.normal(size=SEEDS)) for column in COLUMNS}


def test_pairs_are_scipys_paired_t_over_the_mean_of_columns_by_seed() -> None:
    models = {"A": drawn(1), "B": drawn(2, 0.05), "C": drawn(3, 0.01)}
    found = overall(made(models))
    assert [(p.compared.one, p.compared.other) for p in found.pairs] == [
        ("1 (random-init), B", "1 (random-init), A"),
        ("1 (random-init), C", "1 (random-init), A"),
        ("1 (random-init), C", "1 (random-init), B"),
    ]
    means = {name: np.mean([columns[c] for c in COLUMNS], axis=0) for name, columns in models.items()}
    expected = stats.ttest_rel(means["B"], means["A"])
    estimate = found.pairs[0].compared.estimate
    assert estimate is not None
    assert estimate.effect == pytest.approx(100 * (means["B"] - means["A"]).mean())
    assert found.pairs[0].compared.p == pytest.approx(expected.pvalue)
    assert estimate.interval(0.95) == pytest.approx(tuple(100 * np.array(expected.confidence_interval(0.95))))
    smallest = min(pair.compared.p for pair in found.pairs if pair.compared.p is not None)
    assert min(p.compared.p_holm or 1.0 for p in found.pairs) == pytest.approx(min(1.0, 3 * smallest))
    wins = [stats.mannwhitneyu(models["B"][c], models["A"][c]).statistic / SEEDS**2 for c in COLUMNS]  # type: ignore[arg-type]
    assert found.pairs[0].improvement == pytest.approx(np.mean(wins))


def test_rows_are_scipys_trimmed_means() -> None:
    models = {"A": drawn(1), "B": drawn(2)}
    found = overall(made(models))
    everything = np.concatenate([models["A"][c] for c in COLUMNS]).astype(float)
    assert found.rows[0].iqm == pytest.approx(100 * stats.trim_mean(everything, 0.25))
    assert (found.rows[0].runs, found.rows[0].columns, found.columns) == (3 * SEEDS, 3, 3)
    interval = found.rows[0].interval
    assert interval is not None and interval.low < (found.rows[0].iqm or 0) < interval.high


def test_each_place_has_both_intervals() -> None:
    models = {"A": drawn(1), "B": drawn(2)}
    place = overall(made(models)).cells[0]
    values = 100 * np.array(models["A"][COLUMNS[0]], dtype=float)
    low, high = stats.t.interval(0.95, SEEDS - 1, values.mean(), stats.sem(values))
    assert place.estimate is not None and place.estimate.interval(0.95) == pytest.approx((low, high))
    assert place.bootstrap is not None and low < place.bootstrap.low < values.mean() < place.bootstrap.high < high


def test_only_columns_that_all_rows_have_count_and_seeds_with_gaps_are_left_out() -> None:
    half = drawn(2)
    del half[COLUMNS[1]]
    half[COLUMNS[0]][4] = None
    found = made({"A": drawn(1), "B": half, "nothing": {COLUMNS[0]: [None] * SEEDS}})
    told = overall(found)
    assert [(row.columns, row.runs) for row in told.rows] == [(2, 10), (2, 9)]
    (pair,) = told.pairs
    assert (pair.compared.columns, pair.compared.estimate and pair.compared.estimate.n) == (2, 4)
    assert "over the 2 of 3 columns that all rows have" in overall_files(found)["rows.md"]


def test_where_less_is_better_the_lower_one_beats_the_other() -> None:
    models = {"A": drawn(1, 0.3), "B": drawn(2)}
    higher, lower = (overall(made(models, table={"higher_is_better": flag})).pairs[0] for flag in (True, False))
    assert (higher.improvement, lower.improvement) == (0.0, 1.0)
    assert higher.compared.estimate == lower.compared.estimate


def test_many_rows_are_compared_with_the_first_one_only() -> None:
    models = {f"M{n:02}": {COLUMNS[0]: [0.5 + n / 100, 0.51 + n / 100]} for n in range(MOST_ROWS + 1)}
    found = made(models)
    told = overall(found)
    assert len(told.pairs) == MOST_ROWS
    assert {pair.compared.other for pair in told.pairs} == {"1 (random-init), M00"}
    assert "Holm's correction over every row against the first one" in overall_files(found)["pairs.md"]


def test_one_seed_has_no_interval_and_one_row_no_pair() -> None:
    single = {COLUMNS[0]: [0.5]}
    files = overall_files(made({"A": dict(single), "B": {COLUMNS[0]: [0.6]}}))
    (pair,) = csv.DictReader(io.StringIO(files["pairs.csv"]))
    assert (pair["difference"], pair["low"], pair["p"], pair["seeds"]) == ("10", "", "", "1")
    assert set(overall_files(made({"A": single}))) == {"cells_intervals.csv"}
    assert overall_files(made({"A": {COLUMNS[0]: [None, math.nan]}})) == {}


def test_every_method_is_named_with_its_source() -> None:
    files = overall_files(made({"A": drawn(1), "B": drawn(2)}))
    for name in ("pairs.md", "pairs.tex"):
        for source in ("Student 1908", "Holm 1979", "Efron 1987", "Agarwal et al. 2021"):
            assert source in files[name], (name, source)
    for name in ("rows.csv", "pairs.csv", "cells_intervals.csv"):
        methods = list(csv.DictReader(io.StringIO(files[name])))
        assert all(value for row in methods for column, value in row.items() if column.endswith("source")), name
    three = overall_files(made({n: {c: v[:3] for c, v in drawn(s).items()} for s, n in enumerate("AB")}))
    assert "With 3 seeds a bootstrap is too narrow" in three["pairs.md"]
    assert "too narrow" not in files["pairs.md"]


def test_collect_writes_them_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path / "runs"), create=True)
    store.save_plan(plan([cell(model=m, seed=n, key=f"{m}{n}0000") for m in "ab" for n in range(3)]))
    for n in range(3):
        store.commit(commit(f"a{n}0000", dice=0.5 + n / 100))
        store.commit(commit(f"b{n}0000", dice=0.6 + n / 50))
    words = ["made-up", "--store", str(tmp_path / "runs"), "--tracking-uri", f"sqlite:///{tmp_path}/none.db"]
    assert collect.main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert not (tmp_path / "plain" / "made-up" / "pairs.csv").exists()
    assert collect.main([*words, "--out", str(tmp_path), "--statistics"]) == 0
    assert "**+11.0**" in (tmp_path / "made-up" / "pairs.md").read_text("utf-8")
    assert "cells_intervals.csv" in capsys.readouterr().out
