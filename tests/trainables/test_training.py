"""The training loop: a resumed run equals an undisturbed one digit for digit, curves, and the stop at a bad loss."""

import copy

import pytest
import torch
from torch import nn

from trainables import training
from trainables.context import Context, Diverged, StageError
from trainables.optimizers.lars import LARS
from trainables.randomness import generator, seed_everything
from trainables.settings import BackendSettings, FinetuneSettings
from trainables.training import make_optimizer, train, use_backend

STEPS = 12


class Interrupted(Exception):
    """Stands for the loss of a worker."""


class InterruptedContext(Context):
    """A context whose worker is lost after `last` steps."""

    last = STEPS

    def progress(self, step, steps):
        if step == self.last:
            raise Interrupted


def run(context, optimizer="adam", bad_from=None, steps=STEPS, report_every=5):
    """Train a small network with batch norm, dropout and an EMA copy. Returns (resumed from, network, EMA copy)."""
    use_backend(BackendSettings())
    seed_everything(0, "init")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(16, 1))
    average = copy.deepcopy(model)
    modes = []

    def loss_of(step):
        assert model.training
        x = torch.randn(6, 1, 4, 4, generator=generator(0, "data", step))
        loss = (model(x) - x.sum((1, 2, 3))[:, None]).square().mean()
        return {"loss": loss * float("nan") if bad_from is not None and step >= bad_from else loss, "other": loss + 1}

    def after_step(step):
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 0.1)

    def evaluate(step):
        modes.append(model.training)
        return {"probe": float(model(torch.ones(1, 1, 4, 4)))}

    settings = FinetuneSettings(optimizer=optimizer, learning_rate=0.01)
    start = train(
        model,
        make_optimizer(settings, model),
        loss_of,
        evaluate,
        steps=steps,
        report_every=report_every,
        seed=0,
        context=context,
        extra_state=[average],
        after_step=after_step,
    )
    assert not any(modes)
    return start, model, average


def assert_equal_states(a, b):
    assert all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lars"])
def test_resumed_run_equals_an_undisturbed_one(tmp_path, optimizer):
    undisturbed = Context(tmp_path, tmp_path / "a")
    _, model, average = run(undisturbed, optimizer)
    # Lost twice; the first time between two reports, the second time right after one.
    for last in (7, 10):
        lost = InterruptedContext(tmp_path, tmp_path / "b", checkpoint_seconds=0)
        lost.last = last
        with pytest.raises(Interrupted):
            run(lost, optimizer)
    resumed = Context(tmp_path, tmp_path / "b")
    start, model_again, average_again = run(resumed, optimizer)
    assert start == 10
    assert_equal_states(model, model_again)
    assert_equal_states(average, average_again)
    assert resumed.history == undisturbed.history


def test_work_after_the_last_checkpoint_is_done_again(tmp_path):
    """The checkpoint is older than the loss of the worker: steps are repeated, points of the curve are not doubled."""
    undisturbed = Context(tmp_path, tmp_path / "a")
    _, model, _ = run(undisturbed)
    lost = InterruptedContext(tmp_path, tmp_path / "b", checkpoint_seconds=0)
    lost.last = 3
    with pytest.raises(Interrupted):
        run(lost)
    late = InterruptedContext(tmp_path, tmp_path / "b", checkpoint_seconds=1e9)
    late.last = 8
    with pytest.raises(Interrupted):
        run(late)
    resumed = Context(tmp_path, tmp_path / "b")
    start, model_again, _ = run(resumed)
    assert start == 3
    assert_equal_states(model, model_again)
    assert resumed.history == undisturbed.history


def test_points_of_the_curve(tmp_path):
    context = Context(tmp_path, tmp_path / "a")
    start, _, _ = run(context)
    assert start == 0
    assert [point["step"] for point in context.history] == [0, 5, 10, 12]
    assert set(context.history[0]) == {"step", "probe"}
    assert all(set(point) == {"step", "probe", "train_loss", "train_other"} for point in context.history[1:])


def test_no_steps_give_the_point_of_step_0(tmp_path):
    context = Context(tmp_path, tmp_path / "a")
    run(context, steps=0)
    assert [point["step"] for point in context.history] == [0]


@pytest.mark.parametrize("report_every", [1, 5, 100])
@pytest.mark.parametrize("checkpoint_seconds", [0, 1e9])
def test_first_loss_that_is_not_finite_is_named(tmp_path, report_every, checkpoint_seconds):
    context = Context(tmp_path, tmp_path / "a", checkpoint_seconds=checkpoint_seconds)
    with pytest.raises(Diverged, match="not finite at step 6") as caught:
        run(context, bad_from=6, report_every=report_every)
    assert caught.value.step == 6 and isinstance(caught.value, StageError)
    assert all(point["step"] <= 6 for point in context.history)


def test_no_checkpoint_holds_a_bad_state(tmp_path):
    context = Context(tmp_path, tmp_path / "a", checkpoint_seconds=0)
    with pytest.raises(Diverged):
        run(context, bad_from=6, report_every=100)
    state = context.resume()
    assert state is not None and state["step"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in state["modules"][0].values())


def test_a_network_that_the_last_step_ruined_is_no_result(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=float("inf"))
    with pytest.raises(Diverged, match="not finite at step 1"):
        train(
            model, optimizer, lambda step: {"loss": model(torch.ones(1, 2)).square().mean()}, lambda step: {},
            steps=1, report_every=1, seed=0, context=Context(tmp_path, tmp_path / "a"),
        )  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD), ("lars", LARS)])
def test_optimizer_by_name_over_what_is_to_be_trained(name, kind):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    settings = FinetuneSettings(optimizer=name, learning_rate=0.5, momentum=0.7, weight_decay=0.1)
    optimizer = make_optimizer(settings, model)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert [p.shape for p in group["params"]] == [(1, 2), (1,)]
    assert group["lr"] == 0.5 and group["weight_decay"] == 0.1
    assert name == "adam" or group["momentum"] == 0.7


@pytest.fixture
def fused(monkeypatch):
    """Optimisers as on a GPU; their kernels exist for a CPU, too."""
    monkeypatch.setattr(training, "FUSED_ON", ("cpu",))


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))


def stepped(model, optimizer, numbers):
    """Some steps, each on images of its own."""
    for number in numbers:
        optimizer.zero_grad()
        model(torch.randn(2, 3, 5, 5, generator=generator(number))).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_kernel_for_all_weights_gives_the_same_weights(monkeypatch, optimizer, decay):
    settings, found = FinetuneSettings(optimizer=optimizer, learning_rate=0.01, weight_decay=decay), []
    for device in ("cuda", "cpu"):
        monkeypatch.setattr(training, "FUSED_ON", (device,))
        model = small_network()
        made = make_optimizer(settings, model)
        assert (made.param_groups[0]["fused"] is True) is (device == "cpu")
        stepped(model, made, range(20))
        found.append(model.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lars"])
def test_a_resumed_run_of_one_kernel_equals_an_undisturbed_one(tmp_path, fused, optimizer):
    test_resumed_run_equals_an_undisturbed_one(tmp_path, optimizer)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_kernel_goes_on_from_any_state(fused, monkeypatch, optimizer):
    """That of a plain optimiser, whose moments lie in memory otherwise than the weights."""
    settings = FinetuneSettings(optimizer=optimizer, learning_rate=0.01)
    whole = small_network().to(memory_format=torch.channels_last)
    stepped(whole, make_optimizer(settings, whole), range(6))
    monkeypatch.setattr(training, "FUSED_ON", ())
    model = small_network()
    plain = make_optimizer(settings, model)
    stepped(model, plain, range(3))
    monkeypatch.setattr(training, "FUSED_ON", ("cpu",))
    model.to(memory_format=torch.channels_last)
    again = make_optimizer(settings, model)
    again.load_state_dict(plain.state_dict())
    assert again.param_groups[0]["fused"] is True
    stepped(model, again, range(3, 6))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-6, atol=1e-6)
