"""Update MLflow from the store: one experiment per study, one run per task. Idempotent; there must be one writer.

Called by `scaling-study tracking mirror` and the mirror's process of a local run. A run stores in its tags how many points of its curve are
logged, and a hash of them. A run that no longer agrees (for example after a task resumed from an earlier checkpoint) is replaced, since
MLflow cannot delete points. A finished run is sealed and not read again.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from orchestrator.contract.exits import ExitCode
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import Damaged, KeyMissing, MissingExtra, TrackingUnavailable
from orchestrator.store import Store
from orchestrator.store.addresses import DONE, work_root
from orchestrator.store.leases import LeaseBody, history
from orchestrator.store.metrics import series
from orchestrator.store.records import read_record
from orchestrator.tracking.mirror_process import masked
from orchestrator.tracking.view import Point, View, curve, finished, milliseconds, parameters_of, seal_of, tags_of

T = TypeVar("T")

# our own tags: number of logged points, a hash of them, and the seal of a finished run
POINTS: Final = "mirror.points"
HASH: Final = "mirror.hash"
SEAL: Final = "mirror.seal"
# limits of a call: 1,000 metrics, 100 parameters, 100 tags (mlflow.utils.validation)
BATCH: Final = 1_000
SMALL_BATCH: Final = 100
PAGE: Final = 1_000
# without these an unresponsive server blocks the mirror for MLflow's default of 8 attempts of 120 s
QUIET_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}


@dataclass
class MirrorUpdate:
    """What one update changed. `open`: tasks of the plan without a sealed run. `problems`: what could not be mirrored."""

    runs: int = 0
    replaced: int = 0
    points: int = 0
    sealed: int = 0
    open: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.runs or self.replaced or self.points or self.sealed)


@dataclass
class _Run:
    run_id: str
    tags: dict[str, str]
    status: str
    name: str
    end: int | None

    @property
    def points(self) -> int:
        return int(self.tags.get(POINTS, "0"))


class Mirror:
    """The MLflow experiment of one study. Methods raise TrackingUnavailable, or MissingExtra without mlflow."""

    def __init__(self, store: Store, plan: Plan, uri: str, artifacts: Path | None = None) -> None:
        """`artifacts`: artifact location of a new experiment, None for the server's default. Nothing is written there."""
        self.store = store
        self.plan = plan
        self._client, self._mlflow = _client(uri)
        self._uri = uri
        self._experiment = self._ask(lambda: self._open_experiment(artifacts))
        self._runs = self._ask(self._read_runs)
        self._tags = tags_of(plan)
        self._seen: dict[str, object] = {}
        self._sealed: dict[str, str] = {}

    def bring_up_to_date(self) -> MirrorUpdate:
        """Update the whole plan: finished tasks get their final run, running tasks the curve so far."""
        change = MirrorUpdate()
        marks = {stat.key.rpartition("/")[2]: stat.modified.isoformat() for stat in self.store.objects.list(DONE)}
        for digest, planned in self.plan.tasks.items():
            try:
                if digest in marks:
                    self._finish(planned, marks[digest], change)
                elif all(need in marks for need in planned.needs):
                    self._follow(planned, change)
            except (Damaged, KeyMissing) as problem:
                change.problems.append(f"{planned.kind} {planned.label} [{digest[:12]}]: {problem}")
            change.open += digest not in self._sealed
        return change

    def _finish(self, planned: PlannedTask, mark: str, change: MirrorUpdate) -> None:
        """Write the final MLflow run of a finished task, unless its seal shows that it is up to date."""
        if self._sealed.get(planned.digest) == mark:
            return
        parameters = parameters_of(self.plan, planned)
        run = self._runs.get(planned.digest)
        if run is None or run.tags.get(SEAL) != seal_of(self._tags[planned.digest], parameters, mark):
            record = read_record(self.store, planned.digest)
            if record is None:
                return
            leases = self._leases(planned)
            first = leases[0].start if leases else record.attempts[0].start if record.attempts else mark
            view = finished(planned, self._tags[planned.digest], parameters, record, self._curve(planned), milliseconds(first), mark)
            self._write(view, change)
        self._sealed[planned.digest] = mark

    def _follow(self, planned: PlannedTask, change: MirrorUpdate) -> None:
        """Write the MLflow run of a running task if its files have changed since the last update."""
        self._sealed.pop(planned.digest, None)
        root = work_root(planned.kind, planned.work)
        files = frozenset((stat.key, stat.etag, stat.size) for stat in self.store.objects.list(root))
        if not files or self._seen.get(planned.digest) == files:
            return
        leases = self._leases(planned)
        mine = [lease for lease in leases if lease.digest == planned.digest]
        if not mine:
            return
        tags = {**self._tags[planned.digest], "attempt": ",".join(str(lease.number) for lease in mine)}
        if mine[-1].ended and mine[-1].ended.message:
            tags["last_end"] = mine[-1].ended.message[:500]
        points = tuple(self._curve(planned))
        parameters = parameters_of(self.plan, planned)
        started = milliseconds(leases[0].start)
        self._write(View(planned.digest, planned.label, started, None, _status(mine[-1]), tags, parameters, points), change)
        self._seen[planned.digest] = files

    def _leases(self, planned: PlannedTask) -> list[LeaseBody]:
        return history(self.store, work_root(planned.kind, planned.work))

    def _curve(self, planned: PlannedTask) -> list[Point]:
        if planned.kind is not TaskKind.TRAIN:
            return []
        at_most = getattr(planned.task, "tokens", None)
        table = series(self.store, work_root(planned.kind, planned.work), at_most)
        columns = (table.column(name).to_pylist() for name in ("step", "tokens", "name", "value"))
        return list(curve(planned, zip(*columns, strict=True)))

    def _write(self, view: View, change: MirrorUpdate) -> None:
        """Make the run equal to `view`: append what is missing, or replace a run that does not agree."""
        run = self._runs.get(view.digest)
        if run is not None and not _agrees(run, view):
            self._drop(run)
            change.replaced += 1
            run = None
        if run is None:
            run = self._runs[view.digest] = self._ask(lambda: self._create(view))
            change.runs += 1
        self._add_points(run, view, change)
        seal = {SEAL: view.seal} if view.seal else {}
        self._set_tags(run, {**view.tags, **seal})
        if (run.status, run.name, run.end) != (view.status, view.name, view.ended_ms):
            self._ask(lambda: self._set_status(run, view))
        change.sealed += bool(view.seal)

    def _drop(self, run: _Run) -> None:
        self._ask(lambda: self._client.delete_run(run.run_id))

    def _create(self, view: View) -> _Run:
        """Create a run with its parameters. The hash is written last: a run without it is incomplete and gets replaced."""
        entities = self._mlflow.entities
        created = self._client.create_run(self._experiment, start_time=view.started_ms, tags=view.tags, run_name=view.name)
        for parameters in _chunks(sorted(view.parameters.items()), SMALL_BATCH):
            self._client.log_batch(created.info.run_id, params=[entities.Param(*each) for each in parameters])
        ours = {POINTS: "0", HASH: view.fingerprint(0)}
        self._client.log_batch(created.info.run_id, tags=[entities.RunTag(*tag) for tag in ours.items()])
        return _Run(created.info.run_id, {**view.tags, **ours}, "RUNNING", view.name, None)

    def _add_points(self, run: _Run, view: View, change: MirrorUpdate) -> None:
        """Append the missing points, each batch together with the tags that count them."""
        entities = self._mlflow.entities
        for chunk in _chunks(list(enumerate(view.points))[run.points :], BATCH - 2):
            there = chunk[-1][0] + 1
            tags = {POINTS: str(there), HASH: view.fingerprint(there)}
            metrics = [entities.Metric(point.name, point.value, view.started_ms, point.tokens) for _, point in chunk]
            log = [entities.RunTag(*tag) for tag in tags.items()]
            self._ask(lambda metrics=metrics, log=log: self._client.log_batch(run.run_id, metrics=metrics, tags=log))  # type: ignore[misc]
            run.tags.update(tags)
            change.points += len(chunk)

    def _set_tags(self, run: _Run, tags: dict[str, str]) -> None:
        new = [tag for tag in tags.items() if run.tags.get(tag[0]) != tag[1]]
        for chunk in _chunks(new, SMALL_BATCH):
            log = [self._mlflow.entities.RunTag(*tag) for tag in chunk]
            self._ask(lambda log=log: self._client.log_batch(run.run_id, tags=log))  # type: ignore[misc]
        for gone in [name for name in run.tags if name == "last_end" and name not in tags]:
            self._ask(lambda gone=gone: self._client.delete_tag(run.run_id, gone))  # type: ignore[misc]
            del run.tags[gone]
        run.tags.update(new)

    def _set_status(self, run: _Run, view: View) -> None:
        if view.ended_ms is not None:
            self._client.set_terminated(run.run_id, view.status, view.ended_ms)
        if view.ended_ms is None or run.name != view.name:
            self._client.update_run(run.run_id, status=view.status, name=view.name)
        run.status, run.name, run.end = view.status, view.name, view.ended_ms

    def _open_experiment(self, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(self.plan.study)
        if found is None:
            created: str = self._client.create_experiment(self.plan.study, artifact_location=artifacts.as_uri() if artifacts else None)
            return created
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        known: str = found.experiment_id
        return known

    def _read_runs(self) -> dict[str, _Run]:
        """Return the runs by digest. Of duplicates (a lost reply, or two mirrors at once) the first is kept."""
        runs: dict[str, _Run] = {}
        page = None
        while True:
            found = self._client.search_runs([self._experiment], max_results=PAGE, page_token=page, order_by=["attributes.start_time"])
            for each in found:
                digest = each.data.tags.get("digest", "")
                run = _Run(each.info.run_id, dict(each.data.tags), each.info.status, each.info.run_name, each.info.end_time)
                if digest in runs:
                    self._client.delete_run(run.run_id)
                elif digest:
                    runs[digest] = run
            page = found.token
            if not page:
                return runs

    def _ask(self, request: Callable[[], T]) -> T:
        """Send a request to MLflow. Any exception is raised as TrackingUnavailable."""
        try:
            return request()
        except Exception as problem:
            raise TrackingUnavailable(
                masked(f"MLflow at {self._uri} is unreachable, timed out or rejected the request: {_first_line(problem)}")
            ) from problem


def _agrees(run: _Run, view: View) -> bool:
    """Return whether the logged points agree with the view, so that the rest can be appended."""
    return run.points <= len(view.points) and run.tags.get(HASH) == view.fingerprint(run.points)


def _status(lease: LeaseBody) -> str:
    if lease.ended is None:
        return "RUNNING"
    return "FAILED" if lease.ended.code == ExitCode.REFUSED else "KILLED"


def _chunks(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _client(uri: str) -> tuple[Any, Any]:
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError as problem:
        raise MissingExtra("the MLflow mirror needs mlflow: pip install 'scaling-study[local]'") from problem
    try:
        return mlflow.MlflowClient(tracking_uri=uri), mlflow
    except Exception as problem:
        raise TrackingUnavailable(masked(f"MLflow at {uri} cannot be opened: {_first_line(problem)}")) from problem


def _first_line(problem: Exception) -> str:
    """Return the first line of a message: MLflow's continue with SQL or HTML."""
    lines = str(problem).strip().splitlines()
    return lines[0][:300] if lines else type(problem).__name__
