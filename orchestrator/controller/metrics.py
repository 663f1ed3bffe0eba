"""What the controller tells Prometheus. The only module with `prometheus_client`."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# metric's label -> name in the status
TASKS: Final = {"all": "tasks", "done": "tasksDone", "running": "tasksRunning", "queued": "tasksQueued", "failed": "tasksFailed"}


class Metrics:
    """Counters and gauges of one controller."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._studies: dict[str, str] = {}
        self._causes: dict[str, set[str]] = {}
        self._phases = Gauge("scaling_study_studies", "Studies by phase.", ["phase"], registry=self._registry)
        self._tasks = Gauge("scaling_study_tasks", "Tasks of a study by state.", ["study", "state"], registry=self._registry)
        self._gpu = Gauge(
            "scaling_study_gpu_seconds", "GPU-seconds of a study by how the attempts ended.", ["study", "cause"], registry=self._registry
        )
        self._time = Histogram("scaling_study_reconcile_seconds", "One look at one study.", registry=self._registry)
        self._rounds = Histogram("scaling_study_round_seconds", "One round: a listing and all looks.", registry=self._registry)
        self._errors = Counter(
            "scaling_study_errors", "Errors of the cluster's API and of stores, by kind.", ["error"], registry=self._registry
        )
        self._leads = Gauge("scaling_study_leads", "1 while this controller is the leader.", registry=self._registry)

    def study(self, name: str, status: Mapping[str, Any], causes: Mapping[str, float]) -> None:
        """What is known of a study after a look at it."""
        self._move(name, str(status["phase"]))
        counts = status.get("counts") or {}
        for state, key in TASKS.items():
            self._tasks.labels(name, state).set(int(counts.get(key, 0)))
        for cause, seconds in causes.items():
            self._gpu.labels(name, cause).set(seconds)
        self._causes[name] = self._causes.get(name, set()) | set(causes)

    def forget(self, name: str) -> None:
        """A study that is gone."""
        self._move(name, "")
        for state in TASKS:
            with suppress(KeyError):
                self._tasks.remove(name, state)
        for cause in self._causes.pop(name, ()):
            with suppress(KeyError):
                self._gpu.remove(name, cause)

    def _move(self, name: str, phase: str) -> None:
        before = self._studies.pop(name, "")
        if before:
            self._phases.labels(before).dec()
        if phase:
            self._studies[name] = phase
            self._phases.labels(phase).inc()

    def looked_at(self, seconds: float) -> None:
        self._time.observe(seconds)

    def went_round(self, seconds: float) -> None:
        self._rounds.observe(seconds)

    def failed(self, problem: Exception) -> None:
        self._errors.labels(type(problem).__name__).inc()

    def leads(self, is_leader: bool) -> None:
        self._leads.set(is_leader)

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self._registry)
