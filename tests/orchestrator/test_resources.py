"""Shapes and shares: by hand, and against what they must hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.execute.outcome import Job
from orchestrator.execute.preflight import Sight, faults_of
from orchestrator.execute.resources import (
    CONTEXT_BYTES,
    MARGIN,
    SHARES,
    MeasuredShares,
    Shape,
    allocator_fraction,
    memory_class,
    shape_of,
    share_for,
)
from orchestrator.execute.searcher import Packing
from orchestrator.grid.schema import Run
from orchestrator.plan.stages import Stage

GB = 2**30
DEVICE = 80 * GB


def stage(kind: str = "finetune", **changes: object) -> Stage:
    spec = {
        "scenario": "random-init",
        "frozen": False,
        "network": {"name": "conrec-unet", "width": 64},
        "data": {"reader": "pets", "options": {}, "fraction": 0.05, "n_train": 100},
        "finetune": {"steps": 100, "batch": 8, "learning_rate": 1e-3, "input_size": 128},
        "backend": {"precision": "float32"},
        "seed": 0,
    }
    return Stage("key", kind, {**spec, **changes}, {}, "", "name", {})


@pytest.mark.parametrize(
    ("peak", "share"),
    [(1, 0.125), (8, 0.125), (9, 0.25), (17, 0.25), (18, 0.5), (34, 0.5), (35, 1.0), (69, 1.0), (79, 1.0), (200, 1.0)],
)
def test_a_share_is_the_smallest_that_holds_the_peak_with_its_margin(peak: int, share: float) -> None:
    assert share_for(peak * GB, DEVICE) == share  # 80 GB x 1/8 / 1.15 = 8.7 GB, x 1/4 = 17.4, x 1/2 = 34.8
    assert share in SHARES


def test_what_is_measured_fits_below_its_cap() -> None:
    for gigabytes in range(1, 69):
        peak = gigabytes * GB
        share = share_for(peak, DEVICE)
        cap = allocator_fraction(share, DEVICE) * DEVICE
        assert cap >= peak - CONTEXT_BYTES and cap <= DEVICE
        if share < 1:
            assert cap + CONTEXT_BYTES == pytest.approx(share * DEVICE)  # the whole process stays in its share
            assert cap + CONTEXT_BYTES >= peak * MARGIN


@pytest.mark.parametrize("share", SHARES)
def test_processes_at_their_caps_fit_on_one_device(share: float) -> None:
    neighbours = round(1 / share)
    if share < 1:
        assert neighbours * (allocator_fraction(share, DEVICE) * DEVICE + CONTEXT_BYTES) <= DEVICE * (1 + 1e-9)


def test_no_share_and_a_whole_device_are_not_capped_and_a_tiny_device_gets_a_positive_cap() -> None:
    assert allocator_fraction(0, DEVICE) == allocator_fraction(1, DEVICE) == 1
    assert 0 < allocator_fraction(0.125, 2 * GB) <= 0.125


def test_like_stages_are_of_one_class() -> None:
    like = stage(seed=3, scenario="seg-enc", data={"reader": "pets", "options": {"a": 1}, "fraction": 0.2})
    assert memory_class(stage()) == memory_class(like)


@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"name": "conrec-unet", "width": 32}},
        {"network": {"name": "resnet50-unet"}},
        {"finetune": {"steps": 100, "batch": 16, "input_size": 128}},
        {"finetune": {"steps": 100, "batch": 8, "input_size": 256}},
        {"backend": {"precision": "bfloat16"}},
        {"frozen": True},
        {"data": {"reader": "voc-four", "options": {}}},
        {"something": "new"},
    ],
)
def test_whatever_may_take_memory_splits_a_class(changes: dict[str, object]) -> None:
    assert memory_class(stage()) != memory_class(stage(**changes))
    assert memory_class(stage()) != memory_class(stage("probe"))


def test_shares_are_learnt_from_commits_and_the_largest_counts() -> None:
    def record(peak: int) -> dict[str, object]:
        return {**stage().record(), "facts": {"peak_device_bytes": peak * GB, "device_bytes": DEVICE}}

    known = MeasuredShares.of_records([record(5), record(20), record(6), {**stage().record(), "facts": {}}])
    other = stage(frozen=True)
    assert known.share([stage(seed=9)]) == 0.5
    assert known.share([stage(), other]) is None  # one of them was never measured
    known.learn(other, 70 * GB, DEVICE)
    assert known.share([stage(), other]) == 1.0


def test_shapes_follow_the_grid_then_the_measurement_then_the_kind() -> None:
    assert shape_of("finetune", Run(), gpus=False) == Shape(1, 0)
    assert shape_of("finetune", Run(), gpus=False, share=0.5) == Shape(1, 0)
    assert shape_of("finetune", Run(), gpus=True) == Shape(1, 0.25)
    assert shape_of("pretrain", Run(), gpus=True) == shape_of("trial", Run(), gpus=True) == Shape(1, 1)
    assert [shape_of("probe", Run(), gpus=True, share=share).gpus for share in SHARES] == list(SHARES)
    assert shape_of("prepare", Run(), gpus=True, share=0.5) == Shape(1, 0)  # works on the CPU
    asked = Run.model_validate({"resources": {"finetune": {"cpus": 2, "gpus": 0.3}}})
    assert shape_of("finetune", asked, gpus=True, share=0.5) == Shape(2, 0.3)


def test_what_fills_a_gpu_keeps_it_however_little_memory_it_takes_unless_it_is_asked_to_share() -> None:
    for kind in ("pretrain", "trial"):
        assert [shape_of(kind, Run(), gpus=True, share=share) for share in SHARES] == [Shape(1, 1)] * len(SHARES)
        asked = Run.model_validate({"resources": {kind: {"gpus": 0.25}}})
        assert [shape_of(kind, asked, gpus=True, share=share) for share in (None, *SHARES)] == [Shape(1, 0.25)] * 5
    known, small = MeasuredShares(), stage("pretrain")
    known.learn(small, 6 * GB, DEVICE)
    assert known.share([small]) == 0.125
    assert Packing(Run(), 1, 1, 1, True, 1.0, known).shape([small], None) == Shape(1, 1)


def test_alone_means_a_whole_device_or_a_whole_node() -> None:
    assert Shape(1, 0.25).whole_device() == Shape(1, 1)
    assert Shape(1, 0).whole_device() == Shape(1, 0)
    assert Shape(1, 0.25).whole_node(32) == Shape(32, 1)
    assert Shape(4, 2).whole_node(2) == Shape(4, 2)


def test_each_fault_of_a_node_is_one_line_that_names_it() -> None:
    own = Sight(None, "c0ffee", "2.15.0", True)
    job = Job(store="/runs", data_root="/data")
    assert faults_of("gpu3 (10.0.0.3)", own, own, job, True) == []
    assert faults_of("gpu3", replace(own, data=False), own, job, False) == []
    wrong = Sight("there is no such folder", "beef", "2.14.1", False)
    store, code, torch, data = faults_of("gpu3 (10.0.0.3)", wrong, own, job, True)
    assert "gpu3 (10.0.0.3)" in store and "/runs" in store and "s3://" in store
    assert "beef" in code and "c0ffee" in code and "--working-dir" in code
    assert "2.14.1" in torch and "2.15.0" in torch
    assert "/data" in data and "--data-root" in data
    [unable] = faults_of("gpu3", "ModuleNotFoundError: No module named 'orchestrator'", own, job, True)
    assert "gpu3" in unable and "orchestrator" in unable
