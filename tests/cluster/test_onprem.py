"""docker/onprem.yaml on three hosts made of namespaces: `ray up`, `ray job submit`, growth, shrinking, refusals.

`make test-cluster`; needs root and Debian's openssh-server, rsync, iproute2, postgresql, redis-server, curl.
The tests build on each other, in this order: one cluster lives through all of them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.record.store import open_store
from tests.cluster import checks
from tests.cluster.hosts import PATIENCE, ROOT, SHARED, wait_for
from tests.cluster.onprem import PROJECT, OnPremises, said

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500 * PATIENCE)]
PLAIN = re.compile(r"^\[ *\d+/\d+\] (pretrain|finetune) \S.*: .*\d (s|min)$")


@pytest.fixture(scope="module")
def cluster(onprem: OnPremises) -> OnPremises:
    """The head is up. Meanwhile the desk runs the grid by itself."""
    onprem.begin_reference()
    onprem.up()
    return onprem


def test_up_starts_the_head_alone(cluster: OnPremises) -> None:
    assert cluster.alive() == {cluster.head.address}
    assert not cluster.worker1.processes("raylet")


def test_ray_refuses_who_has_no_token(cluster: OnPremises) -> None:
    head = cluster.head.address
    there = f"{head}:6379"
    assert not cluster.desk.succeeds("curl", "-s", "--max-time", "5", f"http://{head}:8265")  # it needs the tunnel
    for port in (8079, 8081):  # the agents
        asked = cluster.desk.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{head}:{port}/")
        assert asked.stdout == "401"
    ask = ("ray", "status", "--address", there)
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        tried = cluster.services.host.run(*ask, check=False, environment=wrong)
        assert tried.returncode != 0 and "Unauthenticated" in tried.stdout + tried.stderr, tried.stderr
        assert cluster.ask("/api/jobs/", token=wrong.get("RAY_AUTH_TOKEN", "")) is None
    assert cluster.ask("/api/jobs/") == []
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": cluster.token()}
    assert "Active:" in cluster.services.host.run(*ask, environment=right).stdout


def test_mlflow_refuses_who_has_no_account(cluster: OnPremises) -> None:
    services = cluster.services
    assert services.asked(of=cluster.desk) == 401
    assert services.asked("researcher", "wrong", of=cluster.desk) == 401
    assert services.asked("researcher", services.password, of=cluster.desk) == 200


@pytest.fixture(scope="module")
def job(cluster: OnPremises) -> str:
    """The grid, submitted to the head; the workers have joined it."""
    submitted = cluster.submit()
    everybody = {host.address for host in cluster.trainers}
    wait_for(lambda: cluster.alive() == everybody or cluster.ended(submitted), "three nodes", 900, 2.0)
    assert cluster.alive() == everybody, cluster.log(submitted)
    return submitted


def test_nothing_listens_that_the_operations_page_does_not_name(cluster: OnPremises, job: str) -> None:
    assert cluster.status(job) == "RUNNING", cluster.log(job)
    assert cluster.worker1.processes("raylet") and cluster.worker2.processes("raylet")
    named = named_ports((ROOT / "docker/README.md").read_text())
    for host in (*cluster.trainers, cluster.services.host):
        reached = cluster.desk.reaches(host)
        assert 22 in reached
        strange = {port for port in reached if not any(low <= port <= high for low, high in named)}
        assert not strange, (host.name, [found for found in host.listeners() if found[1] in strange])


def test_a_grid_runs_on_all_hosts_and_its_table_is_that_of_one_machine(cluster: OnPremises, job: str) -> None:
    assert cluster.finished(job) == "SUCCEEDED", cluster.log(job)
    store = cluster.on_disk("runs")
    runs = cluster.services.runs("transfergrid")
    assert checks.faults(runs, store, cluster.reference(), cluster.on_disk("executions.log")) == []
    names = {host.name for host in cluster.trainers}
    assert checks.nodes_of(store) == {"pretrain": names, "finetune": names}
    tagged = {(run["tags"]["transfergrid.kind"], run["tags"]["transfergrid.node"]) for run in runs}
    assert tagged == {(kind, name) for kind in ("pretrain", "finetune") for name in names}
    lines = cluster.log(job).splitlines()
    assert sum(bool(PLAIN.match(line)) for line in lines) == 28, "\n".join(lines)
    assert not [line for line in lines if "\x1b" in line or len(line) > 250 or "Traceback" in line]
    assert any("28 succeeded, 0 failed, 0 blocked" in line for line in lines)


def test_the_working_directory_is_small(cluster: OnPremises) -> None:
    size = cluster.head.run("du", "-smL", "/tmp/ray/session_latest/runtime_resources/working_dir_files").stdout
    assert int(size.split()[0]) < 8, size
    there = cluster.head.run("ls", "-A", *cluster.working_directories()).stdout.split()
    assert {"orchestrator", "trainables", "search_spaces", "my-grid.yaml"} <= set(there)
    assert not {"data", "runs", "results", ".git", ".venv", "tests", "docker"} & set(there)


def test_idle_workers_leave_and_nothing_is_left_over(cluster: OnPremises) -> None:
    assert cluster.leaks() == []
    wait_for(lambda: cluster.alive() == {cluster.head.address}, "the workers to leave", 400, 3.0)
    wait_for(lambda: not cluster.worker1.processes("raylet"), "Ray to end on worker1", 60)


def test_a_stopped_job_goes_on_when_it_is_submitted_again(cluster: OnPremises) -> None:
    some = ("--only", "scenario=seg-enc-dec")  # two pretrainings, more than the head has CPUs for, and eight cells
    place, experiment = SHARED / "stopped/runs", "stopped"
    store = open_store(str(cluster.on_disk("stopped/runs")), create=True)

    ahead: list[tuple[str, str]] = []  # pretrainings and their run, as seen; the other may begin when a worker is up
    resumed: list[int] = []  # steps of the one ahead in the second run, as seen

    def one_is_ahead() -> bool:
        ahead.extend((key, beat["run"]) for key, beat in store.leases().items() if beat.get("step", 0) > 100)
        return bool(ahead)

    def it_goes_on() -> bool:  # a worker that was starting when the job stopped may leave its lease to run out
        key, run = ahead[0]
        beat = store.leases().get(key, {})
        resumed.extend([beat["step"]] if beat.get("step") and beat["run"] != run else [])
        return bool(resumed)

    first = cluster.submit(*some, store=place, experiment=experiment)
    wait_for(lambda: one_is_ahead() or cluster.ended(first), "the pretraining", 600, 0.3)
    assert ahead, cluster.log(first)
    cluster.ray("job", "stop", first)
    assert cluster.finished(first) == "STOPPED", cluster.log(first)
    assert "finished stages are kept, the same command goes on from here" in cluster.log(first)
    wait_for(lambda: cluster.leaks() == [], "the actors to end", 60, 1.0)
    second = cluster.submit(*some, store=place, experiment=experiment)
    wait_for(lambda: it_goes_on() or cluster.ended(second), "the pretraining to go on", 600, 0.1)
    assert resumed and resumed[0] > 80, cluster.log(second)  # from its checkpoint, which is made every second
    assert cluster.finished(second) == "SUCCEEDED", cluster.log(second)
    runs, log = cluster.services.runs(experiment), cluster.on_disk("executions.log")
    assert checks.faults(runs, cluster.on_disk("stopped/runs"), cluster.reference(), log, part=True) == []


def test_a_store_that_workers_do_not_see_is_told_before_anything_runs(cluster: OnPremises) -> None:
    assert len(cluster.alive()) > 1, "the workers of the stopped job should still be there"
    job = cluster.submit("--only", "seed=0", store=Path("/tmp/runs"))
    assert cluster.finished(job, 300) == "FAILED"
    said = cluster.log(job)
    assert "nothing has run" in said and "does not see the store /tmp/runs" in said and "Traceback" not in said, said
    assert all(host.name in said or host.address not in cluster.alive() for host in cluster.workers)


def test_an_mlflow_that_does_not_answer_is_told_before_anything_runs(cluster: OnPremises) -> None:
    nobody = f"http://{cluster.services.host.address}:5999"
    job = cluster.submit("--tracking-uri", nobody, store=SHARED / "nothing/runs")
    assert cluster.finished(job, 300) == "FAILED"
    said = cluster.log(job)
    assert f"error: MLflow at {nobody}" in said and "Traceback" not in said, said
    assert checks.nodes_of(cluster.on_disk("nothing/runs")) == {}


def test_a_driver_may_run_on_a_machine_that_is_not_the_head(cluster: OnPremises) -> None:
    """As docker/onprem.yaml tells: the desk joins the cluster without CPUs, and the driver runs there."""
    there, mine = f"{cluster.head.address}:6379", '{"driver": 1}'
    join = ("ray", "start", "--address", there, "--num-cpus=0", "--num-gpus=0", "--resources", mine)
    cluster.desk.run(*join, cwd=PROJECT, environment={"RAY_AUTH_MODE": "token"})
    some = ("--only", "scenario=random-init", "--only", "fraction=0.05")
    job = cluster.submit(*some, store=SHARED / "desk", experiment="desk", options=("--entrypoint-resources", mine))
    wait_for(lambda: cluster.desk.processes("^python -m orchestrator.run_grid"), "the driver at the desk", 120)
    assert cluster.finished(job) == "SUCCEEDED" and "2 succeeded, 0 failed, 0 blocked" in cluster.log(job)
    [names] = checks.nodes_of(cluster.on_disk("desk")).values()
    assert names <= {host.name for host in cluster.trainers}
    cluster.desk.run("ray", "stop", environment={"RAY_AUTH_MODE": "token"})


def test_who_is_there_is_shown_and_ray_ends_on_all_hosts(cluster: OnPremises) -> None:
    shown = cluster.desk.run("bash", "-c", said("ray exec docker/onprem.yaml 'RAY"), cwd=PROJECT).stdout
    assert "Active:" in shown and "Pending Demands" in shown, shown
    cluster.desk.run("bash", "-c", said("ray exec docker/onprem.yaml '~"), cwd=PROJECT)
    assert not cluster.head.processes("raylet|gcs_server")
    cluster.desk.run(*said("ray down").split(), cwd=PROJECT)
    workers = cluster.workers  # they wait five minutes for a lost head
    wait_for(lambda: not any(host.processes("raylet") for host in workers), "Ray to end on the workers", 420)


def named_ports(page: str) -> list[tuple[int, int]]:
    """The ports in the table below `Who listens where`, whose first cells are `22`, `8076, 8077` or `10002–10999`."""
    section = page.partition("## Who listens where")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| *(\d[^|]*)\|", section, re.MULTILINE)
    ranges = [re.split("[-–]", part.strip()) for cell in cells for part in cell.split(",")]
    assert ranges, "docker/README.md has no table of ports below `Who listens where`"
    return [(int(ends[0]), int(ends[-1])) for ends in ranges]
