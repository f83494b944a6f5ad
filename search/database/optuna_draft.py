"""A trial that is drawn in memory, over a view of its study's trials, and stored when it is whole.

Optuna's `ask` and `suggest_*` store each step of a new trial and read the study again in between.
A draft answers them from one view of the trials, so that samplers work as they do on a storage
(tests/service/test_optuna_draft.py: the same draws from each), and keeps what they write.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Container, Sequence
from typing import Any, NoReturn

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.database.optuna_private import id_of_trial

NEW = -1  # the id of a trial that no table has yet


class Draft(BaseStorage):
    """One new trial of one study.

    Attributes:
        trial: the trial, once it has been asked for.
        system_attrs: those that were set on it here.
        study_attrs: those that were set on the study, as by a sequence that goes on.
    """

    def __init__(
        self, storage: BaseStorage, study_id: int, name: str, trials: Sequence[FrozenTrial]
    ) -> None:
        self.storage, self.study_id, self.name = storage, study_id, name
        self.trials = list(trials)
        self.trial: FrozenTrial | None = None
        self.system_attrs: dict[str, Any] = {}
        self.study_attrs: dict[str, Any] = {}

    def study(
        self, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
    ) -> optuna.Study:
        """The study that the trial is asked of."""
        return optuna.Study(self.name, self, sampler, pruner)

    # ------------------------------------------------------------ the study

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return [StudyDirection.MAXIMIZE]  # of mIoU, of Hmean

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return {**self.storage.get_study_system_attrs(study_id), **self.study_attrs}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.study_attrs[key] = value

    # ------------------------------------------------------------ its trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        assert template_trial is None and self.trial is None
        self._take(
            FrozenTrial(
                number=len(self.trials),
                trial_id=NEW,
                state=TrialState.RUNNING,
                value=None,
                datetime_start=datetime.datetime.now(),
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
        )
        return NEW

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Take a trial from the queue; the only state that a draft can be given."""
        assert state == TrialState.RUNNING and self.trial is None
        waiting = next(t for t in self.trials if id_of_trial(t) == trial_id)
        trial = copy.deepcopy(waiting)
        trial.state, trial.datetime_start = state, datetime.datetime.now()
        self._take(trial)
        return True

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        trial = self._own(trial_id)
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._own(trial_id).system_attrs[key] = value
        self.system_attrs[key] = value

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return copy.deepcopy(next(t for t in self.trials if id_of_trial(t) == trial_id))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return dict(self._own(trial_id).system_attrs)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = [t for t in self.trials if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _take(self, trial: FrozenTrial) -> None:
        self.trial = trial
        self.trials = [t for t in self.trials if id_of_trial(t) != id_of_trial(trial)]
        self.trials.insert(trial.number, trial)

    def _own(self, trial_id: int) -> FrozenTrial:
        assert self.trial is not None and trial_id == id_of_trial(self.trial)
        return self.trial

    # ------------------------------------------------------------ what asking never does

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> NoReturn:
        raise NotImplementedError

    def delete_study(self, study_id: int) -> NoReturn:
        raise NotImplementedError

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> NoReturn:
        raise NotImplementedError

    def get_all_studies(self) -> NoReturn:
        raise NotImplementedError

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> NoReturn:
        raise NotImplementedError

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> NoReturn:
        raise NotImplementedError
