"""What every store must do. A test of a new one subclasses StoreContract and gives an address."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.record.leases import Lease, LeaseLost, Watch, acquire, holder, process_is_gone
from orchestrator.record.store import Store, StoreError, open_store
from tests.contracts import records
from tests.contracts.store_interleavings import StoreInterleavings

ROOT = Path(__file__).resolve().parents[2]


def _race(uri: str, number: int, keys: list[str], start: Any, won: Any) -> None:
    store = open_store(uri)
    start.wait()
    for key in keys:
        if store.commit(records.commit(key, writer=number, padding="x" * 20_000)):
            won.put((key, number))


class StoreContract(StoreInterleavings):
    """`address`: fixture giving the URI of a place where nothing is yet."""

    def test_a_new_store_is_empty(self, store: Store) -> None:
        assert (store.finished(), store.leases(), store.grids(), store.plans("smoke")) == (set(), {}, [], [])
        assert store.commits(["a"]) == {} == store.failures(["a"])
        assert store.checkpoint("a") is None

    def test_the_first_commit_wins_and_stays(self, store: Store, address: str) -> None:
        first = records.commit("a", metrics={"dice": 0.25}, name="größer – ×100")
        assert store.commit(first) is True
        assert store.commit(records.commit("a", metrics={"dice": 0.5})) is False
        assert store.commit(records.commit("b")) is True
        assert store.finished() == {"a", "b"}
        assert open_store(address).commits(["a", "c"]) == {"a": first}

    def test_of_eight_processes_one_wins_each_commit(self, store: Store, address: str) -> None:
        keys = [f"k{number}" for number in range(25)]
        context = multiprocessing.get_context("spawn")
        start, won = context.Barrier(8), context.Queue()
        racers = [context.Process(target=_race, args=(address, number, keys, start, won)) for number in range(8)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(60)
        assert [racer.exitcode for racer in racers] == [0] * 8
        winners = [won.get(timeout=5) for _ in keys]
        assert won.empty() and sorted(key for key, _ in winners) == sorted(keys)
        records = store.commits(keys)
        assert {key: records[key]["writer"] for key in keys} == dict(winners)
        assert {len(record["padding"]) for record in records.values()} == {20_000}
        assert store.finished() == set(keys)

    def test_a_number_that_is_none_survives(self, store: Store) -> None:
        store.commit(records.commit("a", metrics={"dice": float("nan"), "loss": float("inf")}))
        metrics = store.commits(["a"])["a"]["metrics"]
        assert metrics["dice"] != metrics["dice"] and metrics["loss"] == float("inf")

    def test_artifacts_are_kept_by_attempt(self, store: Store) -> None:
        first = store.put_artifact("a", "one", "weights.safetensors", b"\x00\x01" * 50_000)
        store.put_artifact("a", "onetwo", "weights.safetensors", b"other")
        assert store.artifact(first) == b"\x00\x01" * 50_000
        store.drop_attempt("a", "onetwo")
        assert store.artifact(first)
        store.drop_attempt("a", "one")
        store.drop_attempt("a", "never")
        with pytest.raises(StoreError, match=r"weights\.safetensors is missing although a commit names it") as caught:
            store.artifact(first)
        assert store.uri in str(caught.value)

    def test_dropping_an_attempt_leaves_those_with_a_longer_name(self, store: Store) -> None:
        store.put_artifact("a", "one", "x", b"1")
        longer = store.put_artifact("a", "onetwo", "x", b"2")
        store.drop_attempt("a", "one")
        assert store.artifact(longer) == b"2"

    def test_a_checkpoint_is_replaced_and_dropped(self, store: Store) -> None:
        store.save_checkpoint("a", 1, b"first and longer")
        store.save_checkpoint("a", 1, b"second")
        assert store.checkpoint("a") == b"second"
        store.drop_checkpoints("a")
        store.drop_checkpoints("a")
        assert store.checkpoint("a") is None

    def test_checkpoints_are_kept_by_holder(self, store: Store) -> None:
        for number in (2, 10, 9):
            store.save_checkpoint("a", number, b"%d" % number)
        store.save_checkpoint("aa", 11, b"of another stage")
        found = {upto: store.checkpoint("a", upto) for upto in (1, 2, 9, 10, 99, None)}
        assert found == {1: None, 2: b"2", 9: b"9", 10: b"10", 99: b"10", None: b"10"}
        store.drop_checkpoints("a", upto=9)
        assert [item.path for item in store.items("checkpoints")] == [
            "checkpoints/a/000010.pt", "checkpoints/aa/000011.pt"
        ]  # fmt: skip

    def test_one_of_many_takers_holds_a_stage(self, store: Store) -> None:
        first = acquire(store, "a", holder("one"))
        assert first is not None and acquire(store, "a", holder("two")) is None
        first.renew(3, 9)
        beat = store.leases()["a"]
        assert (beat["run"], beat["step"], beat["steps"], beat["number"]) == ("one", 3, 9, 1)
        assert not process_is_gone(beat)

    def test_who_was_taken_over_notices_and_changes_nothing(self, store: Store) -> None:
        paused = acquire(store, "a", holder("one"))
        taker = acquire(store, "a", holder("two"), over=1)
        assert paused is not None and taker is not None
        assert acquire(store, "a", holder("three"), over=1) is None  # only one follows a dead lease
        with pytest.raises(LeaseLost):
            paused.renew(5, 9)
        paused.release()
        assert store.leases()["a"]["run"] == "two" and store.leases()["a"].get("released") is None
        taker.end()
        assert store.leases() == {}
        with pytest.raises(LeaseLost):
            taker.renew(6, 9)
        assert store.leases() == {}

    def test_a_released_stage_is_free_and_its_number_is_not_given_again(self, store: Store) -> None:
        first = acquire(store, "a", holder("one"))
        assert first is not None
        first.release()
        second = acquire(store, "a", holder("two"))
        assert second is not None and second.number == 2
        with pytest.raises(LeaseLost):
            first.renew(1, 9)

    def test_the_number_of_a_finished_stage_is_not_given_again(self, store: Store) -> None:
        """Neither by its end, nor by a second end, nor by the end of somebody with a lower number."""
        numbers = []
        for _ in range(3):
            lease = acquire(store, "a", holder("one"), over=1)
            assert lease is not None
            numbers.append(lease.number)
            lease.end()
            lease.end()
            Lease(store, "a", 1, {}).end()
            assert store.leases() == {} and store.latest_lease("a") == (lease.number, True)
        assert numbers == [2, 3, 4] and (store.items("leases"), len(store.items("ended"))) == ([], 1)

    def test_a_standing_beat_is_dead_by_the_watchers_own_clock(self, store: Store) -> None:
        lease = acquire(store, "a", {**holder("one"), "space": "another host"})
        assert lease is not None
        watch = Watch(seconds=0.2)
        assert watch.dead(store.leases().values()) == {}
        time.sleep(0.15)
        lease.renew(1, 9)
        assert watch.dead(store.leases().values()) == {}
        time.sleep(0.25)
        assert watch.dead(store.leases().values()) == {"a": 1}

    def test_a_holder_whose_process_is_gone_needs_no_waiting(self, store: Store) -> None:
        code = "import sys; from orchestrator.record.leases import *; from orchestrator.record.store import open_store;"
        code += "acquire(open_store(sys.argv[1]), 'a', holder('one'))"
        subprocess.run([sys.executable, "-c", code, store.uri], check=True, cwd=ROOT)
        assert Watch(seconds=1e9).dead(store.leases().values()) == {"a": 1}

    def test_the_last_failure_is_kept(self, store: Store) -> None:
        store.fail(records.failure("a", error="first"))
        store.fail(records.failure("a", error="second", traceback="line\nline"))
        assert store.failures(["a", "b"])["a"]["error"] == "second"
        assert store.finished() == set()
        store.commit(records.commit("a"))
        assert store.finished() == {"a"} and set(store.failures(["a"])) == {"a"}

    def test_plans_by_age_and_by_name(self, store: Store) -> None:
        for plan in ("20261121T100000000Z-b", "20261121T100000001Z-a", "20261120T235959999Z-c"):
            store.save_plan(records.plan("p1-table2", plan))
        store.save_plan(records.plan("p1-table", "x", title="another"))
        assert store.grids() == ["p1-table", "p1-table2"]
        assert store.plans("p1-table2")[0].startswith("20261120")
        assert store.load_plan("p1-table2")["plan"] == "20261121T100000001Z-a"
        assert store.load_plan("p1-table2", "20261120T235959999Z-c")["plan"] == "20261120T235959999Z-c"
        assert store.load_plan("p1-table")["title"] == "another"

    def test_a_plan_that_is_not_there(self, store: Store) -> None:
        with pytest.raises(StoreError, match=r"no plan of grid 'smoke'; it holds plans of no grid at all") as caught:
            store.load_plan("smoke")
        assert store.uri in str(caught.value)
        for number in range(7):
            store.save_plan(records.plan("smoke", f"id{number}"))
        with pytest.raises(StoreError, match=r"no plan of grid '\.\./smoke'; it holds plans of smoke"):
            store.load_plan("../smoke")
        with pytest.raises(
            StoreError, match=r"grid 'smoke' has no plan 'id9'; its newest are id6, id5, id4, id3, id2$"
        ):
            store.load_plan("smoke", "id9")
        with pytest.raises(StoreError, match="has no plan"):
            store.load_plan("smoke", "../smoke/id1")

    def test_the_probe_leaves_nothing_behind(self, store: Store) -> None:
        store.probe("driver")
        store.probe("driver")
        assert store.items("probes") == []
