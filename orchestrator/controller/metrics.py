"""Prometheus metrics of the controller. The only module that imports `prometheus_client`."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# value of the `state` label -> name of the count in the status
TASKS: Final = {"all": "tasks", "done": "tasksDone", "running": "tasksRunning", "queued": "tasksQueued", "failed": "tasksFailed"}


class Metrics:
    """Counters and gauges of one controller."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._studies: dict[str, str] = {}
        self._causes: dict[str, set[str]] = {}
        self._phases = Gauge("scaling_study_studies", "Number of studies by phase.", ["phase"], registry=self._registry)
        self._tasks = Gauge("scaling_study_tasks", "Number of tasks of a study by state.", ["study", "state"], registry=self._registry)
        self._gpu = Gauge(
            "scaling_study_gpu_seconds",
            "GPU-seconds of a study by cause of the end.",
            ["study", "cause"],
            registry=self._registry,
        )
        self._account = Gauge(
            "scaling_study_namespace_gpu_seconds",
            "GPU-seconds of the namespace: used (against the cap, since the last reset), billed, and what pods and leases show.",
            ["part"],
            registry=self._registry,
        )
        self._time = Histogram("scaling_study_reconcile_seconds", "Duration of one reconcile of one study.", registry=self._registry)
        self._rounds = Histogram(
            "scaling_study_round_seconds",
            "Duration of one listing and the reconciles of all due studies.",
            registry=self._registry,
        )
        self._errors = Counter(
            "scaling_study_errors", "Errors of the Kubernetes API and of stores, by type.", ["error"], registry=self._registry
        )
        self._leads = Gauge("scaling_study_leads", "1 while this controller is the leader.", registry=self._registry)

    def set_study(self, name: str, status: Mapping[str, Any], causes: Mapping[str, float]) -> None:
        """Set the metrics of a study from its status and its GPU-seconds by cause."""
        self._set_phase(name, str(status["phase"]))
        counts = status.get("counts") or {}
        for state, key in TASKS.items():
            self._tasks.labels(name, state).set(int(counts.get(key, 0)))
        for cause, seconds in causes.items():
            self._gpu.labels(name, cause).set(seconds)
        self._causes[name] = self._causes.get(name, set()) | set(causes)

    def set_account(self, parts: Mapping[str, float]) -> None:
        """Set the GPU-seconds of the namespace by part of its account."""
        for part, seconds in parts.items():
            self._account.labels(part).set(seconds)

    def forget(self, name: str) -> None:
        """Remove the metrics of a deleted study."""
        self._set_phase(name, "")
        for state in TASKS:
            with suppress(KeyError):
                self._tasks.remove(name, state)
        for cause in self._causes.pop(name, ()):
            with suppress(KeyError):
                self._gpu.remove(name, cause)

    def _set_phase(self, name: str, phase: str) -> None:
        before = self._studies.pop(name, "")
        if before:
            self._phases.labels(before).dec()
        if phase:
            self._studies[name] = phase
            self._phases.labels(phase).inc()

    def observe_reconcile(self, seconds: float) -> None:
        self._time.observe(seconds)

    def observe_round(self, seconds: float) -> None:
        self._rounds.observe(seconds)

    def count_error(self, problem: Exception) -> None:
        self._errors.labels(type(problem).__name__).inc()

    def set_leader(self, is_leader: bool) -> None:
        self._leads.set(is_leader)

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self._registry)
