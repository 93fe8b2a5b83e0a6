"""Where the time of training steps goes: what making views costs, operator by operator and function by function.

    python -m tests.benchmarks.profiles [--only simclr byol ...] [--width 8] [--size 64] [--batch 16] [--steps 30]
        [--repeats 3] [--against FOLDER ...] [--driver CELLS] [--out FILE]

Of each work the stage's own steps, as in `tests.benchmarks.training_step`:

    limit     ms of processor time for a step on ready-made views (model, loss, optimiser)
    ours      the same of the stage; medians over the steps, so that points of the curve are not in it
    ratio     limit / ours
    operators torch.profiler's, of what makes the views; self time as a share of the whole step
    functions py-spy's, where it is installed; shares of all samples of the steps, with what is called from there

`--against` names folders with other states of the project (git worktree), of which only `trainables` is used: their
turns come between ours in one run, and the weights after the steps are compared with ours. Processor time of the thread
is what other load on the machine changes least. `--driver` has the engine's driver instead, with so many trivial cells.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.common import ROOT, Report, header, ratios, spread

WARM_UP = 4
TRACED = 10  # steps of which the profiler keeps each operator
OPERATORS, FUNCTIONS = 10, 8
PACKAGES = ("torch", "py-spy")
REGION = "views"


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one work with the `trainables` of one folder; the process is a new one."""
    sys.path.insert(0, str(options.tree))
    import torch
    from torch.profiler import ProfilerActivity, profile

    from tests.benchmarks.training_work import Setup, bare_loss, new_model
    from trainables.context import Context
    from trainables.downstream.finetune import finetune
    from trainables.pretexts.pretrain import pretrain

    torch.set_num_threads(1)
    setup = Setup(
        options.folder,
        {"name": "conrec-unet", "width": options.width},
        options.size,
        options.batch,
        torch.device("cpu"),
    )
    steps = min(options.steps, TRACED) if options.traced else options.steps
    work, marks = options.one, list[float]()
    profiler = profile(activities=[ProfilerActivity.CPU])

    class Watched(Context):
        def progress(self, step: int, steps: int) -> None:
            marks.append(time.thread_time())
            if options.traced and step == WARM_UP:
                _mark_views(work)
                profiler.start()
            if options.traced and step == steps - 1:  # the last step has a point of the curve
                profiler.stop()

        def checkpoint_due(self) -> bool:
            return False

    shutil.rmtree(setup.folder / "work", ignore_errors=True)
    spec = setup.spec(work, WARM_UP + steps + 1)
    result = (finetune if work == "finetune" else pretrain)(spec, setup.context(Watched))
    if options.traced:
        return {"operators": _operators(profiler.events(), steps)}
    model, limit = new_model(setup, work), list[float]()
    loss = bare_loss(setup, work, model.module, augmented=False)
    for _ in range(WARM_UP + steps):
        began = time.thread_time()
        model.step(loss)
        limit.append(time.thread_time() - began)
    weights = hashlib.sha256()
    for name, tensor in sorted(result.weights.items()):
        weights.update(name.encode() + tensor.contiguous().numpy().tobytes())
    each = [after - before for before, after in zip(marks[WARM_UP - 1 :], marks[WARM_UP:-1], strict=False)]
    return {
        "ours": 1e3 * statistics.median(each),
        "limit": 1e3 * statistics.median(limit[WARM_UP:]),
        "weights": weights.hexdigest(),
    }


def _mark_views(work: str) -> None:
    """From now on the profiler knows what is called to make views."""
    import importlib

    from torch.profiler import record_function

    from tests.benchmarks.training_work import AUGMENTATION

    names = {"finetune": "trainables.downstream.examples", "moco-v2": "trainables.pretexts.moco"}
    place = importlib.import_module(names.get(work, f"trainables.pretexts.{work}"))
    for name in {*AUGMENTATION, "warp"} & set(vars(place)):
        setattr(place, name, record_function(REGION)(getattr(place, name)))


def _operators(events: Any, steps: int) -> list[list[Any]]:
    """[name, ms a step, share, calls a step] of what makes the views, and their sum; the share is of all operators."""
    inside, whole = collections.Counter[str](), 0.0
    calls = collections.Counter[str]()
    for event in events:
        whole += event.self_cpu_time_total
        above = event
        while above is not None and above.name != REGION:
            above = above.cpu_parent
        if above is not None:
            name = "Python between them" if event.name == REGION else event.name
            inside[name] += event.self_cpu_time_total
            calls[name] += 1
    rows = [("views together", sum(inside.values()), sum(calls.values()))]
    rows += [(name, taken, calls[name]) for name, taken in inside.most_common(OPERATORS - 1)]
    return [[name, taken / 1e3 / steps, taken / whole, count / steps] for name, taken, count in rows]


def command(options: argparse.Namespace, work: str, tree: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "tests.benchmarks.profiles", "--one", work, "--tree", str(tree)]
    for name in ("folder", "width", "size", "batch", "steps"):
        words += [f"--{name}", str(getattr(options, name))]
    return [*words, *more]


def answer(words: list[str]) -> dict[str, Any]:
    done = subprocess.run(words, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "KINETO_LOG_LEVEL": "5"}


def functions(words: list[str], within: str, rate: int) -> list[str]:
    """`share function (file)` by py-spy: of all samples whose stack has `within`, those in or below our functions."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stacks"
        spy = ["py-spy", "record", "--nonblocking", "--format", "raw", "-r", str(rate), "-o", str(out), "--"]
        spy[0] = str(Path(sys.executable).parent / "py-spy")
        subprocess.run([*spy, *words], cwd=ROOT, env=_environment(), capture_output=True)
        lines = out.read_text().splitlines() if out.exists() else []
    found, whole = collections.Counter[str](), 0
    for stack, _, count in (line.rpartition(" ") for line in lines):
        frames = [frame.rsplit(":", 1)[0] for frame in stack.split(";")]
        places = [number for number, frame in enumerate(frames) if within in frame]
        if places:
            whole += int(count)
            found.update({frame: int(count) for frame in set(frames[places[0] + 1 :])})
    return [f"{count / whole:6.1%}  {name})" for name, count in found.most_common()]


def _commit(folder: Path) -> str:
    """By which another state is called."""
    words = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() or folder.name


def has_spy() -> bool:
    return (Path(sys.executable).parent / "py-spy").exists()


def show(options: argparse.Namespace, report: Report, work: str) -> None:
    trees = {"ours": ROOT, **{_commit(folder): folder for folder in options.against}}
    answer(command(options, work, ROOT))  # decodes the pictures
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for _ in range(options.repeats):
        for name, tree in trees.items():
            found[name].append(answer(command(options, work, tree)))
    report.line(f"\n## {work}")
    report.row("state", "limit ms", "ours ms", "limit / ours", "ours is faster by", "weights")
    for name, several in found.items():
        limit, ours = ([one[what] for one in several] for what in ("limit", "ours"))
        faster = ratios(ours, [one["ours"] for one in found["ours"]])
        same = "equal" if several[0]["weights"] == found["ours"][0]["weights"] else "OTHERS"
        report.row(name, spread(limit, 1), spread(ours, 1), spread(ratios(limit, ours)), spread(faster), same)
    for name, tree in trees.items():
        report.line(f"\n{work}, {name}: operators | ms a step | share of the step | calls a step")
        for operator, taken, share, calls in answer(command(options, work, tree, "--traced"))["operators"]:
            report.line(f"{operator:32s} | {taken:7.2f} | {share:6.1%} | {calls:5.1f}")
        if has_spy():
            report.line(f"{work}, {name}: functions by py-spy")
            lines = functions(command(options, work, tree), "loss_of", 50)
            for line in [one for one in lines if "trainables" in one][:FUNCTIONS]:
                report.line(line)


def show_driver(report: Report, cells: int) -> None:
    """What the driver's main thread does."""
    with tempfile.TemporaryDirectory(prefix="profiles-") as folder:
        words = [sys.executable, "-m", "tests.benchmarks.scale", "--one", "ours", "--cells", str(cells)]
        lines = functions([*words, "--pack", "32", "--folder", folder], "run_on_ray", 15)
    if not has_spy():
        report.line("# py-spy is not installed here, so nothing can be told of the driver")
        return
    report.line(f"\n## driver, {cells} cells: shares of the main thread's time in the run, by py-spy")
    for line in lines[: 2 * OPERATORS]:
        report.line(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["simclr", "byol", "classification"])
    for name, default in {"width": 8, "size": 64, "batch": 16, "steps": 30, "repeats": 3, "driver": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--against", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, help="write the report there too")
    for name in ("folder", "tree"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(child(options)), flush=True)
        return
    report = Report(options.out)
    report.line(header("tests.benchmarks.profiles", PACKAGES))
    with tempfile.TemporaryDirectory(prefix="profiles-") as folder:
        options.folder = Path(folder)
        from tests.benchmarks.training_step import PHOTOS
        from tests.benchmarks.training_work import write_photos

        write_photos(options.folder, PHOTOS, 2 * options.size)
        for work in [] if options.driver else options.only:
            show(options, report, work)
    if options.driver:
        show_driver(report, options.driver)


if __name__ == "__main__":
    main()
