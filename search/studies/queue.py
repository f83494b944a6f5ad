"""What a new study tries first: winners of earlier studies, recipes of the field, new values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from search.studies.earlier import Beginning
from search.studies.trial_facts import TrialFacts
from spaces.space import Space
from spaces.spec import StudySpec
from spaces.starting import origin, starting_params


def enqueue_first(study: optuna.Study, spec: StudySpec, space: Space, beginning: Beginning) -> None:
    """Put them into the queue, each config once; a recipe that an earlier study has tried is known,
    and not tried again."""

    def enqueue(params: Mapping[str, Any], name: str | None = None) -> None:
        attrs = TrialFacts(origin=name).in_queue()
        study.enqueue_trial(dict(params), user_attrs=attrs, skip_if_exists=True)

    for params, name in beginning.first:
        enqueue(params, name)
    for point in spec.starting_points if spec.use_starting_points else ():
        params = starting_params(space, point)
        if params and not beginning.knows(params):
            enqueue(params, origin(space, point, params))
    for params in beginning.spread:
        enqueue(params)
