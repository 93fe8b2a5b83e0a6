"""A longer pretraining goes on from a shorter one's final state, and gives the digits of one that never stopped."""

import io

import pytest
import torch

from tests.trainables.test_pretrain import METHODS, Interrupted, Preempted, assert_same, stage_of
from trainables.context import Context, StageError
from trainables.pretexts.pretrain import pretrain

SHORT, LONG = 10, 20


def run(method, path, name, steps, *, cls=Context, prefix=None, keep=(), **dials):
    """(result, context) of a stage of so many steps."""
    dials = {"steps": steps, "report_every": 4, "batch": 4} | dials
    asked, context = stage_of(method, path, name, cls, dials=dials, prefix=prefix, keep_at=keep)
    return pretrain(asked, context), context


def through_a_file(state):
    """As a store keeps it: nothing in it may run code when it is read."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), map_location="cpu", weights_only=True)


@pytest.mark.parametrize("method", METHODS)
def test_ten_steps_and_then_ten_more_are_twenty(tmp_path, method):
    at_once, undisturbed = run(method, tmp_path, "at once", LONG, keep=[LONG])
    _, short = run(method, tmp_path, "short", SHORT, keep=[SHORT])
    longer, context = run(method, tmp_path, "longer", LONG, prefix=through_a_file(short.kept[SHORT]), keep=[LONG])
    assert longer.facts["resumed_from"] == SHORT and at_once.facts["resumed_from"] == 0
    assert_same(longer, at_once)
    assert context.history == undisturbed.history  # without the point at step 10, which a run of 20 does not have
    ours, theirs = (kept["modules"][0] for kept in (context.kept[LONG], undisturbed.kept[LONG]))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    if method.startswith(("byol", "moco")):
        assert any(name.startswith("target.encoder.") for name in ours)


def test_any_optimiser_goes_on(tmp_path):
    for name in ("adam", "sgd", "lars"):
        dials = {"optimizer": name, "learning_rate": 0.01}
        at_once, _ = run("simclr", tmp_path, f"at once {name}", 6, **dials)
        _, short = run("simclr", tmp_path, f"short {name}", 3, keep=[3], **dials)
        assert_same(run("simclr", tmp_path, f"longer {name}", 6, prefix=short.kept[3], **dials)[0], at_once)


def test_a_state_serves_many_runs(tmp_path):
    """Two longer runs from one state in memory: the first leaves it as it was."""
    _, short = run("byol", tmp_path, "short", 3, keep=[3], optimizer="adam")
    first, second = (run("byol", tmp_path, name, 6, prefix=short.kept[3], optimizer="adam")[0] for name in "ab")
    assert_same(first, second)


def test_a_longer_run_that_is_interrupted_resumes_from_its_own_checkpoint(tmp_path):
    at_once, undisturbed = run("byol", tmp_path, "at once", 6)
    _, short = run("byol", tmp_path, "short", 3, keep=[3])
    assert Interrupted.dies_at > 3
    with pytest.raises(Preempted):
        run("byol", tmp_path, "longer", 6, cls=Interrupted, prefix=short.kept[3])
    resumed, context = run("byol", tmp_path, "longer", 6, prefix=short.kept[3])
    assert resumed.facts["resumed_from"] == Interrupted.dies_at
    assert_same(resumed, at_once)
    assert context.history == undisturbed.history


def test_a_run_of_the_same_length_is_that_run(tmp_path):
    short, before = run("simclr", tmp_path, "short", 5, keep=[5])
    same, context = run("simclr", tmp_path, "same", 5, prefix=before.kept[5])
    assert_same(same, short)
    assert context.history == before.history


def test_a_state_kept_on_the_way_is_that_of_a_run_that_ends_there(tmp_path):
    _, long = run("byol", tmp_path, "long", 9, keep=[5])
    alone, _ = run("byol", tmp_path, "alone", 5)
    ended, _ = run("byol", tmp_path, "ended", 5, prefix=long.kept[5])
    assert_same(ended, alone)
    assert_same(run("byol", tmp_path, "longer", 9, prefix=long.kept[5])[0], run("byol", tmp_path, "at once", 9)[0])


def test_epochs_become_steps_and_go_on_alike(tmp_path):
    """36 training images in batches of 4: 9 steps an epoch, and a broken batch counts as one."""
    at_once, _ = run("simclr", tmp_path, "at once", 1, epochs=2)
    assert at_once.facts["steps"] == 18
    short, context = run("simclr", tmp_path, "short", 1, epochs=0.5, keep=[5])
    assert short.facts["steps"] == 5 and context.history[-1]["step"] == 5
    longer, _ = run("simclr", tmp_path, "longer", 99, epochs=2, prefix=context.kept[5])
    assert_same(longer, at_once)
    assert run("simclr", tmp_path, "tenth", 1, epochs=0.3, batch=3)[0].facts["steps"] == 4  # 3.6 up, by decimals


def test_a_run_of_other_settings_is_refused(tmp_path):
    _, short = run("simclr", tmp_path, "short", 3, keep=[3])
    with pytest.raises(StageError, match=r"trained otherwise; expected equal settings .*batch\": 4.* for .*batch\": 6"):
        run("simclr", tmp_path, "other", 6, batch=6, prefix=short.kept[3])


def test_a_longer_run_is_no_prefix(tmp_path):
    _, short = run("simclr", tmp_path, "short", 3, keep=[3])
    with pytest.raises(StageError, match="has 3 steps; expected at most 2"):
        run("simclr", tmp_path, "shorter", 2, prefix=short.kept[3])


def test_no_state_is_kept_unasked(tmp_path):
    assert run("simclr", tmp_path, "short", 2)[1].kept == {}
