"""Every wrong request ends in one message with its place, what was expected, and near names; and what overlays what."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.grid.errors import GridError
from orchestrator.grid.load import SPACES, builtin_grids, grid_name, load_request
from tests.orchestrator.made_up import GRID, write_grid

ROWS = GRID[GRID.index("rows") : GRID.index("columns")]


def refused(name: str, **how) -> str:
    """The message of a refused request: one line, no Python in it."""
    with pytest.raises(GridError) as caught:
        load_request(name, **how)
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text and "pydantic" not in text and len(text) < 400, text
    return text


def end(text: str) -> tuple[str, str]:
    """Replace the empty end of the file, that is, append."""
    return "seeds: [0, 1]\n", f"seeds: [0, 1]\n{text}\n"


# What is replaced in the grid, by what; the line that the message must name; what else it must say.
WRONG = {
    # Unknown keys, at every level
    "key of the grid": (*end("seedz: [1]"), 14, "unknown key 'seedz'; did you mean 'seeds'?"),
    "key of a row": ("pretext: conrec", "pretxt: conrec", 8, "unknown key 'rows.1.pretxt'; did you mean 'pretext'"),
    "key of a column": ("fractions", "fraction", 12, "unknown key 'columns.0.fraction'; did you mean 'fractions'?"),
    "key of the table": (*end("table: {indx: [model]}"), 14, "unknown key 'table.indx'; did you mean 'index'?"),
    "key of run": (*end("run: {packs: 3}"), 14, "unknown key 'run.packs'; did you mean 'pack'?"),
    "key of resources": (*end("run:\n  resources:\n    pretrain: {gpu: 1}"), 16, "'run.resources.pretrain.gpu'; did"),
    "kind of resources": (*end("run: {resources: {pretran: {}}}"), 14, "resources.pretran: expected 'prepare', "),
    "key of network": (*end("network: {widht: 1}"), 14, "unknown key 'network.widht'; did you mean 'width'?"),
    "key of backend": (*end("backend: {precison: float32}"), 14, "'backend.precison'; did you mean 'precision'?"),
    "key of pretrain": (*end("pretrain:\n  stepz: 1"), 15, "unknown key 'pretrain.stepz'; did you mean 'steps'?"),
    "key of finetune": (*end("finetune: {stepz: 1}"), 14, "unknown key 'finetune.stepz'; did you mean 'steps'?"),
    "far key": (*end("finetune: {zzz: 1}"), 14, "allowed: batch, "),
    "key of a row's finetune": (
        "pretext: conrec",
        "pretext: conrec\n    finetune: {stepz: 1}",
        9,
        "unknown key 'rows.1.finetune.stepz'; did you mean 'steps'?",
    ),
    "key of a row's network": ("model: Random}", "model: Random, network: {wide: 1}}", 5, "'rows.0.network.wide'; did"),
    "key of a pretext": (*end("pretexts:\n  conrec: {temprature: 1}"), 15, "did you mean 'temperature'?"),
    "key of a pretext's pretrain": (*end("pretexts:\n  conrec:\n    pretrain: {stepz: 1}"), 16, "did you mean 'steps'"),
    "key of a dataset": (*end("datasets: {shapes: {cuont: 9}}"), 14, "'datasets.shapes.cuont'; did you mean 'count'?"),
    # Wrong types
    "word for a number": (
        *end("finetune: {steps: many}"),
        14,
        "finetune.steps: expected a whole number, but got 'many'",
    ),
    "half a step": (*end("finetune: {steps: 1.5}"), 14, "expected a whole number, but got 1.5"),
    "true for a whole number": (*end("finetune: {steps: true}"), 14, "expected a number, but got true"),
    "true for a number": (*end("finetune: {flip: yes}"), 14, "finetune.flip: expected a number, but got true"),
    "true for a fraction": ("0.05,", "true,", 12, "columns.0.fractions.0: expected a number, but got true"),
    "word for a list": (*end("pretexts: {conrec: {tasks: color}}"), 14, "tasks: expected a list, but got 'color'"),
    "number for a list": ("seeds: [0, 1]", "seeds: 3", 13, "seeds: expected a list, but got 3"),
    "nothing for a mapping": (*end("network:"), 14, "network: expected a mapping (key: value), but got nothing"),
    "list for a mapping": (*end("pretexts: [a]"), 14, "pretexts: expected a mapping (key: value), but got ['a']"),
    "word for a row": ("- {scenario: random-init, model: Random}", "- Random", 5, "rows.0: expected a mapping"),
    "number for pretrain": (*end("pretexts: {conrec: {pretrain: 5}}"), 14, "pretexts.conrec.pretrain: expected a map"),
    "word for a truth": (
        "model: Random}",
        "model: Random, frozen: maybe}",
        5,
        "expected true or false, but got 'maybe'",
    ),
    "word for gpus": (*end("run: {resources: {finetune: {gpus: all}}}"), 14, "expected a number or 'auto', but got"),
    "a number as a name": ("model: ConRec", "model: 5", 7, "rows.1.model: expected a text, but got 5"),
    "a slash in the name": ("grid: mine", "grid: a/b", 1, "grid: expected at most 100 letters, digits, dots, dashes"),
    "a name too long for a file": ("grid: mine", f"grid: {'m' * 101}", 1, "grid: expected at most 100 letters, digits"),
    "half a character": ("model: ConRec", 'model: "\\ud800x"', 7, "'\\ud800x' holds a character that is in no text"),
    "a null byte": ("model: ConRec", 'model: "a\\0"', 7, "'a\\x00' holds a character that is in no text"),
    "a null byte in a key": (*end('pretexts: {"a\\0": {}}'), 14, "holds a character that is in no text"),
    "a date that is none": ("title: Mine", "title: 2020-13-45", 2, "'2020-13-45' cannot be read: month must be"),
    "a tag that lies": ("title: Mine", "title: !!int abc", 2, "'abc' cannot be read"),
    # Out of range
    "no steps": (*end("finetune: {steps: 0}"), 14, "finetune.steps: expected greater than or equal to 1, but got 0"),
    "an endless rate": (*end("finetune: {learning_rate: .inf}"), 14, "expected a finite number, but got inf"),
    "a momentum of one": (*end("pretrain: {momentum: 1}"), 14, "pretrain.momentum: expected less than 1, but got 1"),
    "fraction zero": ("0.05,", "0,", 12, "columns.0.fractions.0: expected greater than 0, but got 0"),
    "fraction five": ("0.05,", "5,", 12, "columns.0.fractions.0: expected less than or equal to 1, but got 5"),
    "seed below zero": ("seeds: [0, 1]", "seeds: [0, -1]", 13, "seeds.1: expected greater than or equal to 0, but"),
    "no image to train on": ("seeds", "    n_train: {0.2: 0}\nseeds", 13, "columns.0.n_train.0.2: expected greater"),
    "gpus below zero": (*end("run: {resources: {finetune: {gpus: -1}}}"), 14, "but got -1"),
    "no seeds": ("seeds: [0, 1]", "seeds: []", 13, "seeds: expected at least one entry, but got []"),
    "no fractions": ("[0.05, 0.2]", "[]", 12, "columns.0.fractions: expected at least one entry"),
    "no decoding task": (*end("pretexts: {conrec: {tasks: []}}"), 14, "tasks: expected at least one entry"),
    "no metric at all": (*end("table: {value: []}"), 14, "table.value: expected at least one entry"),
    "unknown choice": (*end("pretrain: {optimizer: adamw}"), 14, "expected 'lars', 'adam' or 'sgd', but got 'adamw'"),
    "unknown precision": (*end("backend: {precision: bf16}"), 14, "expected 'float32' or 'bfloat16', but got 'bf16'"),
    "unknown unit": (*end("table: {unit: percentage}"), 14, "table.unit: expected 'percent' or 'fraction'"),
    "unknown axis of the table": (*end("table: {index: [modell]}"), 14, "table.index.0: expected 'scenario', 'model'"),
    # Missing keys
    "no scenario": ("scenario: random-init, ", "", 5, "rows.0.scenario is missing"),
    "no dataset": ("dataset: shapes\n    pretext_data", "pretext_data", 10, "columns.0.dataset is missing"),
    "no title": ("title: Mine\n", "", None, "title is missing"),
    "no rows": (ROWS, "", None, "rows is missing"),
    # Names that stand for nothing
    "scenario": ("scenario: seg-enc", "scenario: seg-encc", 6, "'probe' or 'constant', but got 'seg-encc'"),
    "profile": ("profile: smoke", "profile: smok", 3, "profile smok: no such profile; did you mean 'smoke'?"),
    "pretext": (
        "pretext: conrec",
        "pretext: conrecc",
        8,
        "rows.1.pretext: no pretext 'conrecc'; did you mean 'conrec'",
    ),
    "method": (
        *end("pretexts:\n  mine: {method: simcl}"),
        15,
        "pretexts.mine: no method 'simcl'; did you mean 'simclr'",
    ),
    "method left out": (*end("pretexts: {mine: {}}"), 14, "pretexts.mine: no method 'mine'; allowed: "),
    "method that is a list": (*end("pretexts: {mine: {method: [x]}}"), 14, "pretexts.mine: no method ['x']"),
    "dataset": (
        "dataset: shapes\n",
        "dataset: shape\n",
        10,
        "columns.0.dataset: no dataset 'shape'; did you mean 'sha",
    ),
    "pretext_data": (
        "pretext_data: shapes",
        "pretext_data: pest",
        11,
        "columns.0.pretext_data: no dataset 'pest'; did",
    ),
    "reader": (
        *end("datasets:\n  mine: {reader: folde}"),
        15,
        "datasets.mine: no reader 'folde'; did you mean 'folder'?",
    ),
    "reader that is a list": (*end("datasets: {mine: {reader: [x]}}"), 14, "datasets.mine: no reader ['x']"),
    "metric": (*end("table: {value: dicee}"), 14, "no metric 'dicee'; did you mean 'dice'"),
    "decoding task": (*end("pretexts: {conrec: {tasks: [colour]}}"), 14, "'color', 'mask' or 'fill', but got 'colour'"),
    "stand-in for nothing": (*end("stand_ins: {petss: shapes}"), 14, "stand_ins.petss: no dataset 'petss'; did you me"),
    "stand-in by nothing": (*end("stand_ins: {pets: shape}"), 14, "stand_ins.pets: no dataset 'shape'; did you mean"),
    "own section of no profile": (
        *end("profiles: {minni: {}}"),
        14,
        "profiles.minni: no such profile; did you mean 'mi",
    ),
    # What does not go together
    "pretext where none belongs": (
        "Random}",
        "Random, pretext: conrec}",
        5,
        "rows.0: scenario random-init starts from",
    ),
    "no pretext where one belongs": ("    pretext: conrec\n", "", 6, "rows.1: scenario seg-enc starts from a pretext"),
    "no pretext_data": ("    pretext_data: shapes\n", "", 6, "rows.1: no pretext_data for dataset shapes; set it in"),
    "folder without a path": (
        "dataset: shapes\n",
        "dataset: folder\n",
        10,
        "dataset 'folder' has no path; add `datase",
    ),
    "size of no fraction": (
        "seeds",
        "    n_train: {0.3: 4}\nseeds",
        10,
        "n_train names fractions that are not in `fracti",
    ),
    # Twice
    "seed twice": ("seeds: [0, 1]", "seeds: [1, 1]", 13, "seeds: 1 stands here twice; keep one"),
    "row's seed twice": ("model: Random}", "model: Random, seeds: [2, 2]}", 5, "rows.0.seeds: 2 stands here twice"),
    "fraction twice": ("[0.05, 0.2]", "[0.2, 0.20]", 12, "columns.0.fractions: 0.2 stands here twice; keep one"),
    "metric twice": (*end("table: {value: [dice, dice]}"), 14, "table.value: 'dice' stands here twice"),
    "task twice": (*end("pretexts: {conrec: {tasks: [mask, mask]}}"), 14, "tasks: 'mask' stands here twice"),
    "row twice": (
        "columns:",
        "  - {scenario: random-init, model: Random}\ncolumns:",
        9,
        "rows.0 and rows.2 have the same",
    ),
    "row twice, its network once by its name": (
        "columns:",
        "  - {scenario: random-init, model: Random, network: {name: conrec-unet, width: 8}}\ncolumns:",
        9,
        "rows.0 and rows.2 have the same",
    ),
    "row twice, its pretext's data once those of the column": (
        "columns:",
        "  - {scenario: seg-enc, model: ConRec, pretext: conrec, pretext_data: shapes}\ncolumns:",
        9,
        "rows.1 and rows.2 have the same",
    ),
    "column twice": (
        "seeds:",
        "  - {dataset: shapes, pretext_data: shapes}\nseeds:",
        13,
        "columns.0 and columns.1 have the same dataset; put their fractions into one",
    ),
    "key twice": (*end("seeds: [2]"), 14, "'seeds' stands here twice; keep one"),
    "inner key twice": (*end("finetune:\n  steps: 1\n  steps: 2"), 16, "'steps' stands here twice; keep one"),
    # No YAML, or more of it than we read
    "open bracket": (*end("x: [1, 2\ny: 3"), 15, "not valid YAML: expected ',' or ']'"),
    "tab": (*end("x:\n\ty: 3"), 15, "not valid YAML: found character '\\t'"),
    "two documents": (*end("---\na: b"), 14, "not valid YAML: but found another document"),
    "merge key": (*end("finetune:\n  <<: {steps: 3}"), 15, "merge keys (<<) are not supported"),
    "list as a key": (*end("[a, b]: 3"), 14, "a key must be a plain word or number"),
    "alias within itself": (*end("pretexts: &a {x: *a}"), None, "nested too deeply; does an alias"),
    "too deep": (*end("x: " + "[" * 3000 + "]" * 3000), None, "nested too deeply"),
}


@pytest.mark.parametrize("profile", [None, "paper"])
@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_of_the_file_is_named_with_its_line(tmp_path: Path, fault: str, profile: str | None) -> None:
    old, new, line, says = WRONG[fault]
    assert old in GRID
    name = write_grid(tmp_path, GRID.replace(old, new, 1))
    if fault == "profile" and profile:
        return  # a profile asked for goes before the grid's own
    text = refused(name, profile=profile)
    assert text.startswith(f"{name}:{line}: " if line else f"{name}: "), text
    assert says in text, text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected a mapping of settings (key: value), but the file holds nothing"),
        (b"# only a comment\n", "but the file holds nothing"),
        (b"- a\n- b\n", "but the file holds a list"),
        (b"hello\n", "but the file holds a single value"),
        (bytes(range(256)), "it is no UTF-8 text; expected a grid in YAML"),
        (b"grid: \x00\n", "not valid YAML: unacceptable character"),
    ],
)
def test_a_file_that_is_no_grid(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "ein gräßlicher Name.yaml"
    path.write_bytes(content)
    text = refused(str(path))
    assert text.startswith(str(path)) and says in text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("p1-tabel2", "no grid 'p1-tabel2': did you mean 'p1-table2'"),
        ("zzz", "allowed: "),
        ("nowhere.yaml", "nowhere.yaml: no such file; expected a grid in YAML, or a built-in name such as smoke"),
        ("/tmp", "/tmp: this is a folder; expected a grid in YAML"),
    ],
)
def test_a_grid_that_is_not_there(name: str, says: str) -> None:
    assert says in refused(name)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("finetune.steps", "expected KEY=VALUE, for example"),
        ("=3", "expected KEY=VALUE"),
        ("a..b=3", "expected KEY=VALUE"),
        ("finetun.steps=3", "unknown key 'finetun'; did you mean 'finetune'?"),
        ("finetune.stepz=3", "unknown key 'finetune.stepz'; did you mean 'steps'?"),
        ("finetune.steps=-3", "finetune.steps: expected greater than or equal to 1, but got -3"),
        ("finetune.steps=", "finetune.steps: expected a whole number, but got ''"),
        ("finetune.steps=[1", "the value is not valid YAML"),
        ("title=2020-13-45", "the value is not valid YAML: month must be"),
        ("finetune=3", "finetune: expected a mapping (key: value), but got 3"),
        ("seeds.x=3", "unknown key 'seeds.x'; allowed: looks, rule, until"),
        ("rows.7.model=x", "there is no rows.7; rows has the entries 0 to 1"),
        ("columns.0.fractions.2=0.5", "there is no columns.0.fractions.2; columns.0.fractions has the entries 0 to 1"),
        ("pretexts.conrec.tune.trials=10001", "trials: expected less than or equal to 10000, but got 10001"),
        ("pretexts.conrec.prepare.kind=[x]", "pretexts.conrec.prepare.kind: no such preparation ['x']; allowed: car"),
        ("claims=[{test: [x]}]", "claims.0.test: no test ['x']; allowed: convergence, difference"),
        ("claims=[{test: {a: b}}]", "claims.0.test: no test {'a': 'b'}"),
        ("analyses.a={kind: cka, data: shapes, models: [{name: x, network: {name: [y]}}, {name: z}]}", "no network ['"),
        ("seeds.looks=[3, 100000000]", "seeds.looks.1: expected less than or equal to 1000, but got 100000000"),
        ("finetune.input_size=20", "finetune.input_size: expected a multiple of 8, but got 20"),
        ("pretrain.input_size=24", "pretrain.input_size: network conrec-unet takes a multiple of 8 and at least 32"),
        ("rows.1.pretext=byoll", "rows.1.pretext: no pretext 'byoll'"),
        ("profile=mini", "a profile is chosen by --profile NAME"),
        ("profiles.mini.seeds=[1]", "unknown key 'profiles'"),
        ("stand_ins.*=shape", "no dataset 'shape'; did you mean 'shapes'?"),
    ],
)
def test_a_wrong_override_is_quoted(tmp_path: Path, override: str, says: str) -> None:
    text = refused(write_grid(tmp_path), overrides=["finetune.batch=4", override])
    assert text.startswith(f"--set {override}: ") and says in text


SASA = GRID + "network:\n  name: sasa-resnet50-unet\n  width: 16\n"
GENESIS = "{method: imported, format: genesis}"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (SASA + "  kernel: 4\n", 17, "network: kernel must be an odd number, but is 4"),
        (SASA + "  heads: 3\n", 16, "network: width must be a multiple of 2 x heads = 6, but 16 is not"),
        (SASA + "networks: {sasa-resnet50-unet: {kernel: 6}}\n", 17, "networks.sasa-resnet50-unet: kernel must be an"),
        (SASA.replace("Random}", "Random, network: {heads: 5}}"), 16, "width must be a multiple of 2 x heads = 10"),
        (
            GRID.replace("Random}", "Random, network: {name: sasa-resnet50-unet, kernel: 2}}"),
            5,
            "rows.0.network: kernel must be an odd number, but is 2",
        ),
        (SASA + "pretrain: {input_size: 40}\n", 17, "pretrain.input_size: network sasa-resnet50-unet takes a multiple "
         "of 32 (nearest: 32), but got 40"),
        (SASA + "pretexts: {conrec: {pretrain: {input_size: 48}}}\n", 17, "pretexts.conrec.pretrain.input_size: netw"),
        (SASA.replace("Random}", "Random, finetune: {input_size: 8}}"), 5, "rows.0.finetune.input_size: network sasa"),
        (SASA.replace("random-init", "probe") + "probe: {input_size: 8}\n", 17, "probe.input_size: network sasa-res"),
        (GRID + "network: {name: genesis-unet3d}\n", 8, "rows.1.pretext: conrec learns from pictures, but network"),
        (GRID.replace("pretext: conrec", "pretext: models-genesis"), 8, "models-genesis learns from volumes, but "
         "network conrec-unet takes pictures; expected network.name genesis-unet3d"),
        (
            GRID.replace("pretext: conrec", "pretext: models-genesis") + "network: {name: genesis-unet3d}\n",
            8,
            "rows.1.pretext: models-genesis needs cubes, which no data set has; expected `prepare: {kind: cubes}`",
        ),
        (GRID + "pretexts: {conrec: {prepare: {kind: cubes}}}\n", 14, "pretexts.conrec.prepare: conrec needs pictures, "
         "which prepare cubes does not make; expected no `prepare:`"),
        (
            GRID.replace("pretext: conrec", "pretext: classification")
            + "pretexts: {classification: {prepare: {kind: colorize}}}\n",
            14,
            "classification needs labels, which prepare colorize does not make; expected no `prepare:`",
        ),
        (GRID + f"pretexts: {{conrec: {GENESIS}}}\n", 8, "rows.1.pretext: weights genesis fit network.name genesis-un"),
        (
            GRID.replace("seg-enc", "seg-enc-dec")
            + "network: {name: resnet18-unet}\npretexts: {conrec: {method: imported, format: torchvision-resnet18}}\n",
            6,
            "rows.1.scenario: seg-enc-dec takes over a decoder, but weights torchvision-resnet18 have none",
        ),
        (
            GRID + "analyses: {a: {kind: targets, data: shapes, model: {pretext: conrec, pretext_data: shapes, "
            "network: {name: genesis-unet3d}}}}\n",
            14,
            "analyses.a.model.pretext: conrec learns from pictures",
        ),
        (
            GRID + "finetune: {input_size: 32}\npretexts:\n  conrec:\n    tune: {trials: 2, objective: "
            "{dataset: textures, finetune: {input_size: 8}}}\nnetwork: {name: classic-unet}\n",
            17,
            "pretexts.conrec.tune.objective.finetune.input_size: network classic-unet takes a multiple of 16",
        ),
    ],
)  # fmt: skip
def test_what_a_network_cannot_be_trained_with(tmp_path: Path, text: str, line: int, says: str) -> None:
    name = write_grid(tmp_path, text.replace("profile: smoke", "profile: paper"))
    told = refused(name)
    assert told.startswith(f"{name}:{line}: ") and says in told, told


@pytest.mark.parametrize(
    "text",
    [
        SASA.replace("Random}", "Random, network: {heads: 4}}").replace("width: 16", "width: 24")
        .replace("    pretext: conrec\n", "    pretext: conrec\n    network: {heads: 12}\n"),  # rows complete it
        GRID + "pretexts: {models-genesis: {flip: 0.1}}\n",  # used nowhere
        GRID.replace("random-init", "constant, constant: {shapes: 0.5}, network: {name: genesis-unet3d}")
        .replace("    fractions: [0.05, 0.2]\n", ""),
    ],
)  # fmt: skip
def test_what_a_network_can_be_trained_with(tmp_path: Path, text: str) -> None:
    load_request(write_grid(tmp_path, text.replace("profile: smoke", "profile: paper")))


def test_what_a_profile_completes_is_no_fault_of_the_file(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID.replace("pretext: conrec", "pretext: byol-color"))
    load_request(name)  # the profile smoke says how the colours are made
    assert "byol-color needs colorised pictures" in refused(name, profile="paper")


def test_a_profile_asked_for_that_is_not_there(tmp_path: Path) -> None:
    assert refused(write_grid(tmp_path), profile="minni") == "--profile minni: no such profile; did you mean 'mini'?"
    assert "allowed: mini, paper, smoke" in refused(write_grid(tmp_path), profile="")


def test_an_own_section_is_checked_under_every_profile(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID + "profiles:\n  mini:\n    finetune: {stepz: 1}\n")
    for profile in ("smoke", "mini", "paper"):
        assert refused(name, profile=profile).startswith(f"{name}:16: unknown key 'finetune.stepz'")


def test_all_built_in_grids_load_under_all_profiles() -> None:
    assert {"smoke", "p1-table2", "p1-table6"} <= set(builtin_grids())
    for name in builtin_grids():
        for profile in ("paper", "mini", "smoke"):
            request = load_request(name, profile=profile)
            assert (request.grid.grid, request.profile) == (name, profile)


def test_grid_then_profile_then_own_section_then_overrides(tmp_path: Path) -> None:
    text = GRID + (
        "finetune: {steps: 1000, batch: 3, flip: 0.25}\n"
        "profiles:\n"
        "  smoke: {finetune: {batch: 5, input_size: 24}}\n"
        "  mini: {finetune: {batch: 7}}\n"
    )
    name = write_grid(tmp_path, text)
    smoke = load_request(name).grid.finetune
    assert smoke["flip"] == 0.25  # only the grid says it
    profile = yaml.safe_load((SPACES / "profiles" / "smoke.yaml").read_text())["finetune"]
    assert smoke["steps"] == profile["steps"] != 1000  # the profile outweighs the grid
    assert (smoke["batch"], smoke["input_size"]) == (5, 24)  # the grid's own section outweighs the profile
    assert load_request(name, overrides=["finetune.batch=2", "finetune.batch=6"]).grid.finetune["batch"] == 6
    paper = load_request(name, profile="paper").grid
    assert (paper.finetune["steps"], paper.finetune["batch"]) == (1000, 3)
    assert load_request(name, profile="mini").grid.finetune["batch"] == 7


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    name = write_grid(tmp_path)
    grid = load_request(name, overrides=["rows.1.finetune.steps=7", "columns.0.fractions=[0.5]", "seeds=[4]"]).grid
    assert [row.finetune for row in grid.rows] == [{}, {"steps": 7}]
    assert (grid.columns[0].fractions, grid.seeds, grid.rows[1].model) == ([0.5], [4], "ConRec")


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID + "pretrain: {learning_rate: 1e-3, weight_decay: 0}\n")
    assert load_request(name, profile="paper").grid.pretrain["learning_rate"] == "1e-3"  # YAML 1.1 sees a word here
    mine = "datasets: {mine: {reader: folder, path: a, classes: {0: background, 8: car}}}\n"
    load_request(write_grid(tmp_path, GRID + mine))


def test_an_error_of_a_value_names_who_wrote_it_last(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID + "profiles:\n  smoke:\n    seeds: [3, 3]\n")
    assert refused(name).startswith(f"{name}:16: seeds: 3 stands here twice")
    assert refused(write_grid(tmp_path), overrides=["seeds=[3, 3]"]).startswith("--set seeds=[3, 3]: seeds: 3 stands")


def test_the_request_keeps_how_it_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_grid(tmp_path)
    monkeypatch.chdir(tmp_path)
    request = load_request("./mine.yaml", overrides=["seeds=[2]"], only=["seed=2"])
    assert (request.profile, request.overrides, request.only) == ("smoke", ("seeds=[2]",), ("seed=2",))
    assert Path(request.path) == tmp_path / "mine.yaml"  # so that a replay finds it from everywhere
    assert load_request("smoke").path == str(SPACES / "grids" / "smoke.yaml")


def test_the_name_of_a_grid_by_name_or_file(tmp_path: Path) -> None:
    assert grid_name("p1-table2") == "p1-table2"
    assert grid_name(write_grid(tmp_path, name="other.yaml")) == "mine"
    assert grid_name(str(tmp_path / "gone.yaml")) == "gone"


def test_no_scenario_takes_over_a_decoder_that_its_pretext_does_not_train() -> None:
    with pytest.raises(GridError, match=r"rows\.1\.scenario: .* simclr trains none"):
        load_request("p1-table2", overrides=["rows.1.scenario=seg-enc-dec"])


@pytest.mark.parametrize("section", ["pretrain", "finetune"])
def test_a_size_that_the_network_cannot_halve_is_refused(section: str) -> None:
    with pytest.raises(GridError, match="multiple of 8"):
        load_request("p1-table2", overrides=[f"{section}.input_size=100"])
