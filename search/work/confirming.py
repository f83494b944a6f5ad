"""Plans a study's confirmation, round by round: whoever finds nothing to claim does it."""

from __future__ import annotations

from search.database.tables import AFTER, GAIN, NOW, OPEN, RUNNING, SPENT
from search.findings.confirmation import Confirmation, read_confirmation
from search.findings.evidence import next_round
from search.studies.confirmations import (
    create_confirmation,
    fresh_seed,
    open_confirmation,
    plan,
)
from search.studies.limits import stopped
from search.studies.study import Study


def advance(study: Study) -> Study | None:
    """Plan the next round of a study's confirmation where one is due.

    Safe to be called by many workers at any time: what is planned is a function of what is stored.
    A study that its user has stopped is confirmed where the user has asked for that since.

    Returns:
        The confirmation, where it has runs that have not ended; None where there is nothing to do.
    """
    if study.spec.confirm is None or study.spec.confirms is not None:
        return None
    if not search_is_over(study, asked=_is_asked_for(study)):
        return None
    with study.store.study_lock(study.study_id):
        trials = study.trials()
        found = read_confirmation(study, trials)
        if found.study is not None and stopped(found.study):
            return None
        due = _due(study, found)
        confirmation = found.study
        if due and confirmation is None:
            confirmation = create_confirmation(study)
        if confirmation is None:
            return None
        by_number = {trial.number: trial for trial in trials}
        for number, seed in due:
            trial = by_number[number]
            plan(confirmation, trial, study.config(trial), seed)
        runs = confirmation.all_trials()
        confirmation.slots.extend(len(runs))  # also those that somebody has planned and died
    return confirmation if any(not run.state.is_finished() for run in runs) else None


def is_due(study: Study) -> bool:
    """Whether a run of the confirmation waits, or is to be planned; asked of a search that is over.

    A study that its user has stopped has none, unless the user has asked for it since.
    """
    if study.spec.confirm is None:
        return False
    if stopped(study) not in (None, GAIN, *SPENT) and not _is_asked_for(study):
        return False
    found = read_confirmation(study, study.trials())
    if found.study is not None and stopped(found.study):
        return False
    return found.evidence.waiting > 0 or bool(_due(study, found))


def _due(study: Study, found: Confirmation) -> list[tuple[int, int]]:
    """[(trial, seed)] that are to run next."""
    spec, epochs = study.spec.confirm, study.full_epochs
    assert spec is not None
    allowed = spec.share * sum(study.slots.counts().values()) * epochs
    seeds = [fresh_seed(study, round_) for round_ in range(spec.seeds)]
    return next_round(found.evidence, spec, seeds, (allowed - found.epochs) / epochs)


def _is_asked_for(study: Study) -> bool:
    """Whether a confirmation is open of a study that its user has stopped: both were closed."""
    if stopped(study) not in (AFTER, NOW):
        return False
    found = open_confirmation(study)
    return found is not None and stopped(found) is None


def search_is_over(study: Study, *, asked: bool) -> bool:
    """Whether no trial of the search runs, or will be claimed.

    Args:
        asked: somebody wants what comes after, so that one that is stopped is over.
    """
    counts, stop = study.slots.counts(), stopped(study)
    if counts[RUNNING]:
        return False
    if not counts[OPEN] or (asked and stop):
        return True
    if stop not in (GAIN, *SPENT):
        return False
    goes_on = "INTERRUPTED" if stop == GAIN else "PAUSED"
    return goes_on not in study.slots.waiting().values()
