"""Studies in a store: what was proposed, how trials stood at their rungs, states to go on from, and who won.

    studies/STUDY/trials/NUMBER.json         a proposal, created if absent: of two drivers only one gives a number away
    studies/STUDY/values/KEY/STEP.json       the objective of a trial at a rung
    studies/STUDY/states/FAMILY/STEP.pt      training state at a length, for longer trials of equal settings
    studies/STUDY/conclusions/TRIALS.json    the winner among so many trials

How a trial ended is in `commits/` and `failures/`, as of every stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from orchestrator.record import documents
from orchestrator.record.backend import Backend, StoreError
from orchestrator.record.documents import Record
from orchestrator.record.shape import ARTIFACT


class WeightsDropped(StoreError):
    """The weights of a trial that lost are asked for. The message is for the user."""


class Studies:
    """The part of a store that keeps studies."""

    _backend: Backend

    def propose(self, study: str, number: int, record: Mapping[str, Any]) -> bool:
        """Give a trial its number. False: somebody else has given that number to another."""
        return documents.write(self._backend, f"studies/{study}/trials/{number:04d}.json", record, create=True)

    def proposals(self, study: str) -> list[Record]:
        """All trials of a study, by number."""
        paths = sorted(documents.names(self._backend, f"studies/{study}/trials"))
        return [record for path in paths if (record := documents.read(self._backend, path)) is not None]

    def studies(self) -> list[str]:
        """The keys of all studies."""
        return sorted({path.split("/")[1] for path in documents.names(self._backend, "studies")})

    def put_value(self, study: str, key: str, step: int, value: float) -> None:
        """Keep the objective of a trial at a rung."""
        documents.write(self._backend, f"studies/{study}/values/{key}/{step:09d}.json", {"value": value}, sync=False)

    def values(self, study: str) -> dict[str, dict[int, float]]:
        """Trial key -> step -> objective, of all rungs that were reached."""
        found: dict[str, dict[int, float]] = {}
        for path in sorted(documents.names(self._backend, f"studies/{study}/values")):
            record = documents.read(self._backend, path)
            if record is not None:
                found.setdefault(path.split("/")[3], {})[int(PurePosixPath(path).stem)] = record["value"]
        return found

    def save_state(self, study: str, family: str, step: int, data: bytes) -> None:
        """Keep a training state for longer trials of the same family."""
        self._backend.put(f"studies/{study}/states/{family}/{step:09d}.pt", data)

    def state(self, study: str, family: str, most: int) -> bytes | None:
        """The longest state of a family of at most `most` steps, None where there is none."""
        paths = sorted(self._backend.paths(f"studies/{study}/states/{family}"), reverse=True)
        for path in paths:
            if int(PurePosixPath(path).stem) <= most and (data := self._backend.get(path)) is not None:
                return data
        return None

    def conclude(self, study: str, trials: int, winner: Mapping[str, Any]) -> None:
        """Keep who won among `trials` trials that have ended."""
        documents.write(self._backend, f"studies/{study}/conclusions/{trials:04d}.json", winner)

    def conclusions(self, study: str) -> dict[int, Record]:
        """Number of trials -> the winner among them."""
        paths = documents.names(self._backend, f"studies/{study}/conclusions")
        found = {int(PurePosixPath(path).stem): documents.read(self._backend, path) for path in sorted(paths)}
        return {number: record for number, record in found.items() if record is not None}

    def drop_states(self, study: str) -> None:
        """Delete the states of a study that is over."""
        paths = list(self._backend.paths(f"studies/{study}/states"))
        self._backend.delete(paths)
        for path in paths:
            self._backend.remove_empty(str(PurePosixPath(path).parent))

    def _refuse_dropped(self, path: str) -> None:
        """Raise WeightsDropped where `path`, which is missing, are the weights of a trial that lost."""
        record = documents.read(self._backend, f"commits/{path.split('/')[1]}.json") or {}
        study = record.get("study")
        if study and record.get("artifacts", {}).get("weights") == path and self.conclusions(study):
            raise WeightsDropped(
                f"store {self._backend.uri}: the weights of trial {record['key']} ({record['name']}) were dropped at "
                "the end of its study, which another trial won; to have them, train its settings as a pretext of a grid"
            )

    def drop_weights(self, key: str) -> None:
        """Delete the weights of a trial that lost. Its record stays.

        A path of another kind than the store gives is left alone: a record that came from elsewhere must not name other
        files of this machine.
        """
        record = documents.read(self._backend, f"commits/{key}.json") or {}
        path = str(record.get("artifacts", {}).get("weights"))
        self._backend.delete([path] if ARTIFACT.fullmatch(path) else [])
