"""Notes, graphs and pictures that workers write, read back as optuna-dashboard reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import optuna_dashboard
import plotly.io
import pytest
import sqlalchemy as sa
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note_from_system_attrs
from optuna_dashboard.artifact._backend import list_trial_artifacts

from search.dashboard.importance_card import ImportanceCard
from search.dashboard.publish import KEPT, Publisher
from search.database.optuna_private import id_of_study
from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from search.findings.facts import gather
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume, open_study
from spaces.spec import StudySpec
from tests.waiting import Running
from trainers.report import EpochReport, Losses

MakeSpec = Callable[..., StudySpec]


def end(
    study: Study,
    value: float | Callable[[Mapping[str, Any]], float],
    reason: str = "completed",
    **attrs: object,
) -> int:
    claim = study.slots.claim(study.ask)
    assert claim
    if callable(value):
        value = value(study.trial(claim.trial_number).params)
    losses = Losses(total=1.0, pixel=1.0, region=0.5)
    for epoch in (1, 2):
        report = EpochReport(epoch=epoch, metric=value / 3 * epoch, train=losses, val=losses)
        assert study.report(claim, report)
    state = "COMPLETE" if reason == "completed" else "PRUNED"
    facts = {"epochs": 2, "best_epoch": 2, "seconds": 4.0, **attrs}
    assert study.slots.end(claim, Result(state, value, reason, facts))
    return claim.trial_number


def note(study: Study, number: int | None = None) -> str:
    attrs = study.store.storage.get_study_system_attrs(study.study_id)
    trial_id = None if number is None else study.trial_id(number)
    return get_note_from_system_attrs(attrs, trial_id)["body"]


def test_notes_and_graphs_tell_what_was_found(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    study = create_or_resume(store, make_spec(trials=12, epochs=4), "f" * 64, None)
    for index in range(9):
        end(study, 0.1 + 0.05 * index, per_class=[0.5, None, 0.25, *[0.1] * 5])
    stopped = end(study, 0.05, "median", bar=0.3)
    alarmed = end(study, 0.04, "health:diverging")
    publisher = Publisher(study, Artifacts(tmp_path))
    publisher.refresh(gather(study))
    text = note(study)
    assert "**trial 8: mIoU 0.5000, one seed, at epoch 2**" in text
    assert "**11 of 12 trials** have ended: 1 open, 9 complete, 2 pruned" in text
    assert f"trial {alarmed}: health:diverging after 2 epochs" in text
    assert "early stopping of all kinds saved **50%** of the epochs" in text
    assert "Nothing can be named: over the 9 trials" in text and "optim.lr" in text
    assert "| `optim.lr` | 0.0001 .. 0.01, log |" in text  # what is searched
    assert "Sampler random, early stopping none, at most 4 epochs a trial" in text
    found = note(study, stopped)
    assert "**median**: below the median" in found and "held against 0.3000" in found
    assert "\noptim.lr: " in found and "\nmodel.encoder: mobilenet_v2\n" in found
    attrs = store.storage.get_study_system_attrs(study.study_id)
    graphs = {k: plotly.io.from_json(v) for k, v in get_plotly_graph_objects(attrs).items()}
    assert set(graphs) == {"early-stopping", "value-against-cost", "per-class-iou", "loss-parts"}
    held = [t for t in graphs["early-stopping"].data if t.name == "bar at its end"]
    assert list(held[0].y) == [0.3] and list(held[0].x) == [2]
    boxes = [trace for trace in graphs["per-class-iou"].data if trace.type == "box"]
    assert [set(box.y) for box in boxes[:3]] == [{0.5}, {None}, {0.25}]


def test_what_matters_is_said_by_note_and_card_alike(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    study = create_or_resume(store, make_spec(trials=24, epochs=2), "f" * 64, None)
    publisher = Publisher(study, Artifacts(tmp_path))
    card = ImportanceCard(lambda environ, start: [b"not ours"], store)

    def told(study_id: int) -> bytes:
        path = f"/api/studies/{study_id}/param_importances"
        environ = {
            "PATH_INFO": path,
            "REQUEST_METHOD": "GET",
            "QUERY_STRING": "evaluator=ped_anova",
        }
        return b"".join(card(environ, lambda status, headers: None))

    assert json.loads(told(study.study_id)) == {"param_importances": [[]]}  # nobody has looked yet
    for _ in range(24):
        end(study, lambda params: 0.5 + 0.1 * math.log10(params["optim.lr"]))
    publisher.refresh(gather(study))
    [[first, *others]] = json.loads(told(study.study_id))["param_importances"]
    assert first["name"] == "optim.lr" and first["distribution"] == "FloatDistribution"
    share = f"`optim.lr` {first['importance']:.0%}"
    assert share in note(study) and first["importance"] > 0.8
    named = [f"`{found['name']}` {found['importance']:.0%}" for found in others]
    assert all(text in note(study) for text in named)
    theirs = optuna.create_study(storage=store.storage, study_name="somebody else's")
    assert told(id_of_study(theirs)) == b"not ours"


def test_what_a_user_writes_stays(store: Store, make_spec: MakeSpec, tmp_path: Path) -> None:
    study = create_or_resume(store, make_spec(trials=3), "f" * 64, None)
    publisher = Publisher(study, Artifacts(tmp_path))
    end(study, 0.2)
    publisher.refresh(gather(study))
    body = note(study)
    optuna_dashboard.save_note(study.optuna(), body.partition(KEPT)[0] + f"{KEPT}\nkeep <me>\n")
    optuna_dashboard.save_plotly_graph_object(
        study.optuna(), plotly.graph_objects.Figure(), graph_object_id="my-own"
    )
    mine = note(study, 0)
    end(study, 0.9)
    publisher.refresh(gather(study))
    assert "mIoU 0.9000, one seed" in note(study) and note(study).endswith(f"{KEPT}\nkeep <me>\n")
    assert note(study, 0) == mine
    attrs = store.storage.get_study_system_attrs(study.study_id)
    assert "my-own" in get_plotly_graph_objects(attrs)


def test_a_refresh_waits_for_its_time(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(postgres_url)
    study = create_or_resume(store, make_spec(trials=6), "f" * 64, None)
    publisher = Publisher(study, Artifacts(tmp_path))
    assert not publisher.due
    publisher.trial_ended(end(study, 0.5))
    assert publisher.due  # the first one
    publisher.refresh(gather(study))
    end(study, 0.4)
    publisher.trial_ended(0)
    assert publisher.stale and not publisher.due
    publisher.trial_ended(end(study, 0.6))  # the best, but too soon
    assert not publisher.due
    monkeypatch.setattr("search.dashboard.publish.NEW_BEST_SECONDS", 0)
    publisher.trial_ended(None)  # a later one that failed
    assert publisher.due
    publisher.refresh(gather(study))
    assert "trial 2" in note(study) and not publisher.stale
    publisher.trial_ended(2)  # the same
    assert not publisher.due
    monkeypatch.setattr("search.dashboard.publish.REFRESH_SECONDS", 0)
    assert publisher.due
    store.close()


def test_pictures_of_the_best_are_shown_and_no_others(finished: Any) -> None:
    store, artifacts = open_store(finished.url), Artifacts(finished.artifacts)
    study = open_study(store, "my-study")
    attrs = store.storage.get_study_system_attrs(study.study_id)
    shown = {
        t.number: [a["filename"] for a in list_trial_artifacts(attrs, t.system_attrs, t)]
        for t in study.trials()
    }
    best = sorted(study.trials(), key=lambda t: (-(t.value or 0), t.number))[:2]
    assert {n for n, names in shown.items() if names} == {t.number for t in best}
    for trial in best:
        names = shown[trial.number]
        assert {"curves.png", "per-class.png"} < set(names)
        assert sum(n.startswith("best-") for n in names) == 2 == sum("worst-" in n for n in names)
        folder = artifacts.workdir(study, trial.number) / "pictures"
        assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    files = {path.name for path in (finished.artifacts / "shown").iterdir()}
    assert files == {
        json.loads(v)["artifact_id"] for k, v in attrs.items() if k.startswith("dashboard:art")
    }
    assert len(list(finished.artifacts.glob("*/*/pictures"))) == 2
    store.close()


@pytest.mark.cluster
def test_the_stores_password_appears_nowhere(
    tcp_url: str, tcp_postgres: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Not in what is printed, in no file, in no row, in no report."""
    make_spec(trials=1, epochs=1)
    folder = tmp_path / "a"
    told = ""
    for command in (
        ("launch", tmp_path / "small.yaml", "--workers", "1", "--artifacts", folder),
        ("report", "small", "--to", folder / "report.html", "--artifacts", folder),
        ("export", "small", "--to", folder / "best", "--artifacts", folder),
        ("status", "small", "--json"),
    ):
        told += Running.segtune(*command, env={"SEGTUNE_STORE": tcp_url}).finish()
    engine = sa.create_engine(tcp_url)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = repr([connection.execute(sa.select(t)).all() for t in tables.tables.values()])
    engine.dispose()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 12 and "COMPLETE" in told and "optim.lr" in rows
    assert (folder / "shown").is_dir()
    for secret in (tcp_postgres.password, quote(tcp_postgres.password, safe="")):
        assert secret not in told and secret not in rows
        assert not [path for path in files if secret.encode() in path.read_bytes()]
