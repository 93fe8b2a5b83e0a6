"""What planning knows of networks and pretexts without torch, against the networks and stages themselves."""

import itertools

import pytest

from trainables.context import Context, StageError
from trainables.data import DataError, hold_out, open_dataset
from trainables.data.prepare import PREPARATIONS, prepare
from trainables.data.split import Split, held_count, why_not_validated
from trainables.data.suited import why_not_prepared
from trainables.data.weight_files import FORMATS
from trainables.downstream.finetune import finetune
from trainables.imports import NAMINGS
from trainables.networks import NETWORKS, build_network, require_input_size
from trainables.networks._base import takes_volumes
from trainables.pretexts import PRETEXTS
from trainables.pretexts.genesis import ModelsGenesis
from trainables.pretexts.pretrain import pretrain
from trainables.settings import NETWORK_SETTINGS, PRETEXT_SETTINGS, FinetuneSettings, parse_network
from trainables.settings.datasets import PREPARE_SETTINGS
from trainables.settings.fitting import (
    ENCODER_WEIGHTS,
    GIVES,
    SMALLEST,
    why_not_cubed,
    why_not_fed,
    why_not_learnt,
    why_not_shown,
    why_not_sized,
)

GENESIS = {"name": "genesis-unet3d", "width": 2}


@pytest.fixture(scope="module")
def built():
    small = {name: parse_network({"name": name, "width": 16}) for name in NETWORKS}
    return {name: (settings, build_network(settings, 1)) for name, settings in small.items()}


def test_networks_take_what_their_settings_say(built):
    assert built.keys() == NETWORK_SETTINGS.keys()
    for settings, network in built.values():
        assert (settings.takes == "volumes") is takes_volumes(network)
        assert settings.multiple == network.minimum_multiple


@pytest.mark.parametrize("side", [8, 16, 24, 32, 40, 48, 64])
def test_sides_are_those_that_the_network_takes(built, side):
    for settings, network in built.values():
        try:
            require_input_size(network, side)
        except StageError:
            assert why_not_sized(settings, side) or settings.takes == "volumes"
        else:
            assert why_not_sized(settings, side) is None


def test_the_nearest_side_is_one(built):
    conrec = built["conrec-unet"][0]
    assert why_not_sized(conrec, 24, 32).endswith("takes a multiple of 8 and at least 32 (nearest: 32), but got 24")
    assert why_not_sized(built["casser-unet"][0], 8).endswith("takes a multiple of 16 (nearest: 16), but got 8")


@pytest.mark.parametrize(("width", "heads", "kernel"), list(itertools.product((8, 16, 24), (1, 3, 4, 8), (1, 2, 3, 4))))
def test_dials_of_the_attention_fit_where_the_network_can_be_built(width, heads, kernel):
    settings = parse_network({"name": "sasa-resnet50-unet", "width": width, "heads": heads, "kernel": kernel})
    try:
        build_network(settings, 1)
    except StageError as error:
        assert settings.misfit() == str(error).removeprefix("network.")
    else:
        assert settings.misfit() is None


def test_smallest_sides_are_those_of_the_methods():
    pictures = {name: cls for name, cls in PRETEXTS.items() if name != "models-genesis"}
    assert {name: SMALLEST.get(name, 8) for name in pictures} == {n: c.smallest_size for n, c in pictures.items()}


def test_only_models_genesis_learns_from_volumes():
    for name, cls in PRETEXT_SETTINGS.items():
        told = {network: why_not_learnt(cls, name, parse_network({"name": network})) for network in NETWORKS}
        taken = {network for network, why in told.items() if why is None}
        assert taken == ({"genesis-unet3d"} if name == "models-genesis" else set(NETWORKS) - {"genesis-unet3d"})
    with pytest.raises(StageError, match="expected a network of volumes"):
        ModelsGenesis(PRETEXT_SETTINGS["models-genesis"](), parse_network({"width": 2}))


SETS = {
    "car-patches": ("shapes", {"count": 12, "size": 24}, {"size": 16, "target_share": 0.01}),
    "colorize": ("textures", {"count": 12, "size": 24}, {"size": 16, "colours": "pseudo"}),
    "cubes": ("nodules", {"count": 10, "width": 16, "depth": 16}, {}),
}


def prepared(kind, path, reader=None):
    usual, options, dials = SETS[kind]
    options = {"count": 12} if reader else options
    spec = {"data": {"reader": reader or usual, "options": options}, "prepare": {"kind": kind, **dials}, "seed": 0}
    return prepare(spec, Context(path, path / kind, cache_dir=path / "cache"))


@pytest.mark.parametrize("kind", PREPARATIONS)
def test_preparations_give_what_is_said(tmp_path, kind):
    assert set(prepared(kind, tmp_path).weights) & {"images", "masks", "labels", "colored", "cubes"} == GIVES[kind]


def pretrained(method, network, data, path, parents=None, **dials):
    training = {"steps": 1, "batch": 2, "input_size": 16, "validation_images": 2, "optimizer": "adam", **dials}
    spec = {"pretext": {"method": method}, "network": network, "data": data, "pretrain": training}
    where = Context(path, path / "pretrain", parents=parents, cache_dir=path / "cache")
    return pretrain({**spec, "backend": {"threads": 1}, "seed": 0}, where)


@pytest.mark.parametrize("kind", [None, *PREPARATIONS])
def test_methods_are_fed_by_what_they_can_learn_from(tmp_path, kind):
    """What planning refuses, the stage refuses."""
    parents = None if kind is None else {"data": prepared(kind, tmp_path).weights}
    data = {"reader": "shapes", "options": {"count": 12, "size": 24}, "prepared": kind is not None}
    refused = {name for name, cls in PRETEXT_SETTINGS.items() if why_not_fed(cls, name, kind)}
    assert refused
    for name in refused:
        network = GENESIS if name == "models-genesis" else {"width": 2}
        with pytest.raises(StageError, match="expected"):
            pretrained(name, network, data, tmp_path, parents)


def test_every_method_has_a_source():
    kinds = [None, *PREPARE_SETTINGS]
    for name, cls in PRETEXT_SETTINGS.items():
        assert any(why_not_fed(cls, name, kind) is None for kind in kinds)


@pytest.mark.parametrize(("kind", "reader"), [("cubes", "shapes"), ("car-patches", "nodules"), ("colorize", "nodules")])
def test_what_cannot_be_prepared_is_told_in_the_words_of_the_stage(tmp_path, kind, reader):
    with pytest.raises(StageError) as error:
        prepared(kind, tmp_path, reader)
    listing = open_dataset(reader, tmp_path, {"count": 12})
    assert why_not_prepared(reader, listing, {"kind": kind, "exclude_val": False, "cubes": 1}) == str(error.value)


@pytest.mark.parametrize(("width", "depth"), [(16, 8), (16, 16), (24, 16), (32, 16), (40, 32), (64, 32)])
@pytest.mark.parametrize("size", [8, 16, 24, 32, 64])
def test_volumes_fit_where_the_finetune_stage_takes_them(tmp_path, width, depth, size):
    settings = {"steps": 1, "batch": 2, "input_size": size, "curve_images": 1}
    data = {"reader": "nodules", "options": {"count": 8, "width": width, "depth": depth}}
    spec = {"scenario": "random-init", "network": GENESIS, "data": data, "finetune": settings, "seed": 0}
    try:
        finetune(spec, Context(tmp_path, tmp_path / "stage", cache_dir=tmp_path))
    except (StageError, DataError):
        assert why_not_cubed(parse_network(GENESIS), (width, width, depth), size)
    else:
        assert why_not_cubed(parse_network(GENESIS), (width, width, depth), size) is None


@pytest.mark.parametrize(("depth", "size"), [(8, 32), (16, 32), (16, 16)])
def test_cubes_fit_where_models_genesis_takes_them(tmp_path, depth, size):
    sides = {"count": 16, "width": 32, "depth": depth}
    data = {"reader": "nodules", "options": sides}
    spec = {"data": data, "prepare": {"kind": "cubes"}, "seed": 0}
    cubes = prepare(spec, Context(tmp_path, tmp_path / "p", cache_dir=tmp_path)).weights
    why = why_not_cubed(parse_network(GENESIS), (32, 32, depth), size, SMALLEST["models-genesis"])
    try:
        pretrained("models-genesis", GENESIS, {**data, "prepared": True}, tmp_path, {"data": cubes}, input_size=size)
    except StageError:
        assert why
    else:
        assert why is None


def test_files_without_a_decoder():
    networks = {name: FORMATS[name].fits[0] for name in ENCODER_WEIGHTS}
    for name, network in networks.items():
        settings = parse_network({"name": network})
        naming = NAMINGS[name](settings)
        parts = {ours.partition(".")[0] for ours in build_network(settings, 1).state_dict() if naming.theirs(ours)}
        assert parts == {"encoder"}
    assert FORMATS.keys() - ENCODER_WEIGHTS == {"genesis", "eccv16-colorizer", "transfergrid"}


@pytest.mark.parametrize("images", [1, 2, 3, 10])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_validation_part_is_there_where_one_can_be_held_out(tmp_path, images, share):
    shapes, nodules = open_dataset("shapes", tmp_path), open_dataset("nodules", tmp_path)
    assert why_not_validated("nodules", nodules, images, share) is None
    why = why_not_validated("shapes", shapes, images, share)
    if share:
        try:
            held = hold_out(Split(tuple(range(images)), ()), share).evaluation
        except DataError as error:
            assert why == str(error)
        else:
            assert why is None and len(held) == held_count(images, share)
    else:
        assert "shapes has no validation part" in why


def test_what_looks_at_a_validation_part():
    assert not FinetuneSettings().validates
    for dials in ({"keep": "best"}, {"plateau": 1}, {"patience": 1}, {"validation_share": 0.1}):
        assert FinetuneSettings(**dials).validates


def test_pictures_and_volumes():
    assert why_not_shown(parse_network({}), "pictures", "shapes") is None
    assert "expected network.name genesis-unet3d" in why_not_shown(parse_network({}), "volumes", "nodules")
