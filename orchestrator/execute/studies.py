"""Studies in a run: trials are proposed when there is room for them, and their winner releases the cells that wait.

Nothing of a study lives in the driver alone: proposals are created in the store before they run, how a trial ended is
read from there. So a killed driver leaves nothing to be mended, and two drivers share a study without talking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import Outcome
from orchestrator.execute.sampling import SpaceError, propose
from orchestrator.execute.trials import conclude, read_trials
from orchestrator.plan.stages import Stage, Study
from orchestrator.plan.studies import Trial, ended, family, is_over, may_propose, trial_stage
from orchestrator.plan.unfold import moved, settle
from orchestrator.record.store import Store

Admitted = Callable[[Stage, str], None]


class Studies:
    """The open studies of a run.

    Args:
        studies: those that the run is to finish.
        unfinished: their trials of earlier runs that are to be run now, by key.
        waiting: the stages that wait for winners.
        listener: hears of waiting stages that are finished already, or can never run.
        admitted: told of each stage that a study adds, before it can start, and where it comes from: the key of the
            study, or the key that the stage had while it waited.
        changed: told of a study whose trials have changed (for what shows studies elsewhere).
    """

    def __init__(
        self,
        store: Store,
        studies: Iterable[Study],
        unfinished: Mapping[str, Stage],
        waiting: Mapping[str, Stage],
        listener: Listener,
        admitted: Admitted = lambda stage, origin: None,
        changed: Callable[[Study, list[Trial]], None] = lambda study, trials: None,
    ) -> None:
        self._store = store
        self._studies = {study.key: study for study in studies}
        self._unfinished, self._waiting = dict(unfinished), dict(waiting)
        self._listener, self._admitted, self._changed = listener, admitted, changed
        self.trials: dict[str, list[Trial]] = {}
        self._admitted_trials: dict[str, Stage] = {}
        self._held: dict[str, Stage] = {}  # while one of the same family is in work: it will train the same steps
        self._keys: dict[str, str] = {}  # of stages that waited: what they are called now
        self._lost: dict[str, str] = {}  # trial key -> an error that is no result of the trial

    @property
    def kinds(self) -> set[str]:
        """The kinds of the stages that are still to come."""
        return {"trial"} | {stage.kind for stage in self._waiting.values()}

    def begin(self, frontier: Frontier) -> None:
        """Open the studies, with the unfinished trials of earlier runs."""
        frontier.studies.update(self._studies)
        frontier.to_come |= self.kinds
        for stage in self._unfinished.values():
            self._admit(frontier, stage)
        for study in self._studies.values():
            self._refresh(frontier, study)
            self._conclude(frontier, study)

    def pump(self, frontier: Frontier) -> None:
        """Propose trials where there is room for more."""
        for key in list(frontier.studies) if frontier.stopped is None else []:
            study = self._studies[key]
            if not frontier.has_finished(study.parents.values()):
                continue
            most = study.tune["parallel"] or max(2, study.tune["trials"] // 4)
            while may_propose(study, self.trials[key]) and self._open(key) < most:
                try:
                    self._propose(frontier, study)
                except SpaceError as error:
                    frontier.stop(str(error))
                    return
            self._conclude(frontier, study)

    def settle(self, frontier: Frontier, outcome: Outcome) -> None:
        """A stage has ended; where it was a trial, its study goes on. One that a study needs may have failed."""
        for key in list(frontier.studies) if outcome.outcome == "failed" else ():
            causes = [p for p in self._studies[key].parents.values() if p in frontier.failed or p in frontier.blocked]
            if causes:
                self._abandon(frontier, key, causes[0])
        stage = frontier.stages.get(outcome.key)
        if stage is None or stage.study not in frontier.studies:
            return
        study = self._studies[stage.study]
        if outcome.outcome == "failed" and outcome.cause in ("data", "store"):
            self._lost[outcome.key] = outcome.error or ""
        self._refresh(frontier, study)
        self._release_held(frontier)
        self._conclude(frontier, study)

    def _open(self, key: str) -> int:
        return len(self.trials[key]) - len(ended(self.trials[key]))

    def _propose(self, frontier: Frontier, study: Study) -> None:
        trials = self.trials[study.key]
        proposal = propose(study, trials)
        stage = trial_stage(study, proposal.changes)
        record = {**proposal.__dict__, "number": len(trials), "key": stage.key, "study": study.key, "name": study.name}
        self._store.propose(study.key, len(trials), record)  # where another driver was first, its trial counts
        self._refresh(frontier, study)

    def _refresh(self, frontier: Frontier, study: Study) -> None:
        """Look how the trials stand, and take in those that are not in work here: another driver may have proposed
        them, and may be killed."""
        known = [self._as_here(frontier, trial) for trial in read_trials(self._store, study)]
        if known != self.trials.get(study.key):
            self.trials[study.key] = known
            self._changed(study, known)
        for trial in known[: study.tune["trials"]]:
            if trial.state == "RUNNING" and trial.key not in frontier.stages and trial.key not in self._held:
                self._admit(frontier, trial_stage(study, trial.changes))

    def _as_here(self, frontier: Frontier, trial: Trial) -> Trial:
        """What this run knows better than the store: trials that failed once and are tried again, and lost ones."""
        if trial.key in self._lost:
            return replace(trial, state="FAIL", error=self._lost[trial.key])
        if trial.state == "FAIL" and (trial.key in self._held or trial.key in self._in_work(frontier)):
            return replace(trial, state="RUNNING", error=None)
        return trial

    def _admit(self, frontier: Frontier, stage: Stage) -> None:
        """Into the frontier, unless one that trains the same steps is in work: then after it."""
        own = family(stage)
        if any(family(self._admitted_trials[key]) == own for key in self._in_work(frontier)):
            self._held[stage.key] = stage
            return
        self._admitted_trials[stage.key] = stage
        self._admitted(stage, str(stage.study))
        frontier.add({stage.key: stage}, below=sum(waiting.cost for waiting in self._waiting.values()))

    def _in_work(self, frontier: Frontier) -> list[str]:
        """Trials in the frontier that have not ended."""
        ends = (frontier.succeeded, frontier.failed, frontier.blocked)
        return [key for key in self._admitted_trials if not any(key in over for over in ends)]

    def _release_held(self, frontier: Frontier) -> None:
        held, self._held = self._held, {}
        for stage in held.values():
            self._admit(frontier, stage)

    def _conclude(self, frontier: Frontier, study: Study) -> None:
        """Where all trials have ended: keep who won, drop what lost, release the cells."""
        trials = self.trials[study.key]
        if study.key not in frontier.studies or not is_over(study, trials):
            return
        lost = [self._lost[trial.key] for trial in trials if trial.key in self._lost]
        if not lost:
            conclude(self._store, study, trials)
        self._release(frontier, {study.key: lost[0]} if lost else {})
        frontier.studies.discard(study.key)

    def _abandon(self, frontier: Frontier, study: str, parent: str) -> None:
        """A study whose trials cannot run, since a stage failed that all of them need."""
        cause = (
            frontier.blocked.get(parent)
            or f"its parent {frontier.stages[parent].name!r} failed: " + (frontier.failed[parent])
        )
        root = frontier.roots.get(parent, parent)
        gone: set[str] = set()
        for key, stage in list(self._waiting.items()):
            if study in stage.awaits.values() or gone.intersection(stage.parents.values()):
                gone.add(key)
                del self._waiting[key]
                self._admitted(stage, key)
                frontier.block(stage, cause, root)
                self._listener.blocked(frontier, key)
        frontier.studies.discard(study)

    def _release(self, frontier: Frontier, lost: Mapping[str, str]) -> None:
        """Stages whose studies are all over get their keys, and start; one without a winner is blocked.

        Args:
            lost: studies that cannot be decided in this run, and why.
        """
        ready: dict[str, Stage] = {}
        for key, waiting in list(self._waiting.items()):
            stage = moved(waiting, self._keys)
            causes = [lost[study] for study in stage.awaits.values() if study in lost]
            found = settle(stage, self._studies, self.trials) if not causes else stage
            blocked = f"a trial of its study could not be run: {causes[0]}" if causes else found.blocked
            above = next((parent for parent in found.parents.values() if parent in frontier.blocked), None)
            blocked = blocked or (frontier.blocked[above] if above is not None else None)
            still = found.awaits or any(parent in self._waiting for parent in found.parents.values())
            if still and blocked is None:
                continue
            del self._waiting[key]
            self._keys[key] = found.key
            self._admitted(found, key)
            if blocked is not None:
                frontier.block(found, blocked, None if above is None else frontier.roots[above])
                self._listener.blocked(frontier, found.key)
            else:
                ready[found.key] = found
        done = self._store.commits(ready)
        frontier.reuse(p for stage in ready.values() for p in stage.parents.values() if p not in ready)
        frontier.add(ready)
        for key in done:
            self._listener.settle(frontier, Outcome(key, "succeeded", executed=False))
