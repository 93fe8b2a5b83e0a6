"""The virtual run against schedules made by hand, the best of all schedules of small graphs, and Graham's bound."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise, permutations

import pytest

from orchestrator.execute.frontier import Frontier
from orchestrator.plan.makespan import Schedule, forecast, lower_bound, simulate
from orchestrator.plan.stages import Stage
from tests.orchestrator.made_up import graph, stage


def run(stages: Mapping[str, Stage], devices: int, **how: int) -> Schedule:
    return simulate(Frontier(stages), devices, **how)


def best(stages: Mapping[str, Stage], devices: int) -> float:
    """The shortest makespan of all: every order that respects parents, each stage as early as that order allows."""
    found = float("inf")
    for order in permutations(stages):
        free, ends = [0.0] * devices, dict[str, float]()
        for key in order:
            if any(parent not in ends for parent in stages[key].parents.values()):
                break
            begin = max([min(free), *(ends[parent] for parent in stages[key].parents.values())])
            free[free.index(min(free))] = ends[key] = begin + stages[key].cost
        else:
            found = min(found, max(ends.values()))
    return found


def small(seed: int) -> dict[str, Stage]:
    """At most six stages, each with up to two parents."""
    draw = random.Random(seed)
    stages: list[Stage] = []
    for number in range(draw.randint(2, 6)):
        parents = draw.sample(stages, min(len(stages), draw.choice([0, 0, 1, 1, 2])))
        stages.append(stage(f"s{number}", *(p.key for p in parents), cost=float(draw.randint(1, 9))))
    return graph(*stages)


def check(stages: Mapping[str, Stage], schedule: Schedule) -> None:
    """Every stage once, for as long as it costs, after its parents, and no device with two at a time."""
    spans = {span.key: span for span in schedule.spans}
    assert len(schedule.spans) == len(spans) and spans.keys() == stages.keys()
    for key, span in spans.items():
        assert span.end - span.start == pytest.approx(stages[key].cost)
        assert all(spans[parent].end <= span.start for parent in stages[key].parents.values())
    for device in range(schedule.devices):
        mine = sorted((span.start, span.end) for span in schedule.spans if span.device == device)
        assert all(before[1] <= after[0] for before, after in pairwise(mine))


def test_a_schedule_made_by_hand() -> None:
    stages = graph(stage("a", cost=3), stage("b", "a", cost=2), stage("c", cost=4), stage("d", cost=1))
    schedule = run(stages, 2)
    assert [(s.key, s.device, s.start, s.end) for s in schedule.spans] == [
        ("a", 0, 0, 3), ("c", 1, 0, 4), ("b", 0, 3, 5), ("d", 1, 4, 5),
    ]  # fmt: skip
    assert schedule.makespan == 5 and schedule.utilisation == 1.0
    assert lower_bound(stages, 2) == 5
    assert run(stages, 1).makespan == 10 and run(stages, 8).makespan == 5 == lower_bound(stages, 8)


def test_a_pack_stays_on_its_device_and_its_stages_end_one_by_one() -> None:
    stages = graph(*(stage(f"f{n}", cost=2) for n in range(4)))
    schedule = run(stages, 1, most=4)
    assert [(s.start, s.end) for s in schedule.spans] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    check(stages, run(stages, 2, most=4))


def test_what_was_handed_out_ahead_is_overtaken_by_what_is_more_urgent() -> None:
    """With a queue and without, the child of `a` goes before cells that were ready earlier."""
    stages = graph(
        stage("a", kind="pretrain", cost=1), stage("b", "a", cost=10), *(stage(f"f{n}", cost=2) for n in range(3))
    )
    assert run(stages, 1).makespan == run(stages, 1, outstanding=4).makespan == 17
    without = {span.key: span.start for span in run(stages, 1).spans}
    ahead = {span.key: span.start for span in run(stages, 1, outstanding=4).spans}
    assert without["b"] == ahead["b"] == 1


def test_an_import_starts_first_however_short_its_path() -> None:
    stages = graph(
        stage("long", kind="pretrain", cost=50), stage("file", kind="import", cost=1), stage("cell", "file", cost=2)
    )
    for outstanding in (1, 3):
        assert [span.key for span in run(stages, 1, outstanding=outstanding).spans] == ["file", "long", "cell"]
    check(stages, run(stages, 2))


def test_nothing_to_run() -> None:
    schedule = run({}, 4)
    assert schedule.spans == () and schedule.makespan == 0 and schedule.utilisation == 1 and lower_bound({}, 4) == 0


def test_finished_parents_count_as_done() -> None:
    stages = graph(stage("b", "a", cost=2))
    assert simulate(Frontier(stages, finished=["a"]), 1).makespan == lower_bound(stages, 1) == 2


@pytest.mark.parametrize("seed", range(40))
def test_small_graphs_against_the_best_schedule_and_grahams_bound(seed: int) -> None:
    stages = small(seed)
    for devices in (1, 2, 3):
        optimum = best(stages, devices)
        schedule = run(stages, devices)
        check(stages, schedule)
        assert lower_bound(stages, devices) <= optimum <= schedule.makespan
        assert schedule.makespan <= (2 - 1 / devices) * optimum + 1e-9  # Graham 1969, any list schedule
        assert devices > 1 or schedule.makespan == optimum


def test_longest_path_first_is_best_where_first_come_is_not() -> None:
    """Two short cells that come first in the plan would push the long chain back."""
    stages = graph(stage("x", cost=2), stage("y", cost=2), stage("a", cost=2), stage("b", "a", cost=4))
    assert run(stages, 2).makespan == best(stages, 2) == 6


@pytest.mark.parametrize(("devices", "most"), [(2, 1), (2, 8), (8, 1), (8, 8)])
def test_grids_stay_near_the_bound(devices: int, most: int) -> None:
    """Pretrains of unequal cost, cells on each: the last cells even the ends out, packs or not."""
    draw = random.Random(devices)
    stages = dict[str, Stage]()
    for n in range(12):
        stages[f"p{n}"] = stage(f"p{n}", kind="pretrain", cost=draw.uniform(5, 15))
        stages |= {f"p{n}c{c}": stage(f"p{n}c{c}", f"p{n}", cost=draw.uniform(0.8, 1.2)) for c in range(15)}
    schedule = run(stages, devices, most=most)
    check(stages, schedule)
    assert schedule.makespan <= 1.05 * lower_bound(stages, devices)
    assert schedule.utilisation == pytest.approx(sum(s.cost for s in stages.values()) / devices / schedule.makespan)


def test_devices_beyond_the_stages_change_nothing() -> None:
    stages = graph(stage("a", cost=3), stage("b", "a", cost=2), stage("c", cost=4), stage("d", cost=1))
    few, many = run(stages, 4), run(stages, 10**12)
    assert few.spans == many.spans and few.makespan == 5
    assert many.utilisation == pytest.approx(10 / (5 * 10**12))


def test_forecast_tells_the_same_as_json_values() -> None:
    stages = graph(stage("a", cost=3), stage("b", "a", cost=2), stage("c", cost=4), stage("d", cost=1))
    assert forecast(Frontier(stages), stages, 2, most=1) == {
        "devices": 2, "makespan_seconds": 5.0, "lower_bound_seconds": 5.0, "utilisation": 1.0,
    }  # fmt: skip
