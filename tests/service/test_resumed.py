"""Attempts whose checkpoint is not what was stored: the stored history is that of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.database.store import Store
from search.database.tables import slot_table
from search.stopping.curves import Curve
from search.studies.learning_curves import curves_begun
from search.studies.study import Study, create_or_resume
from tests.fake_child import FakeChild, report
from tests.scripted import Quiet, make_spec, new_worker
from tests.stores import sqlite_too

FIRST, SECOND = [0.1, 0.2, 0.3, 0.4], [0.15, 0.25]  # metrics of two attempts


class Noting(Quiet):
    """Notes what it is told of resumed trials, and looks at the study after each epoch of them.

    Attributes:
        attempts: the workers that the trial has had.
        resumed: (epoch, dropped) of each attempt.
        seen: the curve that others compare with, as it is when an attempt goes on.
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study
        self.resumed: list[tuple[int, int]] = []
        self.seen: list[Curve | None] = []

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None:
        self.resumed.append((epoch, dropped))
        self.seen.append(curves_begun(self.study)[2].get(number))

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None: ...


def attempts_of(study: Study, folder: Path, *attempts: Sequence[float], kept: int) -> Noting:
    """Train a trial in several attempts, all but the last crash at their end.

    Args:
        attempts: the metrics of each; what its checkpoint holds is `kept` of them.
    """
    left, watcher = list(attempts), Noting(study)

    def child(config: Any, data: Any, workdir: Path, free: Any, probe: Any = None) -> FakeChild:
        metrics = left.pop(0)
        checkpoint = workdir / "epochs-trained"
        if checkpoint.exists():
            lines = checkpoint.read_text().splitlines()[:kept]
            checkpoint.write_text("".join(f"{line}\n" for line in lines))
        if left:  # one more epoch, in which it crashes
            return FakeChild([*metrics, 0.0], workdir, crashes_after=len(metrics))
        return FakeChild(metrics, workdir)

    worker = new_worker(study, folder, make_child=child)
    worker.watcher = watcher
    assert worker.run() and not left
    return watcher


@sqlite_too
@pytest.mark.parametrize(
    ("kept", "second"),
    [
        pytest.param(0, SECOND, id="gone"),
        pytest.param(2, [*FIRST[:2], 0.35], id="behind"),
        pytest.param(4, [0.1, 0.7, 0.8, 0.9], id="of-another-attempt"),
    ],
)
def test_the_stored_history_is_that_of_the_weights(
    kept: int, second: list[float], store: Store, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, "resumed", trials=1, sampler="random")
    study = create_or_resume(store, spec, "f" * 64, None)
    watcher = attempts_of(study, tmp_path / "a", FIRST, second, kept=kept)
    assert [(r.epoch, r.metric) for r in study.history(0)] == list(enumerate(second, 1))
    trial = study.trial(0)
    assert trial.intermediate_values == dict(enumerate(second, 1))
    assert trial.value == max(second) and trial.user_attrs["epochs"] == len(second)
    same = sum(one == other for one, other in zip(FIRST, second, strict=False))
    assert watcher.resumed == [(0, 0), (kept, len(FIRST) - same)]
    # before its first new epoch nobody compares with the old curve
    assert watcher.seen[1] == (Curve(tuple(second[:kept])) if kept else None)


def test_only_the_holder_of_the_slot_drops_epochs(store: Store, tmp_path: Path) -> None:
    study = create_or_resume(store, make_spec(tmp_path, "mine", trials=1), "f" * 64, None)
    claim = study.slots.claim(study.ask)
    assert claim is not None
    for epoch in (1, 2, 3):
        assert study.report(claim, report(epoch, 0.1 * epoch))
    with store.engine.begin() as connection:  # its lease ran out, and another worker came
        connection.execute(sa.update(slot_table).values(owner="other:1:abcd"))
    assert not study.forget_epochs(claim, 1)
    assert len(study.history(0)) == len(study.trial(0).intermediate_values) == 3
