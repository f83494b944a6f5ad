"""The study page's data, as optuna-dashboard answers it, but quickly for large studies.

optuna-dashboard turns every trial into JSON anew for each look, and searches all of the study's
attributes for each trial's note and files. Here an ended trial is turned once, and attributes are
sorted to their trials first. The answer is the same (tests/service/test_study_page.py).
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.dashboard.guards import refuse
from search.dashboard.optuna_dashboard_private import StudyJson, trial_json, trial_of
from search.database.optuna_private import FrozenStudy, id_of_trial
from search.database.store import Store

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_PATH = re.compile(r"/api/studies/([0-9]{1,18})/*")
GZIP_BYTES = 10_000  # shorter answers are sent as they are


def asked_study(environ: dict[str, Any], path: re.Pattern[str]) -> int | None:
    """The id of the study whose page at `path` is asked for; None of any other request."""
    match = path.fullmatch(environ.get("PATH_INFO", ""))
    if match is None or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return None
    return int(match[1])


def send_json(
    environ: dict[str, Any], start_response: Callable[..., Any], body: bytes
) -> list[bytes]:
    """Answer with JSON, compressed where that pays and the browser takes it."""
    headers = [("Content-Type", "application/json"), ("Vary", "Accept-Encoding")]
    if len(body) > GZIP_BYTES and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        body = gzip.compress(body, compresslevel=1)
        headers.append(("Content-Encoding", "gzip"))
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class StudyData:
    """Answers GET /api/studies/<id> of single-objective studies; all else goes to `inner`."""

    def __init__(self, inner: WSGIApp, store: Store) -> None:
        self.inner = inner
        self.store = store
        self._studies: dict[int, _Serialized] = {}
        self._lock = threading.Lock()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        study_id = asked_study(environ, _PATH)
        if study_id is None:
            return self.inner(environ, start_response)
        after = parse_qs(environ.get("QUERY_STRING", "")).get("after", ["0"])[-1]
        if not re.fullmatch("[0-9]{1,9}", after):
            reason = f"after must be a whole number from 0 on, but got {after[:40]!r}"
            return refuse(environ, start_response, HTTPStatus.BAD_REQUEST, reason)
        body = self.body(study_id, int(after))
        if body is None:
            return self.inner(environ, start_response)
        return send_json(environ, start_response, body)

    def body(self, study_id: int, after: int) -> bytes | None:
        """The JSON of a study with its trials from place `after` on; None for others to answer."""
        try:
            directions = self.store.storage.get_study_directions(study_id)
        except KeyError:
            return None
        if len(directions) != 1:
            return None
        with self._lock:  # one look at a time: the second finds the first one's work done
            study = self._studies.setdefault(study_id, _Serialized(self.store, study_id))
            return study.body(directions, after)


class _Serialized:
    """One study's trials as JSON, by trial id."""

    def __init__(self, store: Store, study_id: int) -> None:
        self.store, self.study_id = store, study_id
        self.ended: dict[int, tuple[dict[str, Any], bytes]] = {}  # attributes used, JSON
        self.study_json = StudyJson()

    def body(self, directions: list[StudyDirection], after: int) -> bytes:
        storage = self.store.storage
        trials = storage.get_all_trials(self.study_id, deepcopy=False)
        common, of_trial = self._attributes()
        ids = [id_of_trial(trial) for trial in trials]
        self.study_json.add([t for t, i in zip(trials, ids, strict=True) if i not in self.ended])
        texts = {i: self._trial(t, of_trial.get(i, {})) for t, i in zip(trials, ids, strict=True)}
        complete = any(t.state == TrialState.COMPLETE for t in trials)
        best = storage.get_best_trial(self.study_id) if complete else None
        study = FrozenStudy(
            study_name=storage.get_study_name_from_id(self.study_id),
            direction=None,
            directions=directions,
            user_attrs=storage.get_study_user_attrs(self.study_id),
            system_attrs=common,
            study_id=self.study_id,
        )
        best_text = b"" if best is None else texts[id_of_trial(best)]
        listed = b",".join(texts[i] for i in ids[after:])
        return b'%s,"best_trials":[%s],"trials":[%s]}' % (
            json.dumps(self.study_json.of(study)).encode()[:-1],
            best_text,
            listed,
        )

    def _trial(self, trial: FrozenTrial, attrs: dict[str, Any]) -> bytes:
        """A trial's JSON; made again where its note or files have changed."""
        kept = self.ended.get(id_of_trial(trial))
        if kept is not None and kept[0] == attrs:
            return kept[1]
        text = json.dumps(trial_json(self.study_id, trial, attrs)).encode()
        if trial.state.is_finished():
            self.ended[id_of_trial(trial)] = (attrs, text)
        return text

    def _attributes(self) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        """The study's system attributes: its own, and those that belong to one trial each."""
        common: dict[str, Any] = {}
        of_trial: dict[int, dict[str, Any]] = defaultdict(dict)
        for key, value in self.store.study_attrs(self.study_id, "%").items():
            trial_id = trial_of(key)
            if trial_id is None:
                common[key] = value
            else:
                of_trial[trial_id][key] = value
        return common, of_trial
