"""docker/compose.yaml against the compose specification (as compose-spec's parser has it), and what it promises."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "docker" / "compose.yaml", ROOT / "docker" / "compose.gpu.yaml"]
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:?[-+?])(?P<text>[^}]*))?\}")
GIVEN = {"TRANSFERGRID_DATA": "/data"}  # the one variable that has no default


def filled(text: str) -> str:
    """The file as compose reads it, with no variable set but those in `GIVEN`."""

    def value(match: re.Match[str]) -> str:
        how, text = match["how"] or "", match["text"] or ""
        if how.endswith("+"):
            return text if match["name"] in GIVEN else ""
        assert match["name"] in GIVEN or how.endswith("-"), f"{match[0]} has no default"
        return GIVEN.get(match["name"], text)

    return VARIABLE.sub(value, text)


@pytest.fixture
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(filled(FILES[0].read_text())))


def refusal(document: dict[str, Any]) -> str | None:
    """What the specification's parser says against a file; None where it takes it."""
    try:
        PyCompose.from_yaml(yaml.safe_dump(document))
    except Exception as error:
        return str(error)
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_is_one(path: Path) -> None:
    assert refusal(yaml.safe_load(filled(path.read_text()))) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("servises",), {}),
        (("services", "head", "comand"), ["ray"]),
        (("services", "mlflow", "healthcheck", "tries"), 3),
        (("services", "head", "depends_on", "mlflow", "condition"), "service_helthy"),
        (("services", "mlflow", "ports"), ["here:5000:5000"]),
        (("secrets", "ray_token", "files"), "x"),
    ],
)
def test_a_planted_fault_is_found(compose: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    planted = place = copy.deepcopy(compose)
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    said = refusal(planted)
    assert said is not None and (path[-1] in said or str(value) in said), said


def test_docker_itself_takes_it() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("no `docker compose` here")
    words = [word for path in FILES for word in ("-f", str(path))]
    done = subprocess.run(["docker", "compose", *words, "config", "-q"], env={**GIVEN, "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0


def test_nothing_is_published_beyond_the_loopback_address(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"], "head": ["127.0.0.1:8265:8265"]}
    assert compose["networks"]["database"] == {"internal": True}  # PostgreSQL is reached by MLflow and the backup alone
    assert [n for n, s in compose["services"].items() if "database" in s["networks"] or not s.get("networks")] == [
        "postgres", "mlflow", "backup",
    ]  # fmt: skip
    assert not any(service.get("privileged") or "network_mode" in service for service in compose["services"].values())


def test_secrets_are_files_and_stand_nowhere_else(compose: dict[str, Any]) -> None:
    used = {secret if isinstance(secret, str) else secret["source"]
            for service in compose["services"].values() for secret in service.get("secrets", ())}  # fmt: skip
    assert used == set(compose["secrets"]) and all(set(s) == {"file"} for s in compose["secrets"].values())
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            secret = any(word in name for word in ("PASSWORD", "SECRET", "TOKEN"))
            assert not secret or (name.endswith(("_FILE", "_PATH")) and str(value).startswith("/run/secrets/")), name
    assert not re.search(r"(?i)password[:=] *\w", FILES[0].read_text().replace("PASSWORD_FILE", ""))


def test_every_service_that_stays_is_watched_and_starts_after_what_it_needs(compose: dict[str, Any]) -> None:
    services = {name: s for name, s in compose["services"].items() if "profiles" not in s}
    assert all("healthcheck" in service for service in services.values())
    needs = {name: dict(service.get("depends_on", {})) for name, service in services.items()}
    healthy = {"condition": "service_healthy"}
    assert needs == {
        "postgres": {},
        "mlflow": {"postgres": healthy},
        "head": {"mlflow": healthy},
        "worker": {"head": healthy},
    }


def test_secrets_are_random_closed_and_kept(tmp_path: Path) -> None:
    make = [str(ROOT / "docker" / "make-secrets.sh")]
    for name in ("a", "b"):
        subprocess.run([*make, str(tmp_path / name)], check=True, capture_output=True)
    first = {path.name: path.read_text() for path in (tmp_path / "a").iterdir()}
    second = {path.name: path.read_text() for path in (tmp_path / "b").iterdir()}
    named = {name: Path(filled(s["file"])).name for name, s in yaml.safe_load(FILES[0].read_text())["secrets"].items()}
    assert set(first) == set(named.values()) and all(first[name] != second[name] for name in first)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    subprocess.run([*make, str(tmp_path / "a")], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == first


def test_the_image_is_made_by_the_makefile() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    runs = re.findall(r"^RUN (.*(?:\\\n.*)*)", text, re.M)
    assert [run.split()[1] for run in runs if run.startswith("make ")] == ["image-dependencies", "image-package"]
    assert not any(word in run for run in runs for word in ("pip install", "curl", "http"))  # all else is Debian's
    assert re.search(r"^USER \d+$", text, re.M)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"image-dependencies", "image-package", "image", "secrets"} <= targets
