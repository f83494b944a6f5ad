"""What optuna-dashboard shows of a study: notes, graphs and pictures, kept up to date by workers.

All of it lies in the study's system attributes, in optuna-dashboard's own format, so that any
optuna-dashboard of the same version shows it. Nothing here may harm a trial: it comes after the
result has been stored, and what fails is said and tried again after the next trial.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.dashboard.importance_card import ATTRIBUTE
from search.dashboard.optuna_dashboard_private import (
    NOTES,
    graph_attrs,
    graph_prefix,
    has_note,
    importances_json,
    note,
    note_attrs,
    note_prefixes,
)
from search.database.optuna_private import id_of_trial
from search.files.artifacts import Artifacts
from search.files.shown import attach, detach, shown_trials
from search.findings.facts import Facts
from search.findings.markup import to_markdown
from search.findings.notes import study_note, trial_note
from search.findings.trial_graphs import FIGURES, study_figures
from search.studies.catalogue import ANSWER
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts

REFRESH_SECONDS = 60.0  # between refreshes while trials end one after another
NEW_BEST_SECONDS = 5.0  # the same, where a trial is the new best
PICTURES = "pictures"  # folder of a trial's pictures, in its own
KEPT = "## Your notes"  # what a user writes below this heading stays


@dataclass
class Publisher:
    """Shows one study; each of its workers has one.

    Attributes:
        artifacts: where the trials' files are; the pictures that are shown are there too.
        stale: a trial has ended since the notes and graphs were refreshed.
    """

    study: Study
    artifacts: Artifacts
    stale: bool = False
    _refreshed: float = -float("inf")
    _best: int | None = None  # trial, when the notes were refreshed last
    _new_best: bool = False
    _attached: set[int] = field(default_factory=set)  # trials whose pictures were made here

    def show_pictures(self, number: int, pictures: Path, facts: Facts) -> None:
        """Show a trial's pictures; those of trials that are no longer among the best go.

        Args:
            facts: of the study as it is now.
        """
        files, trial_id = self.artifacts.shown, self.study.trial_id(number)
        self._attached.add(number)
        for path in sorted(pictures.glob("*.png")):
            attach(files, self.study, trial_id, path)
        self._remove_overtaken(facts)

    def trial_ended(self, best: int | None) -> None:
        """Hear that a trial has ended, and which one is the best now; None: the same."""
        self.stale = True
        self._new_best |= best is not None and best != self._best

    @property
    def due(self) -> bool:
        """Whether it is time to refresh the notes and graphs while trials run."""
        age = time.monotonic() - self._refreshed
        return self.stale and age > (NEW_BEST_SECONDS if self._new_best else REFRESH_SECONDS)

    def refresh(self, facts: Facts) -> None:
        """Write the study's note and graphs, and the notes of trials that have none yet.

        Args:
            facts: of the study as it is now.
        """
        study_id = self.study.study_id
        before = self.study.store.study_attrs(study_id, *NOTES)
        ours = [*note_prefixes(), *map(graph_prefix, FIGURES)]
        attrs = self._trial_notes(facts, before) | self._study_note(facts, before)
        for name, figure in study_figures(facts).items():
            attrs |= graph_attrs(name, figure.to_json())
        attrs[ATTRIBUTE] = importances_json(facts.importances, facts.study.space.dims)
        if facts.answer is not None:
            attrs[ANSWER] = facts.answer.to_json()
        self.study.store.replace_study_attrs(study_id, ours, attrs)
        self._refreshed, self.stale, self._new_best = time.monotonic(), False, False
        self._best = None if facts.best is None else facts.best.number

    def _trial_notes(self, facts: Facts, written: Mapping[str, Any]) -> dict[str, Any]:
        """The notes of ended trials that have none."""
        attrs: dict[str, Any] = {}
        for trial in facts.ended:
            trial_id = id_of_trial(trial)
            if has_note(written, trial_id) or TrialFacts.of(trial).reason is None:
                continue
            blocks = trial_note(trial, facts.config(trial), self.study.metric)
            attrs |= note_attrs(to_markdown(blocks), 1, trial_id)
        return attrs

    def _study_note(self, facts: Facts, before: Mapping[str, Any]) -> dict[str, Any]:
        """The study's note, with what a user has written below ours."""
        earlier, version = note(before)
        _, found, kept = earlier.partition(KEPT)
        body = to_markdown(study_note(facts)) + f"\n{KEPT}\n"
        body += kept.lstrip("\n") if found else "\n(What you write here stays.)\n"
        return note_attrs(body, version + 1, None)

    def _remove_overtaken(self, facts: Facts) -> None:
        shown, files, best = shown_trials(self.study), self.artifacts.shown, set(facts.kept)
        for trial in facts.trials:
            pictured = id_of_trial(trial) in shown or trial.number in self._attached
            if trial.number in best or not pictured:
                continue
            detach(files, self.study, id_of_trial(trial))
            shutil.rmtree(
                self.artifacts.workdir(self.study, trial.number) / PICTURES, ignore_errors=True
            )
            self._attached.discard(trial.number)
