"""What the HTTP API answers with, and the settings of its own that it takes."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from search.dashboard.pages.studies import Row
from search.studies.job_kinds import MOST_TRIALS
from search.studies.jobs import Job


class Shape(BaseModel):
    """An answer, or part of one. NaN is sent as null."""

    model_config = ConfigDict(frozen=True)


class Failure(Shape):
    """Why something was not done."""

    reason: str


class BestTrial(Shape):
    """The trial of the highest value; `epoch` had it, null where that is not known."""

    trial: int
    value: float
    epoch: int | None


class FreshSeeds(Shape):
    """What the best config came to on fresh seeds; `sd` is null for one of them."""

    mean: float
    sd: float | None
    seeds: int


class StudyRow(Shape):
    """A study as the list of the dashboard shows it.

    `ended` of its `trials` have; `why` says more of the `state`, and may be empty.
    """

    name: str
    task: str
    metric: str
    state: str
    why: str
    ended: int
    trials: int
    running: int
    workers: int
    best: BestTrial | None
    fresh: FreshSeeds | None
    launched_by: str | None

    @classmethod
    def of(cls, row: Row, **more: Any) -> Self:
        entry, best = row.entry, None
        if row.best is not None:
            best = BestTrial(trial=row.best.trial, value=row.best.value, epoch=row.best.epoch)
        fresh = None
        if row.fresh is not None:
            mean, sd, seeds = row.fresh
            fresh = FreshSeeds(mean=mean, sd=sd, seeds=seeds)
        return cls(
            name=entry.name,
            task=row.task.replace(" ", "_"),
            metric=row.metric,
            state=row.state.word,
            why=row.state.detail,
            ended=entry.ended,
            trials=entry.slots,
            running=entry.running,
            workers=row.workers,
            best=best,
            fresh=fresh,
            launched_by=row.launched_by,
            **more,
        )


class StudyRows(Shape):
    """All studies of the store, oldest first."""

    studies: list[StudyRow]


class StudyFacts(StudyRow):
    """A study; `summary` is what `segtune status NAME --json` prints, `yours` may be changed."""

    yours: bool
    summary: dict[str, Any]


class JobFacts(Shape):
    """A job. Times are seconds since 1970, `lines` what its command has printed so far.

    `open`: it will or may still run. `served`: a runner lives that could take it. `code`: its
    command's exit code. `file`: it has made one.
    """

    number: int
    kind: str
    words: str
    study: str | None
    state: str
    open: bool
    served: bool
    asked_by: str
    cancelled_by: str | None
    asked_at: float
    begun_at: float | None
    ended_at: float | None
    code: int | None
    file: bool
    lines: str

    @classmethod
    def of(cls, job: Job, lines: str) -> Self:
        return cls(
            number=job.number,
            kind=job.kind,
            words=job.words,
            study=job.study,
            state=job.state,
            open=job.open,
            served=job.served,
            asked_by=job.asked_by,
            cancelled_by=job.cancelled_by,
            asked_at=job.asked_at,
            begun_at=job.begun_at,
            ended_at=job.ended_at,
            code=job.code,
            file=job.result is not None,
            lines=lines,
        )


class Asked(Shape):
    """A job that was asked for, and where it is shown."""

    job: int
    url: str


class Stopped(Shape):
    """A study as it was left; `stop` says why no new trial begins, null where they do."""

    name: str
    stop: str | None


class Settings(BaseModel):
    """What a change takes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Stop(Settings):
    """`now`: trials that run save their state and return, in place of ending as they would."""

    now: bool = False


class Resume(Settings):
    """`trials`: in all; that many are added by a job. Without it the study is opened at once."""

    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
