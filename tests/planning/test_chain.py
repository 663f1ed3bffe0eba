"""Stages of a cell: their decay, learning rates, mixtures, and the settings that a cooldown does not inherit."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.mixture import counts
from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import FromState, Schedule, TrainTask
from orchestrator.errors import PlanRefused
from orchestrator.planning import plan_study
from orchestrator.planning.chain import shares_of
from orchestrator.spec import Mixture, Study, StudySpec
from tests.study_spec import study_spec

TOKENS_PER_STEP = 512
"""4 sequences of 128 tokens."""


def planned(
    tokens: int, schedule: dict[str, Any], second: dict[str, Any] | None = None, training: dict[str, Any] | None = None, **evaluation: Any
) -> Plan:
    """Return the plan of one size, proportion and seed: a pretrain stage with this schedule, and a second stage with these keys."""
    document = study_spec("store", ["0.03M"])
    document["grid"]["codePercent"] = [50]
    document["training"] |= training or {}
    document["evaluation"] |= evaluation
    pretrain, last = document["recipes"][0]["stages"]
    pretrain |= {"tokens": tokens, "schedule": schedule}
    last |= second or {}
    return plan_study(Study("chain", StudySpec.model_validate(document), "s.yaml", document), {})


def trained(plan: Plan, stage: int) -> list[TrainTask]:
    (cell,) = plan.cells
    return [train(plan, digest) for digest in cell.stages[stage].trains]


def train(plan: Plan, digest: str) -> TrainTask:
    task = plan.tasks[digest].task
    assert isinstance(task, TrainTask)
    return task


@settings(max_examples=50)
@given(steps=st.integers(1, 60), percent=st.integers(1, 99))
def test_decay_that_covers_every_step_is_rejected_and_any_other_leaves_a_stable_part(steps: int, percent: int) -> None:
    decay = int(Fraction(steps * percent, 100) + Fraction(1, 2))
    schedule = {"shape": "wsd", "decay": f"{percent}%", "warmup": 0}
    if decay == steps:
        with pytest.raises(PlanRefused, match=f"covers all {steps} steps; write `shape: linear`"):
            planned(steps * TOKENS_PER_STEP, schedule)
    elif decay == 0:
        with pytest.raises(PlanRefused, match=f"is less than one of its {steps} steps"):
            planned(steps * TOKENS_PER_STEP, schedule)
    else:
        branch, leaf, whole = trained(planned(steps * TOKENS_PER_STEP, schedule), 0)
        assert (branch.tokens, leaf.tokens) == ((steps - decay) * TOKENS_PER_STEP, decay * TOKENS_PER_STEP)
        assert 0 < branch.tokens < whole.tokens


@settings(max_examples=50)
@given(steps=st.integers(10, 60), warmup_steps=st.integers(1, 80))
def test_decay_starts_at_the_rate_that_the_warm_up_has_reached(steps: int, warmup_steps: int) -> None:
    """A state inside the warm-up has the peak times its part of the warm-up; any later stable state has the peak."""
    schedule = {"shape": "wsd", "decay": "50%", "peak": "0.006", "warmup": warmup_steps * TOKENS_PER_STEP}
    plan = planned(steps * TOKENS_PER_STEP, schedule)
    branch, leaf, whole = trained(plan, 0)
    (cooldown,) = trained(plan, 1)
    for state, next_task in ((branch, leaf), (whole, cooldown)):
        expected = 0.006 * min(1, state.tokens / (warmup_steps * TOKENS_PER_STEP))
        assert float(next_task.trajectory.schedule.peak) == pytest.approx(expected, rel=1e-5)
        assert next_task.trajectory.schedule.warmup == 0


@pytest.mark.parametrize(
    "training", [{"shape": "cosine", "warmup": "4K"}, {"shape": "wsd", "warmup": "4K", "peak": "0.01", "final": "1e-5", "decay": "20%"}]
)
def test_cooldown_does_not_inherit_the_schedule_of_the_training(training: dict[str, Any]) -> None:
    """It starts at the rate of the state it starts from, without a warm-up, and decays linearly to 0 over its own tokens."""
    plan = planned(51_200, {"shape": "wsd", "peak": "0.004", "warmup": 512}, training={"schedule": training})
    (cooldown,) = trained(plan, 1)
    assert cooldown.trajectory.schedule == Schedule("linear", 0, "0.004", "0", cooldown.tokens)
    assert plan.cells[0].stages[1].rates == ("peak 0.004 (the rate it starts from)", "final 0", "warm-up 0 tokens (none)")


def test_own_schedule_of_a_cooldown_is_used() -> None:
    own = {"shape": "cosine", "peak": "0.001", "warmup": 1024, "final": "1e-5"}
    (cooldown,) = trained(planned(51_200, {"shape": "wsd", "warmup": 512}, second={"schedule": own}), 1)
    assert cooldown.trajectory.schedule == Schedule("cosine", 1024, "0.001", "1e-5", cooldown.tokens)


STARTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a cooldown after wsd": ({"shape": "wsd"}, {}, "stable"),
    "a cooldown after wsd, from its result": ({"shape": "wsd"}, {"start": "result", "schedule": {"peak": "0.001"}}, "result"),
    "a cooldown after cosine": ({"shape": "cosine"}, {"schedule": {"peak": "0.001"}}, "result"),
    "a continue after wsd": ({"shape": "wsd"}, {"kind": "continue", "schedule": {"warmup": 512}}, "result"),
    "a continue after wsd, from its stable end": (
        {"shape": "wsd"},
        {"kind": "continue", "start": "stable", "schedule": {"warmup": 512}},
        "stable",
    ),
}


@pytest.mark.parametrize(("schedule", "second", "start"), STARTS.values(), ids=STARTS)
def test_stage_starts_from_the_stable_end_or_the_result(schedule: dict[str, Any], second: dict[str, Any], start: str) -> None:
    plan = planned(51_200, {"warmup": 512, **schedule}, second)
    before, after = plan.cells[0].stages
    end = before.trains[-1]
    shape = train(plan, end).trajectory.schedule.shape
    assert (shape == "constant", end == before.result) == (start == "stable", start == "result")
    expected = FromState(plan.tasks[end].work, train(plan, end).tokens, keep_optimizer=after.kind == "cooldown")
    assert train(plan, after.trains[0]).trajectory.start == expected


def test_labels_distinguish_the_parts_of_a_wsd_stage() -> None:
    plan = planned(51_200, {"shape": "wsd", "warmup": 512})
    labels = [[plan.tasks[digest].label for digest in stage.trains] for stage in plan.cells[0].stages]
    name = plan.cells[0].name
    assert labels == [[f"{name} pretrain (stable)", f"{name} pretrain (decay)", f"{name} pretrain (stable)"], [f"{name} cooldown"]]


@pytest.mark.parametrize("steps", [1, 4])
def test_stage_too_short_for_its_decay_is_planned_if_only_its_stable_end_is_needed(steps: int) -> None:
    schedule = {"shape": "wsd", "warmup": 0}
    (whole,) = trained(planned(steps * TOKENS_PER_STEP, schedule, after=["cooldown"]), 0)
    assert (whole.tokens, whole.trajectory.schedule.shape) == (steps * TOKENS_PER_STEP, "constant")
    with pytest.raises(PlanRefused, match="so the rate would never decay"):
        planned(steps * TOKENS_PER_STEP, schedule)


def test_stage_of_one_batch_has_one_step() -> None:
    (whole,) = trained(planned(TOKENS_PER_STEP, {"shape": "linear", "warmup": 0}, {"schedule": {"peak": "0.001"}}), 0)
    assert whole.tokens == TOKENS_PER_STEP


@settings(max_examples=50)
@given(steps=st.integers(20, 400), percent=st.integers(5, 60), code=st.integers(1, 99))
def test_windows_read_are_those_of_the_state_that_is_evaluated(steps: int, percent: int, code: int) -> None:
    """The decay leaf counts its windows from the branch, so its numbers can differ from those of a stable part of the same length."""
    document = study_spec("store", ["0.03M"])
    document["recipes"][0]["stages"] = document["recipes"][0]["stages"][:1]
    document["evaluation"]["after"] = ["pretrain"]
    (stage,) = document["recipes"][0]["stages"]
    stage |= {"tokens": steps * TOKENS_PER_STEP, "schedule": {"shape": "wsd", "decay": f"{percent}%", "warmup": 0}}
    document["grid"]["codePercent"] = [code]
    plan = plan_study(Study("chain", StudySpec.model_validate(document), "s.yaml", document), {})
    (found,) = plan.cells[0].stages
    branch, leaf = trained(plan, 0)
    shares = [share for _, share in leaf.trajectory.shares]
    parts = [counts(shares, part.tokens // 128) for part in (branch, leaf)]
    expected = [(digest, sum(read)) for (digest, _), *read in zip(leaf.trajectory.shares, *parts, strict=True)]
    assert list(found.read) == expected


@pytest.mark.parametrize("fingerprints", [("a" * 64, "b" * 64), ("b" * 64, "a" * 64)])
def test_windows_read_are_sorted_by_prepare_digest(fingerprints: tuple[str, str]) -> None:
    """The plan's digest does not depend on the order in which a stage lists its sources."""
    document = study_spec("store", ["0.03M"])
    for source, fingerprint in zip(document["data"]["sources"], fingerprints, strict=True):
        source["fingerprint"] = fingerprint
    document["grid"]["codePercent"] = [0]
    plan = plan_study(Study("chain", StudySpec.model_validate(document), "s.yaml", document), {})
    first, second = (stage.read for stage in plan.cells[0].stages)
    assert [len(first), len(second)] == [1, 2]
    assert list(second) == sorted(second)


@settings(max_examples=50)
@given(weights=st.lists(st.integers(1, 100), min_size=2, max_size=6), split=st.integers(1, 5))
def test_sources_with_the_same_content_are_read_as_one(weights: list[int], split: int) -> None:
    """Two names of one content get the sum of their weights: the names are not part of a trajectory."""
    named = {f"s{number}": weight for number, weight in enumerate(weights)}
    contents = {name: f"digest {number < split}" for number, name in enumerate(named)}
    totals: dict[str, int] = {}
    for name, weight in named.items():
        totals[contents[name]] = totals.get(contents[name], 0) + weight
    assert shares_of_text(named, contents) == shares_of_text(totals, {content: content for content in totals})


def shares_of_text(weights: dict[str, int], contents: dict[str, str]) -> tuple[tuple[str, int], ...]:
    mixture = Mixture.model_construct(code_percent=Decimal(0), code={}, text={name: Decimal(weight) for name, weight in weights.items()})
    return shares_of(mixture, Decimal(0), contents)


@given(st.permutations([40, 60, 61, 100]))
def test_horizons_share_a_trunk_in_ascending_order_however_the_recipes_are_listed(horizons: list[int]) -> None:
    """Each part of the trunk is trained once, by the task that follows the next shorter part."""
    document = study_spec("store", ["0.03M"])
    document["grid"]["codePercent"] = [50]
    document["evaluation"]["after"] = ["pretrain"]
    mixture = document["recipes"][0]["stages"][0]["mixture"]
    document["recipes"] = [
        {"name": f"r{steps}", "stages": [{"name": "pretrain", "tokens": steps * TOKENS_PER_STEP, "mixture": mixture}]} for steps in horizons
    ]
    document["training"]["schedule"] = {"warmup": 0, "decay": "10%"}
    plan = plan_study(Study("chain", StudySpec.model_validate(document), "s.yaml", document), {})
    trunk = [task for task in plan.tasks.values() if isinstance(task.task, TrainTask) and task.task.trajectory.schedule.shape == "constant"]
    # the branches are at 90 % of each horizon
    assert [(task.from_tokens // TOKENS_PER_STEP, train(plan, task.digest).tokens // TOKENS_PER_STEP) for task in trunk] == [
        (0, 36), (36, 54), (54, 55), (55, 90),
    ]  # fmt: skip
    assert [set(task.needs) & {other.digest for other in trunk} for task in trunk] == [set(), *({task.digest} for task in trunk[:-1])]
