"""Which tensors each scenario takes over, and the errors for weights that do not fit."""

import pytest
import torch

from trainables.context import StageError
from trainables.downstream.scenarios import SCENARIOS, transfer
from trainables.networks import build_network
from trainables.settings import NetworkSettings


def network(seed, channels=1, width=4):
    torch.manual_seed(seed)
    built = build_network(NetworkSettings(width=width), channels)
    for name, buffer in built.named_buffers():
        if not name.endswith("num_batches_tracked"):
            buffer.uniform_(0.5, 1.5)
    return built


def parts_equal(a, b):
    """Per part, whether all / none of its random tensors are equal ("mixed" otherwise)."""
    found = {}
    for part in ("encoder", "skips", "decoder", "head"):
        pairs = [
            (tensor, b[name])
            for name, tensor in a.items()
            if name.startswith(part + ".") and ("running" in name or tensor.ndim > 1)
        ]
        equal = [torch.equal(*pair) for pair in pairs]
        found[part] = all(equal) if all(equal) == any(equal) else "mixed"
    return found


@pytest.mark.parametrize(
    ("scenario", "taken"),
    [
        ("random-init", set()),
        ("cls-enc", {"encoder"}),
        ("seg-enc", {"encoder"}),
        ("probe", {"encoder"}),
        ("seg-enc-dec", {"encoder", "skips", "decoder", "head"}),
    ],
)
def test_parts_taken_over(scenario, taken):
    parent, child = network(0).state_dict(), network(1)
    names = transfer(child, parent, scenario)
    state = child.state_dict()
    assert parts_equal(state, parent) == {p: p in taken for p in ("encoder", "skips", "decoder", "head")}
    assert set(names) == {name for name in state if name.split(".")[0] in taken}


def test_every_scenario_of_the_paper_is_there():
    assert set(SCENARIOS) == {"random-init", "cls-enc", "seg-enc-dec", "seg-enc", "probe"}


def test_head_of_another_shape_stays_random():
    parent, child = network(0, channels=3).state_dict(), network(1)
    before = child.head.weight.clone()
    names = transfer(child, parent, "seg-enc-dec")
    assert torch.equal(child.head.weight, before)
    assert "head.weight" not in names and "decoder.blocks.0.0.0.weight" in names


def test_a_head_that_would_fit_stays_random_where_it_is_to():
    parent, child = network(0).state_dict(), network(1)
    before = child.head.weight.clone()
    names = transfer(child, parent, "seg-enc-dec", "random")
    assert torch.equal(child.head.weight, before) and not torch.equal(before, parent["head.weight"])
    assert parts_equal(child.state_dict(), parent) == {"encoder": True, "skips": True, "decoder": True, "head": False}
    fitting = transfer(network(1), parent, "seg-enc-dec")
    assert set(fitting) - set(names) == {"head.weight", "head.bias"}


def test_tensors_of_the_pretext_are_left_aside():
    parent = network(0).state_dict() | {"pretext.head.weight": torch.ones(3)}
    assert transfer(network(1), parent, "cls-enc")


def test_parent_is_copied_not_shared():
    parent, child = network(0).state_dict(), network(1)
    transfer(child, parent, "seg-enc")
    with torch.no_grad():
        child.encoder.blocks[0][0][0].weight.zero_()
    assert parent["encoder.blocks.0.0.0.weight"].abs().sum() > 0


def test_encoder_alone_is_not_enough_for_the_decoder():
    parent = {name: t for name, t in network(0).state_dict().items() if name.startswith("encoder.")}
    transfer(network(1), parent, "cls-enc")
    with pytest.raises(StageError, match=r"seg-enc-dec: the pretrained weights lack skips\.0\..*and \d+ more"):
        transfer(network(1), parent, "seg-enc-dec")


def test_another_width_is_an_error_naming_the_first_tensors():
    child = network(1)
    before = {name: tensor.clone() for name, tensor in child.state_dict().items()}
    with pytest.raises(
        StageError, match=r"encoder\.blocks\.0\.0\.0\.weight of \[8, 3, 3, 3\] instead of \[4, 3, 3, 3\]"
    ):
        transfer(child, network(0, width=8).state_dict(), "seg-enc")
    assert all(torch.equal(tensor, before[name]) for name, tensor in child.state_dict().items())


def test_weights_without_batch_counters_do():
    parent = {n: t for n, t in network(0).state_dict().items() if not n.endswith("num_batches_tracked")}
    child = network(1)
    transfer(child, parent, "seg-enc-dec")
    assert torch.equal(child.encoder.blocks[0][0][1].running_var, parent["encoder.blocks.0.0.1.running_var"])


def test_unknown_scenario():
    with pytest.raises(StageError, match="no scenario 'encoder'; there are random-init"):
        transfer(network(0), {}, "encoder")
