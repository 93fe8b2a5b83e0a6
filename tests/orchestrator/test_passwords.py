"""Passwords in addresses: shown in no output, no error and no kept plan, whatever the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import passwords
from orchestrator.passwords import secrets_of, without_passwords, without_userinfo, word_without_passwords

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
        ("http://TOKEN@host:50 and HTTPS://TOKEN@host", "http://***@host:50 and HTTPS://***@host"),
        # nothing to hide
        ("postgresql://me@db/grid", "postgresql://me@db/grid"),
        ("s3://bucket/a@b and http://127.0.0.1:50 for me@host", "s3://bucket/a@b and http://127.0.0.1:50 for me@host"),
        ("sqlite:////tmp/a b/mlflow.db", "sqlite:////tmp/a b/mlflow.db"),
    ],
)  # fmt: skip
def test_only_passwords_are_hidden(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("postgresql://me:a'b@db/grid", "postgresql://me:***@db/grid"),
        ("--tracking-uri=http://me:a b\"c@d@host", "--tracking-uri=http://me:***@host"),
        ("http://tok'en@host", "http://***@host"),
        ("postgresql://o'me:p@db/x?password=a b&sslmode=require", "postgresql://o'me:***@db/x?password=***&sslmode=require"),
        # no password
        ("postgresql://me@db/grid", "postgresql://me@db/grid"),
        ("sqlite:////tmp/a'b: c@d/mlflow.db", "sqlite:////tmp/a'b: c@d/mlflow.db"),
        ("title=from http://host: a, b", "title=from http://host: a, b"),
    ],
)  # fmt: skip
def test_an_address_is_a_whole_word_of_the_command(word: str, shown: str) -> None:
    assert word_without_passwords(word) == shown


def test_only_what_is_no_word_or_number_is_hidden_outside_of_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for secret, told in (("mlflow", "mlflow"), ("123456", "123456"), ("s'3", "s'3"), ("sec'R3T", "***")):
        known = secrets_of([f"http://me:{secret}@host"])
        monkeypatch.setattr(passwords, "_of_this_program", lambda known=known: known)
        assert without_passwords(f"{secret}: http://me:{secret}@host") == f"{told}: http://me:***@host"


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


ODD = ["Sw0rd-fish'RET", 'Sw0rd-fish"RET', "Sw0rd-fish RET", "RET'Sw0rd-fish", "RET Sw0rd-fish"]


@pytest.mark.parametrize("odd", ODD)
def test_quotes_and_blanks_in_a_password(tmp_path: Path, odd: str) -> None:
    store = ["--store", str(tmp_path / "runs")]
    for uri in (f"http://me:{odd}@127.0.0.1:9", f"postgresql://me:{odd}@127.0.0.1:9/grid", f"http://{odd}@127.0.0.1:9"):
        for wrong in (
            ask("run_grid", *CELL, *store, "--tracking-uri", uri),
            ask("run_grid", *CELL, *store, MLFLOW_TRACKING_URI=uri),
            ask("status", "smoke", *store, "--sync-mlflow", "--tracking-uri", uri),
            ask("collect", "smoke", "--tracking-url", uri),
        ):
            assert wrong.returncode == 2 and "RET" not in wrong.stderr, wrong.stderr


@pytest.mark.parametrize("odd", ODD)
def test_a_kept_command_holds_no_password_with_quotes_or_blanks(tmp_path: Path, odd: str) -> None:
    store = tmp_path / "runs"
    uri = f"postgresql://me:{odd}@127.0.0.1/db"
    few = ["--set", "finetune.steps=2", "--set", "finetune.report_every=2"]
    done = ask("run_grid", *CELL, *few, "--store", str(store), "--study-storage", uri)
    assert done.returncode == 0, done.stderr
    [plan] = [json.loads(path.read_text()) for path in (store / "plans").rglob("*.json")]
    assert "--study-storage 'postgresql://me:***@127.0.0.1/db'" in plan["command"]
    assert "RET" not in plan["command"] and SECRET not in plan["command"]


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
