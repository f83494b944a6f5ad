"""A real Slurm of two nodes on this machine: jobs cancelled, requeued, preempted, orphaned."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.database.store import open_store
from search.studies.heartbeats import workers
from search.studies.study import Study, open_study, study_names
from tests.waiting import Running, until

MakeSpec = Callable[..., Any]
Check = Callable[[Study, int, int], None]

CONF = """\
ClusterName=segtune-tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SrunPortRange={first}-{last}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
KillWait=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
NodeName=n0 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n0} CPUs={cpus} State=UNKNOWN
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=n0,n1 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=high Nodes=n0,n1 MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


class Cluster:
    """munged, slurmctld and two slurmd on free ports of 127.0.0.1, with files of their own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="segtune-slurm-"))
        self.folder.chmod(0o711)
        self.conf = self.folder / "slurm.conf"
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("state", "spool-n0", "spool-n1"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        ports = dict(zip(("ctld", "n0", "n1"), free_ports(3), strict=True))
        first = free_ports(1)[0]
        self.conf.write_text(
            CONF.format(folder=self.folder, first=first, last=first + 40, cpus=4, **ports)
        )
        names = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        files = [f"--{n}={self.folder}/munge.{n.partition('-')[0]}" for n in names]
        self._run(["munged", "--foreground", "--force", *files])
        until((self.folder / "munge.socket").exists)
        self._run(["slurmctld", "-D", "-i", "-f", str(self.conf)])
        for node in ("n0", "n1"):
            self._run(["slurmd", "-D", "-N", node, "-f", str(self.conf)])
        until(lambda: set(self.ask("sinfo", "-hN", "-o", "%T").split()) == {"idle"})

    def _run(self, command: list[str]) -> None:
        log = self.folder / f"{Path(command[0]).name}-{len(self.daemons)}.out"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=self.environment
            )
        self.daemons.append(process)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def ask(self, *command: str) -> str:
        found = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        return found.stdout

    def jobs(self) -> dict[str, str]:
        """{id: state} of all jobs that Slurm remembers."""
        text = self.ask("scontrol", "--oneliner", "show", "job")
        facts = [
            dict(p.split("=", 1) for p in line.split() if "=" in p) for line in text.split("\n")
        ]
        return {
            f"{f['ArrayJobId']}_{f['ArrayTaskId']}" if "ArrayTaskId" in f else f["JobId"]: f[
                "JobState"
            ]
            for f in facts
            if "JobId" in f
        }

    def fact(self, job: str, name: str) -> str:
        """What Slurm says of a job."""
        text = self.ask("scontrol", "--oneliner", "show", "job", job)
        return dict(p.split("=", 1) for p in text.split() if "=" in p)[name]

    def lose(self, node: str, job: str) -> None:
        """Kill a node's daemon and the one of its job; the job's own processes live on."""
        daemon = next(d for d in self.daemons if node in d.args)  # type: ignore[operator]
        daemon.kill()
        daemon.wait()
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if command.read_bytes().startswith(b"slurmstepd: [%s." % job.encode()):
                    os.kill(int(command.parent.name), signal.SIGKILL)
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def stop(self) -> None:
        self.ask("scancel", "-u", "root")
        with contextlib.suppress(AssertionError):  # what is killed after KillWait is gone by then
            until(lambda: not self.ask("squeue", "-h"), quiet=20)
        for process in reversed(self.daemons):
            process.terminate()
        for process in self.daemons:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = [n for n in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(n) is None]
    if missing or os.geteuid() != 0:
        reason = f"needs root and Slurm (apt-get install slurm-wlm munge); missing: {missing}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    found = Cluster()
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def launched(
    cluster: Cluster, tcp_url: str, make_spec: MakeSpec, tmp_path: Path
) -> Iterator[Callable[..., Launched]]:
    """Launches a study on the cluster and gives it its end."""
    begun: list[Launched] = []

    def launch(*options: str, count: int = 3, trials: int = 8, epochs: int = 8) -> Launched:
        make_spec(trials=trials, epochs=epochs)
        run = Launched(cluster, tcp_url, tmp_path, count, options)
        begun.append(run)
        return run

    yield launch
    for run in begun:
        run.close()


class Launched:
    """`segtune launch` of the study small.yaml with workers on Slurm."""

    def __init__(
        self, cluster: Cluster, url: str, folder: Path, count: int, options: tuple[str, ...]
    ) -> None:
        self.cluster, self.url, self.folder = cluster, url, folder
        self.environment = {
            **cluster.environment,
            "SEGTUNE_STORE": url,
            "SEGTUNE_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
        }
        settings = [f"--worker-option={o}" for o in ("gpus=0", "minutes=30", *options)]
        self.process = Running.segtune(
            "launch", folder / "small.yaml", "--on", "slurm", "--workers", str(count), *settings,
            env=self.environment,
        )  # fmt: skip
        self.store = open_store(url)

    @property
    def study(self) -> Study:
        return open_study(self.store, "small")

    def running(self, most: int = 1000) -> dict[str, int]:
        """{job: trial that has trained at least two epochs, and at most so many}."""
        return {
            row["job"].removeprefix("slurm "): row["trial_number"]
            for row in workers(self.store)
            if row["state"] == "running"
            and 2 <= len(self.study.history(row["trial_number"])) <= most
        }

    def holders(self) -> dict[int, int]:
        """{process: its trial} of the workers that have one."""
        return {r["pid"]: r["trial_number"] for r in workers(self.store) if r["state"] == "running"}

    def log(self, job: str) -> str:
        """What a job has printed."""
        folder = self.folder / "home" / "slurm"
        return next(folder.glob(f"{job}_*log.out")).read_text()

    def progress(self) -> object:
        """Epochs of all trials, and what Slurm says of its jobs."""
        done = "small" in study_names(self.store) and [
            len(self.study.history(trial.number)) for trial in self.study.trials()
        ]
        return done, self.cluster.jobs()

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for something while the study moves on."""
        return until(condition, progress=lambda: (self.process.progress(), self.progress()))

    def finish(self, code: int = 0) -> str:
        return self.process.finish(code, self.progress)

    def segtune(self, *command: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "search.cli", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def close(self) -> None:
        self.process.kill()
        for row in workers(self.store):  # an orphan is nobody's
            with contextlib.suppress(OSError):
                os.kill(row["pid"], signal.SIGKILL)
        self.store.close()


def test_jobs_cancelled_and_requeued_lose_and_double_nothing(
    launched: Callable[..., Launched], check_whole: Check
) -> None:
    run = launched(epochs=16)
    jobs = run.until(lambda: len(found := run.running()) == 3 and found)
    table = run.segtune("status", "small")
    for job in jobs:
        assert f"slurm {job}" in table
    (requeued, resumed), (cancelled, _) = run.until(
        lambda: len(found := run.running(most=8)) >= 2 and list(found.items())[:2]
    )
    run.cluster.ask("scancel", cancelled)
    run.cluster.ask("scontrol", "requeue", requeued)
    assert run.study.trial(resumed).state.name == "RUNNING"
    out = run.finish()
    check_whole(run.study, 8, 16)
    states = run.cluster.jobs()
    assert states[cancelled] == "CANCELLED" and states[requeued] == "COMPLETED", states
    assert "small: best trials" in out
    # jobs unpickle what lies there: none of it where others may write
    pickles = list((run.folder / "home").rglob("*.pkl"))
    assert pickles and {path.parent for path in pickles} == {run.folder / "home" / "slurm"}
    assert (run.folder / "home" / "slurm").stat().st_mode & 0o777 == 0o700
    assert not any(path.stat().st_mode & 0o077 for path in pickles)


def test_a_folder_that_others_may_write_is_refused(
    launched: Callable[..., Launched], tmp_path: Path
) -> None:
    """Whoever could write there could run code as its owner on each node."""
    folder = tmp_path / "home" / "slurm"
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    run = launched()
    assert f"{folder} must be closed to others" in run.finish(code=2)
    assert study_names(run.store) == []


def test_a_preempted_job_returns_its_trial_and_comes_back(
    launched: Callable[..., Launched], check_whole: Check
) -> None:
    """Slurm's user signal comes first: the trial is returned, submitit requeues the job."""
    run = launched(count=1, trials=2, epochs=30)
    job = next(iter(run.until(run.running)))
    node = run.cluster.fact(job, "BatchHost")
    order = ("sbatch", "-p", "high", "-w", node, "-c", "4", "-o", "/dev/null", "--wrap", "sleep 2")
    assert "Submitted" in run.cluster.ask(*order)
    run.finish()
    check_whole(run.study, 2, 30)
    assert "this job is preempted" in run.log(job)
    assert run.cluster.jobs()[job] == "COMPLETED"


def test_a_job_at_its_time_limit_comes_back(launched: Callable[..., Launched]) -> None:
    # however fast the host: Slurm looks every 30 s, and the trial is still at work when it does
    run = launched(count=1, trials=1, epochs=5000)
    job = next(iter(run.until(run.running)))
    # its signal comes 90 s before the limit, which is one to two minutes from now
    hours, minutes, _ = run.cluster.fact(job, "RunTime").split(":")
    limit = 60 * int(hours) + int(minutes) + 2
    run.cluster.ask("scontrol", "update", f"jobid={job}", f"timelimit={limit}")
    run.until(lambda: run.cluster.fact(job, "Restarts") == "1")
    run.cluster.ask("scontrol", "update", f"jobid={job}", "timelimit=60")
    before = len(run.study.history(0))
    run.until(lambda: len(run.study.history(0)) > before + 1)
    run.segtune("stop", "small", "--now")
    run.process.finish(None, run.progress)
    epochs = [report.epoch for report in run.study.history(0)]
    assert epochs == [*range(1, len(epochs) + 1)]  # each once, before the limit and after it
    assert "Caught signal SIGUSR2" in run.log(job)


def test_stop_takes_back_jobs_that_wait(launched: Callable[..., Launched]) -> None:
    run = launched("cpus=4", "array=false", count=4, trials=4, epochs=200)  # two run, two wait
    run.until(lambda: len(run.running()) == 2)
    run.segtune("stop", "small", "--now")
    run.process.finish(None, run.progress)
    states = sorted(run.cluster.jobs().values())
    assert states.count("CANCELLED") >= 2, states
    counts = run.study.slots.counts()
    assert counts["OPEN"] == 4 and counts["RUNNING"] == 0, counts


def test_what_slurm_refuses_is_said(launched: Callable[..., Launched]) -> None:
    run = launched("partition=no-such-partition")
    out = run.finish(code=2)
    assert "Slurm refuses the jobs" in out and "partition" in out
    assert study_names(run.store) == []


def test_an_orphan_of_a_dead_node_doubles_nothing(
    launched: Callable[..., Launched], check_whole: Check
) -> None:
    """The node's daemons die, the job's script runs on; Slurm starts the job again elsewhere."""
    run = launched(count=1, trials=6, epochs=24)
    job = next(iter(run.until(run.running)))
    orphan = next(row for row in workers(run.store) if row["job"] == f"slurm {job}")
    node = run.cluster.fact(job, "BatchHost")
    run.cluster.lose(node, job)
    again = run.until(lambda: [row for row in workers(run.store) if row["pid"] != orphan["pid"]])
    assert again[0]["job"] == f"slurm {job}"  # the same job, twice
    assert run.cluster.fact(job, "Restarts") == "1"
    both = run.until(lambda: len(found := run.holders()) == 2 and found)
    assert orphan["pid"] in both and len(set(both.values())) == 2, both
    run.finish()
    check_whole(run.study, 6, 24)
    # it ends by itself, once nothing is left to do
    run.until(lambda: not Path(f"/proc/{orphan['pid']}").exists())
