"""docker-compose.yml and docker/: a service's words, with bad secrets and with fake GPUs.

No engine is needed (test_docker.py has one). Commands, environments and healthchecks are taken from
the parsed file and run as processes of this machine against a real Postgres with a password;
`Machine.here` alone tells what a name of the containers' world is called here. Where a service
drops its capabilities they are dropped here too, so that root, which runs the tests in CI, finds a
file that it may not read.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.compose import DOCKERFILE, ROOT, SERVICES, stage, words

DASHBOARD_PASSWORD = "correct horse & battery"
ODD_PASSWORDS = ["'", '"', "a b", "p@ss{w0rd}/#%:?&=", "back\\slash", "%40", "ключ", "$HOME `id`"]

# ---------------------------------------------------------------- the services, as written


@dataclass
class Machine:
    """This machine in place of the engine: a folder for the containers' world, a Postgres.

    Attributes:
        names: what a name of the containers' world is called here.
    """

    folder: Path
    names: dict[str, str]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def here(self, text: str) -> str:
        """The one place that maps names; whole ones only, each once."""
        known = "|".join(re.escape(name) for name in self.names)
        return re.sub(rf"(?:{known})(?![\w.])", lambda m: self.names[m[0]], text)

    def environment(self, service: str) -> dict[str, str]:
        """What the engine sets, and nothing of ours but where the programs are."""
        image = dict(re.findall(r"^(?:ENV|   ) (\w+)=(\S+)(?: \\)?$", stage("base"), re.M))
        found = {**image, **SERVICES[service]["environment"]}
        return {name: self.here(value) for name, value in found.items()} | {
            "PATH": os.pathsep.join([str(self.folder / "bin"), *self._path()]),
            "HOME": str(self.folder / "home"),
            "PGPORT": self.names["5432"],  # pg_isready's default, which the healthcheck leaves away
            "OMP_NUM_THREADS": "1",
            "LANG": "C.UTF-8",
        }

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

    @staticmethod
    def _path() -> list[str]:
        postgres = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
        return [str(Path(sys.executable).parent), *postgres, os.environ["PATH"]]


@pytest.fixture
def machine(tmp_path: Path, tcp_postgres: Any) -> Iterator[Machine]:
    """A machine with the secrets, an empty data folder, and one GPU by its word."""
    for name in ("bin", "home", "secrets", "artifacts", "data", "locks", "cache"):
        (tmp_path / name).mkdir()
    secrets = {
        "postgres_password": tcp_postgres.password,
        "worker_password": "of-a-worker",
        "jobs_password": "of-a-runner",
        "dashboard_role_password": "of-a-dashboard",
        "dashboard_password": DASHBOARD_PASSWORD,
    }
    for name, password in secrets.items():
        (tmp_path / "secrets" / name).write_text(f"{password}\n")
    copied = re.findall(r"^COPY --chmod=0755 (\S+) /usr/local/bin/(\S+)$", DOCKERFILE, re.M)
    for source, program in copied:
        shutil.copy(ROOT / source, tmp_path / "bin" / program)
        (tmp_path / "bin" / program).chmod(0o755)
    gpus(tmp_path, 1)
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
            **{f"/run/secrets/{name}": str(tmp_path / "secrets" / name) for name in secrets},
            "/artifacts": str(tmp_path / "artifacts"),
            "/data": str(tmp_path / "data"),
            "/var/lib/segtune": str(tmp_path / "locks"),
            "/home/segtune/.segtune": str(tmp_path / "cache"),
        },
    )
    try:
        yield here
    finally:
        for process in here.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


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


def test_the_postgres_healthcheck_tells_a_server_from_none(machine: Machine) -> None:
    assert machine.health("postgres") == (0, "")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening
        machine.names["5432"] = str(closed.getsockname()[1])
        assert machine.health("postgres")[0] == 2


def test_a_worker_whose_store_is_away_is_not_healthy(machine: Machine) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        machine.names["postgres:5432"] = f"127.0.0.1:{closed.getsockname()[1]}"
        code, out = machine.health("worker")
    assert code == 1 and "the store does not answer" in out and "Traceback" not in out


# ---------------------------------------------------------------- the programs of docker/


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("migrate", "postgres"),
        ("worker", "worker"),
        ("jobs", "jobs"),
        ("dashboard", "dashboard_role"),
    ],
)
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
    machine: Machine, service: str, name: str, secret: bytes | str | None, message: str
) -> None:
    path = machine.folder / "secrets" / f"{name}_password"
    path.unlink()
    if isinstance(secret, bytes):
        path.write_bytes(secret)
    elif secret == "folder":
        path.mkdir()
    code, out = machine.run(service)
    assert code == 2 and len(out.splitlines()) == 1
    assert out.startswith("segtune-entrypoint: ") and message in out and str(path) in out


@pytest.mark.parametrize("name", ["worker", "jobs", "dashboard_role"])
@pytest.mark.parametrize("secret", [None, b"", b"one\ntwo\n"])
def test_a_role_is_given_no_password_that_is_none(
    machine: Machine, name: str, secret: bytes | None
) -> None:
    path = machine.folder / "secrets" / f"{name}_password"
    path.unlink() if secret is None else path.write_bytes(secret)
    code, out = machine.run("migrate")
    assert code == 2 and len(out.splitlines()) == 1
    assert out.startswith(f"segtune: --password-file segtune_{name.removesuffix('_role')}: {path} ")


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
