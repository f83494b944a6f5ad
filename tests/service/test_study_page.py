"""The study page's data is what optuna-dashboard itself would answer."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna_dashboard
import pytest

from search.dashboard.publish import Publisher
from search.dashboard.study_page import StudyData
from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from search.files.shown import attach
from search.findings.facts import gather
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec
from trainers.report import EpochReport, Losses

MakeSpec = Callable[..., StudySpec]


def get(app: Any, path: str, query: str = "", **headers: str) -> tuple[str, dict[str, str], bytes]:
    answer: list[Any] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
        **headers,
    }
    body = b"".join(app(environ, lambda status, found, *rest: answer.extend((status, found))))
    return answer[0], dict(answer[1]), body


@pytest.fixture
def study(store: Store, make_spec: MakeSpec, tmp_path: Path) -> Study:
    """Trials of every state, with notes, graphs and a picture."""
    spec = make_spec(trials=5, starting_points="true")
    study = create_or_resume(store, spec, "f" * 64, None)
    for number, reason in enumerate(("completed", "median", "crashed")):
        claim = study.slots.claim(study.ask)
        assert claim
        for epoch in (1, 2):
            metric = 0.1 * number + 0.1 * epoch
            losses = Losses(total=1.0, pixel=1.0, region=0.5)
            report = EpochReport(epoch=epoch, metric=metric, train=losses, val=losses)
            assert study.report(claim, report)
        state = {"completed": "COMPLETE", "median": "PRUNED", "crashed": "FAILED"}[reason]
        value = None if reason == "crashed" else 0.3 + 0.1 * number
        attrs = {"epochs": 2, "best_epoch": 2, "seconds": 2.0, "per_class": [0.5, None, *[0.1] * 6]}
        assert study.slots.end(claim, Result(state, value, reason, attrs))
    assert study.slots.claim(study.ask)  # one runs
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"\x89PNG")
    attach(Artifacts(tmp_path).shown, study, study.trial_id(0), picture)
    Publisher(study, Artifacts(tmp_path)).refresh(gather(study))
    return study


def test_the_answer_is_optuna_dashboards_own(study: Study) -> None:
    url = study.store.engine.url.render_as_string(hide_password=False)
    fresh = open_store(url)
    ours = StudyData(optuna_dashboard.wsgi(fresh.storage), fresh)
    path = f"/api/studies/{study.study_id}"
    for _ in range(2):  # from the database, then with what is kept
        for query in ("", "after=0", "after=2", "after=99"):
            stock = optuna_dashboard.wsgi(study.store.storage)
            status, headers, body = get(ours, path, query)
            assert status == "200 OK" and headers["Content-Type"] == "application/json"
            mine, other = json.loads(body), json.loads(get(stock, path, query)[2])
            for answer in (mine, other):  # rows and sets have no order
                answer["plotly_graph_objects"].sort(key=lambda graph: graph["id"])
                for key in ("user_attrs", "union_user_attrs", "union_search_space"):
                    answer[key].sort(key=str)
            assert mine == other
        # a trial ends, another note is written
        claim = study.slots.claim(study.ask)
        assert claim and study.slots.end(claim, Result("COMPLETE", 0.9, "completed", {}))
        optuna_dashboard.save_note(study.optuna(), "by hand")
    assert json.loads(get(ours, path + "/")[2])["name"] == "small"
    fresh.close()


def test_everything_else_goes_on(study: Study) -> None:
    ours = StudyData(optuna_dashboard.wsgi(study.store.storage), study.store)
    assert get(ours, "/api/studies/999")[0].startswith("404")
    assert get(ours, "/api/studies")[0].startswith("200")
    assert get(ours, f"/api/studies/{study.study_id}", "after=-1")[0].startswith("400")
    path = f"/api/studies/{study.study_id}"
    _, headers, body = get(ours, path, HTTP_ACCEPT_ENCODING="gzip, deflate")
    assert headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(body)) == json.loads(get(ours, path)[2])
