"""Estimates against torch's own count of operations, and costs learned from made-up durations."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.plan.cost import device_seconds
from orchestrator.plan.durations import READ_OTHERS, READ_PER_LIKE, costed, device_of, timed, worth_reading
from orchestrator.plan.stages import Stage
from tests.orchestrator.made_up import listing, planned, present
from trainables.data import split


def small_plan() -> dict[str, Stage]:
    return dict(planned("smoke").stages)


def record(stage: Stage, seconds: float, *, device: str = "cpu", **facts: Any) -> dict[str, Any]:
    """The commit of a stage that took `seconds`."""
    about = {"seconds": seconds, "device": device, "facts": facts}
    return {**stage.record(), **about}


def changed(stage: Stage, section: str, **values: Any) -> Stage:
    spec = {**stage.spec, section: {**stage.spec[section], **values}}
    cost = device_seconds(stage.kind, spec, n_eval=evaluated(stage))
    return replace(stage, spec=spec, key=f"{stage.key} {values}", cost=cost)


def evaluated(stage: Stage) -> int:
    data = stage.spec["data"]
    return present(data).counts(data["n_train"])["n_eval"] if stage.kind == "finetune" else 0


def of_kind(stages: Mapping[str, Stage], kind: str) -> list[Stage]:
    return [stage for stage in stages.values() if stage.kind == kind]


def test_forward_pass_is_what_torch_counts() -> None:
    """Steps differ by one: what is left is one training step, forward and backward, which costs twice the forward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from trainables.networks import build_network
    from trainables.settings import NetworkSettings

    network = build_network(NetworkSettings(width=16), out_channels=1).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        network(torch.zeros(1, 3, 128, 128))
    base = of_kind(planned("p1-table2", profile="paper").stages, "finetune")[0].spec
    spec = {**base, "network": {**base["network"], "width": 16}, "data": {**base["data"], "n_train": 100}}
    dials = {**base["finetune"], "batch": 10, "report_every": 1000, "curve_images": 1, "input_size": 128}
    step = device_seconds("finetune", {**spec, "finetune": {**dials, "steps": 101}}) - device_seconds(
        "finetune", {**spec, "finetune": {**dials, "steps": 100}}
    )
    # The first convolution's three channels do not grow with the width; that is the difference.
    assert step * 48e9 / 30 == pytest.approx(counted.get_total_flops(), rel=0.05)


def test_an_estimate_grows_with_steps_images_and_area() -> None:
    stage = of_kind(small_plan(), "finetune")[0]
    cost = stage.cost
    assert changed(stage, "finetune", steps=2 * stage.spec["finetune"]["steps"]).cost > 1.2 * cost
    assert changed(stage, "finetune", input_size=2 * stage.spec["finetune"]["input_size"]).cost > 1.5 * cost
    spec = stage.spec
    more, less = (device_seconds("finetune", spec, n_eval=n) for n in (20_000, 100))
    assert more > 2 * less


def test_a_batch_is_never_larger_than_what_trains() -> None:
    stage = of_kind(small_plan(), "finetune")[0]
    few = {**stage.spec, "data": {**stage.spec["data"], "n_train": 2}}
    assert device_seconds("finetune", few) < device_seconds("finetune", stage.spec)


def test_frozen_encoders_and_encoder_only_pretexts_cost_less() -> None:
    stage = of_kind(small_plan(), "finetune")[0]
    assert device_seconds("finetune", {**stage.spec, "frozen": True}) < device_seconds("finetune", stage.spec)
    by_method = {s.spec["pretext"]["method"]: s for s in of_kind(planned("p1-table2").stages, "pretrain")}
    assert by_method["simclr"].cost < by_method["reconstruction"].cost


def test_epochs_go_before_steps_where_the_images_are_known() -> None:
    pretrain = of_kind(small_plan(), "pretrain")[0]
    dials = {**pretrain.spec["pretrain"], "batch": 10, "report_every": 10_000}
    by_steps, by_epochs = ({**pretrain.spec, "pretrain": {**dials, **d}} for d in ({"steps": 250}, {"epochs": 2.5}))
    held_out = dials["validation_images"]  # fewer than a tenth
    found = device_seconds("pretrain", by_epochs, n_pretrain=1000 + held_out)
    assert held_out < 100 and found == device_seconds("pretrain", by_steps)


def test_a_trial_is_judged_by_finetunes_at_its_rungs_and_its_end() -> None:
    stages = small_plan()
    pretrain, finetune = (of_kind(stages, kind)[0].spec for kind in ("pretrain", "finetune"))
    alone = {**pretrain, "rungs": [10, 30], "objective": {"kind": "validation"}}
    judged = {**alone, "objective": {"kind": "downstream", "finetune": finetune}}
    more = device_seconds("trial", judged) - device_seconds("trial", alone)
    assert more == pytest.approx(3 * device_seconds("finetune", finetune))
    assert device_seconds("trial", alone) == device_seconds("pretrain", pretrain)


@pytest.mark.parametrize(
    ("options", "size", "voxels"),
    [
        ({}, 64, 64 * 64 * 32), ({}, 32, 32 * 32 * 16), ({}, 128, 64 * 64 * 32),
        ({"width": 32, "depth": 16}, 64, 32 * 32 * 16), ({"width": 32, "depth": 32}, 16, 16**3),
    ],
)  # fmt: skip
def test_volumes_cost_by_their_voxels(options: dict[str, int], size: int, voxels: int) -> None:
    """Cubes are 64 x 64 x 32 but where options say otherwise, and are shrunk to their longest side, never enlarged."""

    def two_volumes(options: dict[str, int], size: int) -> float:
        dials = {"steps": 1, "batch": 2, "input_size": size, "report_every": 1000, "curve_images": 0}
        data = {"reader": "nodules", "options": options, "n_train": 10}
        spec = {"network": {"name": "genesis-unet3d", "width": 8}, "data": data, "finetune": dials}
        more = device_seconds("finetune", {**spec, "finetune": {**dials, "batch": 4}})
        return more - device_seconds("finetune", spec)

    assert two_volumes(options, size) / two_volumes({}, 64) == pytest.approx(voxels / (64 * 64 * 32), rel=1e-6)


def test_a_preparation_costs_by_what_it_goes_through_and_by_the_network_that_colours() -> None:
    pseudo, network = ({"prepare": {"kind": "colorize", "colours": colours}} for colours in ("pseudo", "network"))
    few, many = (device_seconds("prepare", pseudo, n_pretrain=n) for n in (100, 1100))
    assert many - few == pytest.approx(1000 * (device_seconds("prepare", pseudo, n_pretrain=101) - few))
    assert device_seconds("prepare", network, n_pretrain=100) > 50 * few


def test_stages_of_which_nothing_is_known_have_a_cost() -> None:
    assert device_seconds("analysis", {}) > 0 and device_seconds("import", {"data": {}}) > 0


def test_evaluation_images_are_those_of_the_split() -> None:
    facts = present({"reader": "pets"})
    assert facts.listing is not None
    parts = split(facts.listing, 0.05, None, seed=0)
    counts = facts.counts(len(parts.train))
    assert counts == {"n_eval": len(parts.evaluation), "n_pretrain": len(facts.listing.pretrain)}
    official = replace(listing("pets", 30), pool=(), train=tuple(range(20)), evaluation=tuple(range(20, 30)))
    assert replace(facts, listing=official).counts(5)["n_eval"] == len(split(official, None, 5, seed=0).evaluation)


def test_without_records_nothing_changes() -> None:
    stages = small_plan()
    assert costed(stages, []) == stages


def test_like_stages_teach_their_own_pace_and_others_that_of_their_kind() -> None:
    stages = small_plan()
    tuned, *_ = of_kind(stages, "finetune")
    pretrain, other, *_ = of_kind(stages, "pretrain")
    records = [record(tuned, 3 * tuned.cost, n_eval=evaluated(tuned)), record(pretrain, 10 * pretrain.cost)]
    learned = costed(stages, records)
    assert list(learned) == list(stages)
    assert all(learned[s.key].cost == pytest.approx(3 * s.cost) for s in of_kind(stages, "finetune"))
    assert learned[pretrain.key].cost == pytest.approx(10 * pretrain.cost)
    assert learned[other.key].cost == pytest.approx(10 * other.cost)  # another method, the same kind
    only_pretrain = costed(stages, records[1:])
    assert only_pretrain[tuned.key].cost == pytest.approx(10 * tuned.cost)  # another kind, the same machine
    assert {**learned[tuned.key].record(), "cost": 0} == {**tuned.record(), "cost": 0}


def test_what_was_learned_scales_with_steps_but_not_over_sizes() -> None:
    stages = small_plan()
    tuned = of_kind(stages, "finetune")[0]
    longer = changed(tuned, "finetune", steps=10 * tuned.spec["finetune"]["steps"])
    larger = changed(tuned, "finetune", input_size=2 * tuned.spec["finetune"]["input_size"])
    records = [record(tuned, 2 * tuned.cost, n_eval=evaluated(tuned))] * 3 + [
        record(larger, 5 * larger.cost, n_eval=evaluated(larger))
    ]
    learned = costed({s.key: s for s in (tuned, longer, larger)}, records)
    assert learned[longer.key].cost == pytest.approx(2 * longer.cost)
    assert learned[larger.key].cost == pytest.approx(5 * larger.cost)


def test_the_median_counts_whatever_the_order() -> None:
    stages = small_plan()
    tuned = of_kind(stages, "finetune")[0]
    records = [record(tuned, factor * tuned.cost, n_eval=evaluated(tuned)) for factor in (1, 2, 50)]
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert costed(stages, records)[tuned.key].cost == pytest.approx(2 * tuned.cost)


def test_of_a_resumed_stage_only_the_timed_part_counts() -> None:
    stages = small_plan()
    pretrain = of_kind(stages, "pretrain")[0]
    steps = pretrain.spec["pretrain"]["steps"]
    half = changed(pretrain, "pretrain", steps=steps - steps // 2)
    resumed = record(pretrain, 2 * half.cost, resumed_from=steps // 2)
    assert costed(stages, [resumed])[pretrain.key].cost == pytest.approx(2 * pretrain.cost)
    assert costed(stages, [record(pretrain, 0.1, resumed_from=steps)]) == stages


@pytest.mark.parametrize(("pruned_at", "steps_run"), [(20, 20), (40, 20), (None, 60)])
def test_of_a_trial_only_the_steps_that_it_trained_count(pruned_at: int | None, steps_run: int) -> None:
    """Given up, gone on from a shorter one, or both."""
    stages = small_plan()
    pretrain = changed(of_kind(stages, "pretrain")[0], "pretrain", steps=100)
    part = changed(pretrain, "pretrain", steps=steps_run)
    trial = replace(pretrain, kind="trial", spec={**pretrain.spec, "rungs": [], "objective": {"kind": "validation"}})
    facts = {"pruned_at": pruned_at, "steps_run": steps_run} | ({} if pruned_at else {"steps": 100, "resumed_from": 40})
    learned = costed({pretrain.key: pretrain}, [record(trial, 3 * part.cost, **facts)])
    assert learned[pretrain.key].cost == pytest.approx(3 * pretrain.cost)


def test_numeric_backends_do_not_mix_and_one_that_is_new_begins_with_the_pace_of_the_others() -> None:
    stages = small_plan()
    plain = of_kind(stages, "finetune")[0]
    fused, halved, threads = (
        changed(plain, "backend", **dial) for dial in ({"fused": True}, {"precision": "bfloat16"}, {"threads": 2})
    )
    old = changed(plain, "backend")
    old = replace(old, spec={**old.spec, "backend": {"precision": "float32", "threads": 1}})  # before later dials
    larger = changed(plain, "finetune", input_size=2 * plain.spec["finetune"]["input_size"])
    records = [record(s, factor * s.cost, n_eval=evaluated(s)) for s, factor in ((old, 4), (larger, 9), (larger, 9))]
    learned = costed({s.key: s for s in (plain, fused, halved, threads)}, records)
    assert all(learned[s.key].cost == pytest.approx(4 * s.cost) for s in (plain, fused, halved, threads))
    part = record(fused, fused.cost, n_eval=evaluated(fused), fused=4)  # a quarter of what four took together
    learned = costed({s.key: s for s in (plain, fused, halved)}, [*records, part, part, part])
    assert learned[fused.key].cost == pytest.approx(fused.cost)
    assert learned[plain.key].cost == pytest.approx(4 * plain.cost)
    assert learned[halved.key].cost == pytest.approx(halved.cost)  # the median of all backends


def test_devices_do_not_mix() -> None:
    stages = small_plan()
    pretrain = of_kind(stages, "pretrain")[0]
    slow, fast = record(pretrain, 2 * pretrain.cost), record(pretrain, 0.01 * pretrain.cost, device="cuda")
    for records, device, factor in (([slow, fast, fast], "cuda", 0.01), ([slow, slow, fast], "cpu", 2)):
        learned = costed(stages, records)
        assert learned[pretrain.key].cost == pytest.approx(factor * pretrain.cost)
        assert {device_of(record) for record in timed(records)} == {device}


def test_a_large_store_is_not_read_whole() -> None:
    stages = small_plan()
    finished = {f"{n:024x}" for n in range(5000)} | set(stages)
    chosen = worth_reading(stages, finished)
    assert set(chosen) <= finished and len(chosen) <= READ_OTHERS + READ_PER_LIKE * len(stages)
    kinds = {stages[key].kind for key in chosen if key in stages}
    assert kinds == {"pretrain", "finetune"}
    assert worth_reading(stages, sorted(finished, reverse=True)) == chosen


def test_seconds_that_no_stage_can_take_tell_nothing() -> None:
    """As a clock that was set back meanwhile once left them in stores."""
    stages = small_plan()
    pretrain = of_kind(stages, "pretrain")[0]
    right, wrong = record(pretrain, 2 * pretrain.cost), record(pretrain, -3586.683)
    assert timed([wrong, right, record(pretrain, 0.0)]) == [right]
    assert costed(stages, [wrong, wrong]) == stages
