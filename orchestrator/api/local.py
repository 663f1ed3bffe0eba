"""Run a study on this machine, or list what a run would execute. `scaling-study run` calls it."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.api.checks import check_can_start, check_repetition
from orchestrator.api.options import RunOptions, Say
from orchestrator.api.outcomes import RunOutcome, RunPreview
from orchestrator.api.reports import write_run_report
from orchestrator.errors import ScalingStudyError
from orchestrator.store.records import finished_tasks
from orchestrator.study.opening import OpenedStudy, freeze_plan, open_study, paths_by_fingerprint
from orchestrator.tracking.run_mirror import finish_mirror, start_mirror

if TYPE_CHECKING:
    from orchestrator.local import RunResult


def run(file: str | Path, options: RunOptions | None = None, *, say: Say = print, resume: str = "run it again") -> RunOutcome:
    """Run a study on this machine to its report. Call it from the main thread.

    Completed tasks are skipped, and interrupted tasks continue from their checkpoints. Ctrl-C once stops the tasks at a checkpoint, twice
    stops them immediately. `say` receives messages; `resume` completes the message about how to continue a stopped run. Raises
    InvalidStudy, PlanRefused, StoreError; a failed task does not raise.
    """
    options = options or RunOptions()
    opened = open_study(Path(file), options.store, replan=options.replan)
    check_repetition(opened)
    check_can_start(opened, options)
    freeze_plan(opened)
    mirror = start_mirror(opened.store, opened.plan.study, options.tracking_uri, say) if options.tracking else None
    try:
        result = _run_tasks(opened, options, say)
    finally:
        if mirror is not None:
            mirror.request_last_update()
    if result.was_stopped:
        say(f"Stopped. Completed tasks are kept; to resume: {resume}")
    written = None if result.was_stopped else write_run_report(opened.store, opened.plan, options.out, say)
    if mirror is not None:
        finish_mirror(mirror, opened.store, opened.plan.study, result.was_stopped, say)
    return RunOutcome(opened.store, opened.plan, result, written)


def preview_run(file: str | Path, options: RunOptions | None = None) -> RunPreview:
    """Return what `run` would execute, and what would prevent it; write nothing."""
    from orchestrator.local import in_order, wanted_tasks

    options = options or RunOptions()
    opened = open_study(Path(file), options.store, replan=options.replan, read_only=True)
    check_repetition(opened)
    wanted = wanted_tasks(opened.plan, list(options.only))
    finished = finished_tasks(opened.store, wanted)
    pending = tuple(in_order(opened.plan, wanted, finished))
    blocker = None
    try:
        check_can_start(opened, options)
    except ScalingStudyError as problem:
        blocker = problem
    return RunPreview(opened.plan.study, opened.store.url, len(wanted), len(finished), pending, blocker)


def _run_tasks(opened: OpenedStudy, options: RunOptions, say: Say) -> "RunResult":
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
        inputs=paths_by_fingerprint(opened.study, tasks),
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
            prepared=lambda: check_repetition(opened),
        )
