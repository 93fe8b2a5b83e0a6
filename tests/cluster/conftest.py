"""Namespace hosts for the tests that ask for them; where they cannot be made, those are skipped with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import hosts, services
from tests.cluster.onprem import BASHRC, OnPremises


@pytest.fixture(scope="module")
def onprem() -> Iterator[OnPremises]:
    """Five hosts with their servers; Ray is not started yet.

    $TRANSFERGRID_KEEP_LOGS: a folder to copy their logs to.
    """
    reason = hosts.lacking() or services.lacking()
    if reason:
        pytest.skip(reason)
    with hosts.Network("desk", "head", "worker1", "worker2", "services", bashrc=BASHRC) as network:
        premises = OnPremises(network)
        try:
            premises.prepare()
            yield premises
        finally:
            if kept := os.environ.get("TRANSFERGRID_KEEP_LOGS"):
                premises.keep_logs(Path(kept))
