"""A Ray cluster on namespace hosts, started and used from a desk by the commands that docker/onprem.yaml tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.cluster.hosts import HOME, PATIENCE, ROOT, SHARED, Network, wait_for
from tests.cluster.services import USER, Services

DASHBOARD = "http://127.0.0.1:8265"
NAME = "three-hosts"  # of the grid
PROJECT = HOME / "transfergrid"
STORE, REFERENCE = SHARED / "runs", SHARED / "reference/runs"
FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")
EXECUTIONS = SHARED / "executions.log"
# Each host stands for a small machine, of which Ray shall use one CPU. Every execution of a stage is written down.
BASHRC = f"""export RAY_OVERRIDE_RESOURCES='{{"CPU": 1}}' OMP_NUM_THREADS=1
export PYTHONPATH=/mnt/config/execution_log TRANSFERGRID_EXECUTION_LOG={EXECUTIONS}
"""
_GRID = ["python", "-m", "orchestrator.run_grid", "my-grid.yaml"]
_TREES = ("orchestrator", "trainables", "search_spaces", "docker", "tests/cluster")
_FILES = (".gitignore", ".rayignore", "Makefile", "README.md", "constraints.txt", "pyproject.toml")
_BIG = ("data/pets/images.bin", "runs/store/weights.bin", "results/table.bin", ".git/pack")  # must not travel


def said(start: str) -> str:
    """The command that begins so, without its remark, as README.md has it below `A cluster`, else onprem.yaml."""
    section = (ROOT / "README.md").read_text().partition("\n## A cluster\n")[2].partition("\n## ")[0]
    head = (ROOT / "docker/onprem.yaml").read_text().partition("\ncluster_name:")[0].replace("\n#   ", "\n")
    for page in (section, head):
        found = [line.partition("   ")[0] for line in page.splitlines() if line.startswith(start)]
        if found:
            return found[0]
    raise AssertionError(f"neither README.md nor docker/onprem.yaml has a command {start!r}")


class OnPremises:
    """Five hosts: a desk, a head, two workers, and one for MLflow, PostgreSQL and Redis."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.desk, self.head, self.worker1, self.worker2, services = network.hosts
        self.workers = [self.worker1, self.worker2]
        self.trainers = [self.head, *self.workers]
        self.services = Services(services, network.folder)
        self._tunnel: subprocess.Popen[bytes] | None = None
        self._reference: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """The desk's copy of the project, with the file filled in; a token; the servers; MLflow's account."""
        self._copy_project()
        self.desk.run("bash", "-c", said("ray get-auth-token"))
        self.services.start()
        self.services.add_user()
        account = f"[mlflow]\nmlflow_tracking_username = {USER}\nmlflow_tracking_password = {self.services.password}\n"
        self.desk.run("sh", "-c", 'umask 077; mkdir -p ~/.mlflow; printf %s "$0" > ~/.mlflow/credentials', account)

    def _copy_project(self) -> None:
        """What git would give, with the file filled in, and beside it big data and results that must stay here."""
        clone = self.network.shared / "clone"
        for name in _TREES:
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        for name in _FILES:
            shutil.copy(ROOT / name, clone / name)
        shutil.copy(ROOT / "tests/cluster/grid.yaml", clone / "my-grid.yaml")
        (clone / "docker/onprem.yaml").write_text(self._filled_in((ROOT / "docker/onprem.yaml").read_text()))
        for name in _BIG:
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            with (clone / name).open("wb") as file:
                file.truncate(2**30)  # takes no room on the disk
        self.desk.run("cp", "-a", "--sparse=always", f"{SHARED}/clone/.", str(PROJECT))
        shutil.rmtree(clone)

    def _filled_in(self, text: str) -> str:
        """docker/onprem.yaml with addresses, user and key; nothing else is changed."""
        workers = ", ".join(host.address for host in self.workers)
        for blank, value in (
            ("head_ip: HEAD ", f"head_ip: {self.head.address} "),
            ("worker_ips: [WORKER, WORKER]", f"worker_ips: [{workers}]"),
            ("ssh_user: USER ", "ssh_user: root "),
            ("ssh_private_key: KEY ", "ssh_private_key: ~/.ssh/id_ed25519 "),
        ):
            assert text.count(blank) == 1, f"docker/onprem.yaml has no {blank!r}"
            text = text.replace(blank, value)
        return text

    def begin_reference(self, *more: str) -> None:
        """Begin the same grid at the desk alone: in one process, without Ray."""
        words = [*_GRID, "--executor", "inline", "--store", str(REFERENCE), *more]
        log = self.network.folder / "reference.log"
        self._reference = self.desk.popen(*words, cwd=PROJECT, log=log, environment={"OMP_NUM_THREADS": "1"})

    def reference(self) -> Path:
        """The store of that, once it has ended."""
        assert self._reference is not None
        assert self._reference.wait(1500 * PATIENCE) == 0, (self.network.folder / "reference.log").read_text()
        return self.on_disk("reference/runs")

    def up(self, *, redis: bool = False) -> float:
        """`ray up`, the credentials for MLflow, and the tunnel of `ray dashboard`. Returns the seconds of `ray up`."""
        if redis:
            exports = " ".join(f"{name}={value}" for name, value in self.services.redis.items())
            self.head.run("sh", "-c", f"echo export {exports} >> ~/.bashrc")
        began = time.monotonic()
        self.desk.run(*said("ray up").split(), cwd=PROJECT, timeout=900)
        seconds = time.monotonic() - began
        self.desk.run("bash", "-c", said("ray rsync-up"), cwd=PROJECT)
        self.open_tunnel()
        return seconds

    def open_tunnel(self) -> None:
        """`ray dashboard`, which stays open; an earlier one is closed."""
        if self._tunnel is not None:
            for pid in self.desk.processes("ssh .*8265|ray dashboard"):
                self.desk.run("kill", "-9", str(pid), check=False)
            self._tunnel.wait()
        log = self.network.folder / "tunnel.log"
        self._tunnel = self.desk.popen(*said("ray dashboard").split(), cwd=PROJECT, log=log)
        wait_for(lambda: self.ask("/api/version"), "the dashboard through the tunnel", 180, 1.0)

    def submit(
        self, *more: str, store: Path = STORE, experiment: str = "transfergrid", options: tuple[str, ...] = ()
    ) -> str:
        """`ray job submit` of the grid, with options of its own. Returns the job's id."""
        where = ["--store", str(store), "--tracking-uri", self.services.mlflow_uri, "--experiment", experiment]
        command, _, _ = said("ray job submit").partition(" -- ")
        done = self.ray(*command.split()[1:], "--no-wait", *options, "--", *_GRID, *where, *more)
        found = re.search(r"raysubmit_\w+", done.stdout)
        assert found, done.stdout
        return found[0]

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, at the desk."""
        told = dict(pair.split("=", 1) for pair in said("export").split()[1:])
        return self.desk.run("ray", *arguments, cwd=PROJECT, timeout=900, environment=told)

    def log(self, job: str) -> str:
        """What `ray job logs` shows."""
        return str((self.ask(f"/api/jobs/{job}/logs") or {}).get("logs", ""))

    def status(self, job: str) -> str:
        """As in `ray job status`; empty where nobody answers."""
        return str((self.ask(f"/api/jobs/{job}") or {}).get("status", ""))

    def ended(self, job: str) -> bool:
        """Whether a job has ended, however."""
        return self.status(job) in FINISHED

    def finished(self, job: str, seconds: float = 1500) -> str:
        """Wait until a job has ended; how."""
        try:
            wait_for(lambda: self.ended(job), f"job {job} to end", seconds, 2.0)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it said:\n{self.log(job)[-5000:]}") from None
        return self.status(job)

    def alive(self) -> set[str]:
        """The addresses of the nodes that Ray takes for alive."""
        return {node["node_ip"] for node in self._listed("nodes") if node["state"] == "ALIVE"}

    def leaks(self) -> list[str]:
        """Actors and placement groups that are left, in words."""
        groups, actors = self._listed("placement_groups"), self._listed("actors")
        found = [f"placement group {group['state']}" for group in groups if group["state"] != "REMOVED"]
        return found + [f"actor {a['class_name']} {a['state']}" for a in actors if a["state"] != "DEAD"]

    def _listed(self, what: str) -> list[dict[str, Any]]:
        answer = self.ask(f"/api/v0/{what}?limit=10000") or {}
        return list(answer.get("data", {}).get("result", {}).get("result", []))

    def ask(self, path: str, *, token: str | None = None) -> Any:
        """The JSON that the dashboard answers the desk; None where it does not answer with 200."""
        shown = self.token() if token is None else token
        header = ["-H", f"Authorization: Bearer {shown}"] if shown else []
        done = self.desk.run("curl", "-sf", "--max-time", "60", *header, DASHBOARD + path, check=False)
        try:
            return json.loads(done.stdout) if done.returncode == 0 else None
        except json.JSONDecodeError:
            return None

    def token(self) -> str:
        """The cluster's token, as the desk keeps it."""
        return self.desk.run("cat", str(HOME / ".ray/auth_token")).stdout.strip()

    def on_disk(self, name: str) -> Path:
        """Where a file or folder of the shared storage lies for this process."""
        return self.network.shared / name

    def working_directories(self) -> list[str]:
        """Those that jobs have brought to the head."""
        folder = "/tmp/ray/session_latest/runtime_resources/working_dir_files"
        return [f"{folder}/{name}" for name in self.head.run("ls", folder).stdout.split() if "." not in name]

    def keep_logs(self, folder: Path) -> None:
        """Copy what hosts, servers and Ray have written to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for log in self.network.folder.glob("*.log"):
            shutil.copy(log, folder)
        for host in self.trainers:
            copied = f"cp -r /tmp/ray/session_latest/logs {SHARED}/logs-{host.name}"
            host.run("sh", "-c", copied, check=False)
        for logs in self.network.shared.glob("logs-*"):
            shutil.copytree(logs, folder / logs.name, dirs_exist_ok=True, ignore_dangling_symlinks=True)
