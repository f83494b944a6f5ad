"""Without the extras s3, slurm and ray: each is named where it is needed, all else works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.database.store import open_store
from search.studies.study import study_names

Segtune = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def segtune(tcp_url: str, tmp_path: Path) -> Segtune:
    """Runs a command where none of the three packages can be imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('boto3', 'botocore', 'submitit', 'ray'):\n"
        "    sys.modules[name] = None\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "SEGTUNE_STORE": tcp_url,
        "SEGTUNE_HOME": str(tmp_path / "home"),
    }

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "search.cli", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        (("--on", "slurm"), "slurm"),
        (("--on", "ray"), "ray"),
        (("--artifacts", "s3://a-bucket/prefix"), "s3"),
    ],
)
def test_an_absent_extra_is_named_and_nothing_begins(
    segtune: Segtune,
    tcp_url: str,
    make_spec: Callable[..., object],
    tmp_path: Path,
    options: tuple[str, ...],
    extra: str,
) -> None:
    make_spec()
    answer = segtune("launch", str(tmp_path / "small.yaml"), *options)
    assert answer.returncode == 2, answer
    assert f"pip install 'segtune[{extra}]'" in answer.stderr and "Traceback" not in answer.stderr
    store = open_store(tcp_url)
    assert study_names(store) == []
    store.close()


def test_everything_else_works_without_them(
    segtune: Segtune, make_spec: Callable[..., object], tmp_path: Path
) -> None:
    make_spec(trials=2)
    launched = segtune("launch", str(tmp_path / "small.yaml"), "--workers", "2")
    assert launched.returncode == 0, launched
    for command in (
        ("status", "small"),
        ("export", "small", "--to", str(tmp_path / "best")),
        ("report", "small", "--to", str(tmp_path / "report.html")),
        ("stop", "small"),
    ):
        answer = segtune(*command)
        assert answer.returncode == 0, answer
    assert (tmp_path / "best" / "config.yaml").exists()
