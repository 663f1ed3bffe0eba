"""Public Python API: plan, run, inspect and report a scaling study.

The commands of the same names parse their flags and call these functions. Every function takes the path of a study file and returns a small
result object. Errors are subclasses of `orchestrator.errors.ScalingStudyError`. `import orchestrator` re-exports the names in `__all__`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import MissingExtra, PlanRefused, ReportNotWritten, ScalingStudyError
from orchestrator.planning import is_runnable
from orchestrator.planning.estimate import CPU, CPU_WORKER_FLOPS, DEFAULT_MFU, Price, default_processor, estimate
from orchestrator.planning.repetition import Reading, readings, refuse_repetition
from orchestrator.planning.summary import PlanSummary, TaskRow, summarize_plan, task_rows
from orchestrator.spec import Study, read_study
from orchestrator.store import open_store
from orchestrator.store.plans import current, current_spec, planned_part
from orchestrator.store.records import done
from orchestrator.study.opening import (
    Opened,
    gpu_seconds_per_token,
    inputs,
    keep,
    known_tokens,
    open_study,
    preview_study,
    refuse_unknown,
    store_address,
)
from orchestrator.study.speed import measured_seconds_per_token, recorded_seconds_per_token
from orchestrator.tracking.run_mirror import finish_mirror, start_mirror

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.cluster.port import Cluster
    from orchestrator.contract.plan import Plan, PlannedTask
    from orchestrator.local import RunResult
    from orchestrator.monitor.study_view import StudyView
    from orchestrator.remote import RemoteOutcome
    from orchestrator.store import Store
    from orchestrator.tracking import MirrorProcess

__all__ = [
    "ArgoServer",
    "RemoteRunOptions",
    "RunOptions",
    "RunOutcome",
    "RunPreview",
    "StudyPlan",
    "StudyReport",
    "plan",
    "preview_run",
    "report",
    "run",
    "run_remote",
    "status",
]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A plan and its summary: the cells and tasks, and what they cost."""

    plan: "Plan"
    summary: PlanSummary
    done: frozenset[str] = frozenset()
    """Digests of the completed tasks, empty when the store was not asked."""

    @property
    def tasks(self) -> list[TaskRow]:
        """Every task, each after all that it needs."""
        return task_rows(self.plan, self.done)

    @property
    def is_runnable(self) -> bool:
        """Whether the content of every source is known."""
        return is_runnable(self.plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a study runs on this machine.

    `store`: address of the store, by default the study file's. `out`: folder of the report, by default beside the results. `workers`:
    worker processes, 0 for one per core or GPU. `only`: names of cells or patterns, empty for all. `replan`: plan again even if the files
    of a source have changed. `threads`: per worker; another number changes the last bits of results. `gpus`: 1 for a GPU per worker, 0 for
    the CPU. `checkpoint_seconds`: interval between checkpoints of a task. `tracking`: mirror to MLflow at `tracking_uri`, by default
    MLFLOW_TRACKING_URI or an SQLite file beside the results. `plain`: print plain lines on a terminal, too.
    """

    store: str | None = None
    out: Path | None = None
    workers: int = 0
    only: Sequence[str] = ()
    replan: bool = False
    threads: int = 1
    gpus: int = 0
    checkpoint_seconds: int = 60
    tracking: bool = True
    tracking_uri: str = ""
    plain: bool = False


@dataclass(frozen=True, slots=True)
class ArgoServer:
    """Address, namespace and credentials of an Argo Server.

    `token`: bearer token. `token_file`: file with the token, read before every request; takes precedence over `token`. `ca_file`: CA
    certificate that signed the server's. `insecure`: skip TLS certificate verification.
    """

    url: str
    namespace: str
    token: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRunOptions:
    """How a study runs through an Argo Server. `logs`: print the pods' logs. The other fields are those of `RunOptions`."""

    store: str | None = None
    out: Path | None = None
    tracking: bool = True
    tracking_uri: str = ""
    plain: bool = False
    logs: bool = False


@dataclass(frozen=True, slots=True)
class RunPreview:
    """The tasks that a run would execute, in the order of one worker. `blocker`: the error that the run would raise, if any."""

    study: str
    store: str
    tasks: int
    done: int
    pending: "tuple[PlannedTask, ...]"
    blocker: ScalingStudyError | None = None


@dataclass(frozen=True, slots=True)
class StudyReport:
    """A written report. `is_current`: the study file still asks for the plan that the report describes."""

    page: Path
    is_current: bool = True

    def runs(self) -> "pd.DataFrame":
        """Return the results: one row per task and metric."""
        return _read_table(self.page.parent / "runs.parquet")

    def cells(self) -> "pd.DataFrame":
        """Return the grid: one row per cell, stage and task."""
        return _read_table(self.page.parent / "cells.parquet")


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended.

    `plan`: None if a remote run ended before it had one. `report`: None if the run was stopped or the report could not be written.
    `trouble`: why the run ended although no task failed, "" for none.
    """

    store: "Store"
    plan: "Plan | None"
    result: "RunResult"
    report: StudyReport | None = None
    trouble: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every wanted task has a record."""
        return self.plan is not None and not self.trouble and self.result.is_complete


def plan(
    file: str | Path,
    *,
    store: str | None = None,
    ask_store: bool = False,
    gpu: str = "",
    mfu: float = DEFAULT_MFU,
    price: float | None = None,
    measure: bool = False,
) -> StudyPlan:
    """Plan and price a study; write nothing.

    `store`: address of the store that is asked which tasks are done, by default the study file's. `ask_store`: ask it even if it is a
    bucket. `gpu`, `mfu`: GPU type (`cpu` for this machine; by default `cpu` if every size is small, else `h100`) and assumed model FLOPs
    utilisation. `measure`: measure the speed of this machine for a price on its CPU.
    `price`: cost per GPU-hour, in any currency. Raises InvalidStudy, PlanRefused, StoreError.
    """
    opened = preview_study(Path(file), store)
    asks_store = ask_store or store is not None or "://" not in opened.store.url
    finished = _done_tasks(opened) if asks_store else set()
    reads = _readings(opened, finished)
    refuse_repetition(reads)
    gpu = gpu or default_processor(opened.plan)
    seconds, rate_from = _measured_seconds(opened, finished, gpu, measure)
    tariff = Price(gpu, mfu, price, seconds)
    warnings = [f"{name}: {why}" for name, why in opened.unreachable.items()]
    summary = summarize_plan(
        opened.study.spec,
        opened.plan,
        estimate(opened.plan, tariff, finished),
        tariff,
        reads,
        finished,
        warnings,
        rate_from=rate_from,
        workers=_cores() if gpu == CPU else 0,
    )
    return StudyPlan(opened.plan, summary, frozenset(finished))


def run(file: str | Path, options: RunOptions | None = None, *, say: Say = print, resume: str = "run it again") -> RunOutcome:
    """Run a study on this machine to its report. Call it from the main thread.

    Completed tasks are skipped, and interrupted tasks continue from their checkpoints. Ctrl-C once stops the tasks at a checkpoint, twice
    stops them immediately. `say` receives messages; `resume` completes the message about how to continue a stopped run. Raises
    InvalidStudy, PlanRefused, StoreError; a failed task does not raise.
    """
    options = options or RunOptions()
    opened = open_study(Path(file), options.store, replan=options.replan)
    _check_repetition(opened)
    _check_can_start(opened, options)
    keep(opened)
    mirror = start_mirror(opened.store, opened.plan.study, options.tracking_uri, say) if options.tracking else None
    try:
        result = _run_tasks(opened, options, say)
    finally:
        if mirror is not None:
            mirror.request_last_update()
    if result.was_stopped:
        say(f"Stopped. Completed tasks are kept; to resume: {resume}")
    written = None if result.was_stopped else _write_report(opened.store, opened.plan, options.out, say)
    if mirror is not None:
        finish_mirror(mirror, opened.store, opened.plan.study, result.was_stopped, say)
    return RunOutcome(opened.store, opened.plan, result, written)


def preview_run(file: str | Path, options: RunOptions | None = None) -> RunPreview:
    """Return what `run` would execute, and what would prevent it; write nothing."""
    from orchestrator.local import in_order, wanted_tasks

    options = options or RunOptions()
    opened = open_study(Path(file), options.store, replan=options.replan, read_only=True)
    _check_repetition(opened)
    wanted = wanted_tasks(opened.plan, list(options.only))
    finished = done(opened.store) & wanted
    pending = tuple(in_order(opened.plan, wanted, finished))
    blocker = None
    try:
        _check_can_start(opened, options)
    except ScalingStudyError as problem:
        blocker = problem
    return RunPreview(opened.plan.study, opened.store.url, len(wanted), len(finished), pending, blocker)


def run_remote(
    file: str | Path, server: ArgoServer, options: RemoteRunOptions | None = None, *, say: Say = print, resume: str = "run it again"
) -> RunOutcome:
    """Run a study on a cluster through its Argo Server to its report. Call it from the main thread.

    The control loop runs in this process; the tasks run in the cluster and outlive it. `say` and `resume` as in `run`. Raises
    InvalidStudy, PlanRefused, ClusterError, StoreError, TokenRefused.
    """
    options = options or RemoteRunOptions()
    study = _study_for_cluster(Path(file), options.store)
    cluster = _connect_argo_server(server)
    store = open_store(study.spec.store)
    # one request, so that missing credentials are reported now and not retried by the control loop
    done(store)
    mirrors: list[MirrorProcess] = []
    try:
        end = _run_workflows(cluster, study, store, server, options, mirrors, say)
    finally:
        for mirror in mirrors:
            mirror.request_last_update()
    written = None
    if end.was_detached:
        say(f"Detached. Workflows that were not stopped continue in the cluster; to attach again: {resume}")
    elif end.result.was_stopped:
        say(f"Stopped. Completed tasks are kept; to resume: {resume}")
    elif end.plan is not None:
        written = _write_report(store, end.plan, options.out, say)
    for mirror in mirrors:
        finish_mirror(mirror, store, study.name, end.result.was_stopped, say)
    return RunOutcome(store, end.plan, end.result, written, end.trouble)


def status(
    study: str | Path, *, store: str | None = None, namespace: str = "", context: str = "", prefer_cluster: bool = False
) -> "StudyView":
    """Return the state of a study's cells and tasks, from its store, its cluster or both.

    `study`: a study file, or a study's name together with `store` or a cluster. `namespace`, `context`: of the cluster. Raises
    ScalingStudyError if neither store nor cluster can be read.
    """
    from orchestrator.monitor.connect import status_reader

    with status_reader(str(study), namespace=namespace, context=context, store=store, prefer_cluster=prefer_cluster) as reader:
        return reader.read()


def report(file: str | Path, *, store: str | None = None, out: str | Path | None = None) -> StudyReport:
    """Write the report of a study's completed tasks: a page, figures and tables.

    Reads the frozen plan and the records, never the sources. `out`: folder of the report, by default the one that `run` writes. Raises
    InvalidStudy, PlanRefused for a study that has not run, StoreError, MissingExtra, ReportNotWritten.
    """
    from analysis.report.page import write_report
    from orchestrator.monitor.connect import existing_store
    from orchestrator.tracking import local_folder

    study = read_study(Path(file))
    opened = existing_store(store_address(study, store), study.name)
    frozen = current(opened, study.name)
    if frozen is None:
        raise PlanRefused(
            f"{file}: the store {opened.url} has no study called {study.name!r}, so there is nothing to report.\n"
            f"    Run it first with `scaling-study run {file}`, or name another store with --store"
        )
    is_current = planned_part(current_spec(opened, study.name) or {}) == planned_part(study.document)
    page = write_report(opened, frozen[1], Path(out) if out else local_folder(opened, study.name) / "report")
    return StudyReport(page, is_current)


# Steps of the functions above


def _cores() -> int:
    from orchestrator.local import cores

    return cores()


def _measured_seconds(opened: Opened, finished: set[str], gpu: str, measure: bool) -> tuple[dict[str, float], str]:
    """Seconds per token by size on the priced processor, and where they come from."""
    if gpu != CPU:
        return gpu_seconds_per_token(opened, finished), ""
    if measure:
        return measured_seconds_per_token(opened.plan), "measured now"
    if recorded := recorded_seconds_per_token(opened.store, opened.plan, finished):
        return recorded, "recorded in this store"
    return {}, f"assumed: {CPU_WORKER_FLOPS / 1e9:.0f} GFLOP/s a worker; --measure measures it"


def _done_tasks(opened: Opened) -> set[str]:
    return done(opened.store) & opened.plan.tasks.keys()


def _readings(opened: Opened, finished: set[str]) -> list[Reading]:
    return readings(opened.plan, opened.study.spec.data.sources, known_tokens(opened, finished))


def _check_repetition(opened: Opened) -> None:
    """Raise PlanRefused for sources that are read more often than they allow; a run would find out hours later."""
    refuse_repetition(_readings(opened, _done_tasks(opened)))


def _check_can_start(opened: Opened, options: RunOptions) -> None:
    """Raise PlanRefused for a paused study, a source with unknown content, or GPUs that this machine does not have."""
    from orchestrator.local.workers import share_gpus

    if opened.study.spec.paused:
        raise PlanRefused(f"{opened.study.path}: spec.paused is true, so nothing runs; remove it. --dry-run lists the tasks that would run")
    refuse_unknown(opened)
    if options.gpus:
        share_gpus(options.gpus, options.workers)


def _run_tasks(opened: Opened, options: RunOptions, say: Say) -> "RunResult":
    """Run the tasks in worker processes, with a live view or plain lines."""
    from orchestrator.contract.events import Placement
    from orchestrator.local import StopRequest, run_plan
    from orchestrator.monitor.progress import PlainLines, choose_view
    from orchestrator.planning.defaults import by_size
    from orchestrator.tracking import local_folder

    tasks, stop = opened.plan, StopRequest()
    say(f"{tasks.study}: {len(tasks.cells)} cells, {len(tasks.tasks)} tasks, results in {opened.store.url}")
    placement = Placement(
        study=tasks.study,
        run_number=int(opened.store.clock().timestamp()),
        gpus=options.gpus,
        threads=options.threads,
        checkpoint_seconds=options.checkpoint_seconds,
        inputs=inputs(opened.study, tasks),
    )
    micro_batch = {size: by_size(opened.study.spec.execution.micro_batch, size) for size in tasks.shapes}
    with stop.on_signals(), PlainLines() if options.plain else choose_view() as view:
        return run_plan(
            opened.store,
            tasks,
            placement,
            workers=options.workers,
            only=list(options.only),
            listener=view,
            stop=stop,
            logs=local_folder(opened.store, tasks.study) / "logs",
            micro_batch={size: number for size, number in micro_batch.items() if number},
            prepared=lambda: _check_repetition(opened),
        )


def _study_for_cluster(file: Path, store: str | None) -> Study:
    """Read a study that runs on a cluster. Raises InvalidStudy; PlanRefused for one that is paused or cannot run there."""
    from orchestrator.reconcile.policy import Policy, policy_violations

    study = read_study(file)
    if store:
        study = replace(study, spec=study.spec.model_copy(update={"store": store}))
    if study.spec.paused:
        raise PlanRefused(f"{file}: spec.paused is true, so nothing runs; remove it")
    if broken := policy_violations(study, Policy()):
        raise PlanRefused("\n".join(f"{file}: {rule.message}" for rule in broken))
    return study


def _connect_argo_server(server: ArgoServer) -> "Cluster":
    from orchestrator.remote.token import token_source

    try:
        from orchestrator.cluster.argo_server import connect
    except ModuleNotFoundError as problem:
        raise MissingExtra(f"--argo-server needs the package {problem.name}: pip install 'scaling-study[cluster]'") from problem
    token = token_source(server.token, server.token_file, server.namespace)
    ca_file = str(server.ca_file) if server.ca_file else ""
    return connect(server.url, server.namespace, token, ca_file=ca_file, verify=not server.insecure)


def _run_workflows(
    cluster: "Cluster",
    study: Study,
    store: "Store",
    server: ArgoServer,
    options: RemoteRunOptions,
    mirrors: "list[MirrorProcess]",
    say: Say,
) -> "RemoteOutcome":
    """Run the control loop until the study ends, with a live view or plain lines. Starts the mirror once there is a plan."""
    from orchestrator.monitor.progress import PlainLines, choose_view
    from orchestrator.remote import Interrupts, run_study, study_object

    def planned(frozen: "Plan") -> None:
        mirror = start_mirror(store, frozen.study, options.tracking_uri, say) if options.tracking else None
        if mirror is not None:
            mirrors.append(mirror)

    interrupts = Interrupts()
    body = study_object(study, cluster.namespace, options.store)
    with interrupts.on_signal(), PlainLines() if options.plain else choose_view() as view:
        view.note(f"{study.name}: through {server.url} in namespace {server.namespace}")
        return run_study(cluster, body, store, view, interrupts, logs=options.logs, planned=planned)


def _write_report(store: "Store", frozen: "Plan", out: Path | None, say: Say) -> StudyReport | None:
    """Write the report at the end of a run; a report that cannot be written does not fail the run."""
    from orchestrator.tracking import local_folder

    try:
        from analysis.report.page import write_report

        page = write_report(store, frozen, out or local_folder(store, frozen.study) / "report")
    except (MissingExtra, ReportNotWritten) as problem:
        say(f"no report: {problem}")
        return None
    say(f"report: {page.resolve().as_uri()}")
    return StudyReport(page)


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(path)
