"""Tables of learning rates: warm-up is evaluated at the end of a step, decay at its start."""

import pytest
from trainer.training.schedule import learning_rate

from orchestrator.contract.tasks import Schedule
from orchestrator.errors import TaskRefused

STEP = 100

TABLES = {
    "constant without warm-up": (Schedule("constant", 0, "0.01"), {0: 0.01, 7: 0.01, 10**9: 0.01}),
    "constant after warm-up": (Schedule("constant", 400, "0.01"), {0: 0.0025, 1: 0.005, 3: 0.01, 4: 0.01, 10**9: 0.01}),
    "a warm-up that ends inside a step": (Schedule("constant", 250, "0.01"), {0: 0.004, 1: 0.008, 2: 0.01, 3: 0.01}),
    "a warm-up shorter than a step": (Schedule("constant", 30, "0.01"), {0: 0.01, 1: 0.01}),
    "linear to zero": (Schedule("linear", 0, "0.01", "0", 400), {0: 0.01, 1: 0.0075, 2: 0.005, 3: 0.0025, 4: 0.0, 9: 0.0}),
    "a cooldown to its final rate": (Schedule("linear", 0, "0.01", "1e-3", 300), {0: 0.01, 1: 0.007, 2: 0.004, 3: 0.001, 4: 0.001}),
    "linear after warm-up": (Schedule("linear", 200, "0.01", "0", 600), {0: 0.005, 1: 0.01, 2: 0.01, 3: 0.0075, 5: 0.0025, 6: 0.0}),
    "cosine": (Schedule("cosine", 0, "0.01", "0", 400), {0: 0.01, 1: 0.0085355339, 2: 0.005, 3: 0.0014644661, 4: 0.0, 5: 0.0}),
    "cosine after warm-up": (Schedule("cosine", 200, "0.01", "0.002", 600), {0: 0.005, 1: 0.01, 2: 0.01, 4: 0.006, 6: 0.002, 99: 0.002}),
    "only warm-up": (Schedule("linear", 400, "0.01", "0", 400), {0: 0.0025, 3: 0.01, 4: 0.01, 5: 0.0}),
}


@pytest.mark.parametrize(("schedule", "rates"), TABLES.values(), ids=TABLES)
def test_rates_equal_those_of_the_table(schedule: Schedule, rates: dict[int, float]) -> None:
    assert {step: learning_rate(schedule, step, STEP) for step in rates} == pytest.approx(rates, abs=1e-9)


def test_after_warm_up_the_rate_at_a_position_does_not_depend_on_the_batch() -> None:
    decay = Schedule("linear", 0, "0.01", "0", 1200)
    assert [learning_rate(decay, step, 100) for step in (0, 3, 6, 9)] == [learning_rate(decay, step, 300) for step in (0, 1, 2, 3)]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            Schedule("triangle", 0, "0.01", "0", 400),
            "unknown schedule 'triangle'; this trainer supports constant, linear",
        ),
        (Schedule("linear", 0, "0.01"), r"schedule 'linear' needs `final` and `tokens`; the task has None and None"),
    ],
    ids=["unknown", "without an end"],
)
def test_invalid_schedules_are_refused(schedule: Schedule, message: str) -> None:
    with pytest.raises(TaskRefused, match=message):
        learning_rate(schedule, 3, STEP)
