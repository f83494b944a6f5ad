"""What a study's confirmation has found so far, read from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from search.findings.evidence import Candidate, Evidence, Run
from search.findings.ranking import by_folds, ranked
from search.studies.confirmations import SEED, open_confirmation
from search.studies.reasons import known, reason
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.sections import ConfirmSpec
from trainers.image_counts import ImageCounts, score_of


@dataclass(frozen=True)
class Confirmation:
    """A study's confirmation as it was at one moment.

    Attributes:
        study: that it is; None before its first run is planned.
        runs: its trials, those that wait included.
        baseline: the best starting point, also one that was stopped before its last fold.
    """

    study: Study | None
    runs: Sequence[FrozenTrial]
    evidence: Evidence
    baseline: FrozenTrial | None = None

    @property
    def ended(self) -> int:
        """Runs that have ended."""
        return sum(run.state.is_finished() for run in self.runs)

    @property
    def epochs(self) -> int:
        """Epochs that its ended runs have trained."""
        return sum(TrialFacts.of(run).epochs or 0 for run in self.runs)


def read_confirmation(study: Study, trials: Sequence[FrozenTrial]) -> Confirmation:
    """Read what is known of a study's candidates.

    Args:
        trials: of the search.
    """
    confirmation = None if study.spec.confirms is not None else open_confirmation(study)
    runs = [] if confirmation is None else confirmation.all_trials()
    images = {} if confirmation is None or not runs else confirmation.slots.images()
    top = (study.spec.confirm or ConfirmSpec()).top
    tried = by_folds(trials)
    baseline = next((trial for trial in tried if TrialFacts.of(trial).origin), None)
    chosen = {trial.number for trial in ranked(trials)[:top]}
    if baseline is not None:
        chosen.add(baseline.number)
    chosen |= {number for run in runs if (number := TrialFacts.of(run).confirms) is not None}
    candidates = [
        _candidate(
            trial,
            [run for run in runs if TrialFacts.of(run).confirms == trial.number],
            images,
        )
        for trial in tried
        if trial.number in chosen
    ]
    waiting = sum(not run.state.is_finished() for run in runs)
    score = score_of(study.spec.metric, study.spec.data)
    number = None if baseline is None else baseline.number
    evidence = Evidence(score, candidates, number, waiting)
    return Confirmation(confirmation, runs, evidence, baseline)


def _candidate(
    trial: FrozenTrial, runs: Sequence[FrozenTrial], images: dict[int, bytes]
) -> Candidate:
    whole: dict[int, Run] = {}
    failed = set()
    for run in runs:
        if not run.state.is_finished() or reason(run) == "stopped":
            continue  # it waits, or nobody knows how it would have gone on
        if run.value is None or known(reason(run)).kind == "limit":
            failed.add(run.params[SEED])
            continue
        stored = images.get(run.number)
        counts = None if stored is None else ImageCounts.from_bytes(stored).counts
        whole[run.params[SEED]] = Run(run.number, run.value, counts)
    facts = [TrialFacts.of(one) for one in (trial, *runs)]
    speeds = [f.seconds / f.epochs for f in facts if f.seconds and f.epochs]
    devices = {f.hardware.get("device") for f in facts if f.hardware}
    assert trial.value is not None
    return Candidate(
        trial.number,
        trial.value if trial.state == TrialState.COMPLETE else None,
        whole,
        frozenset(failed),
        seconds=min(speeds, default=None),
        device=devices.pop() if len(devices) == 1 else None,
        parameters=next((f.parameters for f in facts if f.parameters), None),
    )
