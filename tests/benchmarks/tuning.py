"""Does tuning pay? What pruning saves, and a study's winner against the default on images that neither ever saw.

    python -m tests.benchmarks.tuning --data-root DIR [--part pruning|winner] [--trials 12] [--seeds 3] [--store DIR]

Car segmentation on patches of CamVid's training part (`camvid/` below the data root), width 8 at 64 x 64. Default:
Adam at its usual 3e-4, no decay, 400 steps.

Pruning alone: studies over the learning rate whose trials all have one length, so that no trial shares steps with
another: 200 steps of 8 images, judged at the same shares of it as 400 steps are. One study for each rule and one
without pruning try the very same settings, all of them through the whole program; printed are the steps that their
trials have trained, and how good the winner is when it is trained to its end.

Winner: a study tries three rates, two decays and three lengths, and judges by the Dice on held-out patches. Then
default and winner are trained anew with seeds that the study did not use, and compared by the Dice on patches with cars
of CamVid's evaluation part, of which neither saw a picture. Printed: both means and the mean paired difference with its
95 % interval (Student's t), whichever way it falls.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml
from scipy.stats import t as student

from orchestrator import run_grid
from orchestrator.grid.load import SPACES, load_request
from orchestrator.plan.build import build
from orchestrator.plan.stages import Study
from orchestrator.plan.studies import trial_stage
from orchestrator.record.store import Store, open_store
from trainables.context import Context
from trainables.data import open_dataset
from trainables.data.prepare import prepare
from trainables.downstream.examples import Pictures
from trainables.downstream.finetune import evaluate
from trainables.networks import build_network
from trainables.pretexts.pretrain import pretrain
from trainables.settings import parse_network

PREPARE = {"kind": "car-patches", "exclude_val": True}
GRID: dict[str, Any] = {
    "title": "Car segmentation, tuned",
    "profile": "mini",
    "rows": [{"scenario": "seg-enc", "model": "Segmentation", "pretext": "car"}],
    "columns": [{"dataset": "camvid", "pretext_data": "camvid"}],
    "seeds": [0],
    "finetune": {"steps": 20},
    "datasets": yaml.safe_load((SPACES / "profiles" / "mini.yaml").read_text())["datasets"],
}
SHORT = {"steps": 200, "report_every": 25, "batch": 8}
CAR: dict[str, Any] = {"method": "segmentation", "prepare": PREPARE, "pretrain": {"learning_rate": 0.0003}}


def main() -> None:
    """Run the studies where the store does not hold them yet, then the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--part", choices=("pruning", "winner"), action="append", help="default: both")
    parser.add_argument("--rule", choices=("asha", "hyperband", "median"), action="append", help="default: asha")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--studies", type=int, default=1, help="how often pruning is measured, each time anew")
    parser.add_argument("--seeds", type=int, default=3, help="fresh seeds for winner and default, from 101")
    parser.add_argument("--store", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tuning-") as folder:
        program = Program(Path(folder), args.data_root, args.store or f"{folder}/runs")
        for seed in range(args.studies) if "pruning" in (args.part or ("pruning",)) else ():
            pruning(program, args.rule or ["asha"], args.trials, seed)
        if "winner" in (args.part or ("winner",)):
            study = program.study("tuning-is-real", trials=args.trials, lengths=[0.25, 0.5, 1.0], pruning=rule("asha"))
            program.run("tuning-is-real")
            compare(study, program.store, args.data_root, args.seeds)


class Program:
    """Grids with one study each, run by the program itself. Inline: the counts are to depend on no worker's pace."""

    def __init__(self, folder: Path, data_root: Path, store: str) -> None:
        self._folder, self._data_root, self._uri = folder, data_root, store
        self.store = open_store(store, create=True)

    def study(self, grid: str, **tune: Any) -> Study:
        """Write the grid and plan its study."""
        path = self._path(grid)
        car = {**CAR, "pretrain": {**CAR["pretrain"], **(SHORT if len(tune["lengths"]) == 1 else {})}, "tune": tune}
        path.write_text(yaml.safe_dump({**GRID, "grid": grid, "pretexts": {"car": car}}))
        plan = build([load_request(str(path))], self._data_root).plans[0]
        return next(iter(plan.studies.values()))

    def run(self, grid: str) -> None:
        """Run a grid to its end."""
        where = ["--data-root", str(self._data_root), "--store", self._uri, "--executor", "inline"]
        if run_grid.main([str(self._path(grid)), *where]) != 0:
            raise SystemExit("the study did not finish")

    def _path(self, grid: str) -> Path:
        return self._folder / f"{grid}.yaml"


def rule(name: str | None) -> dict[str, str] | None:
    """A pruning rule with its defaults."""
    return None if name is None else {"rule": name}


def pruning(program: Program, rules: Sequence[str], trials: int, seed: int) -> None:
    """Print what each rule saves of the steps that the same study trains without one.

    The first rule's study makes the proposals; the others get them as theirs.
    """
    shared = {"space": "learning-rate", "trials": trials, "lengths": [1.0], "seed": seed}
    grids = {name: f"pruning-{name or 'none'}-{seed}" for name in (*rules, None)}
    studies = {name: program.study(grid, **shared, pruning=rule(name)) for name, grid in grids.items()}
    first = studies[rules[0]]
    program.run(grids[rules[0]])
    for name, study in studies.items():
        _propose(program.store, study, program.store.proposals(first.key))
        program.run(grids[name])
    ended = {name: trials_of(program.store, study) for name, study in studies.items()}
    full = sum(trial["facts"]["steps_run"] for trial in ended[None].values())
    print(f"pruning alone, study {seed}: {trials} learning rates, all of one length; judged at steps {first.rungs}")
    print(f"{'rule':<12}{'given up':>9}{'steps':>7}{'saved':>7}{'seconds':>9}{'best Dice':>11}")
    for name, records in ended.items():
        steps = sum(trial["facts"]["steps_run"] for trial in records.values())
        seconds = sum(trial["seconds"] for trial in records.values())
        given_up = sum(trial["facts"]["pruned_at"] is not None for trial in records.values())
        line = f"{name or 'none':<12}{given_up:>9}{steps:>7}{1 - steps / full:>7.0%}{seconds:>9.0f}"
        print(f"{line}{_best(records):>11.4f}", flush=True)


def _propose(store: Store, study: Study, proposals: Sequence[Mapping[str, Any]]) -> None:
    """The same settings in another study, as its trials."""
    for proposal in proposals:
        key = trial_stage(study, proposal["changes"]).key
        store.propose(study.key, proposal["number"], {**proposal, "key": key, "study": study.key, "name": study.name})


def trials_of(store: Store, study: Study) -> dict[int, dict[str, Any]]:
    """The records of a study's trials by number, each checked against its own curve: it ends where the trial did."""
    proposals = {proposal["key"]: proposal["number"] for proposal in store.proposals(study.key)}
    commits = store.commits(proposals)
    for key, record in commits.items():
        last = json.loads(store.artifact(record["artifacts"]["history"]))[-1]["step"]
        assert last == record["facts"]["steps_run"], f"trial {key} says {record['facts']} and its curve ends at {last}"
    return {proposals[key]: record for key, record in commits.items()}


def _best(trials: Mapping[int, Mapping[str, Any]]) -> float:
    """The objective of the winner: of the trials that were trained to their end."""
    return max(t["metrics"]["objective"] for t in trials.values() if t["facts"]["pruned_at"] is None)


def compare(study: Study, store: Store, data_root: Path, seeds: int) -> None:
    """Print default against winner."""
    proposals = store.proposals(study.key)
    commits = store.commits(p["key"] for p in proposals)
    steps = sum(record["facts"]["steps_run"] for record in commits.values())
    asked = sum(p["params"]["steps"] for p in proposals)
    ended = [r["facts"]["pruned_at"] is not None for r in commits.values()]
    best = store.conclusions(study.key)[len(proposals)]
    changes = next(p["changes"] for p in proposals if p["key"] == best["key"])
    print(
        f"winner against default: a study of {len(proposals)} trials, {sum(ended)} given up; trained {steps} of {asked}"
    )
    print(
        f"steps, the rest saved by pruning and shared prefixes; winner {best['params']}, objective {best['value']:.4f}"
    )
    unseen = unseen_patches(study, data_root)
    specs = {"default": dict(study.spec), "winner": dict(trial_stage(study, changes).spec)}
    found: dict[str, list[float]] = {name: [] for name in specs}
    print(f"Dice on {len(unseen)} unseen patches\n{'seed':>6}{'default':>9}{'winner':>9}{'paired difference':>19}")
    for seed in range(101, 101 + seeds):
        for name, spec in specs.items():
            found[name].append(retrained(spec, seed, data_root, unseen))
        default, winner = (found[name][-1] for name in specs)
        print(f"{seed:>6}{default:>9.4f}{winner:>9.4f}{winner - default:>+19.4f}", flush=True)
    for count in sorted({3, seeds} - {1}):
        if count <= seeds:
            print(_verdict(found["default"][:count], found["winner"][:count]))


def _verdict(default: Sequence[float], winner: Sequence[float]) -> str:
    differences = [w - d for w, d in zip(winner, default, strict=True)]
    half = student.ppf(0.975, len(differences) - 1) * stdev(differences) / len(differences) ** 0.5
    interval = f"95 % interval {mean(differences) - half:+.4f} to {mean(differences) + half:+.4f}"
    means = f"default {mean(default):.4f}, winner {mean(winner):.4f}"
    return f"n = {len(differences)}: {means}, paired difference {mean(differences):+.4f}, {interval}"


def retrained(spec: Mapping[str, Any], seed: int, data_root: Path, unseen: Pictures) -> float:
    """Train a pretext anew, on patches cut with the same seed, and evaluate its own network."""
    plain = {k: v for k, v in spec.items() if k not in ("study", "objective", "rungs")}
    data = {k: v for k, v in spec["data"].items() if k != "prepared"}
    patches = prepare({"data": data, "prepare": prepare_of(), "seed": seed}, context(data_root))
    trained = pretrain({**plain, "seed": seed}, context(data_root, {"data": patches.weights}))
    network = build_network(parse_network(spec["network"]), out_channels=1)
    network.load_state_dict({n: t for n, t in trained.weights.items() if not n.startswith("pretext.")})
    return evaluate(network, unseen, torch.device("cpu"))["dice"]


def prepare_of() -> dict[str, Any]:
    """The preparation of the grid above, at the side of the profile `mini`."""
    return {**PREPARE, "size": 64}


def context(data_root: Path, parents: dict[str, Any] | None = None) -> Context:
    """A context that keeps nothing: no checkpoint is ever due, so its folder is never made."""
    return Context(data_root, Path(tempfile.gettempdir(), "tuning"), parents=parents, checkpoint_seconds=1e9)


def unseen_patches(study: Study, data_root: Path) -> Pictures:
    """Patches with cars from CamVid's evaluation part, cut by the same rule with three further seeds."""
    data = {k: v for k, v in study.spec["data"].items() if k != "prepared"}
    evaluation = set(open_dataset(data["reader"], data_root, data["options"]).evaluation)
    parts: dict[str, list[torch.Tensor]] = {"images": [], "masks": [], "boxes": []}
    for seed in (901, 902, 903):
        dials = {**prepare_of(), "exclude_val": False}
        cut = prepare({"data": data, "prepare": dials, "seed": seed}, context(data_root)).weights
        unseen = torch.tensor([int(source) in evaluation for source in cut["sources"]])
        rows = unseen & (cut["labels"] == 1)  # with cars, as those it trains on
        for name, found in parts.items():
            found.append(cut[name][rows])
    return Pictures(*(torch.cat(parts[name]) for name in ("images", "masks", "boxes")))


if __name__ == "__main__":
    main()
