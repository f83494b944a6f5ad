"""Whether a study has found anything that a constant answer does not give."""

from __future__ import annotations

from optuna.trial import FrozenTrial

from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from trainers.health import trivial_below


def trivial_warning(study: Study, best: FrozenTrial, value: float) -> str | None:
    """Return the sentence that stands before all others where a study's best is trivial, or None.

    Args:
        value: what the best trial is worth.
    """
    constant = TrialFacts.of(best).trivial_score
    if constant is None or value > trivial_below(constant, study.space.base.health.trivial):
        return None
    return (
        f"nothing learned: the best {study.metric}, {value:.4f}, is no better than the best answer "
        f"that looks at no image, {constant:.4f} (see segtune check)"
    )
