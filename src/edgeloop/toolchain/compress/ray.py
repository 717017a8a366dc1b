"""The same trials on a Ray cluster: one actor a core, each with the setting, results as on one machine.

Needs edgeloop[ray] here and edgeloop[toolchain,ray] on the cluster's machines.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.toolchain.backend import use_threads
from edgeloop.toolchain.compress.plan import Outcome
from edgeloop.toolchain.compress.workbench import Setting, Task, Tried, Workbench

_ATTEMPTS = 3


class RayCrew:
    """Actors on a cluster. address: ray://HOST:PORT, HOST:PORT of its head, or "auto" on one of its machines."""

    def __init__(self, setting: Setting, *, address: str) -> None:
        self._ray = _connected(address)
        cores = int(self._ray.cluster_resources().get("CPU", 0))
        if cores < 1:
            self._ray.shutdown()
            raise Unavailable(f"the Ray cluster at {address} offers no CPU; add a worker node to it")
        self.size = cores
        self._setting = self._ray.put(setting)
        # Trials use one thread; an actor that dies is made anew by Ray, and its task is tried once more.
        self._kind = self._ray.remote(num_cpus=1, max_restarts=2, max_task_retries=1)(_Actor)
        self._actors = [self._kind.remote(self._setting) for _ in range(cores)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, tasks: Sequence[Task], *, deadline: float) -> Iterator[tuple[int, Tried]]:
        """See Crew.run."""
        idle = list(self._actors)
        waiting = list(enumerate(tasks))[::-1]
        running: dict[Any, tuple[int, Any]] = {}
        while waiting or running:
            while idle and waiting:
                index, task = waiting.pop()
                actor = idle.pop()
                running[actor.try_task.remote(task)] = (index, actor)
            left_s = max(0.0, deadline - time.monotonic())
            done, _ = self._ray.wait(list(running), num_returns=1, timeout=None if math.isinf(left_s) else left_s)
            if not done:
                self._give_up(actor for _, actor in running.values())
                return
            index, actor = running.pop(done[0])
            idle.append(actor)
            yield index, self._got(done[0], tasks[index])

    def close(self) -> None:
        """End the actors and leave the cluster."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        self._ray.shutdown()

    def _got(self, reference: Any, task: Task) -> Tried:
        try:
            tried: Tried = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if isinstance(getattr(error, "cause", None), Unavailable):
                raise error.cause from error
            if getattr(error, "actor_init_failed", False):
                raise Unavailable(f"no worker can begin on the Ray cluster: {_reason(error)}") from error
            reason = str(error).strip().splitlines()[-1]
            return Tried(Outcome(plan=task.plan, failure=f"its Ray actor failed: {reason}"))
        return tried

    def _give_up(self, actors: Iterator[Any]) -> None:
        for actor in actors:
            self._ray.kill(actor)
            self._actors[self._actors.index(actor)] = self._kind.remote(self._setting)


class _Actor(Workbench):
    """A Workbench in a process of its own, with one thread, like the local crew's."""

    def __init__(self, setting: Setting) -> None:
        use_threads(1)
        super().__init__(setting)


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise Unavailable(
            f"--on {address} needs Ray ({error}); install it with: pip install 'edgeloop[ray]'"
        ) from error
    if not address:
        raise InvalidInput("--on is empty; give the cluster's address, such as ray://10.0.0.7:10001")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="edgeloop")
            break
        except ConnectionAbortedError as error:
            # The head forks a process for each client, and gRPC's threads make some of these forks fail (measured: 2
            # of 14 with Ray 2.60 on a busy machine, none of 44 with GRPC_ENABLE_FORK_SUPPORT=0 at the head).
            if attempt == _ATTEMPTS:
                raise Unavailable(
                    f"the Ray cluster at {address} did not let us in {_ATTEMPTS} times: {_reason(error)}. Starting its "
                    "head with GRPC_ENABLE_FORK_SUPPORT=0 in its environment helps where forks fail"
                ) from error
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise Unavailable(
                f"cannot join a Ray cluster at {address}: {_reason(error)}. Start one with 'ray start --head' and give "
                "its address; a head that has only just started may need a moment more"
            ) from error
    return ray


def _reason(error: Exception) -> str:
    """What Ray says in one line. A failure on the head comes as a heading with the head's traceback below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (lines[0] if len(lines) == 1 else f"{lines[0].rstrip(':')}: {lines[-1]}").rstrip(".")
