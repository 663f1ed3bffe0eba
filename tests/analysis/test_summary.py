import pytest

from analysis.tables.summary import cell_states, summarize_study
from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from tests.analysis.synthetic_study import FROM_SCRATCH, STEP, SyntheticStudy, without_evaluations

ONE = SyntheticStudy(sizes=("0.03M",), code_percents=("0",), seeds=(1,), recipes=(FROM_SCRATCH,))


@pytest.fixture
def plan() -> Plan:
    return ONE.plan()


def test_a_whole_study_is_complete(plan: Plan) -> None:
    found = summarize_study(plan, ONE.records(plan))
    assert (found.cells_done, found.cells, found.tasks_done, found.tasks) == (1, 1, len(plan.tasks), len(plan.tasks))


def test_tokens_of_a_trajectory_with_several_tasks_count_once(plan: Plan) -> None:
    # the stable trajectory to 1000 steps (with a task that ends at 900), its decay of 100, the cooldown of 200
    assert summarize_study(plan, ONE.records(plan)).tokens == (1000 + 100 + 200) * STEP


def test_an_attempt_in_two_records_counts_once(plan: Plan) -> None:
    records = ONE.records(plan)
    trunk = [d for d, t in plan.tasks.items() if isinstance(t.task, TrainTask) and t.task.trajectory.schedule.shape == "constant"]
    first, second = (records[digest] for digest in trunk)
    once = summarize_study(plan, records)
    records[second.digest] = second.model_copy(update={"attempts": [*first.attempts, *second.attempts]})
    assert summarize_study(plan, records) == once
    assert once.attempts == len(plan.tasks)
    assert once.tokens_lost == 4 * 512


def test_a_commit_with_local_changes_is_marked(plan: Plan) -> None:
    records = ONE.records(plan)
    digest = plan.tokenizer
    attempt = records[digest].attempts[0].model_copy(update={"dirty": True})
    records[digest] = records[digest].model_copy(update={"attempts": [attempt]})
    assert summarize_study(plan, records).commits == ("0123456789ab", "0123456789ab with local changes")


@pytest.mark.parametrize(
    ("missing", "listed", "waiting"),
    [
        (lambda t: t.kind == TaskKind.PREPARE, "prepare the tokenizer", 12),
        (lambda t: t.kind != TaskKind.PREPARE and t.label == "prose", "", 0),
        (lambda t: isinstance(t.task, TrainTask) and t.task.tokens == 900 * STEP, "train pretrain", 0),
        (lambda t: t.kind == TaskKind.EVALUATE and t.task.suite == "bpb" and t.task.tokens == 200 * STEP, "bpb of prose after cooldown", 0),
    ],
)
def test_a_missing_task_is_listed_if_its_inputs_are_complete(plan: Plan, missing: object, listed: str, waiting: int) -> None:
    assert callable(missing)
    records = ONE.records(plan, missing)
    if listed == "prepare the tokenizer":
        records = {}
    (state,) = cell_states(plan, records)
    assert [entry.rpartition(" (")[0] for entry in state.missing][:1] == ([listed] if listed else [])
    assert state.waiting == waiting


def test_tasks_that_depend_on_a_missing_task_are_counted_but_not_listed(plan: Plan) -> None:
    stage = plan.cells[0].stages[0]
    records = ONE.records(plan, lambda task: task.kind in (TaskKind.TRAIN, TaskKind.EVALUATE))
    (state,) = cell_states(plan, records)
    assert state.missing == (f"train pretrain ({stage.trains[0][:12]})",)
    assert (state.done, state.total, state.waiting, state.complete) == (0, 12, 11, False)


def test_missing_evaluations_of_one_cell_leave_the_others_complete() -> None:
    study = SyntheticStudy(sizes=("0.03M",))
    plan = study.plan()
    incomplete = plan.cells[3].name
    assert [s.cell.name for s in cell_states(plan, study.records(plan, without_evaluations(plan, [incomplete]))) if not s.complete] == [
        incomplete
    ]
