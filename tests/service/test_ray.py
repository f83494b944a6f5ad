"""A real Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.budget import ENDED
from search.registry import workers
from search.store import open_store
from search.study import Study, open_study

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.timeout(600)
TOKEN = "ab" * 32


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for workers; nodes are added by the tests. It asks for a token."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "num_gpus": 0,
                "node_ip_address": "127.0.0.1",
                "include_dashboard": False,
            },
        )
        yield found
        found.shutdown()


@pytest.fixture
def nodes(cluster: Any) -> Iterator[list[Any]]:
    """Two nodes, each with two cores and one GPU that is said to be there."""
    given = {"num_cpus": 2, "num_gpus": 1, "node_ip_address": "127.0.0.1"}
    added = [cluster.add_node(**given) for _ in range(2)]
    yield added
    for node in added:
        if node in cluster.worker_nodes:
            cluster.remove_node(node)


def launch(
    cluster: Any, url: str, folder: Path, *options: str, count: int = 3, **changes: str
) -> subprocess.Popen[str]:
    settings = [f"--worker-option={o}" for o in (f"address={cluster.address}", *options)]
    return subprocess.Popen(
        [
            sys.executable, "-m", "search.cli", "launch", str(folder / "small.yaml"),
            "--on", "ray", "--workers", str(count), *settings,
        ],
        env={
            **os.environ,
            "SEGTUNE_STORE": url,
            "SEGTUNE_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **changes,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:.0f} s")


def check(study: Study, trials: int, epochs: int) -> None:
    """Exactly the budget; every trial trained in full, each epoch once."""
    counts = study.budget.counts()
    assert counts["COMPLETE"] == trials == sum(counts.values()), counts
    assert sum(counts[state] for state in ENDED) == trials
    for trial in study.trials():
        assert [r["epoch"] for r in study.history(trial.number)] == [*range(1, epochs + 1)]


def test_a_killed_node_loses_and_doubles_nothing(
    cluster: Any, nodes: list[Any], tcp_url: str, make_spec: Any, tmp_path: Path
) -> None:
    make_spec(trials=12, epochs=16)
    process = launch(cluster, tcp_url, tmp_path, "gpus=0.5", "max_restarts=-1")
    store = open_store(tcp_url)
    try:
        busy = wait_for(lambda: len(found := jobs(store)) == 3 and found, 180)
        places = {job.rpartition(" on ")[2] for job in busy}
        assert len(places) == 2, busy  # 0.5 GPU each: two on one node, one on the other
        victim = next(node for node in nodes if node.node_id[:8] == min(places))
        cluster.remove_node(victim, allow_graceful=False)
        out, _ = process.communicate(timeout=400)
        assert process.returncode == 0, out
        check(open_study(store, "small"), trials=12, epochs=16)
        attempts = {t.number for t in open_study(store, "small").trials()}
        assert attempts == set(range(12))
    finally:
        process.kill()
        process.communicate()
        store.close()


def jobs(store: Any) -> dict[str, int]:
    """{job: its trial} of workers whose trial has trained two epochs."""
    study = open_study(store, "small")
    return {
        row["job"]: row["trial_number"]
        for row in workers(store)
        if row["state"] == "running" and study.last_epoch(row["trial_number"]) >= 2
    }


def test_what_no_node_has_is_refused(
    cluster: Any, nodes: list[Any], tcp_url: str, make_spec: Any, tmp_path: Path
) -> None:
    make_spec()
    out, _ = launch(cluster, tcp_url, tmp_path, "gpus=2").communicate(timeout=120)
    assert "no node of the Ray cluster has 1 CPU, 2 GPU (the most are 2 CPU, 1 GPU)" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"RAY_AUTH_TOKEN": ""}, "cannot be joined"), ({"RAY_AUTH_TOKEN": "cd" * 32}, "cannot be")],
)
def test_without_the_token_nobody_joins(
    cluster: Any,
    tcp_url: str,
    make_spec: Any,
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
) -> None:
    make_spec()
    process = launch(cluster, tcp_url, tmp_path, **changes)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2, out
    assert message in out and TOKEN not in out and "Traceback" not in out
