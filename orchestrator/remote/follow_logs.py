"""Logs of the pods at work as lines for the person, while they are written: `run --logs`.

`run` hands over every look. One thread a pod; nothing here stops the run.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.contract.plan import Plan
from orchestrator.errors import ClusterError, Refused, TokenRefused
from orchestrator.reconcile.observe import TaskSeen, TaskState

# Each holds a connection of its own
MOST: Final = 16


class Following:
    """`note`: gets every line, from many threads."""

    def __init__(self, cluster: Cluster, note: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._note = note
        self._followed: set[str] = set()
        self._open = threading.Semaphore(MOST)
        self._refused = threading.Event()

    def looked(self, plan: Plan, tasks: Mapping[str, TaskSeen]) -> None:
        """Follow the pods that have come since the last look."""
        for digest, seen in tasks.items():
            if seen.state == TaskState.RUNNING and seen.pod and seen.pod not in self._followed and not self._refused.is_set():
                if not self._open.acquire(blocking=False):
                    return
                self._followed.add(seen.pod)
                name = f"{plan.tasks[digest].kind} {plan.tasks[digest].label}"
                threading.Thread(target=self._follow, args=(seen.pod, name), daemon=True, name=f"log {seen.pod}").start()

    def _follow(self, pod: str, name: str) -> None:
        try:
            for line in self._cluster.logs(pod, follow=True):
                self._note(f"{name} | {line}")
        except Refused as problem:
            if not self._refused.is_set():
                self._refused.set()
                self._note(f"no logs: {problem}; it takes get, list and watch on pods, and get on pods/log")
        except (ClusterError, TokenRefused) as problem:
            self._note(f"{name} | its log breaks off: {problem}")
        finally:
            self._open.release()
