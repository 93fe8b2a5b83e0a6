"""Hostile orders of events that every store must bear: late writers, woken sleepers, kills in mid-write.

Part of `StoreContract`. The sleepers of `processes` are real processes, stopped by SIGSTOP just before a write.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.record.leases import Lease, LeaseLost, acquire, holder
from orchestrator.record.store import Store, open_store
from tests.contracts import records

ROOT = Path(__file__).resolve().parents[2]
SLEEPER, TAKER = "sleeper", "taker"
WRITES = ("checkpoint", "lease", "artifact", "commit", "failure")
ORDERS = list(itertools.permutations(WRITES))


def content(who: str) -> bytes:
    return who.encode() * 3000


def write(store: Store, key: str, number: int, what: str, who: str) -> object:
    """One of the writes of a stage's worker, without the look at its lease that precedes it."""
    return {
        "checkpoint": lambda: store.save_checkpoint(key, number, content(who)),
        "lease": lambda: store.write_lease(key, number, {**holder(who), "key": key, "number": number, "beat": 1.0}),
        "artifact": lambda: store.put_artifact(key, who, "weights", content(who)),
        "commit": lambda: commit(store, key, who),
        "failure": lambda: store.fail(records.failure(key, error=who)),
    }[what]()


def commit(store: Store, key: str, who: str) -> bool:
    """As a worker does it: the files, then the commit; who is too late drops its files."""
    path = store.put_artifact(key, who, "weights", content(who))
    created = store.commit(records.commit(key, attempt=who, artifacts={"weights": path}))
    if not created:
        store.drop_attempt(key, who)
    return created


def finish(store: Store, lease: Lease, who: str) -> bool:
    created = commit(store, lease.key, who)
    lease.end()
    store.drop_checkpoints(lease.key)
    return created


def two_holders(store: Store, address: str, key: str) -> tuple[Lease, Lease]:
    """A sleeper that had saved a checkpoint, and who took over and has saved one since."""
    sleeper = acquire(open_store(address), key, holder(SLEEPER))
    assert sleeper is not None
    sleeper.store.save_checkpoint(key, 1, content(SLEEPER))
    return sleeper, take_over(store, key)


def take_over(store: Store, key: str) -> Lease:
    taker = acquire(store, key, holder(TAKER), over=1)
    assert taker is not None and store.checkpoint(key, taker.number) == content(SLEEPER)
    store.save_checkpoint(key, taker.number, content(TAKER))
    store.drop_checkpoints(key, upto=taker.number - 1)
    return taker


def check_held(store: Store, key: str) -> None:
    """The taker holds the stage, its checkpoint is the one to resume from, and it may go on."""
    assert store.leases()[key]["run"] == TAKER and store.checkpoint(key, 2) == content(TAKER)
    assert acquire(store, key, holder("a third")) is None
    if key in store.finished():  # by the sleeper, which was before it
        check_whole(store, key, SLEEPER)


def check_whole(store: Store, key: str, who: str) -> None:
    record = store.commits([key])[key]
    assert record == records.commit(key, attempt=who, artifacts={"weights": f"artifacts/{key}/{who}/weights"})
    assert store.artifact(record["artifacts"]["weights"]) == content(who)


class StoreInterleavings:
    """`orders`: how many of the 120 orders of a sleeper's writes are tried."""

    orders = 20

    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, address: str) -> Store:
        return open_store(address, create=True)

    def test_of_several_committers_only_the_winners_files_stay(self, store: Store, address: str) -> None:
        keys, people = [f"k{number}" for number in range(5)], ("one", "two", "three", "four")
        barrier = threading.Barrier(len(people))

        def work(who: str) -> list[str]:
            mine, won = open_store(address), []
            for key in keys:
                barrier.wait(30)
                won += [key] if commit(mine, key, who) else []
            return won

        with ThreadPoolExecutor(len(people)) as pool:
            won = dict(zip(people, pool.map(work, people), strict=True))
        assert sorted(key for of_one in won.values() for key in of_one) == keys
        for who, of_one in won.items():
            for key in of_one:
                check_whole(store, key, who)
        assert len(store.items("artifacts")) == len(keys)

    def test_a_sleeper_writes_in_any_order_around_the_takers_end(self, store: Store, address: str) -> None:
        chosen = random.Random(0).sample(list(enumerate(ORDERS)), self.orders)
        for number, order in chosen:
            key = f"k{number}"
            sleeper, taker = two_holders(store, address, key)
            end = number % (len(WRITES) + 1)  # the taker finishes after so many writes of the sleeper
            first = SLEEPER if "commit" in order[:end] else TAKER
            for what in order[:end]:
                write(sleeper.store, key, 1, what, SLEEPER)
                check_held(store, key)
            assert finish(store, taker, TAKER) is (first == TAKER)
            for what in order[end:]:
                write(sleeper.store, key, 1, what, SLEEPER)
                check_whole(store, key, first)
                assert key not in store.leases()
            with pytest.raises(LeaseLost):
                sleeper.renew(8, 9)
            next_one = acquire(store, key, holder("a third"))
            assert next_one is not None and next_one.number == 3  # nobody is kept out, and no number is given twice
            next_one.end()

    def test_a_sleeper_that_commits_first_ends_the_takers_lease(self, store: Store, address: str) -> None:
        sleeper, taker = two_holders(store, address, "a")
        assert finish(sleeper.store, sleeper, SLEEPER) is True
        with pytest.raises(LeaseLost):
            taker.renew(8, 9)
        store.save_checkpoint("a", taker.number, content(TAKER))  # it was about to
        assert finish(store, taker, TAKER) is False
        check_whole(store, "a", SLEEPER)
        assert [item.path for item in store.items("artifacts")] == ["artifacts/a/sleeper/weights"]
        assert store.items("checkpoints") == [] and store.latest_lease("a") == (2, True)

    @pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
    def test_a_process_stopped_before_a_write_and_woken_after_it_was_taken_over(
        self, store: Store, address: str
    ) -> None:
        started = {what: Sleeper(address, what) for what in WRITES}
        try:
            for what, sleeper in started.items():
                sleeper.wait_until_stopped()
                taker = take_over(store, what)
                if what != "commit":  # the first commit would win; that is tried above
                    sleeper.wake()
                    sleeper.wait_until_stopped()  # it has written, and sleeps again
                    check_held(store, what)
                assert finish(store, taker, TAKER) is True
                sleeper.wake()
            for what, sleeper in started.items():
                assert sleeper.end() == {"commit": "second\n"}.get(what, "lost\n")
                check_whole(store, what, TAKER)
                assert store.latest_lease(what) == (2, True)
        finally:
            for sleeper in started.values():
                sleeper.kill()
        assert store.leases() == {}
        left = {item.path for item in store.items("artifacts")}
        assert left == {f"artifacts/{what}/{TAKER}/weights" for what in WRITES} | {"artifacts/artifact/sleeper/weights"}

    def test_a_reader_never_sees_a_torn_file(self, store: Store, address: str) -> None:
        """Checkpoints, leases and failures are replaced while three threads read them."""
        sizes = random.Random(0).choices(range(1, 400_000), k=40)
        store.save_checkpoint("a", 1, b"\0" * 10)
        held = {**holder("one"), "key": "a", "number": 1, "started": 1.0, "beat": 1.0, "step": 0, "steps": 0}
        store.write_lease("a", 1, {**held, "padding": "0" * 10})
        done = threading.Event()

        def read() -> int:
            mine, reads = open_store(address), 0
            while not done.is_set():
                state, lease = mine.checkpoint("a"), mine.lease("a", 1)
                assert state and state.count(state[0]) == len(state), "a mixture"
                assert len(set(lease["padding"])) == 1  # a torn one would be no JSON, hence empty
                assert {item.path for item in mine.items("checkpoints")} == {"checkpoints/a/000001.pt"}
                reads += 1
            return reads

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            try:
                for number, size in enumerate(sizes):
                    store.save_checkpoint("a", 1, bytes([number]) * size)
                    store.write_lease("a", 1, {**held, "padding": chr(65 + number) * (size // 10 + 1)})
            finally:
                done.set()
            assert all(reader.result(60) for reader in readers)

    def test_a_writer_killed_in_mid_write_leaves_nothing_that_is_read(self, store: Store, address: str) -> None:
        size = 8_000_000
        code = "import sys; from orchestrator.record.store import open_store; store = open_store(sys.argv[1])\n"
        code += "for n in range(1, 256):\n"
        code += f"  store.put_artifact(sys.argv[2], str(n), 'weights', bytes([n]) * {size}); print(n, flush=True)"
        for kill in range(3):
            process = subprocess.Popen([sys.executable, "-c", code, address, f"k{kill}"], cwd=ROOT, stdout=-1)
            assert process.stdout is not None and process.stdout.readline() == b"1\n"
            time.sleep(0.004 * kill)
            process.kill()
            process.wait()
            process.stdout.close()
        found = store.items("artifacts")
        assert len(found) >= 3
        for item in found:
            data = store.artifact(item.path)
            assert item.size == size == data.count(int(item.path.split("/")[2])) == len(data)
        assert store.put_artifact("k0", "1", "weights", b"again") and store.artifact("artifacts/k0/1/weights")


class Sleeper:
    """A worker in a process of its own that stops itself by SIGSTOP before and after one of its writes."""

    def __init__(self, address: str, what: str) -> None:
        command = [sys.executable, "-m", "tests.contracts.store_interleavings", address, what]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def wait_until_stopped(self) -> None:
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"ended with {status}"

    def wake(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def end(self) -> str:
        """What it said, once it has ended; it may stop on the way."""
        assert self._process.stdout is not None
        while os.WIFSTOPPED(status := os.waitpid(self._process.pid, os.WUNTRACED)[1]):
            self.wake()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        assert self._process.returncode == 0
        return self._process.stdout.read()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def sleeper_main(address: str, what: str) -> None:
    """A stage's worker as the product's: it looks at its lease, stops, writes, stops, and goes on to its end."""
    store = open_store(address)
    lease = acquire(store, what, holder(SLEEPER))
    assert lease is not None
    store.save_checkpoint(what, 1, content(SLEEPER))
    if what == "lease":
        _stop_around(store, "write_lease")
        lease.renew(5, 9)
    else:
        lease.renew(5, 9)
        _stop()
        if what == "commit":
            created = finish(store, lease, SLEEPER)
            print("first" if created else "second")
            return
        write(store, what, 1, what, SLEEPER)
        _stop()
    try:
        lease.renew(6, 9)
    except LeaseLost:
        print("lost")


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _stop_around(store: Store, method: str) -> None:
    """Let the process stop between the look at the lease and the write, which are one call."""
    whole: Callable[..., Any] = getattr(store, method)

    def stopping(*args: Any, **how: Any) -> Any:
        _stop()
        result = whole(*args, **how)
        _stop()
        return result

    setattr(store, method, stopping)


if __name__ == "__main__":
    sleeper_main(*sys.argv[1:])
