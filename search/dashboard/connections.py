"""The dashboard's server: waitress, whose connections no client can use up.

waitress takes 100 connections and closes one that has been silent for two minutes. 100 clients that
send a byte a minute, or 100 that read nothing, would keep everybody else out for good.
"""

from __future__ import annotations

import math
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from wsgiref.types import WSGIApplication

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer


@dataclass(frozen=True)
class Limits:
    """What clients may take.

    Attributes:
        connections: open at once.
        of_address: of them, from one address; behind a proxy all readers have one.
        request: seconds for a whole request; its body has more, by `rate`.
        rate: bytes a second at which a body has to come.
        idle: seconds between two requests of a connection.
        stalled: seconds in which something of an answer has to be read.
    """

    connections: int = 300
    of_address: int = 100
    request: float = 20.0
    rate: float = 16_384.0
    idle: float = 120.0
    stalled: float = 60.0


class Connection(HTTPChannel):  # type: ignore[misc]
    """One connection, which knows since when it waits for its client."""

    def __init__(self, server: Server, sock: Any, addr: Any, *rest: Any, **options: Any) -> None:
        there_is_room = server.make_room(addr[0])
        self.since = time.monotonic()  # inf while a request is answered
        self.served = False
        super().__init__(server, sock, addr, *rest, **options)
        if not there_is_room:
            self.drop()

    def received(self, data: bytes) -> Any:
        begins = self.request is None
        result = super().received(data)
        if begins and self.request is not None:
            self.since = time.monotonic()
        return result

    def service(self) -> None:
        self.since, self.served = math.inf, True
        super().service()
        self.since = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether a whole request is being answered."""
        return bool(self.requests) or self.since == math.inf

    def overdue(self, now: float, limits: Limits) -> bool:
        """Whether the client has taken longer than it may."""
        if self.total_outbufs_len:
            return bool(time.time() - self.last_activity > limits.stalled)
        if self.busy:
            return False
        if self.request is None and self.served:
            return now - self.since > limits.idle
        body = 0 if self.request is None else self.request.body_bytes_received
        return bool(now - self.since > limits.request + body / limits.rate)

    def drop(self) -> None:
        """Let the server's loop close it, also where the client reads nothing."""
        self.will_close = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Server(TcpWSGIServer):  # type: ignore[misc]
    """waitress on a socket that listens, with a place for whoever comes.

    Args:
        options: waitress's own.
    """

    channel_class = Connection

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        self.limits = limits or Limits()
        adjustments = Adjustments(
            sockets=[listener],
            connection_limit=2 * self.limits.connections,  # they are counted here
            cleanup_interval=1,
            asyncore_use_poll=True,
            **options,
        )
        place = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(app, _sock=listener, adj=adjustments, bind_socket=False, sockinfo=place)

    def make_room(self, address: str) -> bool:
        """Drop who has waited longest, of this address or of all, where there are too many.

        To send a request takes milliseconds, so it is hardly ever a reader. False: there is nobody
        to drop, as all are being answered.
        """
        there = [c for c in self.active_channels.values() if not c.will_close]
        crowd = [c for c in there if c.addr[0] == address]
        if len(crowd) < self.limits.of_address:
            if len(there) < self.limits.connections:
                return True
            crowd = there
        waiting = [c for c in crowd if not c.busy]
        if waiting:
            min(waiting, key=lambda c: (c.total_outbufs_len > 0, c.since)).drop()
        return bool(waiting)

    def maintenance(self, now: float) -> None:
        """Drop who takes too long. waitress calls it each second."""
        ticks = time.monotonic()
        for connection in list(self.active_channels.values()):
            if connection.overdue(ticks, self.limits):
                connection.drop()
