"""The study page's data, as optuna-dashboard answers it, but quickly for large studies.

optuna-dashboard turns every trial into JSON anew for each look, and searches all of the study's
attributes for each trial's note and files. Here an ended trial is turned once, and attributes are
sorted to their trials first. The answer is the same (tests/service/test_dashboard_data.py).
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._inmemory_cache import _CachedExtraStudyProperty
from optuna_dashboard._serializer import serialize_frozen_trial, serialize_study_detail

from search.database.store import Store

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_PATH = re.compile(r"/api/studies/(\d+)/*")
_OF_TRIAL = re.compile(r"dashboard:(?:artifacts:)?(\d+):")
GZIP_BYTES = 10_000  # shorter answers are sent as they are


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
        match = _PATH.fullmatch(environ.get("PATH_INFO", ""))
        if match is None or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return self.inner(environ, start_response)
        after = parse_qs(environ.get("QUERY_STRING", "")).get("after", ["0"])[-1]
        if not after.isdecimal():
            return self.inner(environ, start_response)
        body = self.body(int(match[1]), int(after))
        if body is None:
            return self.inner(environ, start_response)
        headers = [("Content-Type", "application/json"), ("Vary", "Accept-Encoding")]
        if len(body) > GZIP_BYTES and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            body = gzip.compress(body, compresslevel=1)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

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
        self.properties = _CachedExtraStudyProperty()

    def body(self, directions: list[StudyDirection], after: int) -> bytes:
        storage = self.store.storage
        trials = storage.get_all_trials(self.study_id, deepcopy=False)
        common, of_trial = self._attributes()
        self.properties.update(
            [t for t in trials if not t.state.is_finished() or t._trial_id not in self.ended]
        )
        texts = {t._trial_id: self._trial(t, of_trial.get(t._trial_id, {})) for t in trials}
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
        detail = serialize_study_detail(
            study,
            [],
            [],
            self.properties.intersection_search_space,
            self.properties.union_search_space,
            self.properties.union_user_attrs,
            self.properties.has_intermediate_values,
            dict(sorted(get_plotly_graph_objects(common).items())),
            [],
        )
        del detail["trials"], detail["best_trials"]
        best_text = b"" if best is None else texts[best._trial_id]
        listed = b",".join(texts[t._trial_id] for t in trials[after:])
        return b'%s,"best_trials":[%s],"trials":[%s]}' % (
            json.dumps(detail).encode()[:-1],
            best_text,
            listed,
        )

    def _trial(self, trial: FrozenTrial, attrs: dict[str, Any]) -> bytes:
        """A trial's JSON; made again where its note or files have changed."""
        kept = self.ended.get(trial._trial_id)
        if kept is not None and kept[0] == attrs:
            return kept[1]
        text = json.dumps(serialize_frozen_trial(self.study_id, trial, attrs)).encode()
        if trial.state.is_finished():
            self.ended[trial._trial_id] = (attrs, text)
        return text

    def _attributes(self) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        """The study's system attributes: its own, and those that belong to one trial each."""
        common: dict[str, Any] = {}
        of_trial: dict[int, dict[str, Any]] = defaultdict(dict)
        for key, value in self.store.study_attrs(self.study_id, "%").items():
            match = _OF_TRIAL.match(key)
            if match is None:
                common[key] = value
            else:
                of_trial[int(match[1])][key] = value
        return common, of_trial
