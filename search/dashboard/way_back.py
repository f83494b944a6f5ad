"""A way from optuna-dashboard's page to segtune's own: links below its page, outside its script's.

Its bundle stays as it is. The page that loads the bundle has one element, which the bundle fills;
the links stand behind that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from search.dashboard.guards import READ_METHODS

END = b"</body>"
LINKS = b"""\
<nav class="segtune" aria-label="segtune">
<a href="/studies">Studies</a> <a href="/workers">Workers</a>
</nav>
<style>
.segtune { position: fixed; right: 12px; bottom: 12px; z-index: 1500; display: flex; gap: 16px;
padding: 8px 14px; border-radius: 8px; background: #1a5fb4; font: 600 14px system-ui, sans-serif; }
.segtune a { color: #fff; }
.segtune a:focus-visible { outline: 3px solid #fff; outline-offset: 2px; }
@media print { .segtune { display: none; } }
</style>
"""


class WayBack:
    """Adds the links to GET /dashboard and what is below it; all else goes to `inner` as it is."""

    def __init__(self, inner: WSGIApplication) -> None:
        self.inner = inner

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if method not in READ_METHODS or not (path + "/").startswith("/dashboard/"):
            return self.inner(environ, start_response)
        answered: list[Any] = []
        whole = {**environ, "REQUEST_METHOD": "GET"}
        for name in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_RANGE"):
            whole.pop(name, None)  # which tell of the page without the links
        chunks = self.inner(whole, _into(answered))
        body = b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
        status, headers, *rest = answered
        if status.startswith("200") and END in body:
            body = body.replace(END, LINKS + END, 1)
            stale = ("content-length", "etag", "last-modified", "accept-ranges")
            headers = [(name, value) for name, value in headers if name.lower() not in stale]
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers, *rest)
        return [] if method == "HEAD" else [body]


def _into(answered: list[Any]) -> Any:
    """A `start_response` that keeps what it is given."""
    return lambda *given: answered.extend(given)
