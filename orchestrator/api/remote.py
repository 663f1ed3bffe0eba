"""Run a study on a cluster through its Argo Server. `scaling-study run --argo-server` calls it."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.api.checks import read_study_for_cluster
from orchestrator.api.options import ArgoServer, RemoteRunOptions, Say
from orchestrator.api.outcomes import RunOutcome
from orchestrator.api.reports import write_run_report
from orchestrator.errors import MissingExtra
from orchestrator.spec import Study
from orchestrator.store import open_store
from orchestrator.store.records import done
from orchestrator.tracking.run_mirror import finish_mirror, start_mirror

if TYPE_CHECKING:
    from orchestrator.cluster.port import Cluster
    from orchestrator.contract.plan import Plan
    from orchestrator.remote import RemoteOutcome
    from orchestrator.store import Store
    from orchestrator.tracking import MirrorProcess


def run_remote(
    file: str | Path, server: ArgoServer, options: RemoteRunOptions | None = None, *, say: Say = print, resume: str = "run it again"
) -> RunOutcome:
    """Run a study on a cluster through its Argo Server to its report. Call it from the main thread.

    The control loop runs in this process; the tasks run in the cluster and outlive it. `say` and `resume` as in `run`. Raises
    InvalidStudy, PlanRefused, ClusterError, StoreError, TokenRefused.
    """
    options = options or RemoteRunOptions()
    study = read_study_for_cluster(Path(file), options.store)
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
        written = write_run_report(store, end.plan, options.out, say)
    for mirror in mirrors:
        finish_mirror(mirror, store, study.name, end.result.was_stopped, say)
    return RunOutcome(store, end.plan, end.result, written, end.trouble)


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
