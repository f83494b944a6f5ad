"""Workers as actors of a Ray cluster, also with a fraction of a GPU each.

An actor does nothing but run `segtune worker`. Ray starts it again elsewhere where its node is
lost, up to `max_restarts` times; the trial that ran there is resumed by whoever claims it next.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.launchers.engine import ENDED_WELL, Member, Order, begin_worker, end_worker, needs_extra
from spaces.errors import InputError
from spaces.sections import WorkersSpec

NAMESPACE = "segtune"
RETURN_SECONDS = 60.0
ANSWER_SECONDS = 2.0


class _Worker:
    """The actor: a worker's process and its exit code.

    Args:
        stays: whether the launch asks for the exit code; else the actor goes with its worker.
    """

    def __init__(
        self, command: list[str], environment: dict[str, str], name: str, *, stays: bool
    ) -> None:
        import ray

        context = ray.get_runtime_context()
        job = f"ray {name} on {context.get_node_id()[:8]}"
        self.process: subprocess.Popen[bytes] = begin_worker(command, environment, job)
        if not stays:
            us = context.current_actor
            threading.Thread(target=self._leave, args=(us,), daemon=True).start()

    def code(self) -> int | None:
        """The worker's exit code; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Let the worker return its trial."""
        end_worker(self.process, RETURN_SECONDS)

    def _leave(self, us: Any) -> None:
        import ray

        self.process.wait()
        ray.kill(us, no_restart=True)  # without it Ray would begin another worker


@dataclass
class _Actor:
    """A worker of this launch."""

    job: str
    log: str
    handle: Any
    _asked: Any = None
    _ended: bool = False
    _code: int | None = None
    _lost: str | None = None

    def runs(self) -> bool:
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError

        if self._ended:
            return False
        self._asked = self._asked or self.handle.code.remote()
        if not ray.wait([self._asked], timeout=0)[0]:
            return True  # waits for its place, or for a node that answers
        try:
            self._code = ray.get(self._asked)
        except ActorUnavailableError:  # is being started again
            self._asked = None
            return True
        except RayActorError as error:
            self._lost = str(error).strip().splitlines()[0]
        self._asked = None
        if self._code is not None:  # its room goes to others; else it would keep it, or begin anew
            ray.kill(self.handle, no_restart=True)
        self._ended = self._code is not None or self._lost is not None
        return not self._ended

    def stop(self) -> None:
        self.withdraw()
        if not self._ended:
            self.handle.stop.remote()

    def withdraw(self) -> None:
        self._ended = self._ended or _withdraw(self.handle)

    def failure(self) -> str | None:
        if self._lost is not None:
            return self._lost
        return None if self._code in (*ENDED_WELL, None) else f"code {self._code}"


class Ray:
    """The cluster at `address`, or the one that this machine belongs to."""

    def __init__(self, options: WorkersSpec) -> None:
        try:
            import ray
        except ImportError as error:
            raise needs_extra("ray", "ray", error) from None
        self.options = options
        address = options.address or "auto"
        try:
            if not ray.is_initialized():
                ray.init(
                    address=address,
                    namespace=NAMESPACE,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise InputError(
                f"workers.address: the Ray cluster at {address} cannot be joined "
                f"({_first_line(error)}); start one with `ray start --head`, or name its address"
            ) from None

    def check(self) -> None:
        """Raise InputError where no node has what one worker needs: it would wait for ever."""
        import ray

        options = self.options
        needed = {"CPU": float(options.cpus), "GPU": options.gpus}
        if options.memory_gb is not None:
            needed["memory"] = options.memory_gb * 2**30
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(k, 0) >= v for k, v in needed.items()) for node in nodes):
            return
        most = {k: max((node.get(k, 0) for node in nodes), default=0) for k in needed}
        wanted = ", ".join(f"{value:g} {name}" for name, value in needed.items() if value)
        found = ", ".join(f"{most[name]:g} {name}" for name, value in needed.items() if value)
        raise InputError(
            f"workers: no node of the Ray cluster has {wanted} (the most are {found}); ask for less"
        )

    def start(self, order: Order) -> list[Member]:
        import ray

        options = self.options
        wanted: dict[str, Any] = {
            "num_cpus": options.cpus,
            "num_gpus": options.gpus,
            "max_restarts": options.max_restarts,
            "max_concurrency": 2,  # an exit code is told while the worker ends
            "namespace": NAMESPACE,
            "lifetime": "detached" if order.detach else None,
        }
        if options.memory_gb is not None:
            wanted["memory"] = options.memory_gb * 2**30
        actor = ray.remote(_Worker)
        members: list[Member] = []
        for _ in range(options.count or 1):
            name = f"{order.study}-{uuid.uuid4().hex[:8]}"
            handle = actor.options(name=name, **wanted).remote(
                order.command, order.environment, name, stays=not order.detach
            )
            members.append(_Actor(f"ray {name}", f"ray logs actor --name {name}", handle))
        return members

    def cancel_waiting(self, jobs: Sequence[str]) -> None:
        """Take back actors that have not begun."""
        import ray

        for job in jobs:
            try:
                handle = ray.get_actor(job.partition(" ")[2], namespace=NAMESPACE)
            except ValueError:
                continue  # has ended
            _withdraw(handle)


def _withdraw(handle: Any) -> bool:
    """Take an actor back that has no place yet; False where it runs, or has ended."""
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError

    try:
        ray.get(handle.code.remote(), timeout=ANSWER_SECONDS)
    except (GetTimeoutError, ActorUnavailableError):
        ray.kill(handle, no_restart=True)
        return True
    except RayActorError:
        pass
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
