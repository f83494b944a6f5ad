"""Stores that every service test runs against, and a network that fails on command."""

from __future__ import annotations

import contextlib
import functools
import io
import socket
import struct
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import sqlalchemy as sa
from filelock import FileLock
from rich.console import Console

from search.database.embedded import EmbeddedServer
from search.database.roles import WORKER, set_up_roles
from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from search.samples.streets import write_streets
from search.studies.study import Study
from spaces.spec import StudySpec
from tests.waiting import Running, until

TCP = pytest.param("tcp", marks=pytest.mark.cluster)
# for tests of what is done in another way on sqlite; others try it in `make test-cluster`
sqlite_too = pytest.mark.parametrize("store_url", ["embedded", TCP, "sqlite"], indirect=True)
# for the commands that tests/service/test_roles.py does not run
worker_too = pytest.mark.parametrize("store_url", ["embedded", TCP, WORKER], indirect=True)

SPEC = """\
name: {name}
task: segmentation
data:
  train: {{images: {data}/train/images, masks: {data}/train/masks}}
  val: {{images: {data}/val/images, masks: {data}/val/masks}}
  classes: {data}/classes.json
space:
  train.epochs: {epochs}
  train.precision: fp32
  train.patience: 0
  health.grad_norm: 0
  health.diverging: 0
  health.falling_epochs: 0
  health.dead_class_epochs: 0
  train.batch_size: 4
  data.resolution: 32x32
  data.augment: none
  model.arch: Unet
  model.encoder: mobilenet_v2
  model.encoder_weights: null
  loss.warmup_epochs: {{low: 0, high: 1}}
  optim.lr: {{low: 1e-4, high: 1e-2, log: true}}
use_default_space: false
use_starting_points: {starting_points}
sampler: random
budget: {{trials: {trials}}}
confirm: {confirm}
pruner: {pruner}
"""


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set of 8 + 4 images."""
    return write_streets(tmp_path_factory.mktemp("streets"), train=8, val=4, size=(40, 48))


def small_study(
    data: Path,
    *,
    name: str,
    trials: int = 3,
    epochs: int = 2,
    pruner: str = "none",
    starting_points: str = "false",
    confirm: str = "none",
) -> str:
    """The text of a small study file."""
    return SPEC.format(
        name=name,
        data=data,
        trials=trials,
        epochs=epochs,
        pruner=pruner,
        starting_points=starting_points,
        confirm=confirm,
    )


@pytest.fixture
def make_spec(streets: Path, tmp_path: Path) -> Callable[..., StudySpec]:
    """Write and load a small study file."""

    def make(name: str = "small", **given: Any) -> StudySpec:
        path = tmp_path / f"{name}.yaml"
        path.write_text(small_study(streets, name=name, **given))
        return StudySpec.load(path)

    return make


@pytest.fixture(scope="session")
def check_whole() -> Callable[[Study, int, int], None]:
    """Exactly the budget: every trial trained in full, each of its epochs once."""

    def check(study: Study, trials: int, epochs: int) -> None:
        counts = study.slots.counts()
        assert counts["COMPLETE"] == trials == sum(counts.values()), counts
        assert [trial.number for trial in study.trials()] == [*range(trials)]
        for trial in study.trials():
            history = study.history(trial.number)
            assert [report.epoch for report in history] == [*range(1, epochs + 1)]
            # of a trial that had begun anew, the child's seconds would not be those first reported
            assert trial.user_attrs["seconds"] == round(sum(r.seconds for r in history), 3)

    return check


@dataclass(frozen=True)
class Finished:
    """A study of three trials that have really been trained, `my-study`."""

    folder: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'store.db'}"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def spec(self) -> StudySpec:
        return StudySpec.load(self.folder / "study.yaml")


@pytest.fixture(scope="session")
def finished(shared_folder: Path) -> Finished:
    """Run it once for all tests that read from it, of all processes; two models are kept."""
    from search.launch import launch
    from spaces.errors import DONE

    found = Finished(shared_folder / "finished")
    with FileLock(shared_folder / "finished.lock"):
        if found.folder.exists():
            return found
        data = write_streets(found.folder / "streets", train=8, val=4, size=(40, 48))
        text = small_study(data, name="my-study") + "keep_models: 2\n"
        (found.folder / "study.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SEGTUNE_HOME", str(found.folder / "home"))
            store = open_store(found.url)
            quiet = Console(file=io.StringIO(), width=200)
            assert launch(found.spec, store, Artifacts(found.artifacts), quiet) == DONE
            store.close()
    return found


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """An embedded Postgres of this test session; each test gets a database of its own."""
    with tempfile.TemporaryDirectory(prefix="segtune-embedded-") as folder:
        server = EmbeddedServer(Path(folder) / "postgres")
        server.start()
        yield server.url
        server.leave()
        until(lambda: server.pid() is None)


@pytest.fixture(params=["embedded", TCP, pytest.param("sqlite", marks=pytest.mark.cluster)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store of each kind; one that of a role which is no administrator."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    if request.param == "embedded":
        server = request.getfixturevalue("embedded_url")
    else:
        server = request.getfixturevalue("tcp_postgres").url
    if request.param == WORKER:
        yield from as_worker(server)
    else:
        yield from fresh_database(server)


def as_worker(server: str) -> Iterator[str]:
    """A database of its own with roles; the URL is that of its worker's."""
    for url in fresh_database(server):
        with contextlib.closing(open_store(url)) as store:
            set_up_roles(store, {WORKER: "of-a-worker"})
        of_worker = sa.make_url(url).set(username=WORKER, password="of-a-worker")
        yield of_worker.render_as_string(hide_password=False)


@pytest.fixture
def postgres_url(embedded_url: str) -> Iterator[str]:
    """The URL of an empty database on the embedded Postgres."""
    yield from fresh_database(embedded_url)


@pytest.fixture
def tcp_url(tcp_postgres: Any) -> Iterator[str]:
    """The URL, with its password, of an empty database on the TCP server."""
    yield from fresh_database(tcp_postgres.url)


@pytest.fixture(params=["embedded", TCP])
def any_postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database on each kind of Postgres in which no store was ever opened."""
    if request.param == "embedded":
        server = request.getfixturevalue("embedded_url")
    else:
        server = request.getfixturevalue("tcp_postgres").url
    yield from fresh_database(server, "template1")


@pytest.fixture
def proxy_to() -> type[Proxy]:
    """A network that fails on command."""
    return Proxy


def fresh_database(server: str, template: str | None = None) -> Iterator[str]:
    """Create a database on a server and drop it after the test.

    Args:
        template: what it is a copy of; None: of one that has an empty store's tables.
    """
    url = sa.make_url(server).set(drivername="postgresql+psycopg2")
    name = f"test_{uuid.uuid4().hex[:12]}"
    copied = template or _with_tables(url)
    with _autocommit(url) as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {copied}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with _autocommit(url) as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@functools.cache
def _with_tables(url: sa.URL) -> str:
    """The name of a database on a server in which a store was opened once."""
    with _autocommit(url) as connection:
        connection.execute(sa.text("CREATE DATABASE with_tables"))
    open_store(url.set(database="with_tables").render_as_string(hide_password=False)).close()
    return "with_tables"


@contextlib.contextmanager
def _autocommit(url: sa.URL) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An open, empty store of each kind."""
    opened = open_store(store_url)
    yield opened
    opened.close()


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes bytes on.

    Attributes:
        swallow_commits: drop this many replies to COMMIT, and the connection with them.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = host, port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.open = threading.Event()
        self.open.set()
        self.swallow_commits = 0
        self.swallowed = 0
        self.pairs: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.listener.close()
        self.open.set()
        self.reset()

    def black_hole(self) -> None:
        """Take bytes and pass nothing on."""
        self.open.clear()

    def heal(self) -> None:
        """Pass bytes on again."""
        self.open.set()

    def reset(self) -> None:
        """Break every connection with an RST."""
        for pair in self.pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    linger = struct.pack("ii", 1, 0)
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    end.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError):
                    end.close()
        self.pairs.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            self.pairs.append((client, server))
            drop = threading.Event()
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pass, args=(source, sink, up, drop), daemon=True
                ).start()

    def _pass(
        self, source: socket.socket, sink: socket.socket, up: bool, drop: threading.Event
    ) -> None:
        """Pass on one direction; `drop` is set from a COMMIT to its swallowed reply."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.open.wait()
                if up and self.swallow_commits > 0 and b"COMMIT\0" in data:
                    self.swallow_commits -= 1
                    drop.set()
                if not up and drop.is_set():
                    self.swallowed += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def fresh_databases(embedded_url: str) -> Iterator[Callable[[], str]]:
    """Makes the URLs of as many empty databases on the embedded Postgres as are asked for."""
    with contextlib.ExitStack() as databases:
        yield lambda: databases.enter_context(
            contextlib.contextmanager(fresh_database)(embedded_url)
        )


@pytest.fixture(scope="session")
def segtune() -> Callable[..., str]:
    """Run a command in `cwd` and return its output; the exit code must be `code`."""

    def run(*words: str, cwd: Path, code: int = 0) -> str:
        out = Running.segtune(*words, cwd=cwd).finish(code)
        assert "Traceback" not in out
        return out

    return run
