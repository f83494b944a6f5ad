"""The store's password is where it must be, and nowhere else: a canary that is looked for."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.launchers.engine import Order
from search.launchers.local import Local
from search.launchers.slurm import Slurm
from search.studies.heartbeats import workers
from search.studies.study import create_or_resume
from spaces.sections import WorkersSpec
from spaces.spec import StudySpec
from tests.waiting import until

SBATCH = """\
#!/bin/sh
echo "$@" >> "{folder}/said"
for last; do :; done
cat "$last" >> "{folder}/said" 2>/dev/null
echo Submitted batch job 7
"""


@pytest.fixture
def canaries(tcp_postgres: Any) -> list[bytes]:
    """The password, plain and as it stands in a URL."""
    plain = tcp_postgres.password
    return [plain.encode(), quote(plain, safe="").encode()]


def held_by(canaries: list[bytes], *folders: Path) -> list[Path]:
    """The files in which one of the canaries is."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(canary in path.read_bytes() for canary in canaries)]


def test_no_password_is_in_a_workers_command_line_log_or_file(
    tcp_url: str,
    canaries: list[bytes],
    make_spec: Callable[..., StudySpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that a launch has started, which waits for work and is then told to end."""
    folder = tmp_path / "artifacts"
    with contextlib.closing(open_store(tcp_url)) as store:
        study = create_or_resume(store, make_spec(trials=1), "f" * 64, None)
        assert study.slots.claim(study.ask)  # so that it waits
        order = Order("small", Artifacts(folder), tcp_url, WorkersSpec(count=1), detach=True)
        assert not any(canary in repr(order).encode() for canary in canaries)
        [member] = Local(order.options).start(order)
        pid = int(member.job.split()[1])
        try:
            until(lambda: workers(store) or not member.runs())
            lines = [Path(path, "cmdline").read_bytes() for path in session(pid)]
            assert lines and any(b"search.cli" in line for line in lines)
            assert not [line for line in lines if any(canary in line for canary in canaries)]
            environment = Path(f"/proc/{pid}/environ")  # which its own user may read, as root may
            assert canaries[1] in environment.read_bytes()
            assert environment.stat().st_mode & 0o077 == 0
        finally:
            os.killpg(pid, signal.SIGTERM)
            until(lambda: not member.runs())
        assert member.failure() is None, Path(member.log).read_text()
    assert Path(member.log).is_file()
    assert held_by(canaries, folder, Path(os.environ["SEGTUNE_HOME"])) == []


def session(leader: int) -> Iterator[Path]:
    """The folders in /proc of a session's processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                yield folder


def test_no_password_is_in_a_job_that_slurm_is_given(
    tcp_url: str,
    canaries: list[bytes],
    segtune_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In what `sbatch` is told, script included; submitit's own file is for its user alone."""
    pytest.importorskip("submitit")
    programs, folder = tmp_path / "bin", tmp_path / "artifacts"
    programs.mkdir()
    for name in ("sbatch", "scontrol", "scancel", "srun", "sacct"):
        (programs / name).write_text(SBATCH.format(folder=tmp_path))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    options = WorkersSpec(on="slurm", count=1)
    order = Order("small", Artifacts(folder), tcp_url, options, detach=True)
    engine = Slurm(options)
    engine.check()
    [member] = engine.start(order)
    assert member.job == "slurm 7"
    said = (tmp_path / "said").read_bytes()
    assert b"srun" in said and b"submitit" in said  # the script was read
    assert not [canary for canary in canaries if canary in said]
    assert not held_by(canaries, folder)
    held = held_by(canaries, segtune_home)
    assert held and all(path.stat().st_mode & 0o077 == 0 for path in held), held
