"""The files shown with studies and trials, served so that none of them runs as a page of this site.

optuna-dashboard's own routes serve an uploaded page or drawing as what it claims to be, and fail on
a file that is not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import FileWrapper

from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage

from search.dashboard.guards import READ_METHODS, answer
from search.dashboard.optuna_dashboard_private import artifact_meta
from search.files.shown import ShownFiles

INLINE = ("image/png", "image/jpeg", "application/json")  # may be shown in place
BLOCK = 64 * 1024  # bytes of a file sent at a time
# browsers show an image as a page of its own, with styles in it
POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

_PATH = re.compile(r"/artifacts/([0-9]{1,9})(?:/([0-9]{1,9}))?/([0-9a-f-]{36})")


def with_artifacts(
    app: WSGIApplication, storage: BaseStorage, files: ShownFiles
) -> WSGIApplication:
    """Serve /artifacts/STUDY[/TRIAL]/ID in place of optuna-dashboard's own routes.

    INLINE types may be shown in place, all others are downloaded as plain bytes. What is not there
    is a 404.
    """

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path != "/artifacts" and not path.startswith("/artifacts/"):
            return app(environ, start_response)
        if environ["REQUEST_METHOD"] not in READ_METHODS:
            allow = [("Allow", "GET, HEAD")]
            status = HTTPStatus.METHOD_NOT_ALLOWED
            return answer(environ, start_response, status, headers=allow)
        meta = _artifact_meta(storage, path)
        try:
            file = files.open_reader(meta["artifact_id"]) if meta else None
        except ArtifactNotFound:
            file = None
        if meta is None or file is None:
            return answer(environ, start_response, HTTPStatus.NOT_FOUND, "no such file\n")
        shown = meta["mimetype"] if meta["mimetype"] in INLINE else None
        return send_file(environ, start_response, file, _size(file), meta["filename"], shown)

    return wrapped


def send_file(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    file: BinaryIO,
    size: int,
    name: str,
    shown: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    """Answer with a file, piece by piece; it is closed at the end.

    Args:
        name: under which it is saved.
        shown: its type, where it may be shown in place; else it is downloaded as plain bytes.
        headers: more of them.
    """
    start_response(
        "200 OK",
        [
            ("Content-Type", shown or "application/octet-stream"),
            ("Content-Length", str(size)),
            ("Content-Disposition", _disposition(name, shown is not None)),
            ("Content-Security-Policy", POLICY),
            *headers,
        ],
    )
    if environ["REQUEST_METHOD"] == "HEAD":
        file.close()
        return []
    wrapper = environ.get("wsgi.file_wrapper", FileWrapper)
    return wrapper(file, BLOCK)  # type: ignore[no-any-return]


def _size(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _artifact_meta(storage: BaseStorage, path: str) -> dict[str, str] | None:
    """What is stored of the artifact that a path names, as text; None where there is none."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    study, trial, artifact = found.groups()
    try:
        trial_id = None if trial is None else int(trial)
        meta = artifact_meta(storage, int(study), trial_id, artifact)
    except KeyError:  # no such study or trial
        return None
    if meta is None:
        return None
    return {
        "artifact_id": artifact,
        "filename": str(meta.get("filename")),
        "mimetype": str(meta.get("mimetype")),
    }


def _disposition(filename: str, inline: bool) -> str:
    """The Content-Disposition of a file, whose name may hold anything."""
    name = re.sub(r"[^\w.+ -]", "_", re.split(r"[/\\]", filename)[-1]).lstrip(". ")[:150] or "file"
    plain = re.sub(r"[^ -~]", "_", name)
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
