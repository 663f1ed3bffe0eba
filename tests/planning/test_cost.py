"""The price of single tasks, and the sums and the longest path of an estimate against independent calculations."""

from functools import cache

import pytest

from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.sizes import flops_palm
from orchestrator.contract.tasks import EvaluateTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.planning import plan_study
from orchestrator.planning.estimate import PEAK_FLOPS, Cost, Price, cost, costs, estimate
from orchestrator.spec import Study, StudySpec
from tests.study_spec import study_spec

H100 = Price("h100", 0.5, None, {})
MEASURED = Price("h100", 0.5, None, {"0.03M": 1e-3, "0.09M": 2e-3})
WINDOW = 128


@cache
def planned() -> Plan:
    document = study_spec("store", ["0.03M", "0.09M"])
    document["data"]["heldOut"] = {"oneIn": 50, "documents": 300}
    document["evaluation"]["suites"] = ["bpb", "code"]
    return plan_study(Study("s", StudySpec.model_validate(document), "s.yaml", document), {})


def of_kind(kind: TaskKind) -> list[PlannedTask]:
    return [task for task in planned().tasks.values() if task.kind == kind]


@pytest.mark.parametrize(("gpu", "teraflops"), [("a100", 312), ("h100", 989), ("h200", 989), ("b200", 2250)])
def test_peak_is_that_of_the_data_sheet(gpu: str, teraflops: int) -> None:
    assert PEAK_FLOPS[gpu] == teraflops * 1e12
    assert Price(gpu, 0.5, None, {}).seconds(teraflops * 1e12) == 2


@pytest.mark.parametrize("price", [H100, MEASURED])
def test_prepare_tasks_cost_nothing(price: Price) -> None:
    assert {cost(planned(), task, price) for task in of_kind(TaskKind.PREPARE)} == {Cost(1, 0, 0.0, 0.0)}


@pytest.mark.parametrize("price", [H100, MEASURED])
def test_evaluation_costs_the_forward_pass_of_full_windows(price: Price) -> None:
    """A third of the FLOPs of training on them. It does not depend on the measured seconds per training token."""
    for task in of_kind(TaskKind.EVALUATE):
        assert isinstance(task.task, EvaluateTask)
        documents = 300 if task.task.suite == "bpb" else 2000
        flops = documents * WINDOW * flops_palm(planned().shapes[task.size], WINDOW) / 3
        found = cost(planned(), task, price)
        assert (found.tasks, found.tokens) == (1, 0)
        assert found.flops == pytest.approx(flops)
        assert found.gpu_seconds == pytest.approx(flops / (989e12 * 0.5))


def test_remaining_and_done_cost_add_up_to_the_cost_of_all_tasks() -> None:
    plan = planned()
    each = costs(plan, MEASURED)
    done = list(plan.tasks)[::3]
    found = estimate(plan, MEASURED, done)
    for part, digests in ((found.done, done), (found.total, [digest for digest in plan.tasks if digest not in done])):
        assert part.tasks == len(digests)
        assert part.tokens == sum(each[digest].tokens for digest in digests)
        assert part.flops == pytest.approx(sum(each[digest].flops for digest in digests))
        assert part.gpu_seconds == pytest.approx(sum(each[digest].gpu_seconds for digest in digests))


def test_longest_path_ends_at_the_task_that_ends_last() -> None:
    plan = planned()
    ends: dict[str, float] = {}
    for digest, task in plan.tasks.items():
        ends[digest] = max((ends[need] for need in task.needs), default=0.0) + cost(plan, task, MEASURED).gpu_seconds
    found = estimate(plan, MEASURED)
    assert found.longest_seconds == pytest.approx(max(ends.values()))
    assert ends[found.longest_path[-1]] == max(ends.values())
    assert len(found.longest_path) >= 3, "branch, stable end, cooldown"
