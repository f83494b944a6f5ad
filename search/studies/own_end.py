"""A study that ends by itself, as it is stored: why it did, and when it may do so again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from search.database import optuna_writer
from search.database.tables import ENDED, GAIN, control_table, slot_table, study_table
from search.studies.study import Study, open_study_by_id

WHY, RESUMED = "segtune:own_end", "segtune:resumed_after"  # system attributes of Optuna's study


@dataclass(frozen=True)
class OwnEnd:
    """Why a study has ended by itself.

    Attributes:
        ended: trials that had ended then.
        paused: trials that had begun and waited for their rule.
        of: trials of its budget.
        next: so many more were expected to gain no more than `gain`, in units of the metric.
        below: what they would have had to gain.
        noise: whether that is the standard deviation between seeds, as it was measured.
    """

    ended: int
    paused: int
    of: int
    next: int
    gain: float
    below: float
    noise: bool

    def sentence(self, metric: str) -> str:
        """`ended by itself after 34 of 100 trials: the next 10 ...`, the same everywhere."""
        trials = "trial is" if self.next == 1 else f"{self.next} trials are"
        paused = f", {self.paused} more paused" if self.paused else ""
        below = f"{self.below:.4f}, the noise between seeds" if self.noise else f"{self.below:g}"
        return (
            f"ended by itself after {self.ended} of {self.of} trials{paused}: the next {trials} "
            f"expected to gain {self.gain:.4f} {metric}, less than {below}"
        )


def end(study: Study, why: OwnEnd, after: int) -> int | None:
    """Let no new trial of a study begin, as it has little to gain; what runs goes on.

    Paused trials wait, as where its user has stopped it: resumed, the study goes on as it was.

    One that its user has stopped, or whose hours are spent, stays as it is.

    Args:
        after: trials that must have ended since somebody has resumed it.

    Returns:
        None where it has ended by itself; else how many trials must have ended to ask again.
    """
    mine = control_table.c.study_id == study.study_id
    with study.store.locked(study.study_id) as connection:
        resumed = _read(connection, study.study_id).get(RESUMED)
        if resumed is not None and why.ended < resumed + after:
            return int(resumed) + after
        stop = connection.execute(sa.select(control_table.c.stop).where(mine)).scalar_one()
        if stop is None:
            connection.execute(sa.update(control_table).where(mine).values(stop=GAIN))
            optuna_writer.put_study_attrs(connection, study.study_id, {WHY: asdict(why)})
        return None if stop in (None, GAIN) else why.ended + after


def resumed(connection: sa.Connection, study_id: int) -> None:
    """Somebody reopens a study; one that has ended by itself goes on for some trials at least."""
    mine = control_table.c.study_id == study_id
    if connection.execute(sa.select(control_table.c.stop).where(mine)).scalar() != GAIN:
        return
    ended = connection.execute(
        sa.select(sa.func.count()).where(
            slot_table.c.study_id == study_id, slot_table.c.state.in_(ENDED)
        )
    ).scalar_one()
    optuna_writer.put_study_attrs(connection, study_id, {RESUMED: ended})


def own_end(study: Study) -> OwnEnd | None:
    """Why a study has ended by itself; None where it has not, or goes on."""
    with study.store.engine.connect() as connection:
        stop = connection.execute(
            sa.select(control_table.c.stop).where(control_table.c.study_id == study.study_id)
        ).scalar()
        if stop != GAIN:
            return None
        return OwnEnd(**_read(connection, study.study_id)[WHY])


def on_the_same_data(study: Study) -> Iterator[Study]:
    """Other searches on a study's data that score by its metric, the latest first."""
    same = sa.and_(
        study_table.c.fingerprint == study.fingerprint, study_table.c.study_id != study.study_id
    )
    with study.store.engine.connect() as connection:
        ids = (
            connection.execute(
                sa.select(study_table.c.study_id)
                .where(same)
                .order_by(study_table.c.study_id.desc())
            )
            .scalars()
            .all()
        )
    for study_id in ids:
        other = open_study_by_id(study.store, study_id)
        if other.spec.beside is None and other.metric == study.metric:
            yield other


def _read(connection: sa.Connection, study_id: int) -> dict[str, Any]:
    return optuna_writer.study_attrs(connection, study_id, (WHY, RESUMED))
