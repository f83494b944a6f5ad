"""optuna-dashboard's card of importances, which says what the note says, and no more.

optuna-dashboard's own importances need two trials, and are large on values that mean nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from search.dashboard.study_page import WSGIApp, asked_study, send_json
from search.database.store import Store
from search.database.tables import study_table

ATTRIBUTE = "segtune:importances"  # of the study
_PATH = re.compile(r"/api/studies/([0-9]{1,18})/param_importances/*")


class ImportanceCard:
    """Answers for segtune's studies, from what a worker has stored; all else goes to `inner`."""

    def __init__(self, inner: WSGIApp, store: Store) -> None:
        self.inner, self.store = inner, store

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        study_id = asked_study(environ, _PATH)
        if study_id is None or not self._is_ours(study_id):
            return self.inner(environ, start_response)
        found = self.store.study_attrs(study_id, ATTRIBUTE).get(ATTRIBUTE, [])
        body = json.dumps({"param_importances": [found]}).encode()
        return send_json(environ, start_response, body)

    def _is_ours(self, study_id: int) -> bool:
        with self.store.engine.connect() as connection:
            ours = sa.select(study_table.c.study_id).where(study_table.c.study_id == study_id)
            return connection.execute(ours).first() is not None
