"""Before anything runs on a cluster: a look from its nodes at store, code and data, each fault told in one line."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.execute.data_paths import missing
from orchestrator.execute.outcome import ClusterError, Job
from orchestrator.execute.ray_node import node_name
from orchestrator.record.store import Store, StoreError, open_store

MOST_NODES = 8
ANSWER_SECONDS = 60.0
PACKAGES = ("orchestrator", "trainables", "search_spaces")


@dataclass(frozen=True)
class Sight:
    """What a node sees. `store`: why it cannot use the store, None where it can. `data`: whether it has the data root.
    `missing`: files of data that it lacks."""

    store: str | None
    code: str
    torch: str
    data: bool
    missing: tuple[str, ...] = ()


def check_nodes(
    store: Store, job: Job, *, needs_data: bool, warn: Callable[[str], None], files: Sequence[str] = ()
) -> None:
    """Have nodes of the connected cluster look at the store, the code and the data; at most `MOST_NODES` of them.

    Nodes that do not answer in time are told to `warn`, unless none does.

    Args:
        files: absolute paths that every node should have.

    Raises:
        ClusterError: a node does not see what this process sees; one line for each fault.
        StoreError: this process itself cannot use the store.
    """
    token = uuid.uuid4().hex
    mark = store.put_artifact("preflight", token, "mark", token.encode())
    try:
        sights, silent = _ask(_nodes(ray.nodes()), job, mark, token, files)
    finally:
        store.drop_attempt("preflight", token)
    own = Sight(None, code_digest(), torch_version(), True)
    told = (fault for name, sight in sights for fault in faults_of(name, sight, own, job, needs_data))
    faults = list(dict.fromkeys(told))  # several nodes of one host would say the same
    if faults:
        raise ClusterError("the cluster cannot run this; nothing has run:\n  " + "\n  ".join(faults))
    if silent and not sights:
        raise ClusterError(f"no node of the cluster answered within {ANSWER_SECONDS:g} s: {', '.join(silent)}")
    for name in silent:
        warn(f"node {name} did not answer within {ANSWER_SECONDS:g} s; whether it sees store and data is not known")


def faults_of(name: str, sight: Sight | str, own: Sight, job: Job, needs_data: bool) -> list[str]:
    """What a node lacks, each in one line. `sight` is the error where it could not even look."""
    if isinstance(sight, str):
        return [f"node {name} could not look: {sight}; is the same version of transfergrid installed there?"]
    faults = []
    if sight.store is not None:
        shared = "put it on a folder that all nodes share, or at an s3:// URL, and give that with --store"
        faults.append(f"node {name} does not see the store {job.store}: {sight.store}; {shared}")
    if sight.code != own.code:
        what = f"node {name} runs other code ({sight.code}) than this process ({own.code})"
        faults.append(f"{what}: install the same version there, or submit with `ray job submit --working-dir .`")
    if sight.torch != own.torch:
        what = f"node {name} has torch {sight.torch}, this process {own.torch}"
        faults.append(f"{what}: results would depend on the node; install the same version there")
    if needs_data and not sight.data:
        faults.append(f"node {name} has no folder {job.data_root}: mount the data there, or give --data-root")
    elif sight.missing:
        more = f" (and {len(sight.missing) - 1} of the other files looked for)" if len(sight.missing) > 1 else ""
        faults.append(f"node {name} has no {sight.missing[0]}{more}: bring the same data to every node")
    return faults


def _nodes(known: Iterable[Mapping[str, Any]]) -> list[str]:
    """The ids of the nodes to ask: alive, with CPUs for stages, of as many hosts as possible."""
    usable = [node for node in known if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    first_of_host = {node["NodeManagerHostname"]: node["NodeID"] for node in reversed(usable)}
    others = [node["NodeID"] for node in usable if node["NodeID"] not in first_of_host.values()]
    return [*first_of_host.values(), *others][:MOST_NODES]


def _ask(
    nodes: list[str], job: Job, mark: str, token: str, files: Sequence[str]
) -> tuple[list[tuple[str, Sight | str]], list[str]]:
    """The name of each node and what it sees; and the names of those that did not answer in time."""
    asked = {
        _look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            job.store, job.data_root, mark, token, tuple(files)
        ): node_name(node)
        for node in nodes
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
    for future in silent:
        ray.cancel(future, force=True)
    return [(asked[future], _answer(future)) for future in answered], [asked[future] for future in silent]


def _answer(future: Any) -> Sight | str:
    try:
        sight: Sight = ray.get(future)
    except ray.exceptions.RayError as error:  # the package is not there, or of another shape; or the node has died
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[-1] if lines else type(error).__name__
    return sight


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _look(store_uri: str, data_root: str, mark: str, token: str, files: tuple[str, ...]) -> Sight:
    """Runs on a node."""
    store = _fault_of_store(store_uri, mark, token)
    return Sight(store, code_digest(), torch_version(), Path(data_root).is_dir(), missing(files))


def _fault_of_store(uri: str, mark: str, token: str) -> str | None:
    """Why this process cannot use the store, or sees another one under its address; None where all is well."""
    try:
        store = open_store(uri)
        if store.folder is not None and not store.folder.is_dir():
            return "there is no such folder"
        try:
            seen = store.artifact(mark) == token.encode()
        except StoreError:
            seen = False
        store.probe(f"{token}-{uuid.uuid4().hex}")
    except StoreError as error:
        return str(error)
    return None if seen else "what this process wrote to it is not there, so it is another folder of that name"


@lru_cache(maxsize=1)
def code_digest() -> str:
    """12 hex digits over the source of the packages that run in a worker."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        found = find_spec(package)
        for root in sorted(found.submodule_search_locations or ()) if found else ():
            for path in sorted(Path(root).rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def torch_version() -> str:
    """The version of torch, without the part that names its build (`+cpu`)."""
    return version("torch").partition("+")[0]
