"""Whether a study has found anything that a constant answer does not give."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from trainers.trivial import trivial_below


def trivial_warning(study: Study, ranking: Sequence[FrozenTrial]) -> str | None:
    """Return the sentence that stands before all others where the best trial is trivial, or None.

    Args:
        ranking: trials with a value, best first.
    """
    if not ranking:
        return None
    best, constant = ranking[0].value, TrialFacts.of(ranking[0]).trivial_score
    if best is None or constant is None:
        return None
    if best > trivial_below(constant, study.space.base.health.trivial):
        return None
    return (
        f"nothing learned: the best {study.metric}, {best:.4f}, is no better than the best answer "
        f"that looks at no image, {constant:.4f} (see segtune check)"
    )
