"""Stores of a small synthetic study at any point of its run, and the contents of its MLflow experiment."""

from typing import Any, Final

from orchestrator.contract.plan import PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.checkpoints import publish
from orchestrator.store.leases import Holder, Lease, acquire
from orchestrator.store.metrics import append
from orchestrator.store.records import publish_record
from tests.analysis.synthetic_study import SyntheticRecipe, SyntheticStage, SyntheticStudy

# The fewest tasks and steps that include a trunk, a leaf, a cooldown and a second stage
STUDY: Final = SyntheticStudy(
    sizes=("0.03M",),
    code_percents=("0",),
    seeds=(1,),
    suites=("bpb",),
    recipes=(
        SyntheticRecipe("from-scratch", (SyntheticStage("pretrain", "pretrain", 400), SyntheticStage("cooldown", "cooldown", 20, "20"))),
        SyntheticRecipe(
            "balanced", (SyntheticStage("init", "pretrain", 20, "50", evaluated=False), SyntheticStage("text", "continue", 20, "10"))
        ),
    ),
)
PLAN: Final = STUDY.plan()
# Connections to port 9 are refused
UNREACHABLE: Final = "http://127.0.0.1:9"


def first_train_task() -> tuple[PlannedTask, TrainTask]:
    planned = next(task for task in PLAN.tasks.values() if task.kind is TaskKind.TRAIN)
    assert isinstance(planned.task, TrainTask)
    return planned, planned.task


def metric_rows(task: TrainTask, after: int, upto: int, shift: float = 0.0) -> list[tuple[int, int, str, float]]:
    """Return the metrics of the steps between two positions in tokens: step, tokens, name, value. `shift` is added to every value."""
    per_step = task.trajectory.tokens_per_step
    steps = range(after // per_step + 1, upto // per_step + 1)
    return [(step, step * per_step, name, base / step + shift) for step in steps for name, base in (("loss", 7.0), ("grad_norm", 1.0))]


def train(store: Store, planned: PlannedTask, upto: int, after: int = 0, shift: float = 0.0, checkpoints: tuple[int, ...] = ()) -> Lease:
    """Add an attempt that resumed at `after`, trained to `upto`, published `checkpoints`, and still holds its lease."""
    assert isinstance(planned.task, TrainTask)
    lease = acquire(store, work_root(planned.kind, planned.work), planned.digest, Holder(study=PLAN.study))
    lease.start_from(after)
    append(store, lease, metric_rows(planned.task, after, upto, shift))
    for tokens in checkpoints:
        publish(store, lease, tokens, {}, {})
    return lease


def finish_needs(store: Store, planned: PlannedTask) -> None:
    """Publish the records of the tasks that a task needs, and of those that they need."""
    records = STUDY.records(PLAN)
    for need in planned.needs:
        for earlier in PLAN.tasks[need].needs:
            publish_record(store, records[earlier])
        publish_record(store, records[need])


def finish_all(store: Store) -> None:
    """Publish the metrics and the record of every task."""
    records = STUDY.records(PLAN)
    for digest, planned in PLAN.tasks.items():
        if planned.kind is TaskKind.TRAIN and isinstance(planned.task, TrainTask):
            end = planned.task.tokens
            train(store, planned, end, planned.from_tokens, checkpoints=(end,)).end("done", 0)
        publish_record(store, records[digest])


def mlflow_runs(uri: str) -> dict[str, dict[str, Any]]:
    """Return the visible contents of the study's MLflow runs by digest, without MLflow's own ids and its tags about the user."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(PLAN.study)
    found: dict[str, dict[str, Any]] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        digest = run.data.tags["digest"]
        assert digest not in found, "two runs for one task"
        found[digest] = {
            "tags": {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.user")},
            "params": run.data.params,
            "metrics": {
                name: [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
            "times": (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name),
        }
    return found
