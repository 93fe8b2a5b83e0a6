"""Exported weights: what the store holds, byte for byte, loadable with PyTorch and the code in their README."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file

from orchestrator import run_grid, status
from orchestrator.record import export
from orchestrator.record.export import describe
from orchestrator.record.store import Store, open_store
from tests.contracts import records
from tests.orchestrator.made_up import GRID, write_grid
from trainables.networks import build_network
from trainables.settings import NetworkSettings, parse_network

ROWS = GRID.replace("columns:", "  - {scenario: cls-enc, model: SimCLR, pretext: simclr}\ncolumns:")
TINY = ["--set", "pretrain.steps=2", "--set", "finetune.steps=2", "--set", "network.width=4"]
TINY += ["--set", "datasets.shapes.count=40", "--set", "datasets.shapes.size=32"]
TINY += ["--only", "seed=0", "--only", "fraction=0.2", "--executor", "inline"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store after a run of 2 pretrains and 3 cells."""
    folder = tmp_path_factory.mktemp("räy export")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "TRANSFERGRID_DATA", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.chdir(folder)
        assert run_grid.main([write_grid(folder, ROWS), *TINY, "--store", str(folder / "runs")]) == 0
        yield open_store(str(folder / "runs"))


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str], made: Store) -> Any:
    def call(*argv: str, code: int = 0) -> Any:
        capfd.readouterr()
        assert status.main([*argv, "--store", made.uri]) == code
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        if code == 2:
            assert out == "" and err.startswith("error: ") and err.count("\n") == 1
            return err.strip()
        return json.loads(out) if "--json" in argv else out

    return call


def record_of(store: Store, kind: str, method: str | None = None) -> dict[str, Any]:
    records = store.commits(sorted(store.finished())).values()
    return next(
        r for r in records if r["kind"] == kind and method in (None, r["spec"].get("pretext", {}).get("method"))
    )


@pytest.mark.parametrize("method", ["conrec", "simclr"])
def test_the_files_hold_the_stage_and_load_into_its_network(
    made: Store, ask: Any, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(made, "pretrain", method)
    folder = tmp_path / "new" / "weights & more"
    found = ask("--export", record["key"][:9], str(folder), "--json")
    assert found["key"] == record["key"] and found["version"] is None
    assert sorted(found["files"]) == sorted(str(path) for path in folder.iterdir()) and len(found["files"]) == 3
    exported, kept = load_file(folder / "weights.safetensors"), load(made.artifact(record["artifacts"]["weights"]))
    assert exported.keys() == kept.keys()
    assert all(torch.equal(exported[name], kept[name]) and exported[name].dtype == kept[name].dtype for name in kept)
    with safe_open(folder / "weights.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt", "key": record["key"], "method": method, "network": "conrec-unet", "width": "4"
        }  # fmt: skip
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    for name in ("key", "spec", "labels", "metrics", "facts", "versions", "parents"):
        assert settings[name] == record[name]

    network = build_network(NetworkSettings("conrec-unet", width=4), 1)
    encoder = {n.removeprefix("encoder."): t for n, t in exported.items() if n.startswith("encoder.")}
    network.encoder.load_state_dict(encoder)  # strict: every parameter and buffer, and no other

    text = (folder / "README.md").read_text(encoding="utf-8")
    assert record["key"] in text and "not a network of segmentation-models-pytorch" in text
    assert ("`decoder.*`" in text) == (method == "conrec")
    numbers = sum(t.numel() for t in encoder.values())
    assert f"- `encoder.*`: {numbers:,} numbers" in text
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    image = torch.rand(1, 3, 32, 32)
    shown = names["network"].eval().encoder(image)
    assert all(torch.equal(a, b) for a, b in zip(shown, network.eval().encoder(image), strict=True))
    assert torch.equal(names["network"].encoder.blocks[0][0][0].weight, kept["encoder.blocks.0.0.0.weight"])


def test_a_resnet_loads_into_segmentation_models_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"name": "resnet18-unet", "width": 64, "normalise": "none"}
    network = build_network(parse_network(settings), 1).eval()
    weights = {n: t.contiguous() for n, t in network.state_dict().items() if n.startswith("encoder.")}
    record = {"key": "k" * 24, "kind": "pretrain", "name": "made up", "spec": {"network": settings}}
    text = export.readme(export.Export(record, b"", {"encoder": 1}))
    save_file(weights, tmp_path / "weights.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in text.split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    image = torch.rand(1, 3, 64, 64)
    theirs, ours = names["model"].eval().encoder(image), network.encoder(image)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))


def test_a_version_in_the_model_registry(
    made: Store, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.artifacts import download_artifacts
    from mlflow.tracking import MlflowClient

    conrec, simclr = (record_of(made, "pretrain", method) for method in ("conrec", "simclr"))
    uri = f"sqlite:///{made.folder}/mlflow.db"
    for number, (record, version) in enumerate([(conrec, 1), (simclr, 2), (conrec, 1)]):  # the third is there
        argv = ["--export", record["key"], str(tmp_path / str(number)), "--register", "our pretrain"]
        assert ask(*argv, "--json")["version"] == version
    client = MlflowClient(uri)
    versions = {int(v.version): v for v in client.search_model_versions("name='our pretrain'")}
    assert sorted(versions) == [1, 2] and versions[1].tags["transfergrid.key"] == conrec["key"]
    run = client.get_run(versions[1].run_id)
    assert run.data.tags["transfergrid.key"] == conrec["key"] and run.info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    got = Path(download_artifacts("models:/our pretrain/1", dst_path=str(tmp_path)))
    for name in ("weights.safetensors", "settings.json", "README.md"):
        assert (got / name).read_bytes() == (tmp_path / "0" / name).read_bytes()


def test_a_registration_that_cannot_be(made: Store, ask: Any, tmp_path: Path) -> None:
    key = record_of(made, "pretrain")["key"]
    argv = ["--export", key, str(tmp_path / "out"), "--register"]
    assert "cannot register 'a/b'" in ask(*argv, "a/b", code=2)
    assert "no such database" in ask(*argv, "a", "--tracking-uri", f"sqlite:///{tmp_path}/no.db", code=2)
    assert "no experiment 'another'" in ask(*argv, "a", "--experiment", "another", code=2)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as caught:
        status.main(["--register", "a", "--store", made.uri])
    assert caught.value.code == 2


def test_what_cannot_be_exported(made: Store, ask: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no stage has a key that begins with 'zz'" in ask("--export", "zz", str(out), code=2)
    assert "keys begin with ''" in ask("--export", "", str(out), code=2)
    cell = next(r for r in made.commits(sorted(made.finished())).values() if r["parents"])
    told = ask("--export", cell["key"], str(out), code=2)
    assert f"stage {cell['key']} (finetune " in told and "keeps no weights" in told
    assert f"its pretrain is {cell['parents']['pretrain']}" in told
    assert not out.exists()


def test_a_stage_that_is_not_finished(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage = records.stage("f" * 24, kind="pretrain", name="conrec | shapes")
    store = open_store(str(tmp_path / "runs"), create=True)
    store.save_plan(records.plan("mine", "1", stages={stage["key"]: stage}))
    argv = ["--export", "ffff", str(tmp_path / "out"), "--store", store.uri]
    assert status.main(argv) == 2
    assert f"stage {stage['key']} (pretrain conrec | shapes) is not finished; run its grid" in capfd.readouterr().err
    store.fail({**stage, "outcome": "failed", "error": "the loss was nan"})
    assert status.main(argv) == 2
    assert "is not finished; failed: the loss was nan\n" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(made: Store, ask: Any, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    told = ask("--export", record_of(made, "pretrain")["key"], str(tmp_path / "locked" / "out"), code=2)
    assert told.startswith(f"error: cannot write {tmp_path / 'locked' / 'out'}: ")


def test_places_that_are_taken(made: Store, ask: Any, tmp_path: Path) -> None:
    key = record_of(made, "pretrain")["key"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "is not empty; nothing is overwritten" in ask("--export", key, str(tmp_path / "full"), code=2)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        told = ask("--export", key, str(tmp_path / place), code=2)
        assert told.startswith(f"error: cannot write {tmp_path / place}: ")
    assert "error: cannot write /proc/out: " in ask("--export", key, "/proc/out", code=2)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    ask("--export", key, str(tmp_path / "empty"))
    assert "is not empty" in ask("--export", key, str(tmp_path / "empty"), code=2)


def test_damaged_weights_are_named_and_not_handed_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path / "runs"), create=True)
    whole = save({"encoder.x": torch.arange(6.0)})
    spec = {"pretext": {"method": "conrec"}, "network": {"name": "conrec-unet", "width": 4}}
    for number, data in enumerate((b"", whole[:5], whole[:40], whole[:-1], whole + b"1", whole[:8] + b"?" * 99)):
        key = f"{number:024x}"
        path = store.put_artifact(key, "one", "weights.safetensors", data)
        store.commit(records.commit(key, kind="pretrain", spec=spec, artifacts={"weights": path}))
        assert status.main(["--export", key, str(tmp_path / "out"), "--store", store.uri]) == 2
        assert f"{path} is no whole safetensors file: " in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_new_metadata_leave_the_tensors_as_they_are() -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.tensor([1, 2], dtype=torch.int64), "c": torch.tensor(2.5)}
    before = save(tensors, {"old": "gone"})
    after, shapes = describe(before, {"größe": "4"})
    assert shapes == {"a": [3, 5], "b": [2], "c": []}
    assert struct.unpack("<Q", after[:8])[0] % 8 == 0
    assert all(torch.equal(load(after)[name], tensor) for name, tensor in tensors.items())
    length = struct.unpack("<Q", before[:8])[0]
    assert after.endswith(before[8 + length :]) and json.loads(after[8 : 8 + struct.unpack("<Q", after[:8])[0]])[
        "__metadata__"
    ] == {"größe": "4"}
