"""What lets somebody in: one password for all, or people by name, who are in the store."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from search.database import sessions
from search.database.people import OWNER
from search.database.sessions import Visitor
from search.database.store import Store
from spaces.errors import InputError

SESSION_SECONDS = 12 * 3600
MAX_SESSIONS = 1000  # of the shared password; the oldest ends when there are more
MAX_AT_ONCE = 4  # sign-ins by name under way, of the server's 8 threads
MAX_HASHED = 2  # of them that reckon, at 32 MiB and one core each

Clock = Callable[[], float]


class Busy(Exception):
    """Too many sign in at this moment."""


class Door(Protocol):
    """Who may come in.

    Attributes:
        by_name: whether a name is asked for.
    """

    by_name: bool

    def sign_in(self, name: str, password: str, address: str) -> str | None:
        """The token of a new session; None where name or password is wrong. Raises Busy."""

    def visitor(self, token: str) -> Visitor | None:
        """Whose session it is."""

    def sign_out(self, token: str) -> None: ...

    def sign_out_everywhere(self, name: str, address: str) -> None: ...

    def of_program(self, token: str) -> Visitor | None:
        """Whose program it is that sends a token."""

    def of_proxy(self, name: str) -> Visitor | None:
        """The user whom a trusted proxy names."""


class SharedPassword:
    """One password; who has it may do all. Sessions are kept by their hashes, in memory only."""

    by_name = False

    def __init__(self, password: str, clock: Clock = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._digest = self._hash(password)
        self._sessions = Sessions(clock)

    def sign_in(self, name: str, password: str, address: str) -> str | None:
        right = hmac.compare_digest(self._hash(password), self._digest)
        return self._sessions.begin() if right else None

    def visitor(self, token: str) -> Visitor | None:
        return Visitor("", OWNER) if self._sessions.holds(token) else None

    def sign_out(self, token: str) -> None:
        self._sessions.end(token)

    def sign_out_everywhere(self, name: str, address: str) -> None:
        """Nothing: nobody knows which of the sessions are one person's."""

    def of_program(self, token: str) -> Visitor | None:
        return None

    def of_proxy(self, name: str) -> Visitor | None:
        return None

    def _hash(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode(), "sha256")


class ByName:
    """The users of a store; their sessions are there too, and outlive this process."""

    by_name = True

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._room = threading.BoundedSemaphore(MAX_HASHED)

    def sign_in(self, name: str, password: str, address: str) -> str | None:
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            with self._room:
                key = sessions.key_of(self._store, name, password)
            if key is None:
                return None
            return sessions.begin_session(self._store, name, key, SESSION_SECONDS, address)
        finally:
            self._places.release()

    def visitor(self, token: str) -> Visitor | None:
        return sessions.of_session(self._store, token) if token else None

    def sign_out(self, token: str) -> None:
        sessions.end_session(self._store, token)

    def sign_out_everywhere(self, name: str, address: str) -> None:
        sessions.end_sessions(self._store, name, address)

    def of_program(self, token: str) -> Visitor | None:
        return sessions.of_token(self._store, token)

    def of_proxy(self, name: str) -> Visitor | None:
        return sessions.of_name(self._store, name)


class Sessions:
    """Tokens of those who have signed in; kept by their hashes, in memory only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[bytes, float] = {}  # oldest first
        self._lock = threading.Lock()

    def begin(self) -> str:
        """Return the token of a new session of SESSION_SECONDS."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            live = [(key, end) for key, end in self._ends.items() if end > now]
            self._ends = dict(live[-(MAX_SESSIONS - 1) :])
            self._ends[_sha256(token)] = now + SESSION_SECONDS
        return token

    def holds(self, token: str) -> bool:
        """Whether a token is that of a session which has not ended."""
        with self._lock:
            end = self._ends.get(_sha256(token))
            return end is not None and self._clock() < end

    def end(self, token: str) -> None:
        with self._lock:
            self._ends.pop(_sha256(token), None)


@dataclass(frozen=True)
class Proxy:
    """A reverse proxy that signs people in, and names them in a header.

    Attributes:
        header: as in X-Forwarded-User.
        addresses: of the proxy; from any other the header says nothing.
    """

    header: str
    addresses: tuple[str, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9-]{0,63}", self.header):
            raise InputError(
                f"--proxy-user-header must be the name of a header, as in X-Forwarded-User, but "
                f"got {self.header[:80]!r}"
            )
        for address in self.addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise InputError(
                    f"--proxy must be the address of the proxy, as in 10.0.0.5, but got "
                    f"{address[:80]!r}"
                ) from None

    def name(self, environ: Mapping[str, Any]) -> str:
        """Whom it names in a request; "" where it names nobody, or the request is not its own."""
        try:
            peer = ipaddress.ip_address(str(environ.get("REMOTE_ADDR", "")))
        except ValueError:
            return ""
        if all(peer != ipaddress.ip_address(address) for address in self.addresses):
            return ""
        key = "HTTP_" + self.header.upper().replace("-", "_")
        return str(environ.get(key, "")).strip().lower()


def proxy_of(header: str | None, addresses: tuple[str, ...]) -> Proxy | None:
    """The proxy of a command line; raises InputError where only a half of it was given."""
    if header is None and not addresses:
        return None
    if header is None or not addresses:
        raise InputError(
            "--proxy-user-header and --proxy belong together: the header's name, and the address "
            "of the only one who may send it"
        )
    return Proxy(header, addresses)


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
