"""A real Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.database.store import Store, open_store
from search.launchers import JOBS
from search.studies.heartbeats import workers
from search.studies.study import Study, open_study, study_names
from tests.waiting import Running, until

TOKEN = "ab" * 32
RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else addresses of 127.0.0.1 are replaced
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Cluster:
    """A head without room for workers, and nodes; joining it takes a token."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("ray_cluster.py"))],
            env={**os.environ, **RAY},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._answer()

    def add_node(self, cpus: int, gpus: int) -> str:
        """Add a node that is said to have so many cores and GPUs; returns its id."""
        return self._ask(f"add {cpus} {gpus}")

    def remove_node(self, node: str) -> None:
        """Take a node away, as if it had lost power."""
        self._ask(f"remove {node}")

    def stop(self) -> None:
        self.process.communicate(timeout=120)

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        assert answer, self.process.poll()
        return answer


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    yield found
    found.stop()


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[list[str]]:
    """Two nodes of two cores and one GPU each; a test that takes one away takes it from here."""
    added = [cluster.add_node(2, 1) for _ in range(2)]
    yield added
    for node in added:
        cluster.remove_node(node)


def launch(
    cluster: Cluster, url: str, folder: Path, *options: str, count: int = 3, **changes: str
) -> Running:
    settings = [f"--worker-option={o}" for o in (f"address={cluster.address}", *options)]
    return Running.segtune(
        "launch", folder / "small.yaml", "--on", "ray", "--workers", str(count), *settings,
        env={
            **RAY,
            "SEGTUNE_STORE": url,
            "SEGTUNE_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "SEGTUNE_DEVICE": "cpu",  # the GPUs of these nodes are but counted
            **changes,
        },
    )  # fmt: skip


@pytest.mark.timeout(1500)
def test_a_killed_node_loses_and_doubles_nothing(
    cluster: Cluster,
    nodes: list[str],
    tcp_url: str,
    make_spec: Any,
    tmp_path: Path,
    check_whole: Callable[[Study, int, int], None],
) -> None:
    make_spec(trials=8, epochs=16)
    process = launch(cluster, tcp_url, tmp_path, "gpus=0.5", "max_restarts=-1")
    store = open_store(tcp_url)

    def moves() -> object:
        return process.progress(), progress(store)

    try:
        # Ray's own processes start and import; none of what they do can be seen from here
        busy = until(lambda: len(found := jobs(store)) == 3 and found, progress=moves, quiet=900)
        places = {job.rpartition(" on ")[2] for job in busy}
        assert len(places) == 2, busy  # 0.5 GPU each: two on one node, one on the other
        victim = next(node for node in nodes if node[:8] == min(places))
        nodes.remove(victim)
        cluster.remove_node(victim)
        process.finish(progress=moves)
        study = open_study(store, "small")
        check_whole(study, 8, 16)
        # the cluster may be gone when the study is stopped some day
        assert store.study_attrs(study.study_id, JOBS) == {JOBS: "[]"}
    finally:
        process.kill()
        store.close()


def progress(store: Store) -> object:
    """Epochs of all trials, and who works on them."""
    if "small" not in study_names(store):
        return None
    study = open_study(store, "small")
    return [len(study.history(trial.number)) for trial in study.trials()], jobs(store)


def jobs(store: Store) -> dict[str, int]:
    """{job: its trial} of workers whose trial has trained two epochs."""
    return {
        row["job"]: row["trial_number"]
        for row in workers(store)
        if row["state"] == "running"
        and len(open_study(store, "small").history(row["trial_number"])) >= 2
    }


def test_what_no_node_has_is_refused(
    cluster: Cluster, nodes: list[str], tcp_url: str, make_spec: Any, tmp_path: Path
) -> None:
    make_spec()
    out = launch(cluster, tcp_url, tmp_path, "cpus=9").finish(code=2)
    assert "no node of the Ray cluster has 9 CPU, 1 GPU (the most are 2 CPU, 1 GPU)" in out
    store = open_store(tcp_url)
    assert study_names(store) == []  # nothing was begun
    store.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"RAY_AUTH_TOKEN": ""}, "cannot be joined"), ({"RAY_AUTH_TOKEN": "cd" * 32}, "cannot be")],
)
def test_without_the_token_nobody_joins(
    cluster: Cluster,
    tcp_url: str,
    make_spec: Any,
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
) -> None:
    make_spec()
    out = launch(cluster, tcp_url, tmp_path, **changes).finish(code=2)
    assert message in out and TOKEN not in out and "Traceback" not in out
