"""Status and report of a study. The commands of the same names call it, and a run writes its report here."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.api.options import Say
from orchestrator.api.outcomes import StudyReport
from orchestrator.errors import MissingExtra, PlanRefused, ReportNotWritten
from orchestrator.spec import read_study
from orchestrator.store.plans import current, current_spec, planned_part
from orchestrator.study.opening import store_address

if TYPE_CHECKING:
    from orchestrator.contract.plan import Plan
    from orchestrator.monitor.study_view import StudyView
    from orchestrator.store import Store


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
    from analysis.report.page import write_report_with_holes
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
    page, holes = write_report_with_holes(opened, frozen[1], Path(out) if out else local_folder(opened, study.name) / "report")
    return StudyReport(page, is_current, tuple(holes))


def write_run_report(store: "Store", frozen: "Plan", out: Path | None, say: Say) -> StudyReport | None:
    """Write the report at the end of a run; a report that cannot be written does not fail the run."""
    from orchestrator.tracking import local_folder

    try:
        from analysis.report.page import write_report_with_holes

        page, holes = write_report_with_holes(store, frozen, out or local_folder(store, frozen.study) / "report")
    except (MissingExtra, ReportNotWritten) as problem:
        say(f"no report: {problem}")
        return None
    for hole in holes:
        say(f"missing in the report: {hole}")
    say(f"report: {page.resolve().as_uri()}")
    return StudyReport(page, holes=tuple(holes))
