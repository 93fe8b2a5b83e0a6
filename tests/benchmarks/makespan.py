"""Our order against first come first served and random order, on a virtual clock. One core, no training.

    python -m tests.benchmarks.makespan [--forests 10000] [--devices 8 64 256] [--pack 8] [--seed 0]

10,000 forests take a quarter of an hour, 500 less than a minute.

Each figure is makespan over the lower bound max(total work / devices, longest chain), so 1 cannot be beaten, and often
not reached: `no order below` is a closer bound, from what cannot start before its parents' end. Costs are those of the
profile `paper`. `ours` is the frontier of real runs; `fifo` and `random` are the same with another order
of what is ready. *one* runs stage by stage, *packs* as real runs do; *packs, queue* hands out max(64, 2 x devices)
packs in advance, as on a cluster, where the waiting ones are what its autoscaler sees.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Mapping
from pathlib import Path

from orchestrator.execute.frontier import Frontier
from orchestrator.grid.load import SPACES, load_request
from orchestrator.plan.cost import device_seconds
from orchestrator.plan.data import DataFacts
from orchestrator.plan.expand import expand
from orchestrator.plan.makespan import lower_bound, simulate
from orchestrator.plan.stages import Stage
from trainables.data import Listing

Stages = Mapping[str, Stage]
# Images by reader, as published; a set that is not named here counts as a thousand.
SIZES = {"flowers17": 849, "flowers102": 8189, "pets": 7390}


class Fifo(Frontier):
    """What became ready first goes first."""

    arrivals = 0

    def _push(self, key: str) -> None:
        self.arrivals += 1
        self._path[key] = -float(self.arrivals)
        super()._push(key)


class Shuffled(Frontier):
    """Any ready stage."""

    def _push(self, key: str) -> None:
        self._path[key] = random.Random(key).random()
        super()._push(key)


POLICIES: dict[str, type[Frontier]] = {"ours": Frontier, "fifo": Fifo, "random": Shuffled}


def paper_grids() -> dict[str, Stage]:
    """The stages of all built-in grids under the profile `paper`, each once."""
    stages: dict[str, Stage] = {}
    for path in sorted((SPACES / "grids").glob("p*.yaml")):
        request = load_request(path.stem, profile="paper")
        stages |= expand(request.grid, "paper", lambda spec: _facts(str(spec.get("reader")))).stages
    return stages


def _facts(reader: str) -> DataFacts:
    count = SIZES.get(reader, 1000)
    names, everyone = tuple(f"{number}.png" for number in range(count)), tuple(range(count))
    listing = Listing(reader, Path(reader), names, names, (None,) * count, {0: 0, 1: 1}, everyone, everyone)
    return DataFacts(reader, reader, listing)


def like_the_papers() -> dict[str, Stage]:
    """All cells of both papers, made up by their counts: P1 24 pretrains and 250 cells, P2 5 and 23."""
    stages: dict[str, Stage] = {}
    simclr, conrec = (_pretrain(method, 150_000, 16, 128) for method in ("simclr", "conrec"))
    ours = [simclr] * 5 + [conrec] * 11 + [0.2 * conrec] * 8  # 8 are supervised, and shorter
    cell = device_seconds("finetune", _spec("conrec-unet", 5_000, 16, 128), n_eval=2_000)
    _family(stages, "p1", ours, 250, cell)
    byol = _pretrain("byol", 100 * 150_000 // 20, 20, 128, network="resnet50-unet")
    _family(stages, "p2", [byol] * 5, 23, device_seconds("finetune", _spec("resnet50-unet", 6_200, 4, 224), n_eval=75))
    return stages


def _family(stages: dict[str, Stage], name: str, pretrains: list[float], cells: int, cost: float) -> None:
    roots = [_stage(f"{name}-pretrain-{n}", seconds, "pretrain") for n, seconds in enumerate(pretrains)]
    parents: list[str | None] = [None, *(root.key for root in roots)]  # one model in so many starts from nothing
    leaves = [_stage(f"{name}-cell-{n}", cost, "finetune", parents[n % len(parents)]) for n in range(cells)]
    stages.update({stage.key: stage for stage in (*roots, *leaves)})


def _spec(network: str, steps: int, batch: int, size: int) -> dict[str, dict[str, object]]:
    dials = {"steps": steps, "batch": batch, "input_size": size, "report_every": 50, "curve_images": 64}
    return {"network": {"name": network}, "data": {}, "finetune": dials}


def _pretrain(method: str, steps: int, batch: int, size: int, network: str = "conrec-unet") -> float:
    dials = {"steps": steps, "batch": batch, "input_size": size, "report_every": 500, "validation_images": 128}
    spec = {"network": {"name": network}, "pretext": {"method": method}, "pretrain": dials}
    return device_seconds("pretrain", spec)


def _stage(key: str, cost: float, kind: str, parent: str | None = None) -> Stage:
    return Stage(key, kind, {}, {"pretrain": parent} if parent else {}, "", key, {}, cost)


def forest(draw: random.Random) -> dict[str, Stage]:
    """A random grid: up to 100 pretrains, 32 cells on each, 200 cells on none; sizes and costs log-uniform."""

    def between(low: float, high: float) -> float:
        return math.exp(draw.uniform(math.log(low), math.log(high)))

    stages: dict[str, Stage] = {}
    dear, cheap = between(1, 200), between(0.2, 5)
    for n in range(round(between(1, 100))):
        root = _stage(f"p{n}", dear * draw.lognormvariate(0, 0.5), "pretrain")
        stages[root.key] = root
        for c in range(round(between(1, 32))):
            stages[f"p{n}c{c}"] = _stage(f"p{n}c{c}", cheap * draw.lognormvariate(0, 0.3), "finetune", root.key)
    for n in range(round(between(1, 200)) - 1):
        stages[f"r{n}"] = _stage(f"r{n}", cheap * draw.lognormvariate(0, 0.3), "finetune")
    return stages


def sharper_bound(stages: Stages, devices: int) -> float:
    """What no order can beat, closer: after any moment there is at least the work of what cannot start before it."""
    begins: dict[str, float] = {}
    for key, stage in stages.items():
        begins[key] = max((begins[p] + stages[p].cost for p in stage.parents.values()), default=0.0)
    bound, work = lower_bound(stages, devices), 0.0
    for key in sorted(stages, key=lambda k: -begins[k]):
        work += stages[key].cost
        bound = max(bound, begins[key] + work / devices)
    return bound


def ratio(stages: Stages, policy: type[Frontier], devices: int, most: int, ahead: bool) -> float:
    outstanding = max(64, 2 * devices) if ahead else None
    schedule = simulate(policy(stages), devices, most=most, outstanding=outstanding)
    return schedule.makespan / lower_bound(stages, devices)


def table(title: str, graphs: list[Stages], devices: list[int], pack: int) -> None:
    """Print median and worst ratio of each policy."""
    work = [sum(stage.cost for stage in graph.values()) / 3600 for graph in graphs]
    print(f"\n{title}; stages {sum(map(len, graphs))}, work {statistics.median(work):,.1f} h of one CPU core (median)")
    print("devices | order | one: median | worst | packs: median | worst | packs, queue: median | worst")
    modes: list[tuple[int, bool]] = [(1, False), (pack, False), (pack, True)]
    for count in devices:
        for name, policy in POLICIES.items():
            found = [[ratio(graph, policy, count, most, ahead) for graph in graphs] for most, ahead in modes]
            shown = " | ".join(f"{statistics.median(values):.3f} | {max(values):.3f}" for values in found)
            print(f"{count} | {name} | {shown}", flush=True)
        least = [sharper_bound(graph, count) / lower_bound(graph, count) for graph in graphs]
        print(f"{count} | no order below | {statistics.median(least):.3f} | {max(least):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forests", type=int, default=10_000)
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--pack", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table("all built-in paper grids together", [paper_grids()], options.devices, options.pack)
    table("all cells of both papers, by their counts", [like_the_papers()], options.devices, options.pack)
    draw = random.Random(options.seed)
    forests: list[Stages] = [forest(draw) for _ in range(options.forests)]
    table(f"{options.forests} random forests", forests, options.devices, options.pack)


if __name__ == "__main__":
    main()
