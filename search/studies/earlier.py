"""What a study begins with: ended trials of earlier studies, and configs that are tried first.

The trials are copied when the study is created, into an Optuna study of their own beside it, named
`NAME:earlier`. So the earlier studies may go on, or be deleted. None of them is a trial of this
study: the sampler and the stopping rule ask for them, and nobody else finds them among its trials.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FixedTrial, FrozenTrial, create_trial

from search.database import optuna_writer
from search.database.optuna_private import STUDIES, TRIAL_USER_ATTRS, TRIALS, id_of_study
from search.database.store import Store
from search.studies.configs import CONFIG
from search.studies.trial_facts import TrialFacts
from spaces.limits import Cost, LimitsSpec
from spaces.space import Space

EARLIER = ":earlier"  # what the name of their study has behind that of the one that knows them


@dataclass(frozen=True)
class Beginning:
    """What a new study begins with.

    Attributes:
        known: trials of earlier studies, as `known_trial` makes them, the oldest first.
        first: (parameters, origin) of the trials that are queued before all others.
        spread: parameters of trials that try values which no known trial could have; the sampler
            draws the others.
        lines: what was taken over and what was not, in words.
    """

    known: Sequence[FrozenTrial] = ()
    first: Sequence[tuple[Mapping[str, Any], str]] = ()
    spread: Sequence[Mapping[str, Any]] = ()
    lines: Sequence[str] = ()

    def knows(self, params: Mapping[str, Any]) -> bool:
        """Whether an earlier trial had all of these parameters."""
        wanted = params.items()
        return any(wanted <= trial.params.items() for trial in self.known)


def known_trial(
    trial: FrozenTrial,
    facts: TrialFacts,
    settings: Mapping[str, Any],
    params: dict[str, Any],
    space: Space,
    limits: LimitsSpec,
) -> FrozenTrial:
    """Return an ended trial of an earlier study as one of a space that it lies in.

    Args:
        facts: its own; `from_study` and `from_trial` say where it is from.
        settings: all of its config, by dotted name.
        params: as `params_in` gives them.
        limits: samplers are told where its network has too many parameters for them; its other
            costs count where they are measured again, or were on the same kind of device.
    """
    above = limits.constraints(Cost(facts.parameters)) if limits.given else {}
    told = FixedTrial(params)
    space.draw(told)
    return create_trial(
        state=trial.state,
        value=trial.value,
        params=told.params,
        distributions=told.distributions,
        intermediate_values=trial.intermediate_values,
        user_attrs=facts.as_known(),
        system_attrs={
            CONFIG: dict(settings),
            **{optuna_writer.CONSTRAINT + limit: share for limit, share in above.items()},
        },
    )


def create_earlier(store: Store, name: str) -> int:
    """Create the study, empty yet, of what a study begins with; returns its id."""
    study = optuna.create_study(
        study_name=name + EARLIER, storage=store.storage, direction="maximize"
    )
    study.set_user_attr("about", f"trials of earlier studies, which {name} began with")
    return id_of_study(study)


def read_earlier(store: Store, name: str) -> list[FrozenTrial]:
    """The trials of earlier studies that a study began with."""
    try:
        study_id = store.storage.get_study_id_from_name(name + EARLIER)
        return store.storage.get_all_trials(study_id, deepcopy=False)
    except KeyError:  # it began with none; or somebody has deleted them in Optuna's dashboard
        return []


def numbered_after(
    earlier: Sequence[FrozenTrial], trials: Sequence[FrozenTrial]
) -> list[FrozenTrial]:
    """A view of both as the trials of one study, as a sampler needs it: earlier ones come first."""
    if not earlier:
        return list(trials)
    moved = []
    for trial in trials:
        one = copy.copy(trial)  # others read the original
        one.number += len(earlier)
        moved.append(one)
    return [*earlier, *moved]


def earlier_counts(store: Store, name: str) -> dict[str, int]:
    """{earlier study: how many of its trials} a study began with."""
    value = TRIAL_USER_ATTRS.c.value_json
    query = (
        sa.select(value, sa.func.count())
        .join(TRIALS, TRIALS.c.trial_id == TRIAL_USER_ATTRS.c.trial_id)
        .join(STUDIES, STUDIES.c.study_id == TRIALS.c.study_id)
        .where(STUDIES.c.study_name == name + EARLIER, TRIAL_USER_ATTRS.c.key == "from_study")
        .group_by(value)
        .order_by(sa.func.min(TRIALS.c.number))
    )
    with store.engine.connect() as connection:
        return {json.loads(text): count for text, count in connection.execute(query)}


def delete_earlier(connection: sa.Connection, name: str) -> None:
    """Delete what a study began with."""
    query = sa.select(STUDIES.c.study_id).where(STUDIES.c.study_name == name + EARLIER)
    for study_id in connection.execute(query).scalars().all():
        optuna_writer.delete(connection, study_id)
