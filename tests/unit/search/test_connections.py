"""No client, and no crowd of them, keeps others from the dashboard's server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from waitress import wasyncore

from search.dashboard.connections import Limits, Server
from search.dashboard.server import THREADS, listen

FULL = Limits(connections=12, of_address=6)
QUICK = Limits(request=0.5, rate=1000, stalled=0.5)
LARGE = [bytes(1_000_000)] * 40  # more than waitress and the sockets hold of an answer


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    body = LARGE if environ["PATH_INFO"] == "/large" else [b"ok"]
    if environ["PATH_INFO"] == "/slow":
        time.sleep(2.5)  # longer than QUICK allows a client, and two rounds of looking for such
    start_response("200 OK", [("Content-Length", str(sum(map(len, body))))])
    return body


@pytest.fixture
def serve() -> Iterator[Callable[[Limits], int]]:
    """Serve `app` within limits; returns the port."""
    with ExitStack() as stack:

        def run(limits: Limits) -> int:
            listener = listen("0.0.0.0", 0)
            server = Server(app, listener, limits, threads=THREADS, outbuf_overflow=10**9)
            stop = threading.Event()

            def loop() -> None:
                while not stop.is_set():
                    wasyncore.loop(timeout=0.05, map=server._map, count=1, use_poll=True)
                server.task_dispatcher.shutdown()
                wasyncore.close_all(server._map)

            thread = threading.Thread(target=loop)
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            return int(listener.getsockname()[1])

        yield run


def knock(port: int, send: bytes, source: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 30, source_address=(source, 0))
    connection.sendall(send)
    return connection


def status(port: int, path: str = "/healthz", source: str = "127.0.0.1") -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=30, source_address=(source, 0))
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n1"]
)
def test_half_open_connections_keep_nobody_out(serve: Any, begun: bytes) -> None:
    port = serve(FULL)
    open_ones = [knock(port, begun) for _ in range(4 * FULL.connections)]
    assert status(port, source="127.0.0.2") == 200
    assert status(port) == 200
    for connection in open_ones:
        connection.close()


def test_a_crowd_of_addresses_keeps_nobody_out(serve: Any) -> None:
    port = serve(FULL)
    open_ones = [knock(port, b"GET / HT", f"127.0.1.{i + 1}") for i in range(2 * FULL.connections)]
    assert status(port) == 200
    for connection in open_ones:
        connection.close()


@pytest.mark.parametrize("begun", [b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n"])
def test_who_sends_a_byte_now_and_then_is_dropped(serve: Any, begun: bytes) -> None:
    connection = knock(serve(QUICK), begun)
    connection.settimeout(0.1)
    closed, until = False, time.monotonic() + 30
    while not closed and time.monotonic() < until:
        try:
            connection.sendall(b"x")
            closed = connection.recv(1) == b""
        except TimeoutError:
            continue
        except OSError:
            closed = True
    assert closed
    connection.close()


def test_who_reads_nothing_holds_no_thread(serve: Any) -> None:
    port = serve(QUICK)
    deaf = [knock(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(THREADS)]
    assert status(port) == 200
    for connection in deaf:
        connection.close()


def test_a_reader_waits_as_long_as_the_answer_takes(serve: Any) -> None:
    port = serve(QUICK)
    assert status(port, "/slow") == 200
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(2):  # a connection stays open between requests, for longer than one may take
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok"
        time.sleep(1.5)
    with suppress(OSError):
        connection.close()
