"""What earlier studies tell a new one: which of their trials lie in its space, and their winners.

A trial's value is known here where the data, their folds, the metric, the length of a run and what
a trial sweeps are the same: then its curve can be compared too. Of any other study of the task the
winner and the next best are taken over, to be tried first, as near as this space has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from search.database.store import Store, UnknownStudy
from search.findings.answer import read_answer
from search.findings.ranking import ranked
from search.studies.configs import drawn_config
from search.studies.earlier import Beginning, known_trial
from search.studies.reasons import known, reason
from search.studies.samplers import other_seed
from search.studies.study import Study, open_study
from search.studies.trial_facts import TrialFacts
from spaces.earlier import Conditions, Outside, moved_params, params_in, uncovered
from spaces.errors import InputError
from spaces.space import parameter_path
from spaces.spec import StudySpec
from spaces.yamlfile import read_yaml

BEST = 3  # trials of a study of other data that are tried first
LEARN = ("tpe", "gp")  # samplers that learn from trials which they have not drawn themselves


def earlier_studies(store: Store, spec: StudySpec, file: Path | None = None) -> list[Study]:
    """Open the studies that a new one names.

    Args:
        file: the study file, for the line of an error.

    Raises:
        InputError: there is no study of a name, or it is of another task.
    """
    found = []
    for index, name in enumerate(spec.from_studies):
        where = f" ({read_yaml(file).where(('from_studies', index))})" if file else ""
        try:
            study = open_study(store, name)
        except UnknownStudy as error:
            raise InputError(f"from_studies: {error}{where}") from None
        if study.spec.task != spec.task:
            raise InputError(
                f"from_studies: study {name} is of {study.spec.task}, this one of {spec.task}; "
                f"leave it out{where}"
            )
        found.append(study)
    return found


def read_beginning(store: Store, spec: StudySpec, fingerprint: str) -> Beginning:
    """Read what a new study begins with.

    Args:
        spec: as it is stored, with the digests of weights.
        fingerprint: of its data set.

    Raises:
        InputError: as of `earlier_studies`.
    """
    meaning = spec.default_space(1).when
    trials: dict[tuple[Any, ...], FrozenTrial] = {}
    first, lines, compared = [], [], []
    for study in earlier_studies(store, spec):
        of_study, left_out = _Taken(spec, study, meaning), _differences(spec, fingerprint, study)
        if left_out:
            said = f"begins with no trial of {study.spec.name}: {', '.join(left_out)}"
        else:
            new = {key: trial for key, trial in of_study.trials() if key not in trials}
            trials |= new
            compared.append(study.space)
            said = of_study.said(list(new.values()))
        best = of_study.best(BEST if left_out else 1)
        first += best
        named = ", ".join(name for _, name in best)
        lines.append(f"{said}; {f'tries first: {named}' if best else 'it has no winner'}")
    names = uncovered(spec.search_space(), compared) if trials else []
    spread = spread_over(spec, names)
    if spread:
        lines.append(
            f"new here, and tried by {len(spread)} trials that are spread out: {', '.join(names)}"
        )
    return Beginning(list(trials.values()), first, spread, lines)


def spread_over(spec: StudySpec, names: Sequence[str]) -> list[dict[str, Any]]:
    """Draw some settings at random for as many trials as a study else begins with.

    Who learns from trials that all had one value of a setting proposes that one again and again
    (docs/decisions/0055-earlier-studies.md has figures). So others are drawn first.
    """
    if not names or spec.sampler.name not in LEARN:
        return []
    seed = other_seed(spec.seed, spec.from_studies)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = []
    for _ in range(spec.sampler.startup_trials):
        trial = study.ask()
        spec.search_space().draw(trial)
        drawn = trial.params.items()
        found.append({name: value for name, value in drawn if parameter_path(name) in names})
    return [params for params in found if params]


def _differences(spec: StudySpec, fingerprint: str, earlier: Study) -> list[str]:
    """Why the values of an earlier study's trials say nothing here; empty where they do."""
    space, other = spec.search_space(), earlier.spec
    epochs = space.base.train.epochs, earlier.space.base.train.epochs
    weights = other.init_sha256.items() | spec.init_sha256.items()
    found = {
        "its images, splits or classes are others": earlier.fingerprint != fingerprint,
        "its folds are others": other.data.folds != spec.data.folds,
        f"its metric is {earlier.metric}, here {spec.metric_name}": (
            (other.metric, earlier.metric) != (spec.metric, spec.metric_name)
        ),
        f"its trials train {epochs[1]} epochs, here {epochs[0]}": epochs[0] != epochs[1],
        "its trials sweep other decode settings": earlier.space.free() != space.free(),
        "the weights of its model.init have changed": len(weights) != len(dict(weights)),
    }
    return [words for words, differs in found.items() if differs]


class _Taken:
    """One earlier study, and what was left out of it."""

    def __init__(self, spec: StudySpec, study: Study, meaning: Conditions) -> None:
        self.spec, self.space = spec, spec.search_space()
        self.study, self.meaning = study, meaning
        self.left_out: Counter[str] = Counter()
        self.defaults = type(self.space.base)().flat()  # of settings that are newer than a trial
        self.own = study.trials()

    def trials(self) -> Iterator[tuple[tuple[Any, ...], FrozenTrial]]:
        """(What tells it apart, the trial) of those that lie in the space, the oldest first; what
        the earlier study has begun with itself included."""
        name = self.study.spec.name
        for trial in (*self.study.earlier, *self.own):
            facts = replace(TrialFacts.of(trial), reason=reason(trial))
            if facts.from_study is None:
                facts = replace(facts, from_study=name, from_trial=trial.number)
            if not trial.state.is_finished():
                self.left_out["not ended"] += 1
            elif not known(reason(trial)).teaches or not known(reason(trial)).trains:
                self.left_out["could not be trained"] += 1
            else:
                settings = self._settings(trial)
                try:
                    params = params_in(self.space, settings, self.meaning)
                except Outside as outside:
                    self.left_out[f"outside of the space by {outside.setting}"] += 1
                    continue
                key = (facts.from_study, facts.from_trial, trial.value)
                yield key, known_trial(trial, facts, settings, params, self.space, self.spec.limits)

    def said(self, taken: list[FrozenTrial]) -> str:
        """What was taken over, and what was not, in words."""
        name, best = self.study.spec.name, ranked(taken)
        total = len(self.study.earlier) + len(self.own)
        value = f", at best {self.spec.metric_name} {best[0].value:.4f}" if best else ""
        out = ", ".join(f"{count} {why}" for why, count in self.left_out.most_common())
        return (
            f"begins with {len(taken)} of {total} trials of {name}{value}"
            f"{f'; left out: {out}' if out else ''}"
        )

    def best(self, count: int) -> list[tuple[dict[str, Any], str]]:
        """(Parameters in this space, name) of the earlier study's answer, and of its next best
        trials; none where it has learned nothing."""
        answer = read_answer(self.study, self.own)
        if answer is None or answer.warning is not None:
            return []
        others = (t for t in answer.ranking if t.number != answer.trial.number)
        return [self._here(trial) for trial in [answer.trial, *others][:count]]

    def _here(self, trial: FrozenTrial) -> tuple[dict[str, Any], str]:
        settings, named = self._settings(trial), f"trial {trial.number} of {self.study.spec.name}"
        try:
            return params_in(self.space, settings, self.meaning), named
        except Outside:
            return moved_params(self.space, settings, self.meaning), f"{named}, adapted"

    def _settings(self, trial: FrozenTrial) -> Mapping[str, Any]:
        flat = drawn_config(trial)
        if flat is None:  # of a store of 0.1, or drawn by somebody else
            flat = self.study.config(trial).flat()
        return {**self.defaults, **flat, **TrialFacts.of(trial).decode}
