"""A dashboard as `segtune --server` meets it: its HTTP API, and one clear line where that fails.

A laptop that only asks needs neither torch nor a database: this imports neither.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from spaces.errors import InputError
from spaces.paths import inside
from spaces.textfile import only_line

TOKEN = "SEGTUNE_TOKEN"
BASE = "/api/v1"
WAIT = 30.0  # seconds for an answer to begin or go on
MOST = 16 * 1024 * 1024  # bytes of an answer that is no file
PATIENCE = 60.0  # seconds that a dashboard may be away while a job is followed

T = TypeVar("T")


class Unreachable(InputError):
    """Nothing answers there, or not now."""


def read_token(file: Path | None) -> str | None:
    """Return the token in `file`, else that in $SEGTUNE_TOKEN; None where neither is given.

    Raises:
        InputError: it is empty, or no token; the message does not show it.
    """
    if file is not None:
        source, given = f"--token-file {file}", only_line(file, "--token-file")
    elif TOKEN in os.environ:
        source, given = f"${TOKEN}", os.environ[TOKEN]
    else:
        return None
    if not re.fullmatch("[!-~]{1,200}", given.strip()):
        raise InputError(f"{source}: a token must be one word, as `segtune users token` prints it")
    return given.strip()


def checked_address(given: str) -> str:
    """Return the address of a dashboard without a slash at its end.

    Raises:
        InputError: it is none, holds a password, or would be asked in the clear.
    """
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if "@" in parts.netloc:
        raise InputError("--server must hold no name and no password; a token goes into $" + TOKEN)
    plain = re.fullmatch("[!-~]+", given) and parts.path in ("", "/")
    if not (plain and host and parts.scheme in ("http", "https")) or parts.query or parts.fragment:
        raise InputError(
            "--server must be the address of a dashboard without a path, as in "
            f"https://dash.example.org or http://127.0.0.1:8080, but got {given[:80]!r}"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise InputError(
            f"--server {given}: without TLS others could read the token on its way; use https://, "
            f"or a tunnel: ssh -L 8080:127.0.0.1:8080 {host}, and --server http://127.0.0.1:8080"
        )
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine by its very name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect may lead the token to another site."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


@dataclass
class Server:
    """A dashboard.

    Attributes:
        address: as of `checked_address`.
        sleep: between two looks at a job.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        # a proxy of the environment reaches neither this machine nor what TLS keeps from it
        local = is_loopback(urlsplit(self.address).hostname or "")
        proxies = urllib.request.ProxyHandler({} if local else None)
        self._opener = urllib.request.build_opener(proxies, _Stay)

    def get(self, path: str, tag: str | None = None) -> tuple[Any, str | None] | None:
        """Return an answer and its tag; None where it is still that of the given tag."""
        try:
            with self._ask("GET", path, tag=tag) as answer:
                return self._read(answer), answer.headers.get("ETag")
        except _Unchanged:
            return None

    def post(self, path: str, body: bytes = b"{}", kind: str = "application/json") -> Any:
        with self._ask("POST", path, body, kind) as answer:
            return self._read(answer)

    def follow(self, number: int, hear: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Return a job once it has ended; what it is until then is heard whenever it has changed.

        The dashboard may be away for PATIENCE: it may be started again meanwhile.
        """
        tag: str | None = None
        away_since: float | None = None
        while True:
            try:
                found = self.get(f"/jobs/{number}", tag)
                away_since = None
            except Unreachable as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE:
                    raise InputError(f"{error}; job {number} goes on without us") from None
                found = None
            if found is not None:
                job, tag = found
                hear(job)
                if not job["open"]:
                    return dict(job)
            self.sleep(1.0)

    def download(self, path: str, to: Path) -> None:
        """Write a file that the dashboard sends."""
        with self._ask("GET", path) as answer, open(to, "xb") as file:
            self._of(lambda: shutil.copyfileobj(answer, file))
            size = answer.headers.get("Content-Length")
        if size is None or to.stat().st_size != int(size):
            raise Unreachable(f"{self.address} has sent a part of the file only; ask again")

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str | None = None,
        tag: str | None = None,
    ) -> Any:
        given = {"Content-Type": kind, "If-None-Match": tag, "Accept": "application/json"}
        if self.token is not None:
            given["Authorization"] = f"Bearer {self.token}"
        headers = {name: value for name, value in given.items() if value is not None}
        request = urllib.request.Request(self.address + BASE + path, body, headers, method=method)
        try:
            return self._of(lambda: self._opener.open(request, timeout=WAIT))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None

    def _of(self, call: Callable[[], T]) -> T:
        """What a call returns; raises Unreachable, or HTTPError, where it fails."""
        try:
            return call()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError as error:
            reason = error.reason
        except (OSError, http.client.HTTPException) as error:
            reason = error
        raise Unreachable(f"--server {self.address}: {_why(reason)}")

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """What to raise for an answer that is no success."""
        if error.code == 304:
            return _Unchanged()
        if error.code in (301, 302, 303, 307, 308):
            place = printable(error.headers.get("Location") or "?")[:200]
            return InputError(
                f"--server {self.address} leads on to {place}; name its right address"
            )
        text = self._of(lambda: error.read(MOST)).decode(errors="replace")
        try:
            said = printable(str(json.loads(text)["reason"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            if error.code in (502, 503, 504):
                return Unreachable(f"--server {self.address}: {error.code} {error.reason}")
            line = printable(text.strip().partition("\n")[0])[:200]
            line = "" if line.startswith("<") or not line else f": {line}"
            wrong = "" if error.code == 500 else "; is it a dashboard of segtune?"
            return InputError(f"--server {self.address} answers {error.code}{line}{wrong}")
        if error.code == 401 and self.token is None:
            said += (
                f"; programs send a token: put it into ${TOKEN} or --token-file, "
                "as made by: segtune users token NAME --label LABEL"
            )
        return InputError(f"{self.address}: {said}")

    def _read(self, answer: Any) -> Any:
        """The JSON object in an answer."""
        body = self._of(lambda: answer.read(MOST + 1))
        try:
            found = json.loads(body) if len(body) <= MOST else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            kind = printable(answer.headers.get("Content-Type") or "nothing")[:60]
            raise InputError(
                f"--server {self.address} answers with {kind} where JSON is due; is it a dashboard "
                "of segtune?"
            )
        return found


class _Unchanged(Exception):
    """The answer is what it was."""


def _why(reason: object) -> str:
    """Why nothing came, in a few words."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {reason.verify_message}; name the CA that signed it "
            "in $SSL_CERT_FILE"
        )
    if isinstance(reason, ssl.SSLError):
        return f"it does not speak TLS as it should ({reason.reason}); is it https:// at all?"
    if isinstance(reason, ConnectionRefusedError):
        return "nothing listens there; is the dashboard running?"
    if isinstance(reason, TimeoutError):
        return f"no answer within {WAIT:g} seconds"
    if isinstance(reason, http.client.HTTPException | ConnectionError):
        return f"the connection was cut, or it speaks no HTTP ({type(reason).__name__})"
    if isinstance(reason, OSError) and reason.strerror:
        return f"it cannot be reached: {reason.strerror}"
    return f"it cannot be reached: {printable(str(reason))[:200]}"


def printable(text: str) -> str:
    """A text from elsewhere without what would command a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def unpack(archive: Path, to: Path) -> int:
    """Write the files of a job's ZIP into a new folder, without the folder that is around them.

    Returns:
        How many they are.

    Raises:
        InputError: it is damaged, or none of ours: a name that leads elsewhere, a link, files
            that are packed, and so could be larger than what was sent.
    """
    to.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            if sum(entry.file_size for entry in entries) > archive.stat().st_size:
                raise InputError("its files are larger than itself")
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise InputError(f"{entry.filename!r} is packed")
                inside(to, entry.filename)
                target = inside(to, entry.filename.partition("/")[2])
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as source, open(target, "xb") as file:
                    shutil.copyfileobj(source, file)
    except (InputError, FileExistsError, NotADirectoryError, RuntimeError, ValueError) as error:
        raise InputError(f"what was sent is no result of a job: {error}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise InputError(f"what was sent is damaged: {error}") from None
    return len(entries)
