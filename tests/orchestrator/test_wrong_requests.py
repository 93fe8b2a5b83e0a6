"""Everything a user can get wrong, as one list: what was asked, and what the one message says.

A case passes where the command ends with code 2, prints one `error: ` whose text holds the given parts in this order,
shows no traceback, and changes nothing in the store. Two lists go on elsewhere: the content of a grid file line by line
in `test_grid_load.py` (WRONG), and files of a dataset that are there and broken in `test_cli_errors.py` (FAULTS).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator import collect, gc, run_grid, status
from orchestrator.grid.load import Request, load_request
from orchestrator.plan.build import build, plan_record
from orchestrator.plan.stages import Plan
from orchestrator.record.store import open_store
from tests.orchestrator.made_up import GRID, write_grid
from tests.trainables.data_trees import folder_set

ROOT = Path(__file__).resolve().parents[2]
MAINS: dict[str, Callable[[list[str]], int]] = {
    "run_grid": run_grid.main,
    "collect": collect.main,
    "status": status.main,
    "gc": gc.main,
}
ONE = "smoke --only seed=0 --only fraction=0.2 --only model=Random --executor inline"
MINE = (
    GRID.replace("dataset: shapes", "dataset: mine").replace("pretext_data: shapes", "pretext_data: mine")
    + "datasets: {mine: {reader: folder, path: set}}\nstand_ins: {mine: mine}\n"
)
PLAN_ID = "20261121T100000000Z-a"
LONG = "long" * 100
NOBODY = "http://127.0.0.1:9"  # the port of a service that nobody runs any more


@dataclass(frozen=True)
class Wrong:
    """A wrong request.

    ask: the command line, less `python -m orchestrator.`. says: parts of the message, in order. first: makes the
    surroundings, in the working directory. env: variables. kept: the store held something before.
    """

    ask: str
    says: tuple[str, ...]
    first: Callable[[], object] = lambda: None
    env: dict[str, str] = field(default_factory=dict)
    kept: bool = False


def grid(text: str, name: str = "mine.yaml") -> Callable[[], object]:
    return lambda: write_grid(Path(), text, name)


def raw(content: bytes, name: str = "mine.yaml") -> Callable[[], object]:
    return lambda: Path(name).write_bytes(content)


def bomb() -> bytes:
    """Nine lines that stand for nine to the ninth values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines).encode()


def data(**options: str) -> Callable[[], object]:
    """A sound set of 20 pictures at data/set, and a grid on it with further options of the reader."""

    def make() -> None:
        folder_set(Path("data/set"), count=20)
        more = "".join(f", {name}: {value}" for name, value in options.items())
        write_grid(Path(), MINE.replace("path: set", f"path: set{more}"))

    return make


def smoke() -> tuple[Request, Plan, str]:
    """The smoke grid with its real keys, and the key of the one cell of `ONE`."""
    request = load_request("smoke")
    [plan] = build([request], Path("data")).plans
    [key] = [c.key for c in plan.cells if (c.model, c.seed, c.fraction) == ("Random", 0, 0.2)]
    return request, plan, key


def store_with(kind: str, text: str = "rubbish {") -> Callable[[], object]:
    """A store with a plan of the smoke grid, and rubbish where a record of its first cell should be."""

    def make() -> None:
        store = open_store("runs", create=True)
        request, plan, key = smoke()
        store.save_plan(plan_record(request, plan, plan_id=PLAN_ID, command="cmd", data_root=Path("data")))
        [path] = Path("runs/plans").rglob("*.json") if kind == "plans" else [Path("runs") / kind / f"{key}.json"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return make


def two_of_one_name() -> None:
    write_grid(Path(), name="one.yaml")
    write_grid(Path(), name="two.yaml")


CASES = {
    # The grid file
    "no such grid": Wrong("run_grid p1-tabel2", ("no grid 'p1-tabel2'", "did you mean 'p1-table2' or ")),
    "an empty name": Wrong("run_grid ''", ("no grid ''", "allowed: ", "smoke")),
    "no such file": Wrong("run_grid mine.yaml", ("mine.yaml: no such file", "expected a grid in YAML")),
    "a file name too long": Wrong(f"run_grid {LONG}.yaml", (f"{LONG}.yaml: no such file",)),
    "a grid name too long": Wrong(
        f"status {LONG} --store runs",
        ("no plan of grid", "it holds plans of smoke"),
        store_with("plans", "{}"),
        kept=True,
    ),
    "a store with a null byte": Wrong(
        "run_grid smoke --store 'a\0b'", ("store a", "cannot make or open it: embedded null")
    ),
    "a folder": Wrong(
        "run_grid mine.yaml", ("mine.yaml: this is a folder", "expected a grid"), lambda: Path("mine.yaml").mkdir()
    ),
    "a file that cannot be read": Wrong(
        "run_grid mine.yaml",
        ("mine.yaml: cannot be read: Input/output error", "expected a grid"),
        lambda: Path("mine.yaml").symlink_to("/proc/self/mem"),
    ),
    "UTF-16": Wrong("run_grid mine.yaml", ("mine.yaml", "no UTF-8 text"), raw(GRID.encode("utf-16"))),
    "Latin-1": Wrong("run_grid mine.yaml", ("no UTF-8 text",), raw(GRID.replace("Mine", "Müll").encode("latin-1"))),
    "two documents": Wrong(
        "run_grid mine.yaml", ("mine.yaml:2: not valid YAML", "another doc"), raw(b"a: 1\n---\nb: 2")
    ),
    "a tab": Wrong("run_grid mine.yaml", ("mine.yaml:2: not valid YAML", "'\\t'"), raw(b"grid: a\n\ttitle: b")),
    "a key twice": Wrong("run_grid mine.yaml", ("mine.yaml:14: 'seeds' stands here twice",), grid(GRID + "seeds: [7]")),
    "a tag that would run code": Wrong(
        "run_grid mine.yaml",
        ("mine.yaml:2: ", "could not determine a constructor", "python/name"),
        grid(GRID.replace("title: Mine", "title: !!python/name:os.system x")),
    ),
    "nested without end": Wrong("run_grid mine.yaml", ("mine.yaml: nested too deeply",), raw(b"a: " + b"[" * 20000)),
    "a bomb of aliases": Wrong(
        "run_grid mine.yaml", ("mine.yaml: it stands for ", "aliases multiply", "at most 200,000"), raw(bomb())
    ),
    "a merge key": Wrong(
        "run_grid mine.yaml", ("merge keys (<<) are not supported",), grid(GRID + "run: {<<: {pack: 2}}")
    ),
    "two grids of one name": Wrong(
        "run_grid one.yaml two.yaml", ("two of the files name their grid 'mine'", "change one"), two_of_one_name
    ),
    "published values that are not there": Wrong(
        "run_grid smoke --set references=p1-table9", ("no published values named 'p1-table9'", "p1-table2")
    ),
    "published values that are a picture": Wrong(
        "run_grid smoke --set references=x.csv", ("x.csv: cannot be read as a CSV",), raw(b"\xff\xfe\x00", "x.csv")
    ),
    # Overrides and selections
    "no such profile": Wrong("run_grid smoke --profile large", ("--profile large: no such profile", "smoke")),
    "no such key": Wrong(
        "run_grid smoke --set finetune.stepz=1", ("--set finetune.stepz=1: ", "did you mean 'steps'?")
    ),
    "no value": Wrong("run_grid smoke --set finetune.steps", ("--set finetune.steps: expected KEY=VALUE",)),
    "a word for a number": Wrong(
        "run_grid smoke --set finetune.steps=many", ("finetune.steps: expected a whole number, but got 'many'",)
    ),
    "a value without end": Wrong(
        f"run_grid smoke --set title={'[' * 3000}", ("--set title=[[[", " ...: the value is not valid YAML")
    ),
    "a bomb in an override": Wrong(
        "run_grid smoke --set '" + bomb().decode().replace("a0: ", "title={a0: ", 1).replace("\n", ", ") + "}'",
        ("--set title={a0: ", " ...: it stands for ", "aliases multiply them"),
    ),
    "code in an override": Wrong(
        "run_grid smoke --set 'title=!!python/object/apply:os.system [\"touch pwned\"]'",
        ("--set title=!!python/object/apply:os.system", "could not determine a constructor"),
    ),
    "no such row": Wrong("run_grid smoke --only model=ConRek", ("the grid has no such model", "'ConRec'")),
    "no such axis": Wrong("run_grid smoke --only colour=red", ("--only colour=red: expected AXIS=VALUE", "scenario")),
    "an empty selection": Wrong(
        "run_grid smoke --only model=Random --only scenario=seg-enc", ("no cell of the grid smoke has all of these",)
    ),
    "no such stage": Wrong("run_grid smoke --stage zzz", ("--stage zzz: 0 stages of this plan", "expected one")),
    "a stage that is any stage": Wrong("run_grid smoke --stage ''", ("26 stages of this plan have", ", ...)")),
    # Data
    "a class that the set has not": Wrong(
        "run_grid mine.yaml",
        ("options of folder: target must be one of ", "dog", "but got 'cat'", "data/set"),
        data(classes="{0: background, 255: dog}", target="cat"),
    ),
    "a target without classes": Wrong(
        "run_grid mine.yaml", ("data/set: target 'cat', but no classes", "classes.yaml"), data(target="cat")
    ),
    "a path to something else": Wrong(
        "run_grid mine.yaml",
        ("data/set: ", "leads here, but there is no images/", "expected images/"),
        lambda: (write_grid(Path(), MINE), Path("data/set/pictures").mkdir(parents=True)),
    ),
    # The store
    "a store that is a file": Wrong(
        f"run_grid {ONE} --store file", ("store file: ", "is a file; expected a folder"), raw(b"x", "file")
    ),
    "a store below a file": Wrong(
        f"run_grid {ONE} --store file/runs", ("store file/runs: cannot make or open it",), raw(b"x", "file")
    ),
    "a store that nobody may write": Wrong(f"run_grid {ONE} --store /proc/sys/kernel", ("cannot write probes/",)),
    "a store that cannot be made": Wrong(f"run_grid {ONE} --store /proc/x", ("store /proc/x: cannot make or open it",)),
    "a store without a name": Wrong(f"run_grid {ONE} --store ''", ("store '': expected a path",)),
    "a store of an unknown kind": Wrong(
        f"run_grid {ONE} --store ftp://host/x", ("store ftp://host/x: expected a path",)
    ),
    "a store on another machine": Wrong(f"run_grid {ONE} --store file://host/x", ("file:// and an absolute path",)),
    "a store of nobody": Wrong(f"run_grid {ONE} --store '~nobodyy/x'", ("store ~nobodyy/x: cannot make or open it",)),
    "a store without a bucket": Wrong(f"run_grid {ONE} --store s3://", ("store s3://: ", "expected a path or")),
    "a name too long for the disk": Wrong(f"run_grid {ONE} --store {'a' * 300}", ("File name too long",)),
    "failures that are no JSON": Wrong(
        f"run_grid {ONE}",
        ("store ./runs: failures/", "is not valid JSON", "move it"),
        store_with("failures"),
        kept=True,
    ),
    "a plan that is no JSON": Wrong(
        "status smoke",
        ("store ./runs: plans/smoke/", "is not valid JSON", "move it away"),
        store_with("plans"),
        kept=True,
    ),
    "a plan that is a list": Wrong(
        "collect smoke --out out", ("holds no record",), store_with("plans", "[]"), kept=True
    ),
    "a plan to be collected that is no JSON": Wrong(
        "collect smoke --out out", ("plans/smoke/", "is not valid JSON"), store_with("plans"), kept=True
    ),
    "garbage of a plan that is no JSON": Wrong(
        "gc", ("plans/smoke/", "is not valid JSON"), store_with("plans"), kept=True
    ),
    "no such plan": Wrong(
        "status smoke --plan 2020", ("grid 'smoke' has no plan '2020'", PLAN_ID), store_with("probes"), kept=True
    ),
    "no such plan to collect": Wrong(
        "collect smoke --plan 2020 --out out",
        ("grid 'smoke' has no plan '2020'", PLAN_ID),
        store_with("probes"),
        kept=True,
    ),
    "a store without the grid": Wrong(
        "collect p1-table2 --out out", ("no plan of grid 'p1-table2'", "smoke"), store_with("probes"), kept=True
    ),
    "an empty store": Wrong("status", ("holds no plan yet; run a grid first",)),
    "no such key to explain": Wrong(
        "status --explain abc0", ("no stage in a plan", "begins with 'abc0'"), store_with("probes"), kept=True
    ),
    "a place for tables that is a file": Wrong(
        "collect smoke --out out",
        ("--out: cannot write out/smoke", "expected a writable folder"),
        lambda: (store_with("probes")(), Path("out").write_text("x")),
        kept=True,
    ),
    # MLflow
    "MLflow where nobody answers": Wrong(
        f"run_grid {ONE} --tracking-uri {NOBODY}", (f"MLflow at {NOBODY}: nothing answers", "--tracking-uri")
    ),
    "MLflow by the environment": Wrong(
        f"run_grid {ONE}", (f"MLflow at {NOBODY}: nothing answers",), env={"MLFLOW_TRACKING_URI": NOBODY}
    ),
    "MLflow without a host": Wrong(f"run_grid {ONE} --tracking-uri http://", ("MLflow at http://: nothing answers",)),
    "MLflow in a folder": Wrong(
        f"run_grid {ONE} --tracking-uri ./mlruns", ("MLflow at ./mlruns: no such address", "sqlite:///FILE.db")
    ),
    "MLflow of an unknown kind": Wrong(
        f"run_grid {ONE} --tracking-uri ftp://x", ("MLflow at ftp://x: no such address; expected http://HOST:PORT",)
    ),
    "a database that is none": Wrong(
        f"run_grid {ONE} --tracking-uri sqlite:///x.db",
        ("MLflow at sqlite:///x.db: ", "file is not a database"),
        raw(b"hello\n" * 99, "x.db"),
    ),
    "MLflow in a store with a question mark": Wrong(
        f"run_grid {ONE} --store 'q?u ry/st'",
        ("MLflow's database ", "q?u ry/st/mlflow.db: ", "expected a folder without"),
    ),
    # Ray and resources
    "Ray where nobody answers": Wrong(
        f"run_grid {ONE} --executor ray --address 127.0.0.1:9", ("no Ray cluster at 127.0.0.1:9: nothing answers",)
    ),
    "a Ray client where nobody answers": Wrong(
        f"run_grid {ONE} --executor ray --address ray://127.0.0.1:9",
        ("ray://127.0.0.1:9: nothing answers", "--address"),
    ),
    "Ray on a host that is none": Wrong(
        f"run_grid {ONE} --executor ray --address no.such.host.invalid:6379",
        ("no.such.host.invalid:6379: nothing ans",),
    ),
    # The environment
    "TRANSFERGRID_DATA is a file": Wrong(
        "run_grid p1-table2 --executor inline",
        ("the data have faults; nothing was run", "file: cannot read the data root (Not a directory)"),
        raw(b"x", "file"),
        env={"TRANSFERGRID_DATA": "file"},
    ),
    "TRANSFERGRID_DATA is nowhere": Wrong(
        "run_grid p1-table2 --executor inline",
        ("nothing can run", "nowhere: cannot read the data root (No such file or directory)"),
        env={"TRANSFERGRID_DATA": "nowhere"},
    ),
}


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path / "cache"))
    for name in ("TRANSFERGRID_DATA", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a store, but MLflow's own database."""
    there = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("mlflow.db"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in there}


def test_there_are_enough() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_request_ends_in_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    case.first()
    for variable, value in case.env.items():
        monkeypatch.setenv(variable, value)
    program, *argv = shlex.split(case.ask)
    before = files(tmp_path / "runs")
    assert bool(before) == case.kept
    capfd.readouterr()
    code = MAINS[program](argv)
    out, err = capfd.readouterr()
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, out, len(told)) == (2, "", 1), err
    assert "Traceback" not in err
    message = err[err.index("error: ") :]
    at = 0
    for part in case.says:
        assert part in message[at:], message
        at = message.index(part, at) + len(part)
    assert len(message) < 700, message
    assert files(tmp_path / "runs") == before
    assert not Path("pwned").exists()


@pytest.mark.parametrize("store", ["q?u ry/st", "q %3F ry/st"])
def test_a_store_whose_database_has_no_address_is_refused_before_anything_is_made(store: str, tmp_path: Path) -> None:
    assert run_grid.main([*shlex.split(ONE), "--store", store]) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("q")]


@pytest.mark.parametrize(
    "more", [["--store", "q#u 5 % ry/st"], ["--store", "q?u ry/st", "--tracking-uri", "sqlite:///m.db"]]
)
def test_a_store_of_an_odd_name(more: list[str]) -> None:
    assert (
        run_grid.main([*shlex.split(ONE), "--set", "finetune.steps=2", "--set", "finetune.report_every=2", *more]) == 0
    )
    assert (Path("m.db") if "--tracking-uri" in more else Path(more[1]) / "mlflow.db").is_file()
    assert not Path("q").exists()


# What is odd and does no harm: the same command ends well


def rubbish_beside(kind: str, name: str) -> Callable[[], object]:
    def make() -> None:
        path = Path("runs") / kind / name.format(key=smoke()[2])
        path.parent.mkdir(parents=True)
        path.write_text("rubbish {")

    return make


HARMLESS: dict[str, tuple[dict[str, str], Callable[[], object]]] = {
    "a cache folder that is a file": ({"TRANSFERGRID_CACHE": "file"}, raw(b"x", "file")),
    "no home": ({"HOME": "/nowhere"}, lambda: None),
    "no folder for temporary files": ({"TMPDIR": "/nowhere"}, lambda: None),
    "no UTF-8": ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, lambda: None),
    "data that nothing needs are nowhere": ({"TRANSFERGRID_DATA": "nowhere"}, lambda: None),
    "a lease of rubbish": ({}, rubbish_beside("leases", "{key}/000001.json")),
    "a lease without a number": ({}, rubbish_beside("leases", "{key}/x.json")),
    "a checkpoint of rubbish": ({}, rubbish_beside("checkpoints", "{key}.pt")),
    "a commit of nobody": ({}, rubbish_beside("commits", "{key}.json~")),
}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def start(ask: str, **how: Any) -> subprocess.Popen[str]:
    """A command as users start it: a process of its own."""
    program, *argv = shlex.split(ask)
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **how}
    return subprocess.Popen([sys.executable, "-m", f"orchestrator.{program}", *argv], text=True, **how)


@pytest.mark.durable
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_odd_and_does_no_harm(name: str) -> None:
    env, first = HARMLESS[name]
    first()
    process = start(f"run_grid {ONE} --json", env=environment(**env))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert json.loads(out)["executed"]["finetune"] == 1


PLAN = "run_grid smoke --dry-run --json"


def test_nobody_reads_stdout() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(PLAN, stdout=writer)
    os.close(writer)
    assert process.communicate()[1] == "" and process.returncode == 0


def test_stdout_is_closed() -> None:
    process = start(PLAN, stdout=None, preexec_fn=lambda: os.close(1))
    assert process.communicate()[1] == "" and process.returncode == 0


def test_nobody_reads_stderr() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start("run_grid smoke --dry-run", stderr=writer)
    os.close(writer)
    assert process.communicate()[0] == "" and process.returncode == 0


def test_stdout_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        process = start(PLAN, stdout=full)
        err = process.communicate()[1]
    assert (err, process.returncode) == ("error: stdout takes no output: No space left on device\n", 1)


def test_a_table_on_a_terminal_without_utf8() -> None:
    store_with("probes")()
    ascii_only = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    process = start("collect smoke --out out", env=ascii_only)
    out, err = process.communicate()
    assert process.returncode == 0 and "24 missing" in out and "Traceback" not in err, err


def test_the_reader_of_a_table_goes_away() -> None:
    store_with("probes")()
    reader, writer = os.pipe()
    os.close(reader)
    process = start("collect smoke --out out", stdout=writer)
    os.close(writer)
    err = process.communicate()[1]
    assert "Traceback" not in err and "BrokenPipe" not in err, err
    assert (Path("out") / "smoke" / "table.md").stat().st_size > 0


# A Ray token that is not the cluster's


@pytest.mark.durable
def test_a_wrong_ray_token(tmp_path: Path) -> None:
    """A real cluster of one node, on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    short = tempfile.mkdtemp(prefix="tg-")  # sockets lie in it, whose paths may have 107 bytes
    for name in ("right", "wrong"):
        (tmp_path / name).write_text(name * 8)
    right = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(tmp_path / "right"))
    head = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=1",
            "--include-dashboard=false", "--disable-usage-stats",
            f"--temp-dir={short}",
        ],
        env=right, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.3)
        ask = f"run_grid {ONE} --executor ray --address 127.0.0.1:{port}"
        wrong = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
        process = start(ask, env=wrong)
        _, err = process.communicate(timeout=150)
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and "Traceback" not in err, err
    assert len(told) == 1 and told[0].startswith(f"error: no Ray cluster at 127.0.0.1:{port}: "), err
    assert "token" in told[0].lower(), told
    assert not list((tmp_path / "runs").rglob("*.json"))
