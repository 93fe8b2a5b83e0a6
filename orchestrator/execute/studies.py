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
from orchestrator.execute.sampling import propose
from orchestrator.execute.trials import read_trials
from orchestrator.plan.stages import Stage, Study
from orchestrator.plan.studies import Trial, ended, family, is_over, may_propose, settle, trial_stage, winner
from orchestrator.record.store import Store

Admitted = Callable[[Stage, str], None]


class Studies:
    """The open studies of a run.

    Args:
        studies: those that the run is to finish.
        trials: their trials so far.
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
        trials: Mapping[str, list[Trial]],
        waiting: Mapping[str, Stage],
        listener: Listener,
        admitted: Admitted = lambda stage, origin: None,
        changed: Callable[[Study, list[Trial]], None] = lambda study, trials: None,
    ) -> None:
        self._store = store
        self._studies = {study.key: study for study in studies}
        self.trials = {key: list(trials.get(key, ())) for key in self._studies}
        self._waiting = dict(waiting)
        self._listener, self._admitted, self._changed = listener, admitted, changed
        self._held: list[Stage] = []  # proposed, but one of the same family is in work: it will train the same steps
        self._lost: dict[str, str] = {}  # trial key -> an error that is no result of the trial

    def begin(self, frontier: Frontier) -> None:
        """Open the studies. Their unfinished trials of earlier runs are in the frontier already."""
        for key, study in self._studies.items():
            self._changed(study, self.trials[key])
            frontier.studies.add(key)
            self._conclude(frontier, study)

    def pump(self, frontier: Frontier) -> None:
        """Propose trials where there is room for more."""
        for key in list(frontier.studies) if frontier.stopped is None else []:
            study, trials = self._studies[key], self.trials[key]
            most = study.tune["parallel"] or max(2, study.tune["trials"] // 4)
            while may_propose(study, trials) and len(trials) - len(ended(trials)) < most:
                self._propose(frontier, study)
                trials = self.trials[key]
                if is_over(study, trials):
                    self._conclude(frontier, study)
                    break

    def settle(self, frontier: Frontier, outcome: Outcome) -> None:
        """A stage has ended; where it was a trial, its study goes on."""
        stage = frontier.stages.get(outcome.key)
        if stage is None or stage.study not in self._studies:
            return
        study = self._studies[stage.study]
        if outcome.outcome == "failed" and outcome.cause in ("data", "store"):
            self._lost[outcome.key] = outcome.error or ""
        self.trials[study.key] = self._read(study)
        self._changed(study, self.trials[study.key])
        self._release_held(frontier)
        self._conclude(frontier, study)

    def _read(self, study: Study) -> list[Trial]:
        trials = read_trials(self._store, study)
        return [replace(t, state="FAIL", error=self._lost[t.key]) if t.key in self._lost else t for t in trials]

    def _propose(self, frontier: Frontier, study: Study) -> None:
        trials = self.trials[study.key]
        proposal = propose(study, trials)
        stage = trial_stage(study, proposal.changes)
        record = {**proposal.__dict__, "number": len(trials), "key": stage.key, "study": study.key, "name": study.name}
        self._store.propose(study.key, len(trials), record)  # where another driver was first, its trial counts
        self.trials[study.key] = known = self._read(study)
        self._changed(study, known)
        for trial in known[len(trials) :]:
            stage = trial_stage(study, trial.changes)
            if trial.state == "RUNNING" and stage.key not in frontier.stages:
                self._admit(frontier, stage)

    def _admit(self, frontier: Frontier, stage: Stage) -> None:
        """Into the frontier, unless one that trains the same steps is in work: then after it."""
        own = family(stage)
        if any(family(frontier.stages[key]) == own for key in self._in_work(frontier)):
            self._held.append(stage)
            return
        self._admitted(stage, str(stage.study))
        frontier.add({stage.key: stage}, below=sum(waiting.cost for waiting in self._waiting.values()))

    def _in_work(self, frontier: Frontier) -> list[str]:
        """Trials in the frontier that have not ended."""
        over = frontier.succeeded | frontier.failed.keys() | frontier.blocked.keys()
        return [key for key, stage in frontier.stages.items() if stage.study and key not in over]

    def _release_held(self, frontier: Frontier) -> None:
        held, self._held = self._held, []
        for stage in held:
            self._admit(frontier, stage)

    def _conclude(self, frontier: Frontier, study: Study) -> None:
        """Where all trials have ended: keep who won, drop what lost, release the cells."""
        trials = self.trials[study.key]
        if study.key not in frontier.studies or not is_over(study, trials):
            return
        best = winner(study, trials)
        if best is not None and not self._lost.keys() & {trial.key for trial in trials}:
            record = {"key": best.key, "number": best.number, "value": best.value, "params": dict(best.params)}
            self._store.conclude(study.key, len(trials), record)
            self._drop(study, trials)
        self._release(frontier)
        frontier.studies.discard(study.key)

    def _drop(self, study: Study, trials: list[Trial]) -> None:
        """Weights of trials that never won, and the states that longer ones could have gone on from."""
        winners = {record["key"] for record in self._store.conclusions(study.key).values()}
        for trial in trials:
            if trial.state == "COMPLETE" and trial.key not in winners:
                self._store.drop_weights(trial.key)
        self._store.drop_states(study.key)

    def _release(self, frontier: Frontier) -> None:
        """Stages whose studies are all over get their keys, and start; one without a winner is blocked."""
        ready: dict[str, Stage] = {}
        for key, stage in list(self._waiting.items()):
            found = settle(stage, self._studies, self.trials)
            if found.awaits and found.blocked is None:
                continue
            del self._waiting[key]
            self._admitted(found, key)
            if found.blocked is not None:
                frontier.block(found, found.blocked)
                self._listener.blocked(frontier, found.key)
            else:
                ready[found.key] = found
        done = self._store.commits(ready)
        frontier.add(ready)
        for key in done:
            self._listener.settle(frontier, Outcome(key, "succeeded", executed=False))
