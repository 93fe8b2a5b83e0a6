"""The compiled backend: the numbers of the uncompiled one to float32's last digits, the same names, the same resume."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.contracts.pretext_contract import NETWORK
from tests.trainables.test_backend import CPU, assert_same, batch_of, context, interrupted_and_resumed, spec
from trainables.context import StageError
from trainables.downstream.finetune import finetune
from trainables.downstream.fused import finetune_fused
from trainables.numeric import apply_backend
from trainables.pretexts import build_pretext
from trainables.randomness import generator, seed_everything
from trainables.settings import BackendSettings, parse_pretext
from trainables.settings.fusing import why_not_fused

__all__ = ["context"]  # a fixture
pytestmark = pytest.mark.slow
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler (g++)")


@needs_compiler
def test_compiled_finetuning_is_the_uncompiled_one_and_resumes(context):
    """Six gentle steps: with Adam from random weights training multiplies the last digits."""
    gentle = {"optimizer": "sgd", "learning_rate": 1e-3}
    eager = finetune(spec(**gentle), context("eager"))
    one, other = interrupted_and_resumed(finetune, spec(backend={"compiled": True}, **gentle), context)
    assert_same(one, other)
    assert list(one[0].weights) == list(eager.weights)
    assert one[0].metrics == pytest.approx(eager.metrics, rel=1e-4)
    for name, tensor in eager.weights.items():
        ours = one[0].weights[name]
        torch.testing.assert_close(ours, tensor, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert any(not torch.equal(one[0].weights[name], tensor) for name, tensor in eager.weights.items())


@needs_compiler
def test_a_compiled_pretext_has_the_losses_and_gradients_of_the_uncompiled_one(tmp_path):
    """ConRec: encoder and decoder apart, dropout between them, whose draws stay.

    In float64: in float32 one unit that rounding moves over the edge of a ReLU is a hundredth of a gradient.
    """
    batch = batch_of(tmp_path, "conrec")

    def run(backend):
        seed_everything(0, "init")
        pretext = build_pretext(parse_pretext({"method": "conrec"}), NETWORK, 0).double()
        pretext.network.encoder.register_forward_pre_hook(lambda _, images: tuple(each.double() for each in images))
        apply_backend(pretext, backend, CPU)
        seed_everything(0, "step", 0)
        losses = pretext.loss(batch, generator(0))
        losses["loss"].backward()
        return losses, {name: p.grad for name, p in pretext.named_parameters()}, list(pretext.state_dict())

    (eager, gradients, names), (found, ours, own_names) = run(BackendSettings()), run(BackendSettings(compiled=True))
    assert own_names == names
    assert {n: v.item() for n, v in found.items()} == pytest.approx({n: v.item() for n, v in eager.items()}, rel=1e-10)
    # A bias before batch norm has no gradient but what rounding leaves of the others.
    largest = max(gradient.norm() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float64, name
        assert (ours[name] - gradient).norm() < 1e-10 * gradient.norm() + 1e-13 * largest, name
    assert any(not torch.equal(ours[name], gradient) for name, gradient in gradients.items())  # it was compiled


WITHOUT_COMPILER = """
import sys, torch
from pathlib import Path
from trainables.context import StageError
from trainables.networks import build_network
from trainables.numeric import apply_backend
from trainables.settings import BackendSettings, NetworkSettings
network = build_network(NetworkSettings(width=4), 1)
apply_backend(network, BackendSettings(compiled=True), torch.device("cpu"))
images = torch.rand(1, 3, 16, 16)
network.eval()(images)  # never compiled
try:
    network.train()(images)
except StageError as error:
    print(error)
"""


def test_without_a_compiler_the_message_names_the_key(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER],
        cwd=Path(__file__).resolve().parents[2],
        env={
            "PATH": "/nowhere",
            "CXX": "/nowhere/g++",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (message,) = done.stdout.splitlines()
    assert message.startswith("backend.compiled: torch.compile failed on this machine (")
    assert message.endswith("or compiled: false")


def test_compiled_cells_are_not_fused(context):
    asked = spec(backend={"compiled": True, "fused": True})
    assert "expected backend.compiled: false" in why_not_fused(asked)
    with pytest.raises(StageError, match="compiled networks cannot be fused"):
        finetune_fused([asked], [context()])
