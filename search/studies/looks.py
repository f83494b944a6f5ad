"""Looks at the test split of a study: each time that scores on it were told, kept with the study.

A split that was looked at often is no test any more: who chooses by it, has a second val. So looks
are counted, and no figure of the test split is shown without their number.
"""

from __future__ import annotations

import datetime

from pydantic import BaseModel

from search.database.optuna_writer import put_study_attrs
from search.studies.owners import user
from search.studies.study import Study

LOOKS = "segtune:looks"  # the study's system attribute


class Score(BaseModel, frozen=True):
    """The study's metric of a trial's weights on the test split.

    Attributes:
        trial: of the search, also where the weights are those of one of its fresh seeds.
        model_sha256: of the weights.
        val: what the same weights have on val; None where `settings` are not those of the trial, or
            the weights were trained on all images.
        interval: (low, high) over images; None of a single image.
        settings: `name=value` of each decode setting that was changed by hand.
    """

    trial: int
    model_sha256: str
    val: float | None
    value: float
    interval: tuple[float, float] | None
    settings: tuple[str, ...] = ()


class Beside(BaseModel, frozen=True):
    """The winner's score less the baseline's, on the same images.

    Attributes:
        half_width: of its interval.
        seeds: whether the interval holds the noise of seeds beside the images; else another seed of
            the same two configs may say otherwise.
    """

    mean: float
    half_width: float
    seeds: bool


class Look(BaseModel, frozen=True):
    """One look: who was told what, and when.

    Attributes:
        when: UTC, ISO 8601.
        by: user@host.
        command: `export` or `evaluate`.
        images: of the test split.
        score: of the exported weights.
        baseline: of the best starting point's; `export` alone looks at it.
        difference: of both; None of a single image.
        missing: why there is no baseline.
    """

    when: str
    by: str
    command: str
    images: int
    score: Score
    baseline: Score | None = None
    difference: Beside | None = None
    missing: str | None = None

    def again(self) -> Look:
        """The same figures, looked at now by whoever runs this."""
        return self.model_copy(update={"when": now(), "by": user()})


def looks_of(study: Study) -> list[Look]:
    """Return all looks at a study's test split, the first one first."""
    stored = study.store.study_attrs(study.study_id, LOOKS).get(LOOKS, [])
    return [Look.model_validate(look) for look in stored]


def add_look(study: Study, look: Look) -> int:
    """Store one more look; return how many there are with it."""
    with study.store.locked(study.study_id) as connection:
        known = [*looks_of(study), look]
        attrs = {LOOKS: [one.model_dump(mode="json") for one in known]}
        put_study_attrs(connection, study.study_id, attrs)
    return len(known)


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
