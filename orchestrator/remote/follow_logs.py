"""Stream the logs of running pods to the user (`run --logs`).

Called by `run` after every reconcile. Each pod has a thread; errors are reported and do not stop the run.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.contract.plan import Plan
from orchestrator.errors import ClusterError, Refused, TokenRefused
from orchestrator.reconcile.task_states import TaskState, TaskStatus

# Pods followed at the same time; each uses a connection
MAX_FOLLOWED: Final = 16


class LogFollower:
    """Follows the logs of running pods. `note` is called for every line, from several threads."""

    def __init__(self, cluster: Cluster, note: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._note = note
        self._followed: set[str] = set()
        self._slots = threading.Semaphore(MAX_FOLLOWED)
        self._refused = threading.Event()

    def update(self, plan: Plan, tasks: Mapping[str, TaskStatus]) -> None:
        """Follow the pods that started since the last call."""
        for digest, seen in tasks.items():
            if seen.state == TaskState.RUNNING and seen.pod and seen.pod not in self._followed and not self._refused.is_set():
                if not self._slots.acquire(blocking=False):
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
                self._note(f"no logs: {problem}; the token needs get, list and watch on pods, and get on pods/log")
        except (ClusterError, TokenRefused) as problem:
            self._note(f"{name} | the log stream ended with an error: {problem}")
        finally:
            self._slots.release()
