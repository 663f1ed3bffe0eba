"""Cost estimates: shared tokens are counted once, GPU-hours match a hand calculation, and the longest path."""

import pytest

from orchestrator.contract.plan import Plan
from orchestrator.contract.sizes import flops_palm
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import PlanRefused
from orchestrator.planning import plan_study
from orchestrator.planning.estimate import PEAK_FLOPS, Price, cost, estimate
from orchestrator.spec import Study, StudySpec

H100 = Price("h100", 0.5, 2.0, {})
SOURCES = {"web": "a" * 64, "stack": "b" * 64}


def planned(seeds: list[int], suites: list[str]) -> Plan:
    mixture = {"codePercent": "grid", "code": {"stack": 100}, "text": {"web": 100}}
    document = {
        "store": "store",
        "grid": {"sizes": ["0.09M", "0.25M"], "codePercent": [0, 50], "seeds": seeds},
        "data": {
            "tokenizer": {"train": {"vocabulary": 1024, "bytes": "1M", "weights": {"web": 50, "stack": 50}}},
            "sources": [{"name": name, "group": group, "path": name} for name, group in (("web", "text"), ("stack", "code"))],
        },
        "training": {"sequenceLength": 128, "precision": "fp32", "schedule": {"warmup": 512}},
        "recipes": [
            {"name": name, "stages": [{"name": "pretrain", "tokens": tokens, "mixture": mixture}]}
            for name, tokens in (("short", 51_200), ("long", 102_400))
        ],
        "evaluation": {"after": ["pretrain"], "suites": suites},
    }
    return plan_study(Study("s", StudySpec.model_validate(document), "s.yaml", document), SOURCES)


def test_shared_trunk_is_counted_once() -> None:
    plan = planned([1], [])
    found = estimate(plan, H100)
    # each of 4 (size, proportion): a trunk to 90 % of the longer horizon, and two leaves of 10 %
    assert found.total.tokens == 4 * (92_160 + 5_120 + 10_240)
    assert found.unshared_tokens == 4 * (51_200 + 102_400)


def test_gpu_hours_match_a_hand_calculation() -> None:
    plan = planned([1], [])
    task = next(task for task in plan.tasks.values() if task.kind == TaskKind.TRAIN and task.size == "0.25M")
    assert isinstance(task.task, TrainTask)
    flops = (task.task.tokens - task.from_tokens) * flops_palm(plan.shapes["0.25M"], 128)
    priced = cost(plan, task, H100)
    assert priced.gpu_hours == pytest.approx(flops / (PEAK_FLOPS["h100"] * 0.5) / 3600)
    assert priced.money(H100) == pytest.approx(priced.gpu_hours * 2)


def test_measurement_changes_the_cost_of_its_size_only() -> None:
    plan = planned([1], [])
    measured = estimate(plan, Price("h100", 0.5, None, {"0.09M": 1e-3}))
    assert measured.by_size["0.09M"].gpu_seconds == pytest.approx(measured.by_size["0.09M"].tokens * 1e-3)
    assert measured.by_size["0.25M"] == estimate(plan, H100).by_size["0.25M"]


def test_finished_tasks_have_no_remaining_cost() -> None:
    plan = planned([1], ["bpb"])
    half = set(list(plan.tasks)[::2])
    before, after = estimate(plan, H100), estimate(plan, H100, half)
    assert after.total.tasks == len(plan.tasks) - len(half)
    assert after.total.gpu_seconds + after.done.gpu_seconds == pytest.approx(before.total.gpu_seconds)
    assert estimate(plan, H100, plan.tasks).longest_seconds == 0


def test_longest_path_is_a_chain_of_dependencies() -> None:
    plan = planned([1, 2], ["bpb"])
    found = estimate(plan, H100)
    for before, after in zip(found.longest_path, found.longest_path[1:], strict=False):
        assert before in plan.tasks[after].needs
    assert found.longest_seconds == pytest.approx(sum(cost(plan, plan.tasks[digest], H100).gpu_seconds for digest in found.longest_path))
    assert plan.tasks[found.longest_path[-1]].size == "0.25M"


@pytest.mark.parametrize("price", [Price("tpu", 0.5, None, {}), Price("h100", 0, None, {}), Price("h100", 1.2, None, {})])
def test_unknown_gpu_or_impossible_utilisation_is_rejected(price: Price) -> None:
    with pytest.raises(PlanRefused, match=r"--(gpu|mfu) "):
        estimate(planned([1], []), price)
