"""The learning rate of every step.

`train` asks before each update. A rate is a function of the step's place in its own trajectory alone, so it needs no state.
"""

from math import cos, pi

from orchestrator.contract.tasks import Schedule
from orchestrator.errors import TaskRefused


def learning_rate(schedule: Schedule, step: int, tokens_per_step: int) -> float:
    """The rate of step `step` (from 0), which reads tokens step * tokens_per_step up to the next step's.

    While it warms up, a step has the rate of its end: the first step does something and the one that ends the warm-up has the peak. A fall
    counts from a step's start: its first step has the peak, and `final` is what a step at `tokens` would have.
    """
    peak, start = float(schedule.peak), step * tokens_per_step
    if start < schedule.warmup:
        return peak * min(1.0, (start + tokens_per_step) / schedule.warmup)
    if schedule.shape == "constant":
        return peak
    final, fall = _end(schedule)
    way = min(1.0, (start - schedule.warmup) / max(1, fall))
    if schedule.shape == "linear":
        return peak + (final - peak) * way
    if schedule.shape == "cosine":
        return final + (peak - final) * (1 + cos(pi * way)) / 2
    raise TaskRefused(f"schedule {schedule.shape!r} is unknown to this trainer; it knows constant, linear and cosine")


def _end(schedule: Schedule) -> tuple[float, int]:
    if schedule.final is None or schedule.tokens is None:
        raise TaskRefused(
            f"schedule {schedule.shape!r} needs `final` and `tokens`, and the task has {schedule.final} and {schedule.tokens}"
        )
    return float(schedule.final), schedule.tokens - schedule.warmup
