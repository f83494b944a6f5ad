"""A trial's config is drawn anew where it is known to be outside of the study's limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.trial import FrozenTrial

from search.database.optuna_draft import Draft
from search.studies.samplers import build_sampler
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.sections import SamplerSpec
from spaces.space import Space
from spaces.spec import StudySpec

Outside = Callable[[TrialConfig, Sequence[FrozenTrial]], bool]
"""Whether a config is known to be outside of the limits, by a study's trials."""

OWN_DRAWS = 10  # of the study's sampler; one that insists on what is outside is not asked more
RANDOM_DRAWS = 300  # at random, after these


def draw(
    spec: StudySpec,
    space: Space,
    seed: int,
    slot: int,
    draft_of: Callable[[], Draft],
    pruner: optuna.pruners.BasePruner,
    outside: Outside | None,
) -> tuple[Draft, TrialConfig]:
    """Draw the config of a slot's new trial.

    What waits in the queue is taken as it is; so is the last one of OWN_DRAWS + RANDOM_DRAWS. No
    sampler hears of what was drawn in vain: it has learned of such configs from the trials that
    have ended as `limit`.
    """
    sampler = None
    study_attrs: dict[str, object] = {}  # a sequence goes on
    for drawn in range(1, OWN_DRAWS + RANDOM_DRAWS + 1):
        draft = draft_of()
        draft.study_attrs |= study_attrs
        known = [*draft.trials]
        if sampler is None:
            sampler = build_sampler(_with_its_start(spec, known), seed, slot, space.priors())
        config = space.sample(draft.study(sampler, pruner).ask())
        assert draft.trial is not None
        queued = draft.trial.number < len(known)
        if outside is None or queued or not outside(config, known):
            break
        study_attrs = draft.study_attrs
        if drawn == OWN_DRAWS:
            sampler = build_sampler(SamplerSpec(name="random"), seed, slot)
    return draft, config


def _with_its_start(spec: StudySpec, trials: Sequence[FrozenTrial]) -> SamplerSpec:
    """The sampler that draws as many trials at random as it should, those that trained nothing for
    the limits not counted."""
    if not spec.limits.given:
        return spec.sampler
    refused = sum(TrialFacts.of(trial).refused for trial in trials)
    start = spec.sampler.startup_trials + refused
    return spec.sampler.model_copy(update={"startup_trials": start})
