"""What is said of a study that is not over: in `status`, and in the dashboard's list."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import optuna_dashboard
from rich.console import Console

from search.dashboard.study_list import StudyList
from search.database.store import Store
from search.findings.facts import SoFar, so_far, summary
from search.findings.tables import show_study
from search.studies.owners import new_owner
from search.studies.slots import Claim, Result
from search.studies.study import Study, create_or_resume
from spaces.data import FoldsSpec
from spaces.spec import StudySpec
from tests.scripted import EPOCHS, make_spec
from tests.service.test_study_page import get
from tests.stores import sqlite_too
from trainers.report import EpochReport

METRICS = (0.1, math.nan, 0.4, 0.3)


def begin(study: Study, metrics: Sequence[float], first: int = 1) -> Claim:
    """A trial of another worker's that has reported so many epochs."""
    study.owner = new_owner()
    claim = study.slots.claim(study.ask)
    assert claim
    for epoch, metric in enumerate(metrics, first):
        assert study.report(claim, EpochReport(epoch=epoch, metric=metric))
    return claim


def folded(spec: StudySpec) -> StudySpec:
    data = spec.data.model_copy(update={"val": None, "folds": FoldsSpec(count=3)})
    return StudySpec.from_json(spec.model_copy(update={"data": data}).to_json())


@sqlite_too
def test_trials_that_have_not_ended_say_how_far_they_are(store: Store, tmp_path: Path) -> None:
    study = create_or_resume(store, make_spec(tmp_path, "far", trials=4), "f" * 64, None)
    ended = begin(study, METRICS[:1])
    assert study.slots.end(ended, Result("PRUNED", 0.1, "median", {"epochs": 1, "best_epoch": 1}))
    paused = begin(study, METRICS)
    assert study.slots.give_back(paused, counts=False, paused=True)
    running = begin(study, ())  # a new one: nothing says that the other goes on
    assert running.trial_number == 2
    found = summary(study)
    far = {"epoch": 4, "of": EPOCHS, "fold": None, "best": 0.4, "best_epoch": 3}
    begun = {**far, "epoch": 0, "best": None, "best_epoch": None}
    assert [row["so_far"] for row in found["trials"]] == [None, far, begun]
    out = io.StringIO()
    show_study(json.loads(json.dumps(found)), Console(file=out, width=300))
    cells = [
        [cell.strip() for cell in line.split("│")[1:-2]]
        for line in out.getvalue().splitlines()
        if line.startswith("│")
    ]
    assert cells == [
        ["0", "PRUNED", "median", "0.1000", "1", "1"],
        ["1", "PAUSED", "", "0.4000", "3", f"4/{EPOCHS}"],
        ["2", "RUNNING", "", "-", "-", f"0/{EPOCHS}"],
    ]


def test_of_folds_the_one_that_trains_now(store: Store, tmp_path: Path) -> None:
    spec = folded(make_spec(tmp_path, "folded", trials=2))
    study = create_or_resume(store, spec, "f" * 64, None)
    begin(study, [0.9, 0.8])  # its first fold ends early, out of patience
    claim = begin(study, [0.9])
    assert study.report(claim, EpochReport(epoch=EPOCHS + 1, metric=0.2))
    first, second = study.trials()
    assert so_far(study, first) == SoFar(2, EPOCHS, 1, 0.9, 1)
    assert so_far(study, second) == SoFar(1, EPOCHS, 2, 0.2, 1)


@sqlite_too
def test_the_list_shows_progress_and_the_best_value(store: Store, tmp_path: Path) -> None:
    plain = create_or_resume(store, make_spec(tmp_path, "plain", trials=4), "f" * 64, None)
    folds = create_or_resume(store, folded(make_spec(tmp_path, "folds", trials=2)), "f" * 64, None)
    create_or_resume(store, make_spec(tmp_path, "new", trials=9), "f" * 64, None)
    for study, state, value in (
        (plain, "COMPLETE", 0.4),
        (plain, "PRUNED", 0.5),
        (plain, "FAILED", None),
        (folds, "PRUNED", 0.9),  # of its first folds alone
        (folds, "COMPLETE", 0.6),
    ):
        claim = begin(study, ())
        assert study.slots.end(claim, Result(state, value, "completed", {}))
    app = StudyList(optuna_dashboard.wsgi(store.storage), store)

    def names(**headers: str) -> list[str]:
        status, _, body = get(app, "/api/studies", HTTP_ACCEPT_ENCODING="", **headers)
        assert status == "200 OK"
        return [one["study_name"] for one in json.loads(body)["study_summaries"]]

    page = {"HTTP_REFERER": "http://localhost:8080/dashboard"}
    assert names(**page) == [
        "plain (3/4, best 0.5000)",
        "folds (2/2, best 0.6000)",
        "new (0/9)",
    ]
    assert names() == names(HTTP_REFERER="http://localhost:8080/notes") == ["plain", "folds", "new"]
    assert get(app, "/api/studies/999", **page)[0].startswith("404")
