"""`status` of a study that is read from its store alone: a local run, or a bucket."""

import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.grid import render_view, short
from orchestrator.cli.status import document, needs_attention
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.plan import PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import PlanRefused
from orchestrator.monitor.status_reader import StatusReader
from orchestrator.monitor.study_view import StudyView
from orchestrator.store import Store, open_store
from orchestrator.store.addresses import lease_key, work_root
from orchestrator.store.leases import Holder, Lease, acquire, to_bytes
from orchestrator.store.objects import utc_now
from orchestrator.store.plans import freeze
from orchestrator.store.records import publish_record
from tests.analysis.synthetic_study import SyntheticRecipe, SyntheticStage, SyntheticStudy

STAGES = (SyntheticStage("pretrain", "pretrain", 100), SyntheticStage("cooldown", "cooldown", 20, "20"))
STUDY = SyntheticStudy(sizes=("0.03M",), code_percents=("0", "50"), seeds=(1,), suites=("bpb",), recipes=(SyntheticRecipe("r", STAGES),))
PLAN = STUDY.plan()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = open_store(str(tmp_path / "store"))
    freeze(opened, PLAN, {"budget": {"gpuHours": 12}})
    return opened


def publish(store: Store, *kinds: TaskKind) -> None:
    for digest, record in STUDY.records(PLAN).items():
        if PLAN.tasks[digest].kind in kinds:
            publish_record(store, record)


def trunks() -> list[PlannedTask]:
    return [PLAN.tasks[cell.stages[0].trains[0]] for cell in PLAN.cells]


def at_work(store: Store, planned: PlannedTask, gpus: int = 0) -> Lease:
    return acquire(store, work_root(planned.kind, planned.work), planned.digest, Holder(study="synthetic", gpus=gpus))


def look(store: Store) -> StudyView:
    return StatusReader("synthetic", utc_now, store=store).read()


def text_of(view: StudyView, *, only_ascii: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(render_view(view, only_ascii=only_ascii))
    return out.getvalue()


def row_of(shown: str, size: str) -> list[str]:
    """Return the squares of a size, without the lines between them."""
    line = next(line for line in shown.splitlines() if size in line)
    return [part.strip() for part in line.replace("|", "│").split("│")[2:-1]]


def test_a_new_study_is_idle(store: Store) -> None:
    shown = text_of(look(store))
    assert shown.startswith(f"synthetic: Idle, 0/2 cells, 0/{len(PLAN.tasks)} tasks done in {store.url}\n")
    assert row_of(shown, "0.03M") == ["· 0/1", "· 0/1"]
    assert "running:" not in shown
    assert "GPU-hours: 0.00 used of 12" in shown


def test_running_attempts_and_permanent_failures_are_shown(store: Store) -> None:
    publish(store, TaskKind.PREPARE)
    working, refused = trunks()
    lease = at_work(store, working)
    at_work(store, refused).end("refused", ExitCode.REFUSED, "shard 3 has another hash")
    view = look(store)
    assert [(work.task.digest, work.lease and work.lease.number) for work in view.active_tasks] == [(working.digest, lease.number)]
    assert view.failed == {refused.digest: "shard 3 has another hash"}
    assert (view.phase, needs_attention(view)) == ("Running", True)
    shown = text_of(view)
    assert row_of(shown, "0.03M") == ["▶ 0/1", "✗ 0/1"]
    assert f"train {working.label}: process {lease.body.pid} on {lease.body.host} for " in shown
    assert f"{PLAN.cells[1].name}: no pretrain, cooldown; " in shown
    assert "shard 3 has another hash" in shown
    assert "▶ running   ✗ failed" in shown


def test_progress_and_time_left_come_from_the_lease(store: Store) -> None:
    publish(store, TaskKind.PREPARE)
    task = trunks()[0]
    assert isinstance(task.task, TrainTask)
    lease = at_work(store, task, gpus=2)
    half = task.task.tokens // 2
    begun = lease.body.start.timestamp()
    lease.body = lease.body.model_copy(update={"renewed": lease.body.start.fromtimestamp(begun - 100, lease.body.start.tzinfo)})
    lease.renew(half)
    view = look(store)
    (work,) = view.active_tasks
    assert work.lease is not None
    assert work.lease.tokens == half
    assert 0.2 < view.cells[0].progress < 0.3, "half of a trunk, which is nine tenths of one of two stages, and no evaluation"
    assert view.cells[0].seconds_left is not None
    shown = text_of(view)
    assert row_of(shown, "0.03M")[0].startswith("▶ 0/1 27%")
    assert "~" in row_of(shown, "0.03M")[0]
    assert f"at {half / 1000:.3g}k of" in shown


@pytest.mark.parametrize("code", [ExitCode.FAILED, ExitCode.STOPPED])
def test_a_retryable_attempt_is_neither_running_nor_failed(store: Store, code: ExitCode) -> None:
    publish(store, TaskKind.PREPARE)
    at_work(store, trunks()[0]).end("ended", code)
    view = look(store)
    assert (view.active_tasks, view.failed, view.phase, needs_attention(view)) == ([], {}, "Idle", False)


def test_the_checkpoint_of_a_stopped_attempt_counts_as_progress(store: Store) -> None:
    publish(store, TaskKind.PREPARE)
    task = trunks()[0]
    assert isinstance(task.task, TrainTask)
    lease = at_work(store, task)
    lease.note_checkpoint(task.task.tokens // 2)
    lease.end("stopped", ExitCode.STOPPED)
    cell = look(store).cells[0]
    assert 0.2 < cell.progress < 0.3
    assert cell.seconds_left is None


def test_a_finished_study_has_succeeded(store: Store) -> None:
    publish(store, *TaskKind)
    view = look(store)
    shown = text_of(view)
    assert "synthetic: Succeeded, 2/2 cells" in shown
    assert row_of(shown, "0.03M") == ["✓ 1/1", "✓ 1/1"]
    assert not needs_attention(view)


def test_a_study_without_runnable_tasks_has_failed(store: Store) -> None:
    publish(store, TaskKind.PREPARE)
    for task in trunks():
        at_work(store, task).end("refused", ExitCode.REFUSED, "no")
    assert look(store).phase == "Failed"


def test_a_second_read_sees_changes(store: Store) -> None:
    looking = StatusReader("synthetic", utc_now, store=store)
    assert looking.read().phase == "Idle"
    publish(store, TaskKind.PREPARE)
    lease = at_work(store, trunks()[0])
    publish(store, TaskKind.TRAIN)
    lease.end("done", ExitCode.DONE)
    publish(store, TaskKind.EVALUATE)
    assert looking.read().phase == "Succeeded"


def test_a_new_lease_is_seen_before_any_task_is_done(store: Store) -> None:
    publish(store, TaskKind.PREPARE)
    late = timedelta(0)
    looking = StatusReader("synthetic", lambda: utc_now() + late, store=store)
    assert looking.read().phase == "Idle"
    at_work(store, trunks()[0])
    late = timedelta(seconds=11)
    assert looking.read().phase == "Running"


def test_a_dead_process_of_this_machine_is_not_running(store: Store) -> None:
    publish(store, TaskKind.PREPARE)
    lease = at_work(store, trunks()[0])
    assert look(store).phase == "Running"
    gone = lease.body.model_copy(update={"pid_started": lease.body.pid_started + 1})
    store.objects.put(lease_key(lease.work_root, lease.number), to_bytes(gone))
    view = look(store)
    assert (view.phase, view.active_tasks) == ("Idle", [])


def test_gpu_hours_are_read_from_the_leases(store: Store) -> None:
    publish(store, TaskKind.PREPARE)
    lease = at_work(store, trunks()[0], gpus=8)
    lease.body = lease.body.model_copy(update={"start": lease.body.start.replace(year=lease.body.start.year - 1)})
    lease.end("stopped", ExitCode.STOPPED)
    days = (lease.body.ended.at - lease.body.start).days if lease.body.ended else 0
    assert look(store).gpu_seconds == pytest.approx(days * 86400 * 8, rel=0.01)


def test_symbols_are_ascii_for_a_terminal_without_unicode(store: Store) -> None:
    publish(store, *TaskKind)
    shown = text_of(look(store), only_ascii=True)
    assert shown.isascii()
    assert row_of(shown, "0.03M") == ["= 1/1", "= 1/1"]


def test_a_study_missing_from_the_store_is_rejected(store: Store) -> None:
    with pytest.raises(PlanRefused, match="has no study called nobody; create it with `scaling-study run FILE`"):
        StatusReader("nobody", utc_now, store=store).read()


def test_json_has_the_contents_of_the_view(store: Store) -> None:
    publish(store, TaskKind.PREPARE)
    lease = at_work(store, trunks()[0])
    found = json.loads(json.dumps(document(look(store))))
    assert (found["study"], found["phase"], found["namespace"], found["conditions"]) == ("synthetic", "Running", None, [])
    assert found["tasks"]["done"] == 3
    assert found["gpuHours"] == {"used": "0.00", "budget": "12"}
    (grid,) = found["grids"]
    assert [(square["size"], square["codePercent"], square["state"], square["total"]) for square in grid["squares"]] == [
        ("0.03M", "0", "running", 1),
        ("0.03M", "50", "waiting", 1),
    ]
    (work,) = found["atWork"]
    assert (work["digest"], work["pid"], work["attempt"]) == (trunks()[0].digest, lease.body.pid, 1)


def test_json_lists_every_missing_cell_and_the_view_a_limited_number() -> None:
    lost = [{"name": f"scratch/0.03M/c{number}/s1", "reason": "NaN"} for number in range(60)]
    body = {"metadata": {"name": "mine"}, "spec": {}, "status": {"failedCells": lost}}
    view = StudyView("mine", utc_now(), "s3://b", body=body)
    assert document(view)["missing"] == [f"scratch/0.03M/c{number}/s1: NaN" for number in range(60)]
    assert "... and 20 more" in text_of(view)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0s"), (59, "59s"), (99, "99s"), (100, "2m"), (3600, "60m"), (11400, "3h10m"), (172800, "2d0h"), (190000, "2d4h")],
)
def test_durations_in_a_square_are_short(seconds: float, shown: str) -> None:
    assert short(seconds) == shown
