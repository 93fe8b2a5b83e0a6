"""Is tuning real? A study's winner against the default, both retrained on fresh seeds, on images neither ever saw.

    python -m tests.benchmarks.tuning --data-root DIR [--trials 12] [--seeds 3] [--store DIR]

Car segmentation on patches of CamVid's training part (`camvid/` below the data root), width 8 at 64 x 64. Default:
Adam at its usual 3e-4, no decay, 400 steps. The study tries three rates, two decays and three lengths, and judges by
the Dice on held-out patches. Then default and winner are trained anew with seeds that the study did not use, and
compared by the Dice on patches of CamVid's evaluation part, of which neither saw a picture. Printed: both means, the
mean paired difference with its 95 % interval (Student's t), and what pruning saved, whichever way it falls.
"""

from __future__ import annotations

import argparse
import tempfile
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

GRID: dict[str, Any] = {
    "grid": "tuning-is-real",
    "title": "Car segmentation, tuned",
    "profile": "mini",
    "rows": [{"scenario": "seg-enc", "model": "Segmentation", "pretext": "car"}],
    "columns": [{"dataset": "camvid", "pretext_data": "camvid"}],
    "seeds": [0],
    "finetune": {"steps": 20},
    "datasets": yaml.safe_load((SPACES / "profiles" / "mini.yaml").read_text())["datasets"],
    "pretexts": {
        "car": {
            "method": "segmentation",
            "prepare": {"kind": "car-patches", "exclude_val": True},
            "pretrain": {"learning_rate": 0.0003},
            "tune": {"lengths": [0.25, 0.5, 1.0], "pruning": {"rule": "asha"}},
        }
    },
}


def main() -> None:
    """Run the study where the store does not hold it yet, then the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="fresh seeds, from 101")
    parser.add_argument("--store", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tuning-") as folder:
        path = Path(folder) / "grid.yaml"
        GRID["pretexts"]["car"]["tune"]["trials"] = args.trials
        path.write_text(yaml.safe_dump(GRID))
        where = args.store or f"{folder}/runs"
        if run_grid.main([str(path), "--data-root", str(args.data_root), "--store", where]) != 0:
            raise SystemExit("the study did not finish")
        plan = build([load_request(str(path))], args.data_root).plans[0]
        compare(next(iter(plan.studies.values())), open_store(where), args.data_root, args.seeds)


def compare(study: Study, store: Store, data_root: Path, seeds: int) -> None:
    """Print what pruning saved, and default against winner."""
    proposals = store.proposals(study.key)
    commits = store.commits(p["key"] for p in proposals)
    steps = sum(record["facts"]["steps_run"] for record in commits.values())
    asked = sum(p["params"]["steps"] for p in proposals)
    ended = [r["facts"]["pruned_at"] is not None for r in commits.values()]
    best = store.conclusions(study.key)[len(proposals)]
    changes = next(p["changes"] for p in proposals if p["key"] == best["key"])
    print(
        f"study: {len(proposals)} trials, {sum(ended)} given up; steps trained {steps} of {asked} without pruning and"
    )
    print(f"shared prefixes: {1 - steps / asked:.0%} saved; winner {best['params']}, objective {best['value']:.4f}")
    unseen = unseen_patches(study, data_root)
    specs = {"default": dict(study.spec), "winner": dict(trial_stage(study, changes).spec)}
    found: dict[str, list[float]] = {name: [] for name in specs}
    for seed in range(101, 101 + seeds):
        cut = {"data": study.spec["data"], "prepare": prepare_of(), "seed": seed}
        patches = prepare(
            {**cut, "data": {k: v for k, v in cut["data"].items() if k != "prepared"}}, context(data_root)
        )
        for name, spec in specs.items():
            plain = {k: v for k, v in spec.items() if k not in ("study", "objective", "rungs")}
            trained = pretrain({**plain, "seed": seed}, context(data_root, {"data": patches.weights}))
            found[name].append(unseen_dice(plain, trained.weights, unseen))
            print(f"seed {seed} {name}: Dice on {len(unseen)} unseen patches {found[name][-1]:.4f}", flush=True)
    differences = [w - d for w, d in zip(found["winner"], found["default"], strict=True)]
    half = student.ppf(0.975, seeds - 1) * stdev(differences) / seeds**0.5
    print(f"default {mean(found['default']):.4f}, winner {mean(found['winner']):.4f} (n = {seeds} fresh seeds each)")
    print(f"paired difference {mean(differences):+.4f}, 95 % interval {mean(differences) - half:+.4f} to", end=" ")
    print(f"{mean(differences) + half:+.4f}")


def prepare_of() -> dict[str, Any]:
    """The preparation of the grid above, at the side of the profile `mini`."""
    return {**GRID["pretexts"]["car"]["prepare"], "size": 64}


def context(data_root: Path, parents: dict[str, Any] | None = None) -> Context:
    """A context that keeps nothing."""
    return Context(data_root, tempfile.mkdtemp(prefix="tuning-"), parents=parents, checkpoint_seconds=1e9)


def unseen_patches(study: Study, data_root: Path) -> Pictures:
    """Patches of CamVid's evaluation part, cut by the same rule with three further seeds."""
    data = {k: v for k, v in study.spec["data"].items() if k != "prepared"}
    evaluation = set(open_dataset(data["reader"], data_root, data["options"]).evaluation)
    parts: dict[str, list[torch.Tensor]] = {"images": [], "masks": [], "boxes": []}
    for seed in (901, 902, 903):
        dials = {**prepare_of(), "exclude_val": False}
        cut = prepare({"data": data, "prepare": dials, "seed": seed}, context(data_root)).weights
        rows = torch.tensor([int(source) in evaluation for source in cut["sources"]])
        for name, found in parts.items():
            found.append(cut[name][rows])
    return Pictures(*(torch.cat(parts[name]) for name in ("images", "masks", "boxes")))


def unseen_dice(spec: dict[str, Any], weights: dict[str, torch.Tensor], unseen: Pictures) -> float:
    """The Dice of the pretext's own network, as trained."""
    network = build_network(parse_network(spec["network"]), out_channels=1)
    network.load_state_dict({n: t for n, t in weights.items() if not n.startswith("pretext.")})
    return evaluate(network, unseen, torch.device("cpu"))["dice"]


if __name__ == "__main__":
    main()
