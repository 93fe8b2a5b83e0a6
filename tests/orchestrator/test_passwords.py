"""Passwords in addresses: shown in no output, no error and no kept plan, whatever the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.passwords import without_passwords, without_userinfo

ROOT = Path(__file__).resolve().parents[2]
SECRET = "Sw0rd-fish"
CELL = ["smoke", "--only", "seed=0", "--only", "fraction=0.2", "--only", "model=Random", "--executor", "inline"]
GRID = """
grid: tuned
profile: smoke
title: A study whose storage does not answer
rows: [{scenario: seg-enc, model: Reconstruction, pretext: reconstruction}]
columns: [{dataset: shapes, pretext_data: shapes, fractions: [0.2]}]
seeds: [0]
pretexts: {reconstruction: {tune: {trials: 1}, pretrain: {steps: 2}}}
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("MLflow at http://me:secret@host:5000/x: no", "MLflow at http://me:***@host:5000/x: no"),
        ("postgresql+psycopg://me:p@ss/word@db/grid", "postgresql+psycopg://me:***@db/grid"),
        ("postgresql://:secret@/grid?host=/run", "postgresql://:***@/grid?host=/run"),
        ("postgresql://db/grid?user=me&password=secret&sslmode=require", "postgresql://db/grid?user=me&password=***&sslmode=require"),
        ("'http://a:b@c' and \"http://d:e@f\"", "'http://a:***@c' and \"http://d:***@f\""),
        # nothing to hide
        ("postgresql://me@db/grid", "postgresql://me@db/grid"),
        ("s3://bucket/a@b and http://127.0.0.1:50 for me@host", "s3://bucket/a@b and http://127.0.0.1:50 for me@host"),
        ("sqlite:////tmp/a b/mlflow.db", "sqlite:////tmp/a b/mlflow.db"),
    ],
)  # fmt: skip
def test_only_passwords_are_hidden(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_an_address_without_its_user() -> None:
    assert without_userinfo("http://me:secret@host:5000/x@y") == "http://host:5000/x@y"
    assert without_userinfo("http://host:5000") == "http://host:5000"


def ask(module: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-m", f"orchestrator.{module}", *words],
        cwd=ROOT, env=kept | {"OMP_NUM_THREADS": "1"} | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert SECRET not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


HTTP = f"http://me:{SECRET}@127.0.0.1:9"
DATABASE = f"postgresql://me:{SECRET}@127.0.0.1:9/grid"


@pytest.mark.parametrize("uri", [HTTP, DATABASE, f"gopher://me:{SECRET}@host", DATABASE + f"?password={SECRET}"])
def test_a_wrong_tracking_address_is_told_without_its_password(tmp_path: Path, uri: str) -> None:
    wrong = ask("run_grid", *CELL, "--store", str(tmp_path / "runs"), "--tracking-uri", uri, "--json")
    assert wrong.returncode == 2 and wrong.stderr.count("error: ") == 1
    assert "me:***@" in wrong.stderr
    assert ask("run_grid", *CELL, "--store", str(tmp_path / "runs"), MLFLOW_TRACKING_URI=uri).returncode == 2
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in kept


def test_a_mistyped_option_repeats_no_password() -> None:
    for module, first in (("run_grid", "smoke"), ("collect", "smoke"), ("status", "smoke")):
        assert ask(module, first, "--tracking-url", HTTP).returncode == 2


def test_what_a_finished_run_says_and_keeps(tmp_path: Path) -> None:
    """SQLite takes no password, but reads past one in the query: the address of a run that works."""
    store = tmp_path / "runs"
    uri = f"sqlite:///{tmp_path}/mlflow.db?password={SECRET}"
    for more in ((), ("--json",)):
        done = ask("run_grid", *CELL, "--store", str(store), "--tracking-uri", uri, *more)
        assert done.returncode == 0, done.stderr
        assert "password=***" in (done.stdout if more else done.stderr)
    plans = [json.loads(path.read_text()) for path in (store / "plans").rglob("*.json")]
    assert len(plans) == 2 and all("password=***" in plan["command"] for plan in plans)
    assert not [path for path in store.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert "password=***" in ask("status", "--store", str(store), "--tracking-uri", uri, "--sync-mlflow").stdout
    ask("collect", "smoke", "--store", str(store), "--out", str(tmp_path / "out"), "--tracking-uri", HTTP)


def test_a_storage_of_studies_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "tuned.yaml").write_text(GRID)
    done = ask(
        "run_grid", str(tmp_path / "tuned.yaml"), "--store", str(tmp_path / "runs"), "--executor", "inline",
        "--study-storage", DATABASE,
    )  # fmt: skip
    assert done.returncode == 0 and "the Optuna storage does not take the studies" in done.stderr, done.stderr
