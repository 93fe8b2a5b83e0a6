"""The benchmarks that are to run on a machine with a GPU and little else, and the Flowers column among them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.backend import measure
from tests.benchmarks.flowers_column_stages import Options, OutOfTime, StageContext, Watch, resume_steps
from tests.benchmarks.flowers_column_table import published, table
from tests.benchmarks.fusion import Failed, Processes
from tests.benchmarks.training_work import Setup, write_photos
from trainables import numeric
from trainables.context import Context, Result, StageError
from trainables.downstream.finetune import finetune
from trainables.downstream.fused import finetune_fused

ROOT = Path(__file__).resolve().parents[2]
ABSENT = (
    *("ray", "optuna", "mlflow", "pydantic", "pandas", "yaml", "matplotlib", "obstore", "rich", "filelock", "jinja2"),
    *("segmentation_models_pytorch", "timm", "kornia", "lightly", "byol_pytorch", "torchmetrics", "skimage"),
)
TINY = (
    *("stand_ins.flowers17=shapes", "stand_ins.flowers102=shapes", "network.width=4", "pretrain.batch=4"),
    *("pretrain.input_size=32", "finetune.input_size=32", "pretrain.validation_images=8", "finetune.curve_images=4"),
)
FLOWERS = "tests.benchmarks.flowers_column"
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python has torch, torchvision, numpy, scipy, pillow and safetensors, and nothing else
    that the package needs; processes that are started there, too."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


def started(environment: dict[str, str], *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ran(environment: dict[str, str], *words: object, code: int = 0) -> str:
    process = started(environment, *words)
    out = process.communicate()[0]
    assert process.returncode == code, out
    return out


def written_plan(folder: Path, *only: str, data_root: Path | str = "none", **steps: int) -> Path:
    file = folder / "plan.json"
    asked = [f"--{name.replace('_', '-')}={value}" for name, value in steps.items()]
    tiny = [word for setting in TINY for word in ("--set", setting)] if data_root == "none" else []
    chosen = [word for part in only for word in ("--only", part)]
    ran(dict(os.environ), FLOWERS, "--data-root", data_root, "--write-plan", file, *asked, *tiny, *chosen)
    return file


def values(store: Path) -> dict[str, object]:
    """What the stages of a store have come to, and their curves."""
    stages = json.loads((store / "results.json").read_text())["stages"]
    return {key: (found["error"], found["metrics"], found["history"]) for key, found in stages.items()}


def table_of(store: Path) -> list[str]:
    """Without the lines about the runs."""
    plan, results = (json.loads((store / f"{name}.json").read_text()) for name in ("plan", "results"))
    lines = table(plan, results)
    return [line.rpartition(" | ")[0] if "shapes" in line else line for line in lines if not line.startswith("#")]


def test_the_plan_has_the_rows_of_the_paper_and_vanilla_conrec(shared_data: Path, tmp_path: Path) -> None:
    plan = json.loads(written_plan(tmp_path, data_root=shared_data, pretrain_steps=7, finetune_steps=5).read_text())
    kinds = [stage["kind"] for stage in plan["stages"]]
    assert len(plan["cells"]) == 63 == kinds.count("finetune") and kinds.count("pretrain") == 4
    assert {(cell["fraction"], cell["n_train"]) for cell in plan["cells"]} == {(0.01, 8), (0.05, 42), (0.2, 170)}
    assert {cell["seed"] for cell in plan["cells"]} == {0, 1, 2}
    specs = [stage["spec"] for stage in plan["stages"]]
    assert all(spec["network"] == {"name": "conrec-unet", "width": 64} for spec in specs)
    pretrained = [spec for spec in specs if "pretext" in spec]
    assert {spec["pretrain"]["steps"] for spec in pretrained} == {7} and pretrained[0]["pretrain"]["input_size"] == 128
    assert sorted(len(spec["pretext"].get("tasks", ())) for spec in pretrained) == [0, 1, 1, 4]
    paper = published(plan["references"])
    assert {(c["scenario"], c["model"], c["fraction"]) for c in plan["cells"]} <= set(paper)
    assert paper["random-init", "Random", 0.01] == "79.1 ± 1.0"
    assert paper["seg-enc-dec", "ConRec (1 task)", 0.2] == "94.8 ± 0.1"


@pytest.mark.slow
def test_in_pieces_with_kills_on_a_bare_machine_it_is_the_same_table(bare: dict[str, str], tmp_path: Path) -> None:
    rows = ("model=SimCLR", "model=ConRec (1 task)")
    plan = written_plan(tmp_path, *rows, "fraction=0.01", "seed=0", pretrain_steps=24, finetune_steps=8)
    words = (FLOWERS, "--plan", plan, "--checkpoint-seconds", 0)
    whole = ran(bare, *words, "--store", tmp_path / "whole")
    assert "model | start | 1%, 8 train: here | 1%, 8 train: paper\n" in whole

    store = tmp_path / "pieces"
    assert "the same command goes on" in ran(bare, *words, "--store", store, "--seconds", 0.5, code=75)
    process = started(bare, *words, "--store", store)
    while not (reached := [p for p in store.glob("work/*/checkpoint-*.pt") if p.stem >= "checkpoint-3"]):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)  # its own process ends by itself
    process.wait()
    killed = reached[0].parent.name
    ran(bare, *words, "--store", store, "--parallel", 2)
    found = json.loads((store / "results.json").read_text())
    assert found["stages"][killed]["facts"]["resumed_from"] > 0
    assert values(store) == values(tmp_path / "whole") and len(values(store)) == 4
    assert table_of(store) == table_of(tmp_path / "whole")
    left = {path.name for path in store.iterdir()}
    assert left == {"plan.json", "results.json", "work"}, "weights that nobody needs any more are dropped"
    assert {path.name for path in (store / "work").iterdir()} == {"cache", "run.lock", "processes.lock"}


def spec(seed: int) -> dict[str, object]:
    data = {"reader": "shapes", "options": {"count": 24, "size": 16}, "fraction": None, "n_train": 4}
    dials = {"steps": 6, "batch": 4, "input_size": 16, "report_every": 3, "curve_images": 2}
    network = {"name": "conrec-unet", "width": 2}
    return {"scenario": "random-init", "network": network, "data": data, "finetune": dials, "seed": seed}


def contexts(folder: Path, deadline: float, count: int) -> list[StageContext]:
    options = Options("none", str(folder), "cpu", 1e9, deadline)
    stages = [{"key": f"cell-{number}", "fingerprint": None} for number in range(count)]
    starts = resume_steps([options.work(str(stage["key"])) for stage in stages])
    watch = Watch(options, None)
    return [StageContext(*each, options, {}, watch) for each in zip(stages, starts, strict=True)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_stage_that_runs_out_of_time_goes_on_where_it_stopped(count: int, tmp_path: Path) -> None:
    def train(given: Sequence[Context]) -> list[Result]:
        specs = [spec(seed) for seed in range(count)]
        ends = finetune_fused(specs, given) if count > 1 else [finetune(specs[0], given[0])]
        return [end for end in ends if isinstance(end, Result)]

    for step in range(1, 6):  # no time at all: one step, and its checkpoint
        given = contexts(tmp_path, 0.0, count)
        with pytest.raises(OutOfTime):
            train(given)
        assert {context.work_dir / f"checkpoint-{step}.pt" for context in given} <= set(tmp_path.glob("work/*/*.pt"))
    (tmp_path / "work" / "cell-0" / "checkpoint-5.pt").unlink()  # a kill between the checkpoints of cells of one step
    ended = train(contexts(tmp_path, 1e18, count))
    expected = train([Context("none", tmp_path / f"undisturbed-{number}") for number in range(count)])
    assert len(ended) == count and [result.metrics for result in ended] == [result.metrics for result in expected]
    assert {result.facts["resumed_from"] for result in ended} == {4}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([{3, 4}, {4, 5}, {4, 5}], [4, 4, 4]),  # killed while checkpoints were written
        ([{1, 2}, {8, 9}, {8, 9}], [2, 9, 9]),  # the first one's loss was no longer finite
        ([set(), set()], [0, 0]),
    ],
)
def test_stages_trained_as_one_go_on_together_but_for_those_that_had_ended(steps, expected, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(len(steps))]
    for folder, known in zip(folders, steps, strict=True):
        folder.mkdir()
        for step in known:
            (folder / f"checkpoint-{step}.pt").touch()
    assert resume_steps(folders) == expected


TINY_RUNS = {
    "fusion": "--cells 2 --processes 1 --width 2 --size 16 --batch 2 --images 4 --steps 1 --repeats 1 "
    "--precision bfloat16",
    "training_step": "--width 2 --size 32 --batch 2 --photos 80 --repeats 1 --seconds 0.05 --workers 0 "
    "--precision bfloat16 --only finetune simclr conrec",
    "backend": "--sizes 2x32 --batch 2 --only finetune --backends float32 bfloat16 --repeats 1 --seconds 0.05",
    "sasa": "--side 4 --channels 16 --heads 2 --kernel 3 --repeats 1",
    "gpu_share": "--processes 1",
}
SAID = (
    *("fused 2 | ", "1 processes | ", "(bfloat16 product)", "lightly: not installed", "finetune | 2x32 | bfloat16 | "),
    *("dot forward+backward | einsum", "equal, digit for digit"),
)
CODE = """
import importlib, json, sys
for name, words in json.loads(sys.argv[1]).items():
    module = importlib.import_module(f"tests.benchmarks.{name}")
    if name == "gpu_share":
        module.SPEC["finetune"]["steps"], module.SPEC["network"]["width"] = 2, 2
    sys.argv = [name, "--device", "cpu", *words.split()]
    assert not module.main()
"""


@pytest.mark.slow
def test_the_benchmarks_for_a_gpu_need_no_more_than_torch(bare: dict[str, str]) -> None:
    words = [sys.executable, "-c", CODE, json.dumps(TINY_RUNS)]
    done = subprocess.run(words, cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 0 and all(text in done.stdout for text in SAID), done.stdout + done.stderr


def cells_of(folder: Path, network: str) -> Processes:
    sizes = dict.fromkeys(("images", "steps", "repeats"), 4)
    options = Namespace(device="cpu", network=network, width=2, size=16, batch=2, precision="float32", **sizes)
    return Processes(options, str(folder), 2)


@pytest.mark.timeout(120)
def test_a_process_with_a_fault_says_it_and_none_is_waited_for(tmp_path: Path) -> None:
    processes = cells_of(tmp_path, "no-such-network")
    with pytest.raises(Failed, match="no-such-network"):
        processes.side_by_side()


@pytest.mark.timeout(120)
def test_a_process_that_dies_is_noticed(tmp_path: Path) -> None:
    processes = cells_of(tmp_path, "conrec-unet")
    rate, _ = processes.side_by_side()
    assert rate > 0
    workers = [process for process, _ in processes._workers]
    os.kill(int(workers[1].pid or 0), signal.SIGKILL)
    with pytest.raises(Failed, match="a process ended with SIGKILL"):
        processes.side_by_side()
    assert not any(process.is_alive() for process in workers)


def test_a_backend_that_fails_has_its_reason_in_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            raise StageError("backend.compiled: torch.compile failed on this machine")

        return call

    monkeypatch.setattr(numeric, "_compiled_in_training", without_compiler)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)  # takes a second
    write_photos(tmp_path, 80, 32)
    setup = Setup(tmp_path, {"name": "conrec-unet", "width": 2}, 16, 2, torch.device("cpu"))
    rows = measure(setup, "finetune", ["float32", "compiled", "bfloat16"], 1, 0.01)
    figures = {name: row for name, *row in rows}
    assert figures.keys() == {"float32", "compiled", "bfloat16"} and len({len(row) for row in rows}) == 1
    assert figures["compiled"][0] == "StageError: backend.compiled: torch.compile failed on this machine"
    assert float(figures["bfloat16"][0]) > 0 and float(figures["float32"][1]) == 1
