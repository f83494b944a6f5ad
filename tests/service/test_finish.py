"""`segtune replay --finish`: stopped trials trained to their ends, and what that tells."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from search.database.store import Store
from search.delete import delete_study
from search.files.artifacts import Artifacts
from search.findings.answer import read_answer
from search.findings.savings import Curves, read_curves, show
from search.findings.stopped import Stopped
from search.finish import finish
from search.studies.finishing import open_finishing, with_all_beside
from search.studies.study import Study, create_or_resume, study_names
from search.studies.trial_facts import TrialFacts
from spaces.errors import DONE, InputError
from tests.fake_child import FakeChild
from tests.scripted import EPOCHS, NoData, make_spec, new_worker, scripted
from tests.stores import sqlite_too

FIRST = 3  # epoch that may stop a trial
LATE = 10  # trial that begins as badly as others, and would have been the best of all


def value_at(number: int, epoch: int) -> float:
    """Trials 0, 2, 4, ... are good, the others are stopped below their median."""
    if number == LATE:
        return 0.01 * epoch if epoch <= FIRST else 0.9
    return 0.001 * epoch + (0.5 + 0.001 * number if number % 2 == 0 else 0.1 - 0.001 * number)


def curve(number: int) -> list[float]:
    return [value_at(number, epoch) for epoch in range(1, EPOCHS + 1)]


@pytest.fixture
def study(store: Store, tmp_path: Path) -> Study:
    """A study of 14 trials whose rule has stopped 8 of them."""
    rule = {"name": "ended_median", "startup_trials": 1, "stop_from": FIRST}
    spec = make_spec(tmp_path, "small", trials=14, sampler="random", pruner=rule)
    study = create_or_resume(store, spec, NoData.fingerprint, None)
    worker, curves = new_worker(study, tmp_path), iter([curve(n) for n in range(14)])
    with scripted(worker, lambda: next(curves)):
        assert worker.run()
    return study


def finished(
    study: Study, folder: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Curves, str]:
    """Finish so many, and read the study anew; what is shown of it."""
    monkeypatch.setattr("search.work.preflight.preflight", lambda spec: NoData())

    def start(config: Any, data: Any, workdir: Path, *given: Any) -> FakeChild:
        finishing = open_finishing(study)
        assert finishing is not None
        number = TrialFacts.of(finishing.trial(int(workdir.name[-4:]))).finishes
        assert number is not None
        assert config == study.config(study.trial(number))  # its seed, too
        return FakeChild(curve(number))

    artifacts, quiet = Artifacts(folder / "artifacts"), Console(quiet=True)
    assert finish(study, count, artifacts, quiet, make_child=start) == DONE
    curves = read_curves(study)
    console = Console(width=300, file=io.StringIO())
    show(study, curves, [], 1, console)
    return curves, console.file.getvalue()  # type: ignore[attr-defined]


@sqlite_too
def test_finished_trials_say_what_the_rule_has_lost(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cut = read_curves(study)
    stopped = [t.number for t in study.trials() if t.user_attrs["reason"] == "ended_median"]
    assert len(stopped) == cut.cut == 8 and LATE in stopped
    assert cut.stopped is not None and cut.stopped.interval is None
    [offer] = cut.stopped.lines("mIoU", "small")
    assert offer.startswith("8 of the 14 trials were stopped by the study's own rule: their curves")
    assert "segtune replay small --finish 6" in offer
    answer, trials = read_answer(study, study.trials()), study.slots.counts()
    assert answer is not None
    four, _ = finished(study, tmp_path, 4, monkeypatch)
    assert four.stopped is not None and four.cut == 4
    assert len(four.stopped.near) == len(four.stopped.drawn) == 2 and four.stopped.rest == 6
    all_of_them, shown = finished(study, tmp_path, 8, monkeypatch)
    known = all_of_them.stopped
    assert known is not None and all_of_them.cut == 0
    assert {*four.stopped.finished} < {*known.finished} == {*stopped}
    assert {len(run.metric) for run in all_of_them.runs} == {EPOCHS}
    assert known.better == {LATE: 0.9} and known.interval == (1, 1)
    assert "the rule has lost 0.3580: trial 10 would have come to mIoU 0.9000" in shown
    # the study never hears of it
    again = read_answer(study, study.trials())
    assert again is not None and again.value == answer.value and study.slots.counts() == trials
    assert study_names(study.store) == ["small"] and len(with_all_beside(study)) == 2
    delete_study(study, Artifacts(tmp_path / "artifacts"))
    assert not study.store.storage.get_all_studies()


def test_what_cannot_be_finished_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, "small", trials=2, sampler="random", pruner="none")
    study = create_or_resume(store, spec, NoData.fingerprint, None)
    with pytest.raises(InputError, match="has not ended; wait, or end it: segtune stop small"):
        finish(study, 6, Artifacts(tmp_path), Console(quiet=True))
    worker = new_worker(study, tmp_path)
    with scripted(worker, lambda: [0.5]):
        assert worker.run()
    with pytest.raises(InputError, match="has stopped no trial"):
        finish(study, 6, Artifacts(tmp_path), Console(quiet=True))
    assert open_finishing(study) is None


@pytest.mark.parametrize(
    ("hits", "drawn", "rest", "interval"),
    [(0, 3, 18, (0, 11)), (0, 6, 18, (0, 6)), (1, 3, 18, (1, 15)), (0, 18, 18, (0, 0))],
)
def test_the_interval_is_the_hypergeometric_one(
    hits: int, drawn: int, rest: int, interval: tuple[int, int]
) -> None:
    """By hand for none of 3 of 18: with 11 better ones C(7,3)/C(18,3) = 4.3 %, with 12 2.45 %."""
    values = {number: 0.6 if number < hits else 0.4 for number in range(drawn)}
    known = Stopped(rest, 40, 0.5, {}, values, rest)
    assert known.interval == interval
