"""Who holds a slot: a name that no other worker ever had, whether its process lives, and whose."""

from __future__ import annotations

import getpass
import os
import socket
import uuid
from pathlib import Path

from search.database.store import Store

LAUNCHED_BY = "launched_by"  # a study's user attribute: user@host, or a name of the dashboard's
PERSON = "SEGTUNE_PERSON"  # who has asked for a command in the dashboard; a job's runner says so


def new_owner() -> str:
    """A name for this worker: host:pid:random."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_dead(owner: str) -> bool:
    """Whether an owner was a process of this host and is gone, or a zombie that nobody awaits."""
    host, _, pid = owner.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return True
    except OSError:
        return False  # somebody else's process, or a system without /proc
    return status[0] in ("Z", "X")


def launcher(store: Store, study_id: int) -> str | None:
    """Who has launched a study; None where an earlier version did, or it was deleted."""
    try:
        found = store.storage.get_study_user_attrs(study_id).get(LAUNCHED_BY)
    except KeyError:
        return None
    return None if found is None else str(found)


def user() -> str:
    """user@host of this process, or who has asked for it in the dashboard."""
    if person := os.environ.get(PERSON):
        return person
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user has no name
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
