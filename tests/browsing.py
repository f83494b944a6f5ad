"""A browser of the tests: it calls a WSGI app as a server would."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from search.dashboard.server import dashboard_app
from search.database.store import Store
from search.files.artifacts import Artifacts

PASSWORD = "correct horse & battery"
HOST = "localhost:8080"


@dataclass
class Answer:
    """A response, read in full."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for given, value in self.headers if given.lower() == name.lower()]
        assert len(values) < 2, f"{name} is sent twice"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Calls a WSGI app as a server would, and keeps its cookie."""

    app: WSGIApplication
    cookie: str = ""
    address: str = "192.0.2.1"
    scheme: str = "http"
    answers: list[Answer] = field(default_factory=list)

    def __call__(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        kind: str = "application/json",
        **headers: str | None,
    ) -> Answer:
        """`headers` by name with `_` for `-`; None leaves a default one out."""
        path, _, query = url.partition("?")
        environ: WSGIEnvironment = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": kind,
            "REMOTE_ADDR": self.address,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "8080",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": self.scheme,
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
        }
        for name, value in {"Host": HOST, "Cookie": self.cookie, **headers}.items():
            if value:
                environ[f"HTTP_{name.upper()}"] = value
        started: list[Any] = []

        def start(status: str, found: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started[:] = [int(status.split()[0]), found]

        chunks = self.app(environ, start)
        content = b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
        answer = Answer(*started, content)
        if given := answer.header("Set-Cookie"):
            self.cookie = given.partition(";")[0]
        self.answers.append(answer)
        return answer

    def sign_in(
        self, password: str = PASSWORD, next_: str = "", name: str = "segtune", **headers: str
    ) -> Answer:
        form = {"username": name, "password": password, "next": next_}
        body = urlencode(form).encode()
        return self("POST", "/login", body, **headers)


class Reached:
    """An inner app that notes what came to it."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"reached"]


def all_routes(store: Store, folder: Path, artifact: str, reads: bool) -> list[tuple[str, str]]:
    """(method, path) of all of optuna-dashboard's routes, with parameters filled in."""
    found = []
    for route in dashboard_app(store, Artifacts(folder).shown).routes:  # type: ignore[attr-defined]
        path = route.rule.replace("<:re:(/.*)?>", "")
        path = re.sub("<artifact_id[^>]*>", artifact, path)
        path = re.sub("<[a-z_]*:int>", "1", path)
        path = path.replace("<plot_type>", "edf").replace("<filename:path>", "bundle.js")
        path = path.replace("<history_id>", "1")
        assert "<" not in path, f"fill in the parameters of {route.rule}"
        if (route.method == "GET") == reads:
            found.append((route.method, path))
    return found
