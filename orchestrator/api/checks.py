"""Checks before a study is planned or run, so that an error is raised at once and not hours later."""

from dataclasses import replace
from pathlib import Path

from orchestrator.api.options import RunOptions
from orchestrator.errors import PlanRefused
from orchestrator.planning.repetition import Reading, readings, refuse_repetition
from orchestrator.spec import Study, read_study
from orchestrator.store.records import finished_tasks
from orchestrator.study.opening import OpenedStudy, check_runnable, known_tokens


def done_tasks(opened: OpenedStudy) -> set[str]:
    """Return the digests of the plan's completed tasks: those with an intact record."""
    return finished_tasks(opened.store, opened.plan.tasks)


def source_readings(opened: OpenedStudy, finished: set[str]) -> list[Reading]:
    """Return how often each trajectory reads each source. `finished`: digests of the completed tasks, whose token counts are known."""
    return readings(opened.plan, opened.study.spec.data.sources, known_tokens(opened, finished))


def check_repetition(opened: OpenedStudy) -> None:
    """Raise PlanRefused for sources that are read more often than they allow; without this check a run would fail hours later."""
    prepared = finished_tasks(opened.store, (source.digest for source in opened.plan.sources))
    refuse_repetition(source_readings(opened, prepared))


def check_can_start(opened: OpenedStudy, options: RunOptions) -> None:
    """Raise PlanRefused for a paused study, a source with unknown content, or GPUs that this machine does not have."""
    from orchestrator.local.workers import share_gpus

    if opened.study.spec.paused:
        raise PlanRefused(f"{opened.study.path}: spec.paused is true, so nothing runs; remove it. --dry-run lists the tasks that would run")
    check_runnable(opened)
    if options.gpus:
        share_gpus(options.gpus, options.workers)


def read_study_for_cluster(file: Path, store: str | None) -> Study:
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
