"""docker-compose.yml and docker/: each service's words run as written.

No engine is needed. Commands, environments and healthchecks are taken from the parsed file and run
as processes of this machine against a real Postgres with a password; `Machine.here` alone tells
what a name of the containers' world is called here. Where a service drops its capabilities they are
dropped here too, so that root, which runs the tests in CI, finds a read-only folder read-only.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psycopg2
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from search.database.store import open_store
from search.samples.streets import write_streets
from tests.compose import COMPOSE, DOCKERFILE, ROOT, SERVICES, image_target, listed, stage, words
from tests.waiting import CPU_SECONDS, cpu_seconds, until

DASHBOARD_PASSWORD = "correct horse & battery"
ODD_PASSWORDS = ["'", '"', "a b", "p@ss{w0rd}/#%:?&=", "back\\slash", "%40", "ключ", "$HOME `id`"]

STUDY = """\
name: composed
task: segmentation
data:
  train: {images: train/images, masks: train/masks}
  val: {images: val/images, masks: val/masks}
  classes: classes.json
space:
  train.epochs: 1
  train.precision: fp32
  train.patience: 0
  health.grad_norm: 0
  train.batch_size: 4
  data.resolution: 32x32
  model.arch: Unet
  model.encoder: mobilenet_v2
  model.encoder_weights: null
use_default_space: false
use_starting_points: false
budget: {trials: 1}
confirm: none
sampler: random
pruner: none
"""

# run by Python at its start: of the installed packages only those of the image exist
GUARD = """\
import json, os, sys

forbidden = set(json.load(open(os.environ["FORBIDDEN_MODULES"])))

class Guard:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"No module named {name!r} (forbidden here)", name=name)

sys.meta_path.insert(0, Guard)
"""


def has_compose(docker: str | None) -> bool:
    return (
        docker is not None
        and not subprocess.run([docker, "compose", "version"], capture_output=True).returncode
    )


if has_compose(shutil.which("docker")):  # most machines have none, or a client that is too old

    def test_docker_compose_accepts_the_file() -> None:
        words = ["docker", "compose", "--file", str(COMPOSE), "--profile", "tools"]
        done = subprocess.run([*words, "config", "--quiet"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the services, as written


@dataclass
class Machine:
    """This machine in place of the engine: a folder for the containers' world, a Postgres.

    Attributes:
        names: what a name of the containers' world is called here.
    """

    folder: Path
    names: dict[str, str]
    forbidden_modules: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def here(self, text: str) -> str:
        """The one place that maps names; whole ones only, each once."""
        known = "|".join(re.escape(name) for name in self.names)
        return re.sub(rf"(?:{known})(?![\w.])", lambda m: self.names[m[0]], text)

    def environment(self, service: str) -> dict[str, str]:
        """What the engine sets, and nothing of ours but where the programs are."""
        image = dict(re.findall(r"^(?:ENV|   ) (\w+)=(\S+)(?: \\)?$", stage("base"), re.M))
        found = {**image, **SERVICES[service]["environment"]}
        here = {name: self.here(value) for name, value in found.items()} | {
            "PATH": os.pathsep.join([str(self.folder / "bin"), *self._path()]),
            "HOME": str(self.folder / "home"),
            "PGPORT": self.names["5432"],  # pg_isready's default, which the healthcheck leaves away
            "OMP_NUM_THREADS": "1",
            "LANG": "C.UTF-8",
        }
        if service != "postgres" and image_target(service) == "dashboard":
            here["PYTHONPATH"] = str(self.folder / "guard")
            here["FORBIDDEN_MODULES"] = str(self.forbidden_modules)
        return here

    def popen(self, service: str, command: list[str], **options: Any) -> subprocess.Popen[str]:
        dropped: list[str] = []
        if os.geteuid() == 0 and SERVICES[service].get("cap_drop") == ["ALL"]:
            dropped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        process = subprocess.Popen(
            [*dropped, *map(self.here, command)],
            env=self.environment(service),
            cwd=self.here(SERVICES[service].get("working_dir", str(self.folder / "home"))),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )
        self.processes.append(process)
        return process

    def run(self, service: str, *arguments: str, timeout: float = 60) -> tuple[int, str]:
        """`docker compose run SERVICE ARGUMENTS`: exit code and output."""
        command = words(service)
        if arguments:
            command = [*command[: -len(SERVICES[service]["command"])], *arguments]
        process = self.popen(service, command)
        out, _ = process.communicate(timeout=timeout)
        return process.returncode, out

    def health(self, service: str) -> tuple[int, str]:
        """Run a service's healthcheck once, within the time that it is given."""
        kind, *command = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        process = self.popen(service, command)
        seconds = int(SERVICES[service]["healthcheck"]["timeout"].removesuffix("s"))
        out, _ = process.communicate(timeout=seconds)
        return process.returncode, out

    def until_healthy(self, service: str, process: subprocess.Popen[str]) -> None:
        def healthy() -> bool:
            code, out = self.health(service)
            if code and process.poll() is not None:
                out = process.communicate()[0]
                pytest.fail(f"{service} ended with {process.returncode}: {out}")
            return code == 0

        until(healthy, progress=lambda: cpu_seconds(process.pid) // CPU_SECONDS)

    @staticmethod
    def _path() -> list[str]:
        postgres = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
        return [str(Path(sys.executable).parent), *postgres, os.environ["PATH"]]


@pytest.fixture
def machine(tmp_path: Path, tcp_postgres: Any) -> Iterator[Machine]:
    """A machine with both secrets, an empty data folder, and one GPU by its word."""
    for name in ("bin", "home", "secrets", "artifacts", "data", "locks", "cache", "guard"):
        (tmp_path / name).mkdir()
    (tmp_path / "secrets" / "postgres_password").write_text(tcp_postgres.password + "\n")
    (tmp_path / "secrets" / "dashboard_password").write_text(DASHBOARD_PASSWORD + "\n")
    copied = re.findall(r"^COPY --chmod=0755 (\S+) /usr/local/bin/(\S+)$", DOCKERFILE, re.M)
    for source, program in copied:
        shutil.copy(ROOT / source, tmp_path / "bin" / program)
        (tmp_path / "bin" / program).chmod(0o755)
    gpus(tmp_path, 1)
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    forbidden = tmp_path / "forbidden.json"
    forbidden.write_text(json.dumps(sorted(beyond_the_dashboard())))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    here = Machine(
        tmp_path,
        {
            "postgres:5432": f"{tcp_postgres.host}:{tcp_postgres.port}",
            "5432": str(tcp_postgres.port),
            "0.0.0.0": "127.0.0.1",  # the container's network is not this machine's
            "8080": port,
            "127.0.0.1:8080": f"127.0.0.1:{port}",
            "/run/secrets/postgres_password": str(tmp_path / "secrets" / "postgres_password"),
            "/run/secrets/dashboard_password": str(tmp_path / "secrets" / "dashboard_password"),
            "/artifacts": str(tmp_path / "artifacts"),
            "/data": str(tmp_path / "data"),
            "/var/lib/segtune": str(tmp_path / "locks"),
            "/home/segtune/.segtune": str(tmp_path / "cache"),
        },
        forbidden,
    )
    try:
        yield here
    finally:
        for process in here.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def database(tcp_postgres: Any, machine: Machine) -> Iterator[str]:
    """URL of the database `segtune`, which the postgres service makes at its first start."""
    with autocommit(tcp_postgres.url) as cursor:
        cursor.execute("CREATE DATABASE segtune")
    try:
        yield tcp_postgres.url.removesuffix("/postgres") + "/segtune"
    finally:
        with autocommit(tcp_postgres.url) as cursor:
            cursor.execute("DROP DATABASE segtune WITH (FORCE)")


@contextlib.contextmanager
def autocommit(url: str) -> Iterator[Any]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def gpus(folder: Path, count: int) -> None:
    """Let `nvidia-smi` list so many GPUs."""
    card = "GPU {}: NVIDIA H200 (UUID: GPU-{})\n  MIG 1g Device 0:\n"
    lines = "".join(card.format(i, i) for i in range(count))
    program = folder / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = --list-gpus ] || exit 9\ncat <<'END'\n{lines}END\n")
    program.chmod(0o755)


@functools.cache
def beyond_the_dashboard() -> frozenset[str]:
    """Top-level modules of all that is installed here but in the dashboard's image is not."""
    found, todo = {"segtune"}, list(listed())
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(requirement.name))
    modules = frozenset(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not any(canonicalize_name(owner) in found for owner in owners)
    )
    assert modules > {"torch", "torchvision", "segmentation_models_pytorch", "timm", "cv2"}
    return modules


def test_postgres_asks_everyone_for_a_password(machine: Machine, tcp_postgres: Any) -> None:
    """`initdb` with the file's arguments leaves no line of pg_hba.conf that trusts anyone."""
    arguments = SERVICES["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split()
    folder = tcp_postgres.folder / "initdb-of-compose"
    folder.mkdir(mode=0o700)
    if tcp_postgres.run_as:
        shutil.chown(folder, tcp_postgres.run_as["user"], tcp_postgres.run_as["group"])
    subprocess.run(
        [
            tcp_postgres.programs / "initdb", "--no-sync", "--locale=C", "-D", folder,
            f"--pwfile={tcp_postgres.folder / 'password'}", *arguments,
        ],
        check=True,
        capture_output=True,
        cwd=tcp_postgres.folder,
        **tcp_postgres.run_as,
    )  # fmt: skip
    lines = (folder / "pg_hba.conf").read_text().splitlines()
    methods = {line.split()[-1] for line in lines if line.strip() and not line.startswith("#")}
    assert methods == {"scram-sha-256"}


def test_the_postgres_healthcheck_tells_a_server_from_none(machine: Machine) -> None:
    assert machine.health("postgres") == (0, "")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening
        machine.names["5432"] = str(closed.getsockname()[1])
        assert machine.health("postgres")[0] == 2


def test_migrate_creates_the_tables_and_may_run_again(machine: Machine, database: str) -> None:
    for _ in range(2):
        code, out = machine.run("migrate")
        assert code == 0 and re.search(r"segtune: schema \d+$", out), out


def test_a_worker_serves_a_launched_study_until_it_is_told_to_stop(
    machine: Machine, database: str
) -> None:
    write_streets(machine.folder / "data", train=4, val=2, size=(40, 48))
    (machine.folder / "data" / "study.yaml").write_text(STUDY)
    assert machine.run("migrate")[0] == 0
    code, out = machine.health("worker")
    assert code == 1 and "no worker" in out
    worker = machine.popen("worker", words("worker"))
    machine.until_healthy("worker", worker)
    status = json.loads(machine.run("segtune", "status", "--json")[1])
    assert [w["state"] for w in status["workers"]] == ["idle"]
    assert status["workers"][0]["pid"] == worker.pid  # exec'ed, so that signals reach it
    code, out = machine.run("launch", "study.yaml")
    assert code == 0 and "left to the workers of this store" in out, out
    with autocommit(database) as cursor:

        def states() -> list[tuple[str]]:
            cursor.execute("SELECT state FROM segtune_slot")
            found: list[tuple[str]] = cursor.fetchall()
            assert found in ([("OPEN",)], [("RUNNING",)], [("COMPLETE",)])
            return found

        def work() -> object:
            return states(), cpu_seconds(worker.pid) // CPU_SECONDS

        until(lambda: states() == [("COMPLETE",)], progress=work)
    worker.send_signal(signal.SIGTERM)
    out, _ = worker.communicate(timeout=30)
    assert worker.returncode == 130, out
    assert "segtune-own-gpu: GPU 0 of 1\n" in out and "Traceback" not in out
    assert machine.health("worker")[0] == 1


def test_a_worker_whose_store_is_away_is_not_healthy(machine: Machine) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        machine.names["postgres:5432"] = f"127.0.0.1:{closed.getsockname()[1]}"
        code, out = machine.health("worker")
    assert code == 1 and "the store does not answer" in out and "Traceback" not in out


def test_the_dashboard_shows_studies_to_those_who_sign_in(machine: Machine, database: str) -> None:
    """Without torch and whatever else its image has not, and with no folder to write to."""
    assert machine.run("migrate")[0] == 0
    study_id = add_study(database)
    (machine.folder / "artifacts").chmod(0o555)
    dashboard = machine.popen("dashboard", words("dashboard"))
    machine.until_healthy("dashboard", dashboard)
    url = f"http://localhost:{machine.names['8080']}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/api/studies", timeout=10)
    refused.value.close()
    assert refused.value.code == 401
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    form = urllib.parse.urlencode({"password": DASHBOARD_PASSWORD}).encode()
    opener.open(urllib.request.Request(f"{url}/login", form, {"Origin": url}), timeout=10).close()

    def get(path: str) -> Any:
        with opener.open(f"{url}{path}", timeout=20) as answer:
            return json.load(answer)

    assert [s["study_name"] for s in get("/api/studies")["study_summaries"]] == ["shown"]
    assert len(get(f"/api/studies/{study_id}?after=0")["trials"]) == 12
    [importances] = get(f"/api/studies/{study_id}/param_importances?evaluator=ped_anova")[
        "param_importances"
    ]
    assert {found["name"] for found in importances} == {"a", "b"}
    for plot in ("contour", "slice", "parallel_coordinate", "rank", "edf", "timeline"):
        assert get(f"/api/studies/{study_id}/plot/{plot}")["data"], plot
    dashboard.send_signal(signal.SIGTERM)
    out, _ = dashboard.communicate(timeout=10)
    assert dashboard.returncode == 0 and "Traceback" not in out, out
    assert machine.health("dashboard")[0] == 1


def add_study(url: str) -> int:
    """An Optuna study of twelve trials."""
    store = open_store(url)
    try:
        study = optuna.create_study(study_name="shown", storage=store.storage)
        for _ in range(12):
            trial = study.ask()
            study.tell(trial, trial.suggest_float("a", 0, 1) + trial.suggest_int("b", 0, 9))
        return study._study_id
    finally:
        store.close()


# ---------------------------------------------------------------- the programs of docker/


@pytest.mark.parametrize("service", ["migrate", "worker", "dashboard"])
@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (None, "is missing"),
        ("folder", "is missing"),  # what an engine makes of a file that is not there
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"one\ntwo\n", "must be one line"),
        (b"dos\r\n", "must be one line"),
    ],
)
def test_a_secret_that_is_no_password_is_refused(
    machine: Machine, service: str, secret: bytes | str | None, message: str
) -> None:
    path = machine.folder / "secrets" / "postgres_password"
    path.unlink()
    if isinstance(secret, bytes):
        path.write_bytes(secret)
    elif secret == "folder":
        path.mkdir()
    code, out = machine.run(service)
    assert code == 2 and len(out.splitlines()) == 1
    assert out.startswith("segtune-entrypoint: ") and message in out and str(path) in out


def test_a_secret_that_the_user_may_not_read_is_refused(machine: Machine) -> None:
    path = machine.folder / "secrets" / "postgres_password"
    path.chmod(0)
    code, out = machine.run("migrate")
    assert code == 2 and "Permission denied" in out and "chmod 644" in out


def test_every_password_reaches_the_server(machine: Machine, tcp_postgres: Any) -> None:
    connect = "import sys, psycopg2; psycopg2.connect(sys.argv[1]).close()"
    command = ["segtune-entrypoint", "python", "-c", connect]
    with autocommit(tcp_postgres.url) as cursor:
        cursor.execute("CREATE ROLE odd LOGIN")
        try:
            for password in ODD_PASSWORDS:
                cursor.execute("ALTER ROLE odd PASSWORD %s", (password,))
                secret = machine.folder / "secrets" / "postgres_password"
                secret.write_text(f"{password}\n")
                url = "postgresql://odd@postgres:5432/postgres"
                process = machine.popen("migrate", [*command, url])
                out, _ = process.communicate(timeout=30)
                assert process.returncode == 0, (password, out)
        finally:
            cursor.execute("DROP ROLE odd")


def test_the_password_is_in_no_command_line_and_in_no_output(
    machine: Machine, tcp_postgres: Any
) -> None:
    show = "import os, sys; print(sys.argv, {k: v for k, v in os.environ.items() if k[:2] != 'PG'})"
    process = machine.popen("migrate", ["segtune-entrypoint", "python", "-c", show])
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and tcp_postgres.password not in out
    (machine.folder / "secrets" / "postgres_password").write_text("the wrong one\n")
    code, out = machine.run("migrate")
    assert code == 2 and "refused the user name or password" in out and "wrong one" not in out


def test_an_unknown_command_has_the_code_of_a_shell(machine: Machine) -> None:
    process = machine.popen("migrate", ["segtune-entrypoint", "segtoon"])
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 127 and "cannot run segtoon" in out


def test_each_worker_has_a_gpu_before_any_is_shared(machine: Machine) -> None:
    gpus(machine.folder, 2)
    tell = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"

    def begin() -> tuple[subprocess.Popen[str], str, str]:
        process = machine.popen("worker", ["segtune-own-gpu", "python", "-c", tell])
        assert process.stdout is not None
        return process, process.stdout.readline(), process.stdout.readline()

    held = [begin() for _ in range(4)]
    assert [line for _, line, _ in held] == [
        "segtune-own-gpu: GPU 0 of 2\n",
        "segtune-own-gpu: GPU 1 of 2\n",
        "segtune-own-gpu: GPU 0 of 2, shared\n",
        "segtune-own-gpu: GPU 1 of 2, shared\n",
    ]
    assert [place for _, _, place in held] == ["0\n", "1\n", "0\n", "1\n"]
    fifth, line, _ = begin()
    assert "all GPUs here (2) are taken by 2 each" in line and fifth.wait(timeout=20) == 2
    held[1][0].kill()
    held[1][0].wait(timeout=20)
    assert begin()[1:] == ("segtune-own-gpu: GPU 1 of 2\n", "1\n")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("#!/bin/sh\nexit 0\n", "lists no GPU"),
        ("#!/bin/sh\necho 'no driver'\nexit 9\n", "nvidia-smi failed: no driver"),
        (None, "is the NVIDIA container toolkit installed"),
    ],
)
def test_a_machine_without_a_gpu_is_refused(
    machine: Machine, program: str | None, message: str
) -> None:
    path = machine.folder / "bin" / "nvidia-smi"
    if program is None:
        if shutil.which("nvidia-smi"):
            pytest.skip("this machine has an nvidia-smi of its own")
        path.unlink()
    else:
        path.write_text(program)
    code, out = machine.run("worker")
    assert code == 2 and message in out and len(out.splitlines()) == 1
