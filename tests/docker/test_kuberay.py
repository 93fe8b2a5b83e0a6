"""docker/kuberay against KubeRay's custom resource definitions: fields, types and names; unknown fields are refused."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.strict_schema import faults, strict

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "docker" / "kuberay"
KINDS = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


@pytest.fixture(scope="module")
def schemas() -> dict[str, dict[str, Any]]:
    folder = ROOT.parent / "shared" / "schemas" / "kuberay"
    if not folder.is_dir():
        pytest.skip(f"no custom resource definitions at {folder}")
    found = {}
    for kind, name in KINDS.items():
        definition = yaml.load((folder / name).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        [version] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
        found[kind] = strict(version["schema"]["openAPIV3Schema"])
    return found


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


def cluster() -> dict[str, Any]:
    return dict(documents("raycluster.yaml")[0])


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_the_manifest_is_what_the_definition_asks_for(schemas: dict[str, Any], name: str) -> None:
    [document] = documents(name)
    assert faults(schemas[document["kind"]], document) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "enableInTreeAutoscalling"), True),
        (("spec", "workerGroupSpecs", 0, "maxReplica"), 8),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "volumeMount"), []),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "resources", "limit"), {}),
        (("spec", "headGroupSpec", "template", "metadata"), {"label": {}}),
        (("spec", "gcsFaultToleranceOptions", "redisPassword", "secretKeyRef"), {}),
        (("metadata", "nam"), "x"),
        (("kindly",), 1),
        # of known fields, values that are no such thing
        (("spec", "autoscalerOptions", "version"), "v3"),
        (("spec", "authOptions", "mode"), "tokens"),
        (("spec", "workerGroupSpecs", 0, "maxReplicas"), "eight"),
        (("spec", "workerGroupSpecs", 1, "groupName"), None),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ],
)
def test_a_planted_fault_is_found_where_it_was_planted(schemas: dict[str, Any], path: Any, value: Any) -> None:
    planted = copy.deepcopy(cluster())
    place = planted
    for step in path[:-1]:
        place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
    place[path[-1]] = value
    found = faults(schemas["RayCluster"], planted)
    assert len(found) == 1 and str(path[-1] if value != {"label": {}} else "label") in found[0], found


def test_a_missing_field_is_found(schemas: dict[str, Any]) -> None:
    planted = cluster()
    del planted["spec"]["workerGroupSpecs"][0]["maxReplicas"]
    assert "'maxReplicas' is a required property" in faults(schemas["RayCluster"], planted)[0]


def test_the_pods_of_redis_are_pods(schemas: dict[str, Any]) -> None:
    """The definitions hold the schema of a pod; core kinds are not in them."""
    pod = schemas["RayCluster"]["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    [redis] = [d for d in documents("redis.yaml") if d["kind"] == "StatefulSet"]
    assert faults(pod, redis["spec"]["template"]) == []
    volume = pod["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
    claim = volume["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"]
    claims = [*redis["spec"]["volumeClaimTemplates"], *documents("storage.yaml")]
    assert [faults(claim, document["spec"]) for document in claims] == [[], [], []]


def test_the_job_has_the_standing_cluster() -> None:
    [job] = documents("rayjob.yaml")
    assert job["spec"]["rayClusterSpec"] == cluster()["spec"]
    assert job["spec"]["backoffLimit"] > 0  # a lost head is tried again, and continues from the store


def test_the_version_of_ray_is_the_pinned_one() -> None:
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None and str(cluster()["spec"]["rayVersion"]) == pinned[1]


def test_every_claim_and_secret_that_is_mounted_is_named_somewhere() -> None:
    text = (MANIFESTS / "raycluster.yaml").read_text()
    claims = {document["metadata"]["name"] for document in documents("storage.yaml")}
    assert set(re.findall(r"claimName: ([\w-]+)", text)) == claims
    page = (ROOT / "docker" / "README.md").read_text()
    secrets = set(re.findall(r"secretName: ([\w-]+)", text)) | set(re.findall(r"secretKeyRef: {name: ([\w-]+)", text))
    assert secrets and all(f"secret generic {name}" in page for name in secrets)


def test_nothing_runs_as_root_and_nothing_is_published() -> None:
    spec = cluster()["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert not pod.get("hostNetwork") and not any("hostPath" in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["authOptions"]["mode"] == "token" and spec["headGroupSpec"]["serviceType"] == "ClusterIP"
