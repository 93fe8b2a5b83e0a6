"""The trial stage: a pretrain that says how good it is, may be given up, and shares its steps with longer and shorter
ones. Compared with plain pretrain and finetune stages."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables.data_trees import folder_set, save_image, save_mask
from tests.trainables.test_prefix import through_a_file
from tests.trainables.test_pretrain import context, spec
from trainables.context import Context, StageError
from trainables.data import DataError, hold_out, open_dataset, split, survey
from trainables.downstream.finetune import finetune
from trainables.pretexts.pretrain import pretrain
from trainables.pretexts.trial import _value, trial

LENGTHS = (2, 4, 8)


def trial_spec(steps=8, rungs=(), objective=None, method="reconstruction", **dials):
    asked = spec(method, **{"steps": steps, "report_every": 2, "batch": 4, "optimizer": "adam", **dials})
    judged = objective or {"kind": "validation", "metric": "val_loss", "direction": "minimize"}
    return {**asked, "study": "a study", "objective": judged, "rungs": [rung for rung in rungs if rung < steps]}


def plain(asked):
    return {name: value for name, value in asked.items() if name not in ("study", "objective", "rungs")}


class Shared(Context):
    """Trials of equal settings around one table of states, as a store keeps them. Counts the steps really trained."""

    def __init__(self, *args, states, steps, stops=(), **more):
        super().__init__(*args, keep_at=[n for n in LENGTHS if n <= steps], **more)
        self.states, self.steps, self.stops, self.trained = states, steps, stops, []

    def prefix_state(self):
        known = [step for step in self.states if step <= self.steps]
        return self.states[max(known)] if known else None

    def keep(self, step, state):
        self.states[step] = through_a_file(state)

    def progress(self, step, steps):
        self.trained.append(step)

    def give_up(self, step, value):
        return step in self.stops


def shared(path, name, states, steps, **more):
    return context(path, name, Shared, states=states, steps=steps, **more)


def undisturbed(path, name, asked):
    about = context(path, name)
    return pretrain(plain(asked), about), about


def assert_like(result, alone):
    """A trial's metrics and weights are those of the plain pretrain, digit for digit."""
    assert {name: value for name, value in result.metrics.items() if name != "objective"} == alone.metrics
    assert result.weights.keys() == alone.weights.keys()
    assert all(torch.equal(result.weights[name], alone.weights[name]) for name in alone.weights)


@pytest.mark.parametrize("order", list(itertools.permutations(LENGTHS)))
def test_trials_over_lengths_train_what_the_longest_alone_does(tmp_path, order):
    states, trained = {}, []
    for steps in order:
        about = shared(tmp_path, f"trial {steps}", states, steps)
        result = trial(trial_spec(steps), about)
        trained += about.trained
        assert result.facts["steps_run"] == len(about.trained) and result.facts["pruned_at"] is None
        alone, curve = undisturbed(tmp_path, f"alone {steps}", trial_spec(steps))
        assert_like(result, alone)
        assert result.metrics["objective"] == alone.metrics["val_loss"]
        assert about.history == curve.history
    assert sorted(trained) == list(range(1, max(LENGTHS) + 1))  # each step once


def test_lengths_off_the_curve_give_the_digits_of_a_plain_run_too(tmp_path):
    """Only the training loss of that step is not in the curve; grids round lengths to points of it."""
    states = {}
    for steps in (8, 4):  # points at 0, 3, 6, and at the end
        about = shared(tmp_path, f"trial {steps}", states, steps)
        result = trial(trial_spec(steps, report_every=3), about)
        alone, curve = undisturbed(tmp_path, f"alone {steps}", trial_spec(steps, report_every=3))
        assert_like(result, alone)
        seen, expected = (
            [{name: value for name, value in point.items() if not name.startswith("train_")} for point in history]
            for history in (about.history, curve.history)
        )
        assert seen == expected
    assert about.trained == []


def test_a_rung_changes_nothing_but_what_is_told(tmp_path):
    about = shared(tmp_path, "with", {}, 8)
    judged = trial(trial_spec(rungs=(2, 4)), about)
    alone, curve = undisturbed(tmp_path, "without", trial_spec())
    assert_like(judged, alone)
    assert [{k: v for k, v in point.items() if k != "objective"} for point in about.history] == curve.history
    by_step = {point["step"]: point["val_loss"] for point in curve.history}
    assert judged.facts["objective"] == {str(step): by_step[step] for step in (2, 4, 8)}


def test_given_up_at_a_rung_it_trains_not_a_step_more(tmp_path):
    about = shared(tmp_path, "trial", {}, 8, stops=(4,))
    result = trial(trial_spec(rungs=(2, 4)), about)
    _, curve = undisturbed(tmp_path, "alone", trial_spec())
    assert about.trained == [1, 2, 3]  # the fourth step is told of after its point, and there it ended
    assert result.weights == {}
    assert (result.facts["pruned_at"], result.facts["steps_run"]) == (4, 4)
    assert result.metrics["objective"] == curve.history[2]["val_loss"] and curve.history[2]["step"] == 4
    assert [point["step"] for point in about.history] == [0, 2, 4]


def test_rungs_passed_before_an_interruption_are_told_after_it(tmp_path):
    class Dies(Shared):
        def checkpoint_due(self):
            return True

        def progress(self, step, steps):
            if step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trial(trial_spec(rungs=(2, 4)), context(tmp_path, "trial", Dies, states={}, steps=8))
    resumed = shared(tmp_path, "trial", {}, 8)
    result = trial(trial_spec(rungs=(2, 4)), resumed)
    assert resumed.trained == [6, 7, 8]
    assert result.facts["objective"] == trial(trial_spec(rungs=(2, 4)), context(tmp_path, "new")).facts["objective"]


def test_an_objective_that_is_no_metric_or_no_number_is_told(tmp_path):
    wrong = {"kind": "validation", "metric": "val_dice", "direction": "maximize"}
    with pytest.raises(StageError, match=r"'val_dice' is no metric of this pretext; it has .*val_loss"):
        trial(trial_spec(2, objective=wrong), context(tmp_path))
    for value in (math.nan, math.inf):
        with pytest.raises(StageError, match=f"val_dice was {value} at step 4"):
            _value(wrong, 4, {"val_dice": value}, dict, context(tmp_path))


# Downstream: the Dice of a small finetune on images held out of the training part.

NAMES = [f"p{number}" for number in range(14)]
TRAIN, TEST = NAMES[:10], NAMES[10:]


def dataset(root, name, train=TRAIN, test=TEST):
    return folder_set(root / name, len(NAMES), splits={"train": train, "test": test})


def downstream(name, scenario="seg-enc", **data):
    dials = {"steps": 3, "batch": 4, "input_size": 32, "report_every": 3, "learning_rate": 0.003}
    asked = {
        "scenario": scenario, "frozen": False, "network": {"name": "conrec-unet", "width": 4},
        "data": {"reader": "folder", "options": {"path": name}, "fraction": None, "n_train": None} | data,
        "finetune": dials, "backend": {"threads": 1}, "seed": 3,
    }  # fmt: skip
    return {"kind": "downstream", "metric": "dice", "direction": "maximize", "finetune": asked}


def test_downstream_is_a_finetune_on_images_held_out_of_training(tmp_path):
    """Against a plain finetune on a data set whose lists say the same."""
    dataset(tmp_path, "set")
    listing = open_dataset("folder", tmp_path, {"path": "set"})
    held = hold_out(split(listing, None, None, 3), 0.3)
    name_of = {number: image.removeprefix("images/")[:-4] for number, image in enumerate(listing.images)}
    train, test = ([name_of[n] for n in part] for part in (held.train, held.evaluation))
    assert len(test) == 3 and set(test) < set(TRAIN) and set(train) == set(TRAIN) - set(test)
    dataset(tmp_path, "by hand", train, test)
    result = trial(trial_spec(objective=downstream("set", held_out=0.3)), context(tmp_path, "trial"))
    alone, _ = undisturbed(tmp_path, "alone", trial_spec())
    assert all(torch.equal(result.weights[name], alone.weights[name]) for name in alone.weights)
    below = finetune(
        downstream("by hand")["finetune"], context(tmp_path, "finetune", parents={"pretrain": alone.weights})
    )
    assert result.metrics["objective"] == below.metrics["dice"]
    assert result.metrics["val_loss"] == alone.metrics["val_loss"]


def test_downstream_at_rungs_leaves_training_as_it_was(tmp_path):
    dataset(tmp_path, "set")
    about = shared(tmp_path, "trial", {}, 8)
    result = trial(trial_spec(rungs=(4,), objective=downstream("set", held_out=0.3)), about)
    alone, _ = undisturbed(tmp_path, "alone", trial_spec())
    assert_like(result, alone)
    short = trial(trial_spec(4, objective=downstream("set", held_out=0.3)), shared(tmp_path, "short", {}, 4))
    assert result.facts["objective"]["4"] == short.metrics["objective"]


def test_what_evaluates_cannot_reach_a_study(tmp_path):
    """Other pictures and masks of the evaluation part: the study sees the same values, an evaluation does not."""
    for name in ("one", "other"):
        dataset(tmp_path, name)
    for number, stem in enumerate(TEST):
        save_image(tmp_path / "other" / "images" / f"{stem}.png", seed=100 + number)
        save_mask(tmp_path / "other" / "masks" / f"{stem}.png", [255, 0, 255, 255])
    values, evaluated = [], []
    for name in ("one", "other"):
        result = trial(trial_spec(objective=downstream(name, held_out=0.3)), context(tmp_path, f"trial {name}"))
        values.append(result.facts["objective"])
        about = context(tmp_path, f"finetune {name}", parents={"pretrain": result.weights})
        evaluated.append(finetune(downstream(name)["finetune"], about).metrics["dice"])
    assert values[0] == values[1]
    assert evaluated[0] != evaluated[1]


def test_changed_training_images_do_reach_it(tmp_path):
    """The check above could not tell if nothing did."""
    values = []
    for name in ("one", "other"):
        dataset(tmp_path, name)
        if name == "other":
            for stem in TRAIN:
                path = tmp_path / name / "masks" / f"{stem}.png"
                Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
        values.append(trial(trial_spec(objective=downstream(name, held_out=0.3)), context(tmp_path, name)).facts)
    assert values[0]["objective"] != values[1]["objective"]


def test_data_of_the_objective_changed_since_the_plan_are_refused(tmp_path):
    dataset(tmp_path, "set")
    objective = {**downstream("set", held_out=0.3), "data": "another fingerprint"}
    with pytest.raises(DataError, match="files have changed since"):
        trial(trial_spec(2, objective=objective), context(tmp_path, "trial"))
    known = survey(open_dataset("folder", tmp_path, {"path": "set"}), cache_dir=tmp_path / "cache").fingerprint
    trial(trial_spec(2, objective={**objective, "data": known}), context(tmp_path, "trial"))
