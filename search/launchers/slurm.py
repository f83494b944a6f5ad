"""Workers as jobs of Slurm, submitted by submitit: one job a worker, or one job array.

Before its time limit, and where it is preempted, Slurm signals a job. The worker then returns its
trial, whose checkpoint is durable, and the job is put back into the queue.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.launchers.engine import ENDED_WELL, Member, Order, begin_worker, end_worker, needs_extra
from spaces.errors import InputError
from spaces.paths import private_folder
from spaces.sections import WorkersSpec

SIGNAL_SECONDS = 90  # before its time limit a job is signalled
RETURN_SECONDS = 60.0  # that a worker then has for returning its trial
# of the home: jobs unpickle what lies there, so whoever could write it could run code as us
FOLDER = "slurm"
REQUEUES = 10_000  # times that a job may run into its limit
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING")
RUNNING = ("RUNNING", "COMPLETING", "STAGE_OUT", "RESIZING", "SIGNALING", "STOPPED")


class _Serve:
    """What a job runs; submitit stores it and calls it, again after a requeue."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command, self.environment = command, environment
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Serve until the worker ends; returns its exit code.

        Raises:
            RuntimeError: it could not serve; the job is FAILED then.
        """
        process = begin_worker(self.command, self.environment, f"slurm {_own_id()}")
        self.process = process
        # in a thread: `checkpoint` comes as a signal to this one, and two waits lock each other
        waits = threading.Thread(target=process.wait)
        waits.start()
        waits.join()
        if process.returncode not in ENDED_WELL:
            raise RuntimeError(f"the worker ended with code {process.returncode}; see above")
        return process.returncode

    def checkpoint(self) -> Any:
        """Return the trial; called by submitit where the job must go, which is then requeued."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            end_worker(self.process, RETURN_SECONDS)
        return DelayedSubmission(_Serve(self.command, self.environment))


def _own_id() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "?")


@dataclass(frozen=True)
class _Job:
    """A job of this launch."""

    job: str
    log: str

    @property
    def id(self) -> str:
        return self.job.partition(" ")[2]

    def runs(self) -> bool:
        return _state(self.id) in (*WAITING, *RUNNING)

    def stop(self) -> None:
        _scancel([self.id])

    def withdraw(self) -> None:
        _scancel(["--state=PENDING", self.id])

    def failure(self) -> str | None:
        state = _state(self.id)
        return None if state in ("COMPLETED", "CANCELLED", None) else state


class Slurm:
    """The cluster of the machine's `sbatch`."""

    def __init__(self, options: WorkersSpec) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise needs_extra("submitit", "slurm", error) from None
        missing = [name for name in ("sbatch", "scontrol", "scancel") if shutil.which(name) is None]
        if missing:
            raise InputError(
                f"workers.on: slurm needs Slurm's commands, but {missing[0]} is not here; launch "
                "from a machine of the cluster"
            )
        self.options = options

    @property
    def _settings(self) -> dict[str, Any]:
        """A job's options by sbatch's long names, with underscores."""
        options = self.options
        found: dict[str, Any] = {
            "time": options.minutes,
            "ntasks_per_node": 1,
            "cpus_per_task": options.cpus,
        }
        if options.partition is not None:
            found["partition"] = options.partition
        if options.memory_gb is not None:
            found["mem"] = f"{options.memory_gb}GB"
        if options.gpus:
            found["gpus_per_node"] = int(options.gpus)
        return found

    @property
    def _more(self) -> dict[str, Any]:
        """Those that submitit does not name."""
        return {"requeue": True, **self.options.sbatch}

    def check(self) -> None:
        """Raise InputError where Slurm would not take such a job, or could never run it."""
        private_folder(FOLDER)
        wanted = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
            for name, value in {**self._settings, **self._more}.items()
            if value is not False
        ]
        tried = subprocess.run(
            ["sbatch", "--test-only", *wanted, "--wrap=true"], capture_output=True, text=True
        )
        if tried.returncode:
            raise InputError(f"Slurm refuses the jobs: {_reason(tried.stderr)}")

    def start(self, order: Order) -> list[Member]:
        import submitit
        from submitit.core.utils import FailedJobError

        executor = submitit.SlurmExecutor(folder=private_folder(FOLDER), max_num_timeout=REQUEUES)
        executor.update_parameters(
            job_name=f"segtune-{order.study}",
            signal_delay_s=SIGNAL_SECONDS,
            stderr_to_stdout=True,
            additional_parameters=self._more,
            **self._settings,
        )
        # the cores that it was given: torch would take all of the node's
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.options.cpus))}
        serve = _Serve(order.command, order.environment | threads)
        count = self.options.count or 1
        before = os.umask(0o077)  # what submitit stores may hold the store's password
        try:
            if self.options.array and count > 1:
                with executor.batch():
                    jobs = [executor.submit(serve) for _ in range(count)]
            else:
                jobs = [executor.submit(serve) for _ in range(count)]
        except (FailedJobError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or str(error)
            raise InputError(f"Slurm refuses the jobs: {_reason(reason)}") from None
        finally:
            os.umask(before)
        return [_Job(f"slurm {job.job_id}", str(job.paths.stdout)) for job in jobs]

    def cancel_waiting(self, jobs: Sequence[str]) -> None:
        """Take back pending jobs."""
        ids = [job.partition(" ")[2] for job in jobs]
        if ids:
            _scancel(["--state=PENDING", *ids])


def _state(job: str) -> str | None:
    """A job's state as `scontrol` says it, which needs no database; None once it is forgotten."""
    found = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True
    )
    if found.returncode:
        if "Invalid job id" in found.stderr:
            return None
        return "RUNNING"  # the controller is away: nothing is known, so nothing is given up
    facts: Mapping[str, str] = dict(
        pair.split("=", 1) for pair in found.stdout.split() if "=" in pair
    )
    return facts.get("JobState")


def _scancel(arguments: Sequence[str]) -> None:
    subprocess.run(["scancel", *arguments], capture_output=True, text=True)


def _reason(text: str | bytes) -> str:
    """What sbatch says, in one line."""
    lines = (text.decode() if isinstance(text, bytes) else text).strip().splitlines()
    return "; ".join(line.removeprefix("sbatch: error: ") for line in lines) or "no reason given"
