"""Every write of a user is written down before it reaches optuna-dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from search.dashboard.guards import READ_METHODS, USER
from search.database.audit import add_deed
from search.database.store import Store

_STUDY = re.compile(r"/api/(?:studies|artifacts)/0*([0-9]{1,9})(?:/.*)?")


def audited(app: WSGIApplication, store: Store) -> WSGIApplication:
    """Add a line for each request that is no GET or HEAD; what cannot be written is not done."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if method not in READ_METHODS:
            what = quote(f"{method} {path}", safe="/ ", encoding="latin-1")
            address = str(environ.get("REMOTE_ADDR", ""))
            study = _study(store, path)
            add_deed(store, environ[USER], what, study=study, address=address)
        return app(environ, start_response)

    return wrapped


def _study(store: Store, path: str) -> str | None:
    """The name of the study that a path is of, where it names one that is there."""
    found = _STUDY.fullmatch(path)
    try:
        return found and store.storage.get_study_name_from_id(int(found[1]))
    except KeyError:
        return None
