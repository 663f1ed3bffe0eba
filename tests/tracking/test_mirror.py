"""MLflow runs after updates of the mirror: one run per task, repaired and rebuilt from the store."""

import shutil
from pathlib import Path

import pytest

from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import TAGS, TaskKind
from orchestrator.errors import TrackingUnavailable
from orchestrator.store.addresses import done_key, record_key, work_root
from orchestrator.store.memory import in_memory_store
from orchestrator.store.metrics import append
from orchestrator.store.records import publish_record
from orchestrator.tracking.mirror import Mirror
from orchestrator.tracking.view import CURVE_POINTS
from tests.tracking.synthetic_store import (
    PLAN,
    STUDY,
    UNREACHABLE,
    finish_all,
    finish_needs,
    first_train_task,
    metric_rows,
    mlflow_runs,
    train,
)


def test_finished_study_has_one_run_per_task_with_tags_parameters_and_curves(uri: str) -> None:
    store = in_memory_store()
    finish_all(store)
    change = Mirror(store, PLAN, uri).bring_up_to_date()
    assert (change.runs, change.open, change.problems) == (len(PLAN.tasks), 0, [])
    runs = mlflow_runs(uri)
    assert set(runs) == set(PLAN.tasks)
    planned, task = first_train_task()
    run = runs[planned.digest]
    assert run["times"][0] == "FINISHED"
    assert set(TAGS) <= set(run["tags"])
    assert (run["tags"]["study"], run["tags"]["digest"], run["tags"]["kind"]) == (PLAN.study, planned.digest, "train")
    steps = [step for step, _, _ in run["metrics"]["loss"]]
    assert (steps[-1], len(steps) <= CURVE_POINTS + 1) == (task.tokens, True)
    assert run["metrics"]["result/loss"][0][0] == task.tokens
    assert run["params"]["n_body"] == str(PLAN.shapes[planned.size].body)
    evaluation = next(task for task in PLAN.tasks.values() if task.kind is TaskKind.EVALUATE)
    assert runs[evaluation.digest]["metrics"]["bits_per_byte"][0][0] > 0
    assert runs[evaluation.digest]["tags"]["suite"] == "bpb"


def test_second_update_changes_nothing(uri: str) -> None:
    store = in_memory_store()
    finish_all(store)
    Mirror(store, PLAN, uri).bring_up_to_date()
    before = mlflow_runs(uri)
    mirror = Mirror(store, PLAN, uri)
    assert not mirror.bring_up_to_date().changed
    assert not mirror.bring_up_to_date().changed
    assert mlflow_runs(uri) == before


def test_rebuilt_mirror_equals_continuously_updated_mirror(uri: str, empty_database: Path, tmp_path: Path) -> None:
    """One mirror is updated during training, after a kill, after a resume and at the end; the other only once, at the end."""
    store = in_memory_store()
    planned, task = first_train_task()
    finish_needs(store, planned)
    mirror = Mirror(store, PLAN, uri)
    per_step = task.trajectory.tokens_per_step
    first = train(store, planned, 300 * per_step, shift=0.5, checkpoints=(100 * per_step,))
    assert mirror.bring_up_to_date().points > 0
    first.end("killed", 137, "killed")
    mirror.bring_up_to_date()
    assert mlflow_runs(uri)[planned.digest]["times"][0] == "KILLED"
    train(store, planned, 200 * per_step, after=100 * per_step).end("stopped", 75)
    change = mirror.bring_up_to_date()
    assert change.replaced == 1, "points after the resumed checkpoint were those of the killed attempt"
    finish_all(store)
    assert mirror.bring_up_to_date().open == 0
    continuously_updated = mlflow_runs(uri)
    rebuilt = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'rebuilt.db')}"
    Mirror(store, PLAN, rebuilt).bring_up_to_date()
    assert mlflow_runs(rebuilt) == continuously_updated


def test_curve_grows_while_the_task_trains(uri: str) -> None:
    store = in_memory_store()
    planned, task = first_train_task()
    finish_needs(store, planned)
    mirror = Mirror(store, PLAN, uri)
    per_step = task.trajectory.tokens_per_step
    lease = train(store, planned, 100 * per_step)
    mirror.bring_up_to_date()
    before = mlflow_runs(uri)[planned.digest]
    assert before["times"][0] == "RUNNING"
    append(store, lease, metric_rows(task, 100 * per_step, 200 * per_step))
    change = mirror.bring_up_to_date()
    after = mlflow_runs(uri)[planned.digest]
    assert (change.runs, change.replaced) == (0, 0)
    assert change.points == sum(len(after["metrics"][name]) - len(before["metrics"][name]) for name in ("loss", "grad_norm"))
    assert after["metrics"]["loss"][: len(before["metrics"]["loss"])] == before["metrics"]["loss"]
    assert len(after["metrics"]["loss"]) > len(before["metrics"]["loss"])
    assert mirror.bring_up_to_date().points == 0


def test_run_of_a_refused_task_has_failed_and_gives_the_reason(uri: str) -> None:
    store = in_memory_store()
    planned, _ = first_train_task()
    finish_needs(store, planned)
    train(store, planned, 5120).end("refused", ExitCode.REFUSED, "shard 3 has another hash")
    Mirror(store, PLAN, uri).bring_up_to_date()
    run = mlflow_runs(uri)[planned.digest]
    assert (run["times"][0], run["tags"]["last_end"]) == ("FAILED", "shard 3 has another hash")


def test_incomplete_run_is_replaced(uri: str) -> None:
    """A mirror that is killed between two calls leaves a run without its hash, or a run without points."""
    import mlflow

    store = in_memory_store()
    finish_all(store)
    Mirror(store, PLAN, uri).bring_up_to_date()
    complete = mlflow_runs(uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(PLAN.study).experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    client.delete_tag(runs[0].info.run_id, "mirror.hash")
    client.delete_tag(runs[0].info.run_id, "mirror.seal")
    client.delete_run(runs[1].info.run_id)
    client.create_run(experiment, tags={"digest": runs[2].data.tags["digest"]}, start_time=2**41)
    change = Mirror(store, PLAN, uri).bring_up_to_date()
    assert (change.runs, change.replaced) == (2, 1)
    assert mlflow_runs(uri) == complete


def test_new_record_replaces_the_results_of_the_run(uri: str) -> None:
    store = in_memory_store()
    finish_all(store)
    mirror = Mirror(store, PLAN, uri)
    mirror.bring_up_to_date()
    digest = first_train_task()[0].digest
    record = STUDY.records(PLAN)[digest]
    store.objects.delete(done_key(digest))
    store.objects.delete(record_key(digest))
    publish_record(store, record.model_copy(update={"results": {**record.results, "loss": 1.25}}))
    mirror.bring_up_to_date()
    assert [value for _, value, _ in mlflow_runs(uri)[digest]["metrics"]["result/loss"]] == [1.25]


def test_damaged_metrics_prevent_only_their_own_run(uri: str) -> None:
    store = in_memory_store()
    finish_all(store)
    planned, _ = first_train_task()
    table = next(stat.key for stat in store.objects.list(work_root(planned.kind, planned.work)) if "/metrics/" in stat.key)
    store.objects.put(table, store.objects.get(table)[:-20])
    change = Mirror(store, PLAN, uri).bring_up_to_date()
    assert change.problems
    assert all(table in problem for problem in change.problems)
    assert change.runs == len(PLAN.tasks) - len(change.problems)


def test_unreachable_server_raises_tracking_unavailable() -> None:
    with pytest.raises(TrackingUnavailable, match=r"MLflow at http://127\.0\.0\.1:9"):
        Mirror(in_memory_store(), PLAN, UNREACHABLE)
