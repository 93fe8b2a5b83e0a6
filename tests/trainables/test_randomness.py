"""Random numbers are a function of (seed, purpose, step): independent of order, process and machine."""

import hashlib
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from trainables.randomness import KEPT_ORDERS, _order, batch_indices, derive, generator, seed_everything

ROOT = Path(__file__).resolve().parents[2]


def test_a_seed_is_the_first_63_bits_of_a_sha256():
    digest = hashlib.sha256(b"3/augment/view/7").hexdigest()
    assert derive(3, "augment", "view", 7) == int(digest[:16], 16) >> 1
    assert 0 <= derive(0) < 2**63


def test_seeds_purposes_and_steps_give_different_numbers():
    asked = [(seed, *purpose) for seed in range(30) for purpose in [(), ("a",), ("b",), ("a", 0), ("a", 1), ("a", "b")]]
    assert len({derive(*parts) for parts in asked}) == len(asked)


def test_other_processes_derive_the_same():
    code = "from trainables.randomness import derive, generator; import torch\n"
    code += "print(derive(5, 'split', 2), torch.randint(1 << 40, (3,), generator=generator(5, 'x')).tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": "77"}, capture_output=True, text=True, check=True
    )
    here = torch.randint(1 << 40, (3,), generator=generator(5, "x")).tolist()
    assert done.stdout.strip() == f"{derive(5, 'split', 2)} {here}"


def test_a_generator_does_not_depend_on_what_was_drawn_before():
    first = torch.rand(4, generator=generator(1, "a", 3))
    torch.rand(1000)
    used = generator(1, "a", 2)
    torch.rand(17, generator=used)
    assert torch.equal(first, torch.rand(4, generator=generator(1, "a", 3)))
    assert not torch.equal(first, torch.rand(4, generator=generator(1, "a", 4)))
    assert generator(0).device.type == "cpu"


def test_drawing_leaves_the_global_generator_alone():
    seed_everything(0, "step", 5)
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "a"))
    batch_indices(10, 4, 7, 0, "batches")
    assert torch.equal(before, torch.get_rng_state())


def test_seed_everything_is_manual_seed_of_the_derived_number():
    torch.manual_seed(derive(4, "step", 7))
    expected = torch.rand(5)
    seed_everything(4, "step", 7)
    assert torch.equal(torch.rand(5), expected)


def test_seed_everything_makes_dropout_a_function_of_the_step():
    def dropped(step):
        seed_everything(2, "step", step)
        return torch.nn.functional.dropout(torch.ones(100), 0.5)

    assert torch.equal(dropped(1), dropped(1)) and not torch.equal(dropped(1), dropped(2))


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (7, 7), (3, 8), (1, 4), (16, 16), (5, 1), (2, 9)])
def test_batches_are_shuffled_epochs_laid_end_to_end(count, batch):
    steps = 3 * count
    batches = [batch_indices(count, batch, step, 4, "train") for step in range(steps)]
    assert all(b.shape == (batch,) and b.dtype == torch.int64 for b in batches)
    line = torch.cat(batches).tolist()
    epochs = [line[start : start + count] for start in range(0, len(line) - count + 1, count)]
    assert len(epochs) >= 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    if count > 6:
        assert len({tuple(epoch) for epoch in epochs}) > 1  # each epoch in its own order
    used = Counter(line)
    assert max(used.values()) - min(used.values()) <= 1


def test_a_batch_does_not_depend_on_the_ones_before():
    alone = batch_indices(50, 8, 123, 9, "train")
    for step in range(130):
        batch_indices(50, 8, step, 9, "train")
    assert torch.equal(alone, batch_indices(50, 8, 123, 9, "train"))
    assert not torch.equal(alone, batch_indices(50, 8, 123, 10, "train"))
    assert not torch.equal(alone, batch_indices(50, 8, 123, 9, "validate"))


def plainly(count, batch, step, seed):
    """Without anything kept."""
    epochs = range((step + 1) * batch // count + 1)
    line = [torch.randperm(count, generator=generator(seed, "train", "epoch", epoch)) for epoch in epochs]
    return torch.cat(line)[step * batch : (step + 1) * batch]


def test_orders_that_are_kept_change_no_digit_in_threads_either():
    asked = [(count, batch, step, seed) for step in range(12) for count, batch in ((10, 3), (3, 8)) for seed in (1, 2)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda a: batch_indices(*a, "train"), 3 * asked))
    assert all(torch.equal(one, plainly(*a)) for one, a in zip(found, 3 * asked, strict=True))


def test_an_epoch_is_shuffled_once_and_few_orders_are_kept(monkeypatch):
    made, shuffle = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda count, **options: made.append(count) or shuffle(count, **options))
    _order.cache_clear()
    for step in range(30):  # three epochs of a hundred
        batch_indices(100, 10, step, 7, "train").zero_()  # whoever has a batch may change it
    assert made == [100, 100, 100] and torch.equal(batch_indices(100, 10, 29, 7, "train"), plainly(100, 10, 29, 7))
    for seed in range(20):
        batch_indices(100, 10, 0, seed, "train")
    assert _order.cache_info().currsize == KEPT_ORDERS <= 4
